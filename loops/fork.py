"""A run that goes on from where another one was, with a change: the earlier rounds are shared, not done or paid again.

    report = tutorloop.fork("runs/a", "runs/b", from_round=2, overrides=["update.sft.learning_rate=1e-3"])

Whatever was committed up to that round, records, tables, asks, states and proofs, is linked into the new folder: one
file under two names, which lives as long as one of them does. Nothing of it is ever written again, so neither run can
disturb the other. Where the folders lie on two disks it is copied.

What the shared rounds were asked (`course`, `limit`), and who answered (`student`), cannot change. All the rest can:
method, policy, schedule, update, seed, teacher, budget. A budget counts what the shared rounds have cost, as in a run
that began with the change.

Not covered: forking in the middle of a round; a parent that was damaged after its rounds were linked is damaged in
both.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..agents.build import build
from ..agents.roles import RoleSpec
from ..evals.files import Checksum, whole
from ..evals.pools import Course
from ..evals.records import State
from ..evals.rows import LIST, checked_parts
from ..policies.rounds import Report
from .config import ConfigError, changed
from .courses import Data
from .documents import Documents, JournalError, run_record
from .fitting import check_models, check_needs, doubts
from .journal import Tick
from .launch import GIVEN, Prepared, can_hold, launch, prepare, record_of, role_specs
from .show import RunFolder

log = logging.getLogger(__name__)


def fork(
    parent: Path | str,
    run_dir: Path | str,
    from_round: int,
    overrides: Sequence[str] = (),
    *,
    tick: Tick | None = None,
    factory: Callable[[RoleSpec], Any] = build,
) -> Report:
    """Start a fork, or go on with it: always the same call. A fork of a fork is one like any other.

    Args:
        from_round: The last round that is shared; 0 is the student before any teaching, examined.
        overrides: What changes.

    Raises:
        ConfigError: the change is none that a fork can make; or `run_dir` is no fork of this run at this round.
        JournalError: there is no run in `parent`, or it has no such round, or is damaged.
    """
    root = Path(run_dir)
    if (root / "run.json").exists():
        _same(root, Path(parent), from_round)
    else:
        begin(root, Path(parent), from_round, overrides)
        for line in _doubts(root, Path(parent)):
            log.warning("warning: %s", line)
    return launch(root, root, overrides, tick=tick, factory=factory)


def _doubts(root: Path, parent: Path) -> Iterator[str]:
    """What is no mistake in a fork, and may not be what was wanted."""
    ready = prepare(root, begun=True)
    config, before = ready.experiment, run_record(parent)["config"]
    kept = config.teacher.policy and config.teacher.policy == before["teacher"]["policy"]
    if kept and config.method != before["method"]:
        yield (
            f"`teacher.policy` {config.teacher.policy} teaches on, in the place of what {config.method!r} does. To let "
            "the method teach: teacher.policy='\"\"'"
        )
    yield from doubts(config, ready.stages)


def _same(root: Path, parent: Path, from_round: int) -> None:
    told = run_record(root).get("fork")
    if told is None:
        raise ConfigError(f"{root} is a run of its own, and no fork. Choose another --run-dir.")
    if (Path(told["parent"]), told["round"]) != (parent.resolve(), from_round):
        raise ConfigError(
            f"{root} is a fork of {told['parent']} from round {told['round']}, not of {parent} from round "
            f"{from_round}. Choose another --run-dir; or go on with it: tutorloop run {root}"
        )


def begin(root: Path, parent: Path, from_round: int, overrides: Sequence[str]) -> None:
    """Make the folder of a fork, and start nothing. All or nothing: it gets its name when everything is in it."""
    can_hold(root)
    if _taken(root):
        raise ConfigError(f"{root} is not empty and holds no fork. Choose another --run-dir.")
    run = RunFolder(parent)
    steps = _shared(run, from_round)
    ready = prepare(parent, overrides, begun=True)
    _check(run, ready, from_round)
    part = root.with_name(f".{root.name}.part")
    with _alone(part, root):
        for path in chain(_files(run, steps), _sat(run, run.reports[from_round].serving["student"])):
            _link(parent / path, part / path)
        told = {"parent": str(parent.resolve()), "round": from_round}
        Documents(part, run.record["run"]).write("run.json", {**record_of(ready, run.record), "fork": told})
        if _taken(root):
            raise JournalError(f"{root} was begun by another process meanwhile. Choose another --run-dir.")
        with suppress(OSError):
            root.rmdir()  # empty
        part.rename(root)


def _taken(root: Path) -> bool:
    return root.exists() and any(root.iterdir())


@contextmanager
def _alone(part: Path, root: Path) -> Iterator[None]:
    """An empty folder for a fork that is being made, while nobody else makes it. Of one that fails nothing is left.

    Raises:
        JournalError: somebody makes it, or has just made it.
    """
    busy = JournalError(f"{root} is being made by another process. Wait for it, or choose another --run-dir.")
    lock = FileLock(part / "lock")  # which a run has too: it goes along when the folder gets its name
    try:
        part.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except (Timeout, FileNotFoundError):  # the latter: it has got its name between the two
        raise busy from None
    try:
        for path in (p for p in part.iterdir() if p.name != "lock"):  # what one that was killed has left
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        lock.release()


def _shared(run: RunFolder, from_round: int) -> list[str]:
    """The steps up to the end of a round, in their order."""
    last = f"{from_round}/gate" if from_round else "final/0"
    if last not in run.steps:
        done = max((r.number for r in run.reports), default=-1) if "final/0" in run.steps else -1
        has = f"its last finished one is {done}" if done >= 0 else "it has none yet: not even round 0 is finished"
        raise JournalError(f"{run.root} has no finished round {from_round}; {has}.")
    return list(run.steps[: run.steps.index(last) + 1])


def _check(run: RunFolder, ready: Prepared, from_round: int) -> None:
    """
    Raises:
        ConfigError: a change that a fork cannot make, or that does not fit the rest.
    """
    config = ready.experiment.model_dump(mode="json")
    given = [key for key in changed(run.record["config"], config) if key.partition(".")[0] in GIVEN]
    if given:
        raise ConfigError(
            f"`{given[0]}` cannot change in a fork: the rounds that it shares stand on it. Start a run of its own."
        )
    report, course = run.reports[from_round], run.step("course", Course)
    assert course is not None, "the first step of every run"
    if report.stage >= len(ready.stages):
        raise ConfigError(
            f"round {from_round} of {run.root} is of stage {report.stage + 1} of its method, and "
            f"{ready.experiment.method!r} has {len(ready.stages)}. Fork from an earlier round."
        )
    practice = list(zip(course.practice.problems, course.practice.gold, strict=True))
    data = Data(splits={"practice": practice}, sources={})
    check_needs(ready.experiment, ready.stages, data, before=from_round)
    check_models(ready.experiment, ready.stages, role_specs(ready, Path()), data)


def _files(run: RunFolder, steps: Sequence[str]) -> Iterator[str]:
    """All that these steps have left, relative to the run folder, each after a look at it.

    Raises:
        DamagedFile: one is missing, or not what was written.
    """
    found: dict[str, None] = {}
    for step in steps:
        record: Mapping[str, Any] = run.documents.step(step)
        found[f"steps/{step}.json"] = None
        for path, known in record["files"].items():
            whole(run.root / path, Checksum(*known))
            found[path] = None
            if Path(path).name == LIST:
                folder = Path(path).parent
                for _ in checked_parts(run.root, folder.as_posix(), run.record["run"]):
                    pass
                found |= {p.relative_to(run.root).as_posix(): None for p in sorted((run.root / folder).iterdir())}
    yield from found


def _sat(run: RunFolder, state: State) -> Iterator[str]:
    """What the student that serves has sat in that run, at its end: it need not sit it again.

    Only what was sat whole: a list that is not may yet grow, in place, and would grow in both runs.
    """
    for pool in run.course.final if run.course else ():
        folder = run.root / "rows/sheets" / pool.name / state.name
        parts = checked_parts(run.root, folder.relative_to(run.root).as_posix(), run.record["run"])
        if sum(1 for _ in parts) == pool.shards:
            yield from (path.relative_to(run.root).as_posix() for path in sorted(folder.iterdir()))


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return  # of what a student has sat, some belongs to a step
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
