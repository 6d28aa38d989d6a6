"""Whether the parts of an experiment fit one another: method and teacher, method and data, model and data.

All that can be known before anything is started is said before anything is written; a question that a role's own
libraries decide is theirs, when the role is built.
"""

import logging
from collections.abc import Collection, Mapping
from itertools import chain, product
from pathlib import Path
from typing import Any

from ..agents.asking import TELL_FORMS
from ..agents.completions import key_of
from ..agents.decoding import decoder, idle, said, scripted
from ..agents.ignored import ignored
from ..agents.models import can_be_asked, can_be_trained, fits, model_folder, without_system
from ..agents.roles import WITH_MODEL, RoleSpec
from ..agents.settings import DPO, LORA, ON_GPUS, SFT, check_settings
from ..agents.vllm_heads import heads_of
from ..agents.vllm_options import rank_of, room_for, servable, split
from ..evals.arithmetic import profile
from ..policies.checking import Sound
from ..policies.gold import GoldWork
from ..policies.records import Json
from ..policies.rounds import Budget
from ..policies.slots import Method, Stages
from ..policies.updating import sft, sft_then_dpo
from .config import ConfigError, Experiment, nearest
from .courses import Data
from .parts import RoleConfig
from .providers import taken

log = logging.getLogger(__name__)

NEEDS = ("schema", "logprobs", "gold")
"""What a `Method`, or a slot, may say under `requires`."""


def check_training(config: Experiment, stages: Stages) -> None:
    """
    Raises:
        ConfigError: the experiment, or a method by itself, sets what a library does not know or an engine cannot serve.
    """
    theirs = ((f"the `settings` of method {m.name!r}", m.rounds.settings) for m in stages)
    for whose, settings in (("`update`", config.update.model_dump()), *theirs):
        try:
            check_settings(settings)
        except ValueError as e:
            raise ConfigError(f"{whose}: {e}") from None
        for kind, name in product(("sft", "dpo"), ON_GPUS):
            if settings.get(kind, {}).get(name) and not config.learner.gpus:
                raise ConfigError(f"{whose}: `{kind}.{name}` needs a GPU. Set `learner.gpus`, or leave it out.")
    if config.learner.workers > 1:
        _check_workers(config, stages)


def _check_workers(config: Experiment, stages: Stages) -> None:
    workers = config.learner.workers
    if config.placement == "local" and config.limit is None:  # at toy scale one process trains
        raise ConfigError(f"`learner.workers` is {workers}, and with `placement: local` there is one process.")
    for kind, told in ((kind, told) for method in stages for kind, told in effective(method).items() if kind != "lora"):
        batch: Any = told["per_device_train_batch_size"]
        if batch % workers:
            raise ConfigError(
                f"`learner.workers` is {workers}, and a batch of {batch} rows (`{kind}.per_device_train_batch_size`, "
                "of all workers together) cannot be cut into as many equal parts."
            )
        if told["train_sampling_strategy"] != "sequential":
            raise ConfigError(f"`{kind}.train_sampling_strategy`: several workers train in the order of the rows.")


OF_A_REPLY = (("max_new_tokens", "max_tokens"), ("temperature", "temperature"))
"""Options of a generation config that are keys of a role as well."""


def check_answers(config: Experiment) -> None:
    """
    Raises:
        ConfigError: `options` of a role say what its engine does not know or cannot do, or what another key denies.
    """
    for name, role in (("student", config.student), ("teacher", config.teacher)):
        try:
            if role.engine == "scripted":
                scripted(name, role.options)
            elif role.engine == "chat":
                taken(config.teacher)
            elif role.engine == "replay" and role.options:
                raise ValueError("answers that are on record have none. Leave them out.")
            elif role.engine == "vllm":
                split(role.options)
            else:
                decoder(role.options)
        except ValueError as e:
            raise ConfigError(f"`{name}.options`: {e}") from None
        for option, key in OF_A_REPLY if role.engine != "chat" else ():
            value, plain = getattr(role, key), RoleConfig.model_fields[key].default
            if option in role.options and value not in (plain, role.options[option]):
                raise ConfigError(
                    f"`{name}.{key}` is {value} and `{name}.options.{option}` is {role.options[option]}. "
                    "They are one thing; set one of them."
                )


def spendable(config: Experiment) -> Budget:
    """What may be spent.

    Raises:
        ConfigError: dollars may be, and what a token costs is not said.
    """
    price = config.teacher.price.value()
    if config.budget.teacher_dollars is not None and price is None:
        raise ConfigError(
            "`budget.teacher_dollars` needs to know what a token costs: say `teacher.price.input` and "
            "`teacher.price.output`, in dollars for a million tokens, or set `budget.teacher_tokens` in its place."
        )
    return config.budget.value(price)


def check_places(config: Experiment, stages: Stages) -> None:
    """
    Raises:
        ConfigError: an engine cannot serve what will be trained, or a role cannot have what its place does not give.
    """
    for name, role in (("student", config.student), ("teacher", config.teacher)):
        if role.python and config.placement == "local":
            why = "a `limit` puts all roles" if config.limit else "`placement` local puts all roles"
            raise ConfigError(f"`{name}.python` needs a process of its own, and {why} into one.")
    student = config.student
    if student.publish == "merged" and student.engine != "vllm":
        raise ConfigError(f"`student.publish` is merged, which the engine {student.engine!r} does not do; vllm does.")
    if student.engine != "vllm" or student.publish == "merged":
        return
    _, engine = split(student.options)
    for method in stages:
        try:
            servable(method.rounds.settings.get("lora", {}), engine)
        except ValueError as e:
            raise ConfigError(f"method {method.name!r} with `update.lora`: {e}") from None


def options_of(role: str, config: Experiment, stages: Stages) -> Mapping[str, Json]:
    """A role's options; a vLLM that serves adapters is told how large they will be."""
    if role == "teacher":
        return config.teacher.options
    student = config.student
    if student.engine != "vllm" or student.publish == "merged":
        return student.options
    rank = max(rank_of(lora) for lora in (config.update.lora, *(m.rounds.settings.get("lora", {}) for m in stages)))
    return {"max_lora_rank": room_for(rank), **student.options}


def effective(method: Method) -> Mapping[str, Mapping[str, Json]]:
    """Fields of the libraries as a training of this method will have them: ours, and what was set over them."""
    ours: Mapping[str, Mapping[str, Json]] = {"sft": SFT, "dpo": DPO, "lora": LORA}
    return {kind: {**mine, **method.rounds.settings.get(kind, {})} for kind, mine in ours.items()}


def without_effect(config: Experiment, method: Method) -> Mapping[tuple[str, str], str]:
    """What somebody set and nothing comes of, by group and name: why."""
    found, told = dict[tuple[str, str], str](), method.rounds.settings
    for kind, name, why in ignored(effective(method), gpus=config.learner.gpus):
        if name in told.get(kind, {}):
            found[kind, name] = why
    if method.update is sft:
        found |= {("dpo", name): f"{method.name} has no DPO" for name in told.get("dpo", {})}
    if (engine := config.student.engine) not in WITH_MODEL:
        yours, why = config.update.model_dump(), f"a student of the engine {engine!r} is trained by no library"
        found |= {(kind, name): why for kind in yours for name in yours[kind]}
    for who, role in (("student", config.student), ("teacher", config.teacher)):
        if role.engine in WITH_MODEL:
            numbers = decoder({"temperature": role.temperature, **said(role.options)})
            found |= {(who, name): why for name, why in idle(numbers)}
    return found


def doubts(config: Experiment, stages: Stages) -> list[str]:
    """What is no mistake, and may not be what was wanted."""
    told = list[str]()
    for method in stages:
        told += [
            f"`{group}.{name}` has no effect: {why}" for (group, name), why in without_effect(config, method).items()
        ]
        if config.teacher.policy and isinstance(method.check, Sound) and method.check.kinds == ("own",):
            told.append(
                f"`teacher.policy` teaches in the place of what {method.name} does, under its check: what the student "
                "answered itself is learnt, and nothing that a teacher wrote. That would be: check=[own,steps]"
            )
        if method.update is not sft_then_dpo:
            continue
        whole = effective(method)
        if whole["lora"].get("lora_dropout") and whole["dpo"].get("disable_dropout", True):
            told.append("`lora.lora_dropout` counts in the SFT alone: `dpo.disable_dropout` is on, TRL's default")
        if (rate := float(str(whole["dpo"]["learning_rate"]))) < LEAST_RATE:
            told.append(
                f"the DPO of {method.name} has a `learning_rate` of {rate:g}. Below {LEAST_RATE:g} a LoRA hardly moves "
                f"(ours is {DPO['learning_rate']:g}; the libraries' defaults are for full weights)"
            )
    return list(dict.fromkeys(told))


LEAST_RATE = 1e-5
"""Of DPO on a LoRA: with less, few steps change no answer's log-probability by more than two readings differ."""


def check_needs(config: Experiment, stages: Stages, data: Data, before: int = 0) -> None:
    """
    Args:
        before: The last round that is done already, in a fork.

    Raises:
        ConfigError: the method, or a policy, needs what the teacher, the data or the earlier rounds have not.
    """
    for rounds in (m.rounds for m in stages):
        for name in ("start", "reference"):
            if (value := getattr(rounds, name)).isdigit() and int(value) > before:
                raise ConfigError(
                    f"`schedule.{name}` is round {value}, and the rounds before this stage are 0 to {before}. Name one "
                    "of these, or use a word: `previous`, `base` ..."
                )
        before += rounds.times
    slots = {"policy": config.teacher.policy, "triage": config.triage}
    chosen = " and ".join(f"the {slot} {name}" for slot, name in slots.items() if name)
    who = f"method {config.method!r}{f' with {chosen}' if chosen else ''}"
    for need in dict.fromkeys(chain.from_iterable(m.requires for m in stages)):
        if need == "logprobs":
            raise ConfigError(
                f"{who} needs log-probabilities (`logprobs`), and no model of the room gives any so far, whatever its "
                "engine. Do without them, or use another method, policy or triage (`tutorloop methods`)."
            )
        if need == "schema":
            if config.teacher.engine not in ("scripted", *TELL_FORMS):
                raise ConfigError(
                    f"{who} needs a teacher that fills records (`schema`), and the engine {config.teacher.engine!r} "
                    "cannot. Use `teacher.engine: scripted`, `chat` or `vllm`, or another method or policy "
                    "(`tutorloop methods`)."
                )
        elif need == "gold":
            if not any(gold and gold.solution for _, gold in data.splits["practice"]):
                raise ConfigError(
                    f"{who} learns from the data set's own work, and no practice problem has any. Give the rows a "
                    "`solution`, or use another method (`tutorloop methods`)."
                )
        else:
            raise ConfigError(f"{who} requires {need!r}, which is unknown; the nearest is `{nearest(need, NEEDS)}`.")


def check_models(config: Experiment, stages: Stages, specs: Mapping[str, RoleSpec], data: Data) -> None:
    """
    Raises:
        ConfigError: a model cannot be asked or trained, or has too short a context for a problem that it may be asked.
    """
    pools: Mapping[str, Collection[str]] = {
        "student": data.splits,
        "teacher": ["practice"] if any(map(_asks_the_teacher, stages)) else [],
    }
    told = list[str]()
    for name, asked in pools.items():
        spec = specs[name]
        try:
            if spec.engine == "scripted":
                if name == "student" and spec.model:
                    profile(Path(spec.model))
            elif spec.engine == "chat":
                if asked and spec.key:
                    key_of(spec)
            elif spec.engine == "replay":
                told.append("the student's answers are recorded: it is examined and taught, and nothing is trained")
            elif (folder := model_folder(spec.model)) is not None:
                can_be_asked(folder)
                if spec.engine == "vllm" and not spec.gpus:
                    heads_of(folder)
                if name == "student":
                    _can_be_trained(folder, config, stages)
                problems = (problem for pool in asked for problem, _ in data.splits[pool])
                if line := fits(folder, problems, spec.max_tokens):
                    told.append(f"the {name}: {line}")
                if _may_say_anything(config) and (does := without_system(folder)):
                    told.append(
                        f"the {name}: the chat template of {folder} {does} a system turn, should a policy use one"
                    )
        except ValueError as e:
            raise ConfigError(f"the {name}: {e}") from None
    for line in told:  # at the end: a refusal is one line
        log.warning("warning: %s", line)


def _can_be_trained(folder: Path, config: Experiment, stages: Stages) -> None:
    for method in stages:
        try:
            can_be_trained(folder, method.rounds.settings.get("lora", {}))
        except ValueError as e:
            whose = "`update.lora`" if "target_modules" in config.update.lora else f"method {method.name!r}"
            raise ValueError(f"{whose}: {e}") from None


def _may_say_anything(config: Experiment) -> bool:
    """Whether somebody's own policy or method asks: those that ship use no system turn."""
    names = (config.teacher.policy, config.triage, config.method)
    return any(":" in name and not name.startswith("tutorloop.") for name in names)


def _asks_the_teacher(method: Method) -> bool:
    """Whether a teacher is put questions of the course, as far as that can be seen. The controls do not."""
    blind = isinstance(method.check, Sound) and "blind" in method.check.kinds
    taught = method.teach is not None and not isinstance(method.teach, GoldWork)
    return blind or taught or method.verify is not None
