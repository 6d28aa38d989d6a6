"""From an experiment to a run: everything is checked before anything is written, then the cycle runs in its folder.

report = tutorloop.launch("examples/arithmetic.yaml", run_dir="runs/a", overrides=["rounds=3"])
"""

import hashlib
import logging
import platform
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from ..agents.build import build
from ..agents.faults import Unserved
from ..agents.models import placed
from ..agents.replay import lay_down
from ..agents.roles import Limits, RoleSpec
from ..evals.files import in_the_way
from ..evals.pools import Course, make_course
from ..evals.records import halved
from ..evals.rows import LIST, adapter
from ..policies.rounds import Report
from ..policies.slots import Stages
from .book import Book
from .company import Company, cast_of
from .config import (
    ConfigError,
    Experiment,
    changed,
    fixed,
    holds_no_secret,
    load,
    located,
    overriding,
    resolve,
)
from .courses import answers_source, file_sources, read_course
from .documents import SCHEMA, Documents, Fork, JournalError, home, run_record
from .fitting import (
    check_answers,
    check_models,
    check_needs,
    check_places,
    check_training,
    doubts,
    options_of,
    spendable,
)
from .journal import Tick, read_status
from .methods import stages_of
from .quick import clear, toy_folder
from .slots import TooManyFailures
from .tutoring import run

log = logging.getLogger(__name__)

PACKAGES = ("tutorloop", "torch", "transformers", "peft", "trl", "ray", "datasets", "langchain-core")


GIVEN = ("course", "student", "limit")
"""Parts of an experiment on which every round stands: a fork cannot change them."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or SIGTERM from a scheduler that wants the machine back: the run is paused."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}; the same command goes on")
        self.number = number


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A checked experiment: nothing is written yet, nothing is started."""

    experiment: Experiment
    stages: Stages
    sources: Mapping[str, str]
    """sha256 of each file outside the package that shapes the run: policies, methods, data."""
    folder: Path
    """Of the experiment's file; relative paths in it are taken from here."""


def prepare(
    experiment: Path | str | Mapping[str, Any], overrides: Sequence[str] = (), *, begun: bool = False
) -> Prepared:
    """Check an experiment, its data included, as far as that goes without starting anything.

    Args:
        experiment: A file, its content, the name of one that ships, or the folder of a run, for the experiment that it
            was begun with.
        begun: The pools are in the run folder: only whether the files behind them have changed is looked at.

    Raises:
        ConfigError: what is wrong, what was given, what to do.
        OverlappingPools: two pools share a problem.
    """
    config, folder = configured(experiment, overrides)
    stages, sources = stages_of(config, folder)
    holds_no_secret(config)  # here, as a policy's file may have filled the environment
    for learner in {m.learner for m in stages} - {"student"}:
        raise ConfigError(f"method {config.method!r} trains {learner!r}; only the student can be trained so far.")
    check_training(config, stages)
    check_answers(config)
    check_places(config, stages)
    spendable(config)
    if begun:
        sources = {**sources, **file_sources(config.course, folder), **answers_source(config.student, folder)}
        return Prepared(experiment=config, stages=stages, sources=sources, folder=folder)
    data = read_course(config.course, config.seed, config.student, folder, config.limit)
    ready = Prepared(experiment=config, stages=stages, sources={**sources, **data.sources}, folder=folder)
    check_needs(config, stages, data)
    check_models(config, stages, role_specs(ready, Path()), data)
    return ready


def configured(experiment: Path | str | Mapping[str, Any], overrides: Sequence[str] = ()) -> tuple[Experiment, Path]:
    """What an experiment says, and from where relative paths in it are taken. Raises as `prepare` does."""
    if isinstance(experiment, Mapping):
        return resolve(experiment, overrides), Path.cwd()
    if (Path(experiment) / "run.json").exists():
        record = run_record(Path(experiment))
        return resolve(record["config"], overrides), home(record)
    file, folder = located(Path(experiment))
    return load(file, overrides), folder


def launch(
    experiment: Path | str | Mapping[str, Any],
    run_dir: Path | str,
    overrides: Sequence[str] = (),
    *,
    tick: Tick | None = None,
    factory: Callable[[RoleSpec], Any] = build,
) -> Report:
    """Start a run, resume it, or continue it with more rounds or budget: always the same call.

    Args:
        experiment: A file, its content, the name of one that ships, or the folder of a run.
        tick: Told of every step and shard.
        factory: Builds a role where it lives; it pickles. One of your own may wrap what `build` makes, to watch it.

    Raises:
        ConfigError: the experiment is wrong, or a fixed field was changed against what the folder was begun with.
        JournalError: the folder is in use, damaged, or another schema's.
        Interrupted: paused by Ctrl-C or SIGTERM; the same call goes on.
        TooManyFailures: stopped, as more items failed than `failures` allows; a larger share goes on.
        Unserved: stopped, as the teacher's provider takes no call: a wrong key, no credit, no such model.
    """
    root, toy = place(experiment, overrides, run_dir)
    before = None if toy else _before(root)
    ready = prepare(experiment, overrides, begun=bool(before))
    if toy:  # an experiment that is wrong leaves the earlier one as it is
        clear(root)
        before = _before(root)
    record = record_of(ready, before)
    specs = role_specs(ready, root.resolve())
    told = ready.experiment
    company = Company(specs=list(specs.values()), placement=told.placement, factory=factory, cluster=told.cluster)
    with closing(company):
        if not before:
            company.muster()
            for line in doubts(ready.experiment, ready.stages):
                log.warning("warning: %s", line)
        book = Book.open(root, run=record["run"], seed=ready.experiment.seed, tick=tick)
        try:
            if before != _before(root):  # looked at while another process was running in it
                raise JournalError(f"{root} was in use by another process until now. Start again.")
            if before:
                book.check()
                _continues(root, before, record, ready)
            return _go(ready, book, record, company, begun=bool(before))
        finally:
            book.release()


def place(
    experiment: Path | str | Mapping[str, Any], overrides: Sequence[str], run_dir: Path | str
) -> tuple[Path, bool]:
    """Where `launch` runs, and whether anew: a run at toy scale never lies where a real one would.

    Raises:
        ConfigError: the experiment is wrong.
    """
    root, (config, _) = Path(run_dir), configured(experiment, overrides)
    if not isinstance(experiment, Mapping) and _same_run(Path(experiment), root):
        if run_record(root)["config"].get("limit") == config.limit:
            return root, False
        if toy_folder(config, root) == root:
            raise ConfigError(f"{root} is itself at toy scale; for another `limit`, start from the experiment's file.")
    return toy_folder(config, root), config.limit is not None


def _same_run(experiment: Path, root: Path) -> bool:
    """Whether an experiment is the folder of the very run that is to go on."""
    return (experiment / "run.json").exists() and experiment.resolve() == root.resolve()


def _go(ready: Prepared, book: Book, record: Mapping[str, Any], company: Company, *, begun: bool) -> Report:
    """The run itself. What has become of it, whatever that is, is in its `status.json`."""
    book.budget, book.failures = spendable(ready.experiment), ready.experiment.failures
    book.fork = adapter(Fork).validate_python(record["fork"]) if record["fork"] else None
    try:
        book.documents.write("run.json", record)
        book.settle("running")
        if not begun:  # a course that was made for an experiment that never began
            (book.root / "steps" / "course.json").unlink(missing_ok=True)
            shutil.rmtree(book.root / "course", ignore_errors=True)
        with _interruptible():
            # Only what was said: a field that comes with a later version is no change.
            said = ready.experiment.course.model_dump(exclude_defaults=True)
            course = book.step("course", partial(_course, ready, book), said)
            with cast_of(company, book.root, book, ready.experiment.policy_seconds) as cast:
                return run(course, ready.stages, cast, book)
    except KeyboardInterrupt as e:
        book.settle("paused", str(e) or "interrupted")
        raise
    except (TooManyFailures, Unserved) as e:
        book.settle("stopped", str(e))
        raise
    except BaseException as e:
        with suppress(OSError):  # the disk may be what failed
            book.settle("failed", f"{type(e).__name__}: {e}")
        raise


def _course(ready: Prepared, book: Book, said: Mapping[str, Any]) -> Course:
    told = ready.experiment
    data = read_course(told.course, told.seed, told.student, ready.folder, told.limit)
    course = make_course(told.course.kind, book.root, data.splits, run=book.run)
    for path in (book.root / "course").rglob(LIST):
        book.vouch(path)
    if data.answers is not None:
        sha256 = data.sources[ready.experiment.student.model]
        book.vouch(lay_down(book.root, sha256, data.answers.texts))
    return course


def _before(root: Path) -> dict[str, Any] | None:
    """`run.json` of a run that was begun in this folder; `None`: none was.

    Until something was answered a mistake in the experiment can still be mended: a run is begun when it has rows.
    """
    can_hold(root)
    if not root.exists():
        return None
    begun = (root / "rows").exists() or (root / "steps" / "0.json").exists()
    if begun or (root / "run.json").exists():
        record = run_record(root)
        return record if begun else None
    if any(p.name not in ("lock", ".run.json.part") for p in root.iterdir()):
        raise JournalError(f"{root} is not empty and holds no run (no run.json). Choose another --run-dir.")
    return None


def can_hold(root: Path) -> None:
    """
    Raises:
        ConfigError: no run folder can be there.
    """
    if halved(str(root)):
        raise ConfigError(f"the run folder's name {str(root)!r} is no text that can be written; choose another.")
    if why := in_the_way(root):
        raise ConfigError(f"{why}; a run needs a folder. Choose another --run-dir.")


def record_of(ready: Prepared, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """What `run.json` will hold."""
    config = ready.experiment.model_dump(mode="json")
    made = to_json([fixed(config), sorted(ready.sources.items())])
    record = {
        "run": hashlib.sha256(made).hexdigest(),
        "schema": SCHEMA,
        "config": config,
        "rounds": ready.stages[-1].rounds.times,  # the method's own number, if the experiment names none
        "sources": dict(ready.sources),
        "environment": environment(),
        "folder": str(ready.folder),
        "fork": None,
    }
    if before is None:
        return record
    kept = {"run": before["run"], "environment": before["environment"], "fork": before.get("fork")}
    return {**record, **kept, "sources": {**before["sources"], **ready.sources}}


def _continues(root: Path, before: Mapping[str, Any], record: Mapping[str, Any], ready: Prepared) -> None:
    """
    Raises:
        ConfigError: a fixed field differs from what the folder was begun with, or one that may grow has shrunk.
    """
    keys = changed(before["config"], record["config"])
    differ = [f"`{key}` was {a!r}, is {b!r}" for key, (a, b) in keys.items()]
    differ += [f"`{k}` has changed" for k, v in ready.sources.items() if before["sources"].get(k, v) != v]
    differ += [f"`{k}` is new" for k in ready.sources if k not in before["sources"]]
    if differ:
        raise ConfigError(
            f"{root} was begun with another experiment: {'; '.join(differ)}. Its rounds would not be comparable. "
            f"Undo the change, or {_way_out(root, before, record)}"
        )
    for key, was, now in _shrunk(before, record):
        raise ConfigError(f"`{key}` may grow and not shrink: {root} has {was}, asked for {now}.")


def _way_out(root: Path, before: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """The command that runs the changed experiment, with what the run has of it already."""
    if any(key.partition(".")[0] in GIVEN for key in changed(before["config"], record["config"])):
        return "start a run of its own: --run-dir NEW"
    steps = Documents(root, before["run"]).steps()
    if "final/0" not in steps:
        return "start a run of its own: --run-dir NEW"
    done = max((int(name.removesuffix("/gate")) for name in steps if name.endswith("/gate")), default=0)
    last = min(done, max(0, record["rounds"] - 1))  # a fork of the last round would have nothing to do
    if done < before["rounds"] and read_status(root)[0] == "finished":  # it ended early: so would the fork
        last = min(last, max(0, done - 1))
    command = ["tutorloop", "fork", str(root), "--from-round", str(last), "--run-dir", f"{root}-fork"]
    told = shlex.join([*command, *overriding(before["config"], record["config"])])
    return f"go on with it in a run that shares the rounds up to {last}: {told}"


def _shrunk(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    old, new = (record["config"]["budget"] for record in (before, after))
    grows = {"rounds": (before["rounds"], after["rounds"])}
    grows |= {f"budget.{name}": (old.get(name), value) for name, value in new.items()}
    for key, (was, now) in grows.items():
        if was is not None and now is not None and now < was:
            yield key, was, now


def environment() -> dict[str, str]:
    """Versions and machine, for the record."""
    found = {name: version(name) for name in PACKAGES}
    return {"python": sys.version.split()[0], "machine": platform.machine(), "system": platform.system(), **found}


def role_specs(ready: Prepared, root: Path) -> dict[str, RoleSpec]:
    """The four roles of this experiment. The evaluator and the learner hold the student's model."""
    config = ready.experiment
    student, teacher = config.student, config.teacher

    def spec(role: Any, place: Any, model: Any) -> RoleSpec:
        return RoleSpec(
            role=role,
            engine=model.engine,
            root=root,
            model=model.model if model.engine == "chat" else placed(ready.folder, model.model),
            revision=model.revision,
            dtype=model.dtype,
            max_tokens=int(model.options.get("max_new_tokens", model.max_tokens)),
            temperature=model.options.get("temperature", model.temperature)
            if model.engine != "chat"
            else model.temperature,
            options=options_of(role, config, ready.stages) if role != "learner" else model.options,
            publish=config.student.publish if role in ("student", "evaluator") else "adapter",
            python=placed(ready.folder, model.python) if role != "learner" else "",
            threads=place.threads,
            gpus=place.gpus,
            replicas=1 if role == "learner" else place.replicas,
            workers=config.learner.workers if role == "learner" else 1,
            deadline=place.deadline,
            seed=config.seed,
        )

    called = {name: getattr(teacher, name) for name in ("url", "chat", "key", "records")}
    limits = Limits(**teacher.limits.model_dump())
    return {
        "student": spec("student", student, student),
        "evaluator": spec("evaluator", config.evaluator, student),
        "teacher": replace(spec("teacher", teacher, teacher), limits=limits, **called),
        "learner": spec("learner", config.learner, student),
    }


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM pause the run. Every commit is atomic, so it may be left anywhere."""

    heard: list[int] = []

    def pause(number: int, _: Any) -> None:
        heard.append(number)
        raise Interrupted(number)

    try:
        old = {s: signal.signal(s, pause) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        yield
        return
    try:
        yield
    except BaseException as e:
        # Interrupted inside a library, it may come out as another: Ray raises its own, pydantic one of serialization.
        if heard and not isinstance(e, Interrupted):
            raise Interrupted(heard[0]) from e
        raise
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
