"""Every setting of an experiment with its effective value, and who set it: part of what `plan` prints.

The schedule, the fields of the training libraries, and how each model decodes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ..agents.declared import Kind
from ..agents.decoding import HONOURED, decoder, said
from ..agents.models import model_folder, sampling
from ..agents.roles import WITH_MODEL
from ..agents.settings import DPO, LORA, SFT, fields_of
from ..policies.rounds import Rounds
from .config import Experiment
from .fitting import without_effect
from .launch import Prepared, role_specs
from .methods import stages_of

Origin = Literal["yours", "the method's", "ours", "the library's"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One effective setting, and who set it."""

    group: str
    """`sft`, `dpo` or `lora`; `schedule` for fields of `Rounds`; `student` and `teacher`: decoding."""
    name: str
    value: Any
    origin: Origin
    otherwise: str = ""
    """What it would be without whoever set it, as written there."""
    without_effect: str = ""
    """Why nothing comes of it beside the other settings; empty: it counts, as far as is known."""


def settings_of(ready: Prepared) -> Iterator[Setting]:
    yield from _schedule(ready)
    yield from _training(ready)
    yield from _decoding(ready)


def _schedule(ready: Prepared) -> Iterator[Setting]:
    """Fields of the schedule that are not what `Rounds` says by itself."""
    config = ready.experiment
    own, _ = stages_of(Experiment(method=config.method), ready.folder)
    plain = Rounds()
    for method, theirs in zip(ready.stages, own, strict=True):
        for field in fields(Rounds):
            if field.name == "settings":
                continue
            value, was, ours = (getattr(r, field.name) for r in (method.rounds, theirs.rounds, plain))
            yours = field.name in config.schedule or (
                field.name == "times" and config.rounds is not None and method is ready.stages[-1]
            )
            yours = yours or (config.limit is not None and value != was)
            if yours or value != ours:
                origin: Origin = "yours" if yours else "the method's"
                otherwise = f"{was!r} (the method's)" if yours else repr(ours)
                yield Setting(group="schedule", name=field.name, value=value, origin=origin, otherwise=otherwise)


def _training(ready: Prepared) -> Iterator[Setting]:
    """Every field that somebody set, and the library's default for each that nobody did."""
    config, last = ready.experiment, ready.stages[-1]
    yours, idle = config.update.model_dump(), without_effect(config, last)
    merged = {kind: dict(last.rounds.settings.get(kind, {})) for kind in ("sft", "dpo", "lora")}
    half = bool(config.learner.gpus) and config.student.dtype == "bfloat16"
    fixed = {"seed": config.seed, "data_seed": config.seed, "use_cpu": not config.learner.gpus, "bf16": half}
    ours: Mapping[Kind, Mapping[str, Any]] = {"sft": {**SFT, **fixed}, "dpo": {**DPO, **fixed}, "lora": LORA}
    for kind, mine in ours.items():
        library = fields_of(kind)
        for name in [*merged[kind], *(n for n in mine if n not in merged[kind])]:
            origin: Origin = "yours" if name in yours[kind] else "the method's" if name in merged[kind] else "ours"
            value = merged[kind].get(name, mine.get(name))
            otherwise = f"{mine[name]!r} (ours)" if name in merged[kind] and name in mine else library.get(name, "")
            nothing = idle.get((kind, name), "")
            yield Setting(
                group=kind, name=name, value=value, origin=origin, otherwise=otherwise, without_effect=nothing
            )
        for name, default in library.items():
            if name not in merged[kind] and name not in mine:
                yield Setting(group=kind, name=name, value=default, origin="the library's")


def _decoding(ready: Prepared) -> Iterator[Setting]:
    """How a model's next token is chosen, for each role that is a model."""
    config, specs = ready.experiment, role_specs(ready, Path())
    idle = without_effect(config, ready.stages[-1])
    for name, role in (("student", config.student), ("teacher", config.teacher)):
        if role.engine not in WITH_MODEL:
            continue
        keys = {"max_new_tokens": "max_tokens", "temperature": "temperature"}
        spec = specs[name]
        told = decoder({"max_new_tokens": spec.max_tokens, "temperature": spec.temperature, **said(role.options)})
        ours = {field: type(role).model_fields[key].default for field, key in keys.items()}
        for field, bounds in HONOURED.items():
            if field == "do_sample":  # `temperature` says it
                continue
            yours = field in role.options or (field in ours and told[field] != ours[field])
            yours = yours or (field == "temperature" and "do_sample" in role.options)
            origin: Origin = "yours" if yours else "ours" if field in ours else "the library's"
            value: Any = told.get(field, bounds.nothing)
            otherwise = (f"{ours[field]!r} (ours)" if field in ours else f"{bounds.nothing!r}") if yours else ""
            yield Setting(
                group=name,
                name=field,
                value=int(value) if bounds.whole else value,
                origin=origin,
                otherwise=otherwise,
                without_effect=idle.get((name, field), ""),
            )


def unsaid(ready: Prepared) -> Iterator[str]:
    """How models' makers would decode them, where the experiment does otherwise."""
    for name in ("student", "teacher"):
        spec = role_specs(ready, Path())[name]
        folder = model_folder(spec.model) if spec.engine in WITH_MODEL else None
        told = decoder({"max_new_tokens": spec.max_tokens, "temperature": spec.temperature, **said(spec.options)})
        theirs = sampling(folder) if folder else {}
        other = {key: value for key, value in theirs.items() if key != "do_sample" and told.get(key) != value}
        if other and (theirs.get("do_sample") or set(other) - {"temperature", "top_k", "top_p", "min_p"}):
            says = ", ".join(f"{key} {value}" for key, value in other.items())
            yield (
                f"the {name}: its model's generation_config.json says {says}, and none of it is used. Set "
                f"`{name}.options` to have it"
            )
