"""Whether the parts of an experiment fit one another: method and teacher, method and data, model and data.

All that can be known before anything is started is said before anything is written; a question that a role's own
libraries decide is theirs, when the role is built.
"""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from ..agents.models import can_be_asked, can_be_trained, fits, model_folder
from ..agents.roles import RoleSpec
from ..evals.arithmetic import profile
from ..policies.records import Json
from ..policies.slots import Stages
from .config import ConfigError, Experiment, nearest
from .courses import Data

TEACHES = {
    "schema": ("fills records", "scripted"),
    "logprobs": ("gives log-probabilities", "transformers"),
}
"""What of `Method.requires` a teacher must do, and the engine that does it."""


def check_needs(config: Experiment, stages: Stages, data: Data) -> None:
    """
    Raises:
        ConfigError: the method, or a policy, needs what the teacher, the data or the earlier rounds have not.
    """
    before = 0
    for rounds in (m.rounds for m in stages):
        for name in ("start", "reference"):
            if (value := getattr(rounds, name)).isdigit() and int(value) > before:
                raise ConfigError(
                    f"`schedule.{name}` is round {value}, and the rounds before this stage are 0 to {before}. Name one "
                    "of these, or use a word: `previous`, `base` ..."
                )
        before += rounds.times
    policy = config.teacher.policy
    who = f"method {config.method!r}{f' with the policy {policy}' if policy else ''}"
    for need in dict.fromkeys(chain.from_iterable(m.requires for m in stages)):
        if need in TEACHES:
            does, engine = TEACHES[need]
            if config.teacher.engine != engine:
                raise ConfigError(
                    f"{who} needs a teacher that {does} (`{need}`), and the engine {config.teacher.engine!r} cannot. "
                    f"Use `teacher.engine: {engine}`, or another method or policy (`tutorloop methods`)."
                )
        elif need == "gold":
            if not any(gold and gold.solution for _, gold in data.splits["practice"]):
                raise ConfigError(
                    f"{who} learns from the data set's own work, and no practice problem has any. Give the rows a "
                    "`solution`, or use another method (`tutorloop methods`)."
                )
        else:
            known = [*TEACHES, "gold"]
            raise ConfigError(f"{who} requires {need!r}, which is unknown; the nearest is `{nearest(need, known)}`.")


def check_models(specs: Mapping[str, RoleSpec], lora: Mapping[str, Json], data: Data) -> None:
    """
    Raises:
        ConfigError: a model cannot be asked or trained, or has too short a context for a problem of the course.
    """
    for name in ("student", "teacher"):
        spec = specs[name]
        try:
            if spec.engine == "scripted":
                if name == "student" and spec.model:
                    profile(Path(spec.model))
            elif (folder := model_folder(spec.model)) is not None:
                can_be_asked(folder)
                if name == "student":
                    can_be_trained(folder, lora.get("target_modules"))
                    fits(folder, (problem for split in data.splits.values() for problem, _ in split))
        except ValueError as e:
            raise ConfigError(f"the {name}: {e}") from None
