"""Settings of the training libraries: our defaults with reasons, what may not be set and why, what a value must be.

Any field of `SFTConfig`, `DPOConfig` and `LoraConfig` may be set under its own name, but for what `refused` says. What
is mistyped, of the wrong type, or would fail in the first training is refused before anything is started: by then
a teacher has been paid. What has no effect beside the others is told by `ignored.py`.

Not covered: whether a value of the right type makes sense to the library; it says so when the training begins.
"""

import difflib
import math
import re
from collections.abc import Iterable, Mapping

from ..policies.records import Json
from .declared import CLASSES, Kind, declared, takes

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

_ONE_DEVICE = "a training has one device"
_NO_EVALUATION = "no rows are held out in a training: quiz and exam say how good a state is"
_EVERY_LOSS = "the loss of every step is read, as a training that diverges must show"
_TOKENIZER = "it is the model's own, and answering and training share it; change it in the model's folder"
_AGAIN = "a training that was interrupted is run again"

OURS: Mapping[str, str] = {
    "output_dir": "the run folder decides it",
    "seed": "it is the job's",
    "data_seed": "it is the job's",
    "use_cpu": "set `gpus` of the learner",
    "resume_from_checkpoint": _AGAIN,
    "save_strategy": f"{_AGAIN}, and its end is all that is kept",
    "enable_jit_checkpoint": f"{_AGAIN}, and SIGTERM pauses the run",
    "load_best_model_at_end": "a training ends in its last state; the gate keeps it or rolls it back",
    "precompute_ref_log_probs": "the reference is set after the trainer is built",
    "sync_ref_model": "a reference is a named state",
    "push_to_hub": "nothing leaves the run folder",
    "hub_token": "nothing leaves the run folder",
    "trust_remote_code": "code that comes with a model is never run",
    "packing": "rows would share a sequence on engines without FlashAttention",
    "padding_free": "it needs FlashAttention",
    "assistant_only_loss": "rows come as token ids that say what is learnt (`Example.spans`); TRL refuses it for these",
    "chat_template_path": _TOKENIZER,
    "eos_token": _TOKENIZER,
    "pad_token": _TOKENIZER,
    "logging_strategy": _EVERY_LOSS,
    "logging_steps": _EVERY_LOSS,
    "logging_nan_inf_filter": _EVERY_LOSS,
    "include_num_input_tokens_seen": "the optimizer tokens of a round are counted by it",
    "eval_strategy": _NO_EVALUATION,
    "eval_on_start": _NO_EVALUATION,
    **dict.fromkeys(("local_rank", "parallelism_config", "fsdp", "fsdp_config", "deepspeed"), _ONE_DEVICE),
    **dict.fromkeys((f"ddp_{x}" for x in ("backend", "timeout", "bucket_cap_mb", "static_graph")), _ONE_DEVICE),
    **dict.fromkeys(("ddp_find_unused_parameters", "ddp_broadcast_buffers"), _ONE_DEVICE),
}
"""Settings of a training that a job may not change, and why."""

ON_GPUS = ("activation_offloading", "fp16", "tf32")
"""What a learner without a GPU cannot do; the libraries say so in the first training."""

SERVED = frozenset(
    {
        *("r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "rank_pattern", "alpha_pattern"),
        *("layers_to_transform", "layers_pattern", "use_rslora", "init_lora_weights", "bias"),
        "task_type",
    }
)
"""Fields of `LoraConfig` that every engine can serve. vLLM refuses the others, e.g. `modules_to_save` and DoRA."""

_WRITTEN = "PEFT writes it with the adapter"
_START = "it belongs to a way to begin that changes the base's own weights, and every engine loads the untouched base"
APART: Mapping[str, str] = {
    "base_model_name_or_path": "`student.model` says it",
    "revision": "`student.revision` says it",
    "peft_type": "an adapter is a LoRA",
    "inference_mode": "an adapter is trained",
    "fan_in_fan_out": "PEFT sets it by the kind of each layer",
    "auto_mapping": _WRITTEN,
    "peft_version": _WRITTEN,
    **dict.fromkeys(("loftq_config", "eva_config", "corda_config", "lora_ga_config"), _START),
}
"""Fields of `LoraConfig` that may not be set, for another reason than how an adapter is served."""

LOSSES = (
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
)
"""`loss_type` of DPO. TRL looks at it in the first step only."""


def fields_of(kind: Kind) -> Mapping[str, str]:
    """Each field of the library's config class, with its default as the source writes it (empty: computed).

    >>> fields_of("dpo")["beta"]
    '0.1'
    """
    return {name: field.default for name, field in declared(kind).items()}


def refused(kind: Kind, name: str) -> str:
    """Why a field of a library may not be set. Empty: it may."""
    if kind != "lora":
        return OURS.get(name, "")
    if name in SERVED:
        return ""
    return APART.get(name) or (
        "an adapter trained with it cannot be served by every engine: it changes more than the two matrices beside a "
        f"linear layer. What may be set is {', '.join(sorted(SERVED))}"
    )


def check_settings(settings: Mapping[str, Mapping[str, Json]]) -> None:
    """Whether these can be set: `sft`, `dpo` and `lora`, each with fields of its class.

    Raises:
        ValueError: a field that does not exist (names the nearest), one that may not be set (says why), or a value that
            it does not take or that nothing can be trained with.
    """
    for kind, classes in CLASSES.items():
        chosen = settings.get(kind, {})
        known(chosen, declared(kind), f"field of `{classes[0][2]}`")
        for field, value in chosen.items():
            if why := refused(kind, field):
                raise ValueError(f"`{field}` cannot be set: {why}.")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"`{field}` is {value}; nothing can be trained with that.")
        _can_be_aimed(chosen.get("target_modules"))
        for field, value in chosen.items():
            if what := takes(kind, field, value):
                raise ValueError(f"`{field}` is {value!r}; it takes {what}.")
    _can_be_served(settings.get("lora", {}))
    for kind in ("sft", "dpo"):
        _can_be_trained_with(settings.get(kind, {}))
    _has_a_loss(settings.get("dpo", {}))


def _can_be_served(adapter: Mapping[str, Json]) -> None:
    plain = {
        "bias": ("none",),
        "init_lora_weights": (True, False, "gaussian", "orthogonal"),
        "task_type": ("CAUSAL_LM",),
    }
    for field, served in plain.items():
        if field in adapter and adapter[field] not in served:
            raise ValueError(
                f"an adapter trained with `{field}` {adapter[field]!r} cannot be served by every engine. "
                f"What may be set is {', '.join(map(str, served))}."
            )
    if "layers_pattern" in adapter and "layers_to_transform" not in adapter:
        raise ValueError("`layers_pattern` says what `layers_to_transform` counts. Set that too, or leave it out.")


def _can_be_trained_with(chosen: Mapping[str, Json]) -> None:
    """What would end in no step, or in an error of the library's at the first one."""
    least = {"num_train_epochs": 0.0, "per_device_train_batch_size": 0, "gradient_accumulation_steps": 0}
    for field, bound in {**least, "learning_rate": 0.0}.items():
        if (value := chosen.get(field)) is not None and not float(str(value)) > bound:
            raise ValueError(f"`{field}` is {value}; nothing is trained with that. Set it above 0.")
    if chosen.get("max_steps") == 0:
        raise ValueError("`max_steps` is 0, which TRL takes for no limit. Leave it out.")
    if (scheduler := chosen.get("lr_scheduler_type")) in ("reduce_lr_on_plateau", "greedy"):
        raise ValueError(f"`lr_scheduler_type` {scheduler!r} goes by evaluations, and {_NO_EVALUATION}.")
    if chosen.get("dataloader_prefetch_factor") is not None and not chosen.get("dataloader_num_workers"):
        raise ValueError("`dataloader_prefetch_factor` needs `dataloader_num_workers` of 1 and more.")


def _has_a_loss(dpo: Mapping[str, Json]) -> None:
    losses = dpo.get("loss_type", "sigmoid")
    losses = losses if isinstance(losses, list) else [losses]
    known(map(str, losses), LOSSES, "`loss_type` of DPO")
    weights = dpo.get("loss_weights")
    if isinstance(weights, list) and len(weights) != len(losses):
        raise ValueError(f"`loss_weights` has {len(weights)} weights for {len(losses)} losses (`loss_type`).")
    if "exo_pair" in losses and not dpo.get("label_smoothing"):
        raise ValueError("the loss 'exo_pair' needs a `label_smoothing` above 0, e.g. 1e-3.")


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
    elif targets and "lm_head" in targets:
        raise ValueError("`target_modules` names `lm_head`, and TRL reads its weight past any adapter. Leave it out.")


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
