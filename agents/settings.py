"""Settings of the training libraries: their fields, our defaults with reasons, and what may not be set.

Nothing heavy is imported: `fields_of` reads the libraries' source. TRL takes seconds and torch to import, and an
experiment with a mistyped field should be refused at once, before anything is started.

Not covered: whether a value makes sense to the library; it says so itself, when the training begins.
"""

import ast
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Literal

from ..policies.records import Json

Kind = Literal["sft", "dpo", "lora"]

LORA: Mapping[str, Json] = {
    "r": 32,
    "lora_alpha": 64,  # twice the rank: the tensors then count as much as in the paper's r = alpha / 2
    "target_modules": "all-linear",
    "task_type": "CAUSAL_LM",
}

COMMON: Mapping[str, Json] = {
    "per_device_train_batch_size": 32,
    "train_sampling_strategy": "sequential",  # the job gives the order
    "warmup_steps": 0,  # counted in steps, it eats a short pass whole; see `_warmup`
    "weight_decay": 0.0,
    "lr_scheduler_type": "cosine",
    "max_length": None,  # cutting a row cuts its stop token; longer rows are dropped and counted instead
    "gradient_checkpointing": False,  # TRL's default is True: 20 % slower, for memory that a LoRA seldom needs
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "logging_steps": 1,
    "logging_nan_inf_filter": False,  # a diverged training must show
    "include_num_input_tokens_seen": "non_padding",
}
SFT: Mapping[str, Json] = {**COMMON, "learning_rate": 1e-3, "num_train_epochs": 2}  # TRL: 2e-5, for full weights
DPO: Mapping[str, Json] = {
    **COMMON,
    "learning_rate": 5e-5,
    "num_train_epochs": 1,
    "beta": 0.1,
}  # a tenth of SFT's harms

OURS = {
    "output_dir": "the run folder decides it",
    "seed": "it is the job's",
    "data_seed": "it is the job's",
    "use_cpu": "set `gpus` of the learner",
    "resume_from_checkpoint": "a training that was interrupted is run again",
    "precompute_ref_log_probs": "the reference is set after the trainer is built",
    "sync_ref_model": "a reference is a named state",
    "push_to_hub": "nothing leaves the run folder",
    "hub_token": "nothing leaves the run folder",
    "trust_remote_code": "code that comes with a model is never run",
    "packing": "rows would share a sequence on engines without FlashAttention",
    "padding_free": "it needs FlashAttention",
}
"""Settings that a job may not change, and why."""

SERVED = {
    *("r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("rank_pattern", "alpha_pattern", "use_rslora", "fan_in_fan_out", "init_lora_weights", "bias", "task_type"),
}
"""Fields of `LoraConfig` that every engine can serve. vLLM refuses the others, e.g. `modules_to_save` and DoRA."""

_TRAINING = (
    ("trl", "trl/trainer/base_config.py", "_BaseConfig"),
    ("transformers", "transformers/training_args.py", "TrainingArguments"),
)
_CLASSES: Mapping[Kind, tuple[tuple[str, str, str], ...]] = {
    "sft": (("trl", "trl/trainer/sft_config.py", "SFTConfig"), *_TRAINING),
    "dpo": (("trl", "trl/trainer/dpo_config.py", "DPOConfig"), *_TRAINING),
    "lora": (
        ("peft", "peft/tuners/lora/config.py", "LoraConfig"),
        ("peft", "peft/config.py", "PeftConfig"),
        ("peft", "peft/config.py", "PeftConfigMixin"),
    ),
}
"""The class and its bases: package, file, name."""


@cache
def fields_of(kind: Kind) -> Mapping[str, str]:
    """Each field of the library's config class, with its default as the source writes it (empty: computed).

    >>> fields_of("dpo")["beta"]
    '0.1'
    """
    found: dict[str, str] = {}
    for package, file, name in _CLASSES[kind]:
        tree = ast.parse(Path(str(distribution(package).locate_file(file))).read_text(encoding="utf-8"))
        body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
        for node in body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.setdefault(node.target.id, _default(node.value))
    return found


def check_settings(settings: Mapping[str, Mapping[str, Json]]) -> None:
    """Whether these can be set: `sft`, `dpo` and `lora`, each with fields of its class.

    Raises:
        ValueError: a field that does not exist (names the nearest), one that may not be set (says why), or a value that
            nothing can be trained with.
    """
    for kind, classes in _CLASSES.items():
        chosen = settings.get(kind, {})
        known(chosen, fields_of(kind), f"field of `{classes[0][2]}`")
        for field, value in chosen.items():
            if kind != "lora" and field in OURS:
                raise ValueError(f"`{field}` cannot be set: {OURS[field]}.")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"`{field}` is {value}; nothing can be trained with that.")
    adapter = settings.get("lora", {})
    _can_be_aimed(adapter.get("target_modules"))
    unserved = sorted(set(adapter) - SERVED)
    if adapter.get("bias", "none") != "none":
        unserved.append("bias")
    if adapter.get("init_lora_weights", True) not in (True, "gaussian", "orthogonal"):
        unserved.append("init_lora_weights")
    if unserved:
        raise ValueError(
            f"an adapter trained with `{unserved[0]}` cannot be served by every engine: it changes more than the "
            f"two matrices beside a linear layer. Leave it out; what may be set is {', '.join(sorted(SERVED))}."
        )


def _can_be_aimed(targets: Json) -> None:
    """
    Raises:
        ValueError: these are no `target_modules` of any model.
    """
    why = "a list of modules' names, a regular expression for their whole names, or `all-linear`"
    if isinstance(targets, str):
        try:
            re.compile(targets)
        except re.error as e:
            raise ValueError(f"`target_modules` is {targets!r}, no regular expression ({e}). It is {why}.") from None
    elif targets is not None and not (isinstance(targets, list) and all(isinstance(t, str) for t in targets)):
        raise ValueError(f"`target_modules` is {targets!r}. It is {why}.")


def known(names: Iterable[str], allowed: Iterable[str], what: str) -> None:
    """
    Raises:
        ValueError: a name is not allowed; names the nearest that is.
    """
    allowed = sorted(allowed)
    for name in names:
        if name not in allowed:
            nearest = difflib.get_close_matches(name, allowed, n=1, cutoff=0.0)[0]
            raise ValueError(f"`{name}` is no {what}. The nearest is `{nearest}`.")


def _default(value: ast.expr | None) -> str:
    if isinstance(value, ast.Call):  # field(default=..., metadata=...)
        value = next((k.value for k in value.keywords if k.arg == "default"), None)
    return "" if value is None else ast.unparse(value)
