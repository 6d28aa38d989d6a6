"""What the training libraries pass over in silence: fields that change nothing beside the other settings, and why.

Found by reading TRL 1.16, transformers 5.19 and PEFT 0.21; some are shown to change no byte by `tests/test_knobs.py`.
A field that is not told of here may still change little: a schedule within one step, a clip that no gradient reaches.

Not covered: fields that only some optimizers read, beyond Adam's own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..policies.records import Json
from .declared import Kind

Effective = Mapping[str, Mapping[str, Json]]
"""`sft`, `dpo` and `lora`: our defaults, and over them what a method and an experiment set."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Fields that have no effect, unless the settings of the same training say so."""

    fields: Sequence[str]
    why: str
    kinds: Sequence[Kind] = ("sft", "dpo")
    unless: Callable[[Mapping[str, Any]], Any] = lambda training: False


def _samples(*losses: str) -> Callable[[Mapping[str, Any]], bool]:
    """Whether one of these is among DPO's losses."""

    def found(training: Mapping[str, Any]) -> bool:
        told = training.get("loss_type", "sigmoid")
        return bool(set(losses) & set(told if isinstance(told, list) else [told]))

    return found


_ADAM = ("adamw_torch_fused", "adamw_torch")

RULES = (
    Rule(fields=["model_init_kwargs"], why="the model is handed over as an object, which is loaded by us"),
    Rule(
        fields=["dataset_text_field", "completion_only_loss", "dataset_kwargs"],
        kinds=["sft"],
        why="rows come as token ids with their labels; TRL neither renders nor masks them",
    ),
    Rule(
        fields=["dataset_num_proc", "remove_unused_columns"],
        why="rows come as token ids and nothing else; TRL has nothing to prepare",
    ),
    Rule(fields=["truncation_mode"], why="a row longer than `max_length` is dropped and counted, never cut"),
    Rule(fields=["packing_strategy"], kinds=["sft"], why="rows are not packed"),
    Rule(
        fields=[
            *("eval_steps", "eval_delay", "per_device_eval_batch_size", "eval_do_concat_batches"),
            *("eval_use_gather_object", "eval_accumulation_steps", "eval_packing", "prediction_loss_only"),
            *("include_for_metrics", "batch_eval_metrics", "bf16_full_eval", "fp16_full_eval", "label_names"),
            *("metric_for_best_model", "greater_is_better", "do_eval"),
        ],
        why="nothing is evaluated in a training: quiz and exam say how good a state is",
    ),
    Rule(fields=["do_train", "do_predict"], why="it is a word to scripts of the library's own, and nobody reads it"),
    Rule(
        fields=["save_steps", "save_total_limit", "save_only_model", "save_on_each_node"],
        why="a training leaves no checkpoints",
    ),
    Rule(
        fields=["ignore_data_skip", "restore_callback_states_from_checkpoint"],
        why="a training that was interrupted is run again, from its beginning",
    ),
    Rule(
        fields=["hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision"],
        why="nothing is pushed to a hub",
    ),
    Rule(
        fields=["run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"],
        why="`report_to` names nobody to report to",
        unless=lambda training: training.get("report_to") not in (None, "none", ["none"], []),
    ),
    Rule(fields=["logging_first_step"], why="every step is logged"),
    Rule(
        fields=["log_on_each_node", "log_level_replica", "average_tokens_across_devices"],
        why="a training has one process and one device",
    ),
    Rule(fields=["use_cache"], why="TRL trains without a cache, whatever it says"),
    Rule(fields=["length_column_name"], why="rows have no such column; their lengths are counted"),
    Rule(
        fields=["num_train_epochs"],
        why="`max_steps` says how long",
        unless=lambda training: training.get("max_steps", -1) <= 0,
    ),
    Rule(
        fields=["warmup_steps"],
        why="the schedule 'constant' has no warm-up ('constant_with_warmup' has)",
        unless=lambda training: training.get("lr_scheduler_type") != "constant",
    ),
    Rule(
        fields=["gradient_checkpointing_kwargs"],
        why="`gradient_checkpointing` is off",
        unless=lambda training: training.get("gradient_checkpointing"),
    ),
    Rule(
        fields=["liger_kernel_config"],
        why="`use_liger_kernel` is off",
        unless=lambda training: training.get("use_liger_kernel"),
    ),
    Rule(
        fields=["dataloader_persistent_workers", "dataloader_multiprocessing_context", "dataloader_in_order"],
        why="`dataloader_num_workers` is 0",
        unless=lambda training: training.get("dataloader_num_workers"),
    ),
    Rule(
        fields=["adam_beta1", "adam_beta2", "adam_epsilon"],
        why="the optimizer is none of Adam's",
        unless=lambda training: training.get("optim") not in ("sgd", "adagrad", "rmsprop", "adafactor"),
    ),
    Rule(
        fields=["optim_args"],
        why="torch's AdamW and Adafactor read none",
        unless=lambda training: training.get("optim", _ADAM[0]) not in (*_ADAM, "adafactor"),
    ),
    Rule(
        fields=["optim_target_modules"],
        why="only GaLore and APOLLO read it (`optim`)",
        unless=lambda training: str(training.get("optim", "")).startswith(("galore", "apollo")),
    ),
    Rule(
        fields=["label_smoothing_factor"],
        kinds=["sft"],
        why="the loss 'dft' has no label smoothing",
        unless=lambda training: training.get("loss_type") != "dft",
    ),
    Rule(fields=["label_smoothing_factor"], kinds=["dpo"], why="DPO has a `label_smoothing` of its own"),
    Rule(
        fields=["label_smoothing"],
        kinds=["dpo"],
        why="only the losses robust, exo_pair, aot and aot_unpaired have it (`loss_type`)",
        unless=_samples("robust", "exo_pair", "aot", "aot_unpaired"),
    ),
    Rule(fields=["discopop_tau"], kinds=["dpo"], why="only the loss discopop has it", unless=_samples("discopop")),
    Rule(
        fields=["f_alpha_divergence_coef"],
        kinds=["dpo"],
        why="`f_divergence_type` is not alpha_divergence",
        unless=lambda training: training.get("f_divergence_type") == "alpha_divergence",
    ),
    Rule(
        fields=["beta", "f_divergence_type"],
        kinds=["dpo"],
        why="the loss 'sft' compares with no reference",
        unless=lambda training: training.get("loss_type") not in ("sft", ["sft"]),
    ),
    Rule(
        fields=["ref_model_mixup_alpha", "ref_model_sync_steps"],
        kinds=["dpo"],
        why="the reference is a named state, which does not move",
    ),
    Rule(fields=["precompute_ref_batch_size"], kinds=["dpo"], why="the reference is read as the training goes"),
)

_NEEDS_GPU = ("dataloader_pin_memory", "torch_empty_cache_steps")


def ignored(settings: Effective, *, gpus: float) -> Iterator[tuple[Kind, str, str]]:
    """Fields with no effect, among those that are set: kind, name, reason.

    >>> list(ignored({"sft": {"max_steps": 9, "num_train_epochs": 2}}, gpus=0))
    [('sft', 'num_train_epochs', '`max_steps` says how long')]
    """
    kinds: tuple[Kind, Kind] = ("sft", "dpo")
    for kind in kinds:
        training = settings.get(kind, {})
        for rule in RULES:
            if kind in rule.kinds and not rule.unless(training):
                for field in (x for x in rule.fields if x in training):
                    yield kind, field, rule.why
        if not gpus:
            for field in (x for x in _NEEDS_GPU if x in training):
                yield kind, field, "the learner has no GPU"
