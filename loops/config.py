"""What an experiment is: a YAML file and `key=value` overrides, as one checked value.

Every field is one of three kinds once a run has begun. *Grows*: more rounds or a larger budget continue a finished run.
*Free*: where and how fast, never what. *Fixed*: all the rest, data and the source file of a policy included; a change
is refused, naming what changed. Not covered: helpers that a policy's file imports are not seen.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import to_json

from ..evals.records import halved
from ..evals.redact import declare, redacted
from ..policies.records import Evidence
from .parts import (
    BudgetConfig,
    ClusterConfig,
    CourseConfig,
    EvaluatorConfig,
    LearnerConfig,
    LimitsConfig,
    Part,
    Placement,
    PriceConfig,
    StudentConfig,
    TeacherConfig,
    UpdateConfig,
)


class ConfigError(ValueError):
    """What is wrong with an experiment, what was given, what to do. Exit code 2, nothing changed."""


class Experiment(BaseModel):
    """A whole experiment. The defaults are the embedded world with its shipped student."""

    model_config = Part.model_config

    course: CourseConfig = CourseConfig()
    method: str = "tailored"
    """A method that ships, or `my_methods:METHOD`."""
    rounds: int | None = Field(default=None, ge=0)
    """In place of the method's own number, for its last stage."""
    check: tuple[Evidence, ...] = ()
    """Kinds of evidence in place of the method's own: any one of them makes a lesson sound. Real data seldom has the
    method's `steps`: `[answer, own, gold]`."""
    triage: str = ""
    """A triage by import path in place of the method's own: `tutorloop.policies.triage:unsolved`, `my_course:rare`."""
    schedule: dict[str, Any] = {}
    """Other fields of `Rounds` in place of the method's own: `ask`, `rows`, `fill`, `start`, `reference` ..."""
    limit: int | None = Field(default=None, ge=1)
    """The whole cycle at toy scale: so many problems of each pool, see `quick.py`."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    student: StudentConfig = StudentConfig()
    teacher: TeacherConfig = TeacherConfig()
    learner: LearnerConfig = LearnerConfig()
    evaluator: EvaluatorConfig = EvaluatorConfig()
    update: UpdateConfig = UpdateConfig()
    budget: BudgetConfig = BudgetConfig()
    placement: Placement = "separate"
    """`separate`: each role in a process of its own (a Ray actor), with devices of its own. `shared`: the same, but all
    devices answer, then all train: who answers ends before the learner starts, and the other way round. `local`: all in
    this process. The transcripts are the same."""
    cluster: ClusterConfig = ClusterConfig()
    failures: float = Field(default=0.2, ge=0, le=1)
    """Share of a table's items that may fail before the run stops."""
    policy_seconds: float = Field(default=120.0, gt=0)
    """How long a policy may neither ask nor finish."""


GROWS = ("rounds", *(f"budget.{name}" for name in BudgetConfig.model_fields))
FREE = (
    "placement",
    "cluster.address",
    "cluster.insecure",
    "failures",
    "policy_seconds",
    *(f"{r}.{f}" for r in ("student", "teacher", "learner", "evaluator") for f in ("gpus", "deadline")),
    *(f"{r}.replicas" for r in ("student", "teacher", "evaluator")),
    "teacher.key",
    *(f"teacher.limits.{name}" for name in LimitsConfig.model_fields),
    *(f"teacher.price.{name}" for name in PriceConfig.model_fields),
    *(f"{r}.python" for r in ("student", "teacher")),
)


SHIPPED = ("arithmetic", "scripted")
"""Experiments that come with the package and are called by their name."""


def located(path: Path) -> tuple[Path, Path]:
    """The file of an experiment, and the folder in which its policies and data are looked for.

    That of the file itself; of an experiment that ships, where the command is given.
    """
    if str(path) in SHIPPED and not path.is_file():
        return Path(__file__).parent.parent / "examples" / f"{path}.yaml", Path.cwd()
    return path, path.resolve().parent


def load(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment.

    Args:
        overrides: `key=value`, the key with dots, the value as YAML: `update.sft.learning_rate=1e-4`.

    Raises:
        ConfigError: the file is missing or no YAML; a key is unknown (names the nearest); a value has the wrong type.
    """
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise ConfigError(f"there is no experiment file {path}. By name alone: {', '.join(SHIPPED)}.") from None
    except OSError as e:
        raise ConfigError(f"the experiment file {path} cannot be read: {e.strerror}.") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply to be read.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(e).split())}") from None
    if not isinstance(told, dict):
        raise ConfigError(f"{path} holds a {type(told).__name__}; an experiment is keys and values.")
    return resolve(told, overrides, path)


def resolve(told: Mapping[str, Any], overrides: Sequence[str] = (), path: Path | None = None) -> Experiment:
    """Keys and values, checked. See `load`."""
    try:
        merged: dict[str, Any] = _copied(told)
    except RecursionError:
        raise ConfigError(f"{path or 'the experiment'} holds itself: an alias stands within its own anchor.") from None
    if isinstance(overrides, str | Mapping):
        raise ConfigError(f"overrides are a list of texts, e.g. ['rounds=3', 'seed=1'], got {overrides!r}")
    for override in overrides:
        key, sign, value = override.partition("=")
        if not sign:
            raise ConfigError(f"{override!r} is no override; write key=value, e.g. rounds=3.")
        _put(merged, key.strip(), parsed(value), override)
    for key, text in _texts(merged):
        if halved(key) or halved(text):
            raise ConfigError(f"`{key}` has half of a character (a lone surrogate) in {text!r}; write it whole.")
    try:
        made = Experiment.model_validate(merged)
    except ValidationError as e:
        raise ConfigError("; ".join(_said(error, path) for error in e.errors())) from None
    return made if made.limit is None else made.model_copy(update={"placement": "local"})


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fixed fields that differ between two dumped configs, by dotted name. One that is missing has its default: it may
    have come with a later version than wrote the config.

    >>> changed({"seed": 0, "rounds": 2}, {"seed": 1, "rounds": 3})
    {'seed': (0, 1)}
    """
    a, b = fixed(_whole(before)), fixed(_whole(after))
    return {key: (a.get(key), b.get(key)) for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)}


def _whole(config: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return Experiment.model_validate(config).model_dump(mode="json")
    except ValidationError:  # of a version that knew other fields
        return config


def overriding(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The overrides that make one dumped config the other, but for where and how fast.

    >>> overriding({"seed": 0, "update": {"sft": {"beta": 1}}}, {"seed": 1, "update": {"sft": {}}})
    ['seed=1', 'update.sft={}']
    >>> overriding({"method": "tailored"}, {"method": "gold"})
    ['method=gold']
    >>> overriding({"seed": 0, "rounds": 2}, {"seed": 0, "rounds": 3})
    ['rounds=3']
    """
    was, now = (dict(_flat(_whole(config))) for config in (before, after))
    grown = [key for key in GROWS if was.get(key) != now.get(key)]
    return sorted({_override(key.split("."), _whole(after)) for key in (*changed(before, after), *grown)})


def _override(path: Sequence[str], config: Any) -> str:
    """The field of an experiment that holds this key, with its whole value: what a library is given has no fields."""
    model: Any = Experiment
    depth = 0
    while isinstance(model, type) and issubclass(model, BaseModel):
        config, model = config[path[depth]], model.model_fields[path[depth]].annotation
        depth += 1
    plain = isinstance(config, str) and config and parsed(config) == config
    return f"{'.'.join(path[:depth])}={config if plain else to_json(config).decode()}"


def fixed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dumped config that make it this experiment and no other, by dotted name."""
    return {key: value for key, value in _flat(config) if key not in GROWS and key not in FREE}


SECRET = re.compile(r"api_?key|passw|secret|credential|(access|auth|bearer|hub)_?token", re.IGNORECASE)
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")


def holds_no_secret(config: Experiment) -> None:
    """An experiment is stored with its run, and handed to roles: a secret it may only name.

    Raises:
        ConfigError: a value is a secret of the environment, or stands under a key for secrets and names no variable.
    """
    if VARIABLE.fullmatch(config.teacher.key):
        declare(config.teacher.key)
    for key, value in _flat(config.model_dump(mode="json")):
        text = to_json(value).decode()
        named = not value or (isinstance(value, str) and VARIABLE.fullmatch(value))
        if redacted(text) != text or (SECRET.search(key) and not named):
            raise ConfigError(
                f"`{key}` holds a secret, and would be stored with the run. Put the secret into an environment "
                "variable, and here at most the variable's name."
            )


def nearest(name: str, known: Sequence[str]) -> str:
    """The likeliest of the known names; never empty."""
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


def _said(error: Any, path: Path | None) -> str:
    where = ".".join(str(x) for x in error["loc"])
    place = f" in {path}" if path else ""
    if error["type"] == "extra_forbidden":
        model: Any = Experiment
        for part in error["loc"][:-1]:
            model = model.model_fields[part].annotation
        return (
            f"unknown key `{where}`{place}; the nearest is `{nearest(str(error['loc'][-1]), list(model.model_fields))}`"
        )
    return f"`{where}`{place}: {error['msg']}, got {error['input']!r}"


def parsed(text: str) -> Any:
    """The value of `key=value`."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):  # YAML 1.1 reads 1e-4 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _put(tree: dict[str, Any], key: str, value: Any, override: str) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        below = tree.setdefault(parent, {})
        if not isinstance(below, dict):
            raise ConfigError(f"{override!r}: `{parent}` is a value, not a group of keys.")
        tree = below
    tree[last] = value


def _copied(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {str(k): _copied(v) for k, v in tree.items()}
    if isinstance(tree, list):
        return [_copied(below) for below in tree]
    if isinstance(tree, str):  # `lr: 1e-4` in a file is text to YAML 1.1, a number to its writer
        return parsed(tree) if tree[:1].isdigit() and "e" in tree.lower() else tree
    return tree


def _texts(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every key and text of a tree, the key with dots."""
    if isinstance(tree, Mapping):
        for name, below in tree.items():
            yield from _texts(below, f"{key}.{name}" if key else name)
    elif isinstance(tree, list):
        for below in tree:
            yield from _texts(below, key)
    else:
        yield key, tree if isinstance(tree, str) else ""


def _flat(tree: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in tree.items():
        name = f"{above}{key}"
        found += _flat(value, f"{name}.") if isinstance(value, Mapping) and value else [(name, value)]
    return found
