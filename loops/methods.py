"""From names in an experiment to slots: methods and policies, by import path, checked before round 1."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..policies.checking import Sound
from ..policies.methods import METHODS
from ..policies.rounds import Rounds
from ..policies.slots import Method, Stages
from .config import ConfigError, Experiment, nearest


def stages_of(config: Experiment, folder: Path) -> tuple[Stages, Mapping[str, str]]:
    """The method with the experiment's changes, and the sha256 of the user's source files that it is made of.

    Raises:
        ConfigError: an unknown method or schedule field, or a policy that does not import, cannot be called with
            `(case, room)`, or has no such option.
    """
    sources: dict[str, str] = {}
    stages = _method(config.method, folder, sources)
    if config.teacher.policy:
        teach = policy(config.teacher.policy, config.teacher.policy_options, folder, sources)
        stages = tuple(replace(m, teach=teach) for m in stages)
    elif config.teacher.policy_options:
        raise ConfigError("`teacher.policy_options` needs a `teacher.policy` that has options.")
    if config.check:
        stages = tuple(replace(m, check=Sound(kinds=config.check)) for m in stages)
    if config.triage:
        chosen = policy(config.triage, {}, folder, sources, "triage")
        stages = tuple(replace(m, triage=chosen) for m in stages)
    stages = tuple(replace(m, requires=tuple(_needs(m))) for m in stages)
    settings = {k: v for k, v in config.update.model_dump().items() if v}
    known = {f.name for f in fields(Rounds)} - {"times", "settings"}
    for key in config.schedule:
        if key not in known:
            raise ConfigError(f"unknown key `schedule.{key}`; the nearest is `{nearest(key, sorted(known))}`")
    stages = tuple(replace(m, rounds=_scheduled(m.rounds, config.schedule, settings)) for m in stages)
    if config.rounds is not None:
        last = stages[-1]
        stages = (*stages[:-1], replace(last, rounds=replace(last.rounds, times=config.rounds)))
    if config.limit is not None:
        stages = tuple(replace(m, rounds=_toy(m.rounds, config.limit)) for m in stages)
    return stages, sources


def _toy(rounds: Rounds, limit: int) -> Rounds:
    """Two rounds at most, and four rows for each of so many problems."""
    return replace(rounds, times=min(rounds.times, 2), rows=min(rounds.rows, 4 * limit))


def _needs(method: Method) -> Iterator[str]:
    """What a method needs beyond text, and each of its slots by an attribute of the same name."""
    whole = f"method {method.name!r}"
    slots = {f"the `{f.name}` slot of {whole}": getattr(method, f.name) for f in fields(Method)}
    for whose, it in {whole: method, **slots}.items():
        told = getattr(it, "requires", ())
        names = (told,) if isinstance(told, str) else told
        if not isinstance(names, Collection) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"`requires` of {whose} is {told!r}; name what is needed, e.g. ('gold',)")
        yield from names


def _scheduled(rounds: Rounds, schedule: Mapping[str, Any], settings: Mapping[str, Any]) -> Rounds:
    """The method's schedule with the experiment's changes."""
    words = {key: str(schedule[key]) for key in ("start", "reference") if key in schedule}  # 2 is a round's name
    told = {**vars(rounds), **schedule, **words, "settings": _merged(rounds.settings, settings)}
    try:
        return TypeAdapter(Rounds).validate_python(told)
    except ValidationError as e:
        wrong = e.errors()[0]
        where = ".".join(map(str, ("schedule", *wrong["loc"])))
        said = wrong["msg"].removeprefix("Value error, ")
        raise ConfigError(f"`{where}`: {said}" + (f", got {wrong['input']!r}" if wrong["loc"] else "")) from None


def policy(
    name: str, options: Mapping[str, Any], folder: Path, sources: dict[str, str], key: str = "teacher.policy"
) -> Callable[..., Any]:
    """A policy by import path, ready to be called with `(case, room)`; for another slot, `key` says where it stood."""
    found: Any = _import(name, folder, sources, f"`{key}`")
    if inspect.isclass(found):
        known = [f.name for f in fields(found)] if is_dataclass(found) else []
        for option in options:
            if option not in known:
                near = f"; the nearest is `{nearest(option, known)}`" if known else " and has none"
                raise ConfigError(f"{name} has no option `{option}`{near}")
        try:
            found = found(**options)
        except (TypeError, ValueError) as e:
            raise ConfigError(f"{name} cannot be made with the options {dict(options)!r}: {e}") from None
    elif options:
        raise ConfigError(f"{name} is a function and takes no `policy_options`; make it a dataclass with `__call__`.")
    if not callable(found):
        raise ConfigError(f"{name} is {type(found).__name__}, not a policy: a function of (case, room).")
    try:
        inspect.signature(found).bind("case", "room")
    except TypeError as e:
        raise ConfigError(f"{name}{inspect.signature(found)} cannot be called with (case, room): {e}") from None
    chosen: Callable[..., Any] = found
    return chosen


def _method(name: str, folder: Path, sources: dict[str, str]) -> Stages:
    if name in METHODS:
        return METHODS[name]
    if ":" not in name:
        raise ConfigError(
            f"unknown method {name!r}; the nearest is `{nearest(name, list(METHODS))}`. "
            "A method of your own is named by import path: my_methods:METHOD"
        )
    found = _import(name, folder, sources, "`method`")
    stages = (found,) if isinstance(found, Method) else found
    if not isinstance(stages, tuple) or not stages or not all(isinstance(m, Method) for m in stages):
        raise ConfigError(f"`method` {name} is {type(found).__name__}; it must be a `Method` or a tuple of them.")
    return stages


def _import(name: str, folder: Path, sources: dict[str, str], what: str) -> Any:
    module, _, attribute = name.rpartition(":")
    if not module or not attribute:
        raise ConfigError(f"{what} is {name!r}; write it as module:name, e.g. {_example(name)}")
    file = next((f for f in _files(module, folder) if f.is_file()), None)
    if file is None and module.endswith(".py"):
        there = sorted({f.name for place in {folder, Path(module).parent} for f in place.glob("*.py")})
        near = f" The nearest: {nearest(Path(module).name, there)}" if there else ""
        raise ConfigError(f"{what} {name}: there is no file {module} in {folder}.{near}")
    try:
        loaded = _load(file) if file else importlib.import_module(module)
    except (Exception, SystemExit) as e:  # a user's module: anything may come
        places = ", ".join(dict.fromkeys(map(str, (folder, Path.cwd()))))
        where = str(file) if file else f"module {module!r} (looked in {places} and the installed packages)"
        raise ConfigError(f"{what} {name}: {where} does not import: {type(e).__name__}: {e}") from None
    if not hasattr(loaded, attribute):
        public = [n for n in vars(loaded) if not n.startswith("_")]
        near = f"; the nearest is `{nearest(attribute, public)}`" if public else ""
        raise ConfigError(f"{what} {name}: there is no `{attribute}` in {file or module}{near}")
    source = file or (Path(loaded.__file__) if loaded.__file__ else None)
    if source and not (loaded.__name__ or "").startswith("tutorloop."):
        sources[name] = hashlib.sha256(source.read_bytes()).hexdigest()
    return getattr(loaded, attribute)


def _example(name: str) -> str:
    """
    >>> _example("mine.py"), _example("first_error")
    ('mine.py:first_error', 'my_course:first_error')
    """
    return f"{name}:first_error" if name.endswith(".py") else "my_course:first_error"


def _files(module: str, folder: Path) -> list[Path]:
    if module.endswith(".py"):
        return [folder / module, Path(module)]
    path = Path(*module.split(".")).with_suffix(".py")
    return [folder / path, Path.cwd() / path]


def _load(file: Path) -> ModuleType:
    """A file beside the experiment, as a module of its own name; its neighbours can be imported by it."""
    if file.stem in sys.stdlib_module_names:
        raise ImportError(f"Python has a module {file.stem!r} of its own, which it would replace. Rename the file")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))
    try:
        sys.modules[file.stem] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(file.parent))
    return module


def _merged(ours: Mapping[str, Mapping[str, Any]], theirs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {k: {**ours.get(k, {}), **theirs.get(k, {})} for k in ours.keys() | theirs.keys()}
