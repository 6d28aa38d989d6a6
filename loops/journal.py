"""The journal: a run is a folder, and what finished in it is never done, or paid for, again.

    run.json         schema version, the config as it was resolved, the environment
    status.json      running, paused, stopped, finished or failed, and why
    steps/3/teach.json    one finished step: digest of its inputs, seconds, what slots noted, its value, what it left
    rows/3/teach/    a table, one Parquet part per shard; a part counts when `parts.jsonl` beside it lists it
    asks/3-teach.jsonl    every ask of a model, an entry before and one after; Parquet once the step is done
    lock             held by the process that runs

Everything appears by a rename after an fsync, so after a crash a step, a shard or an entry is there whole or not at
all, and resuming is the same command again. A step is refused when it is asked for with other inputs than recorded.

Every committed byte is vouched for, and `check` looks at each before anything is added to a run: `run.json` says which
run it is, and each document and each line (`documents.py`, `evals/files.py`) that it is of this run, in its place, and
whole. A step's record has the checksums of the files that it left; a table's list, those of its parts.

Not covered: file systems without atomic rename or locks between machines; asks that were in flight at a kill (their
entries say so; they are asked again, at most one wave).
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, ParamSpec, Self, TypeVar, get_type_hints

from filelock import FileLock, Timeout
from pydantic import TypeAdapter
from pydantic_core import to_json

from ..agents.lanes import Lanes
from ..agents.roles import Trained
from ..evals.files import ALIEN, REMEDY, Checksum, checksum, whole
from ..evals.pools import Course
from ..evals.records import Failure, Problem, State
from ..evals.rows import LIST, Rows, Table, adapter, checked_parts, write_rows
from ..policies.records import Case, Cost, Example, Json, Lesson
from ..policies.room import Recalled
from ..policies.rounds import Proof, RoundReport, Sheet
from .asks import Asks
from .documents import OTHER, Documents, run_record
from .documents import JournalError as JournalError
from .early import Early

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

Status = Literal["running", "paused", "stopped", "finished", "failed"]
LET_GO = 0.5
"""Seconds to wait for the lock: somebody may just be looking whether it is held."""


STEPS: Mapping[str, Any] = {
    "course": Course,
    "0": RoundReport,
    "fork": RoundReport,
    "final": dict[str, Sheet],
    "select": Rows[Problem],
    "attempt": Rows[Case],
    "verify": Rows[Case],
    "triage": Rows[Case],
    "teach": Rows[Lesson],
    "check": Rows[Lesson],
    "curate": Rows[Example],
    "train": Trained,
    "update": State,
    "publish": Proof,
    "quiz": Sheet,
    "gate": RoundReport,
}
"""What the steps of a run come to, so that a run can be looked through before any of it is done again."""


def value_of(step: str) -> Any:
    """The type of a step's value; `None`: it is none of the cycle's.

    >>> value_of("3/update").__name__, value_of("3/train-1-sft").__name__, value_of("final/3")
    ('State', 'Trained', dict[str, tutorloop.policies.rounds.Sheet])
    """
    head, _, verb = step.partition("/")
    return STEPS.get(verb.partition("-")[0] if head.isdigit() and verb else head)


class Tick:
    """Told how far a table is: name, shards done, shards in all. The default says nothing."""

    def __call__(self, name: str, done: int, total: int) -> None:
        return None

    def step(self, name: str, seconds: float, replayed: bool) -> None:
        return None


@dataclass
class Left:
    """What a step leaves beside its value."""

    files: dict[str, Checksum] = field(default_factory=dict)
    notes: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StatusRecord:
    """What `status.json` holds."""

    status: Status
    why: str
    pid: int


@dataclass
class Journal:
    """One run folder, locked. Use `open`."""

    root: Path
    run: str = ""
    """Its identity, as `run.json` has it."""
    seed: int = 0
    tick: Tick = field(default_factory=Tick)
    _lock: FileLock | None = None
    _left: Left = field(default_factory=Left)
    """By the step that runs."""
    _noted: dict[str, dict[str, Json]] = field(default_factory=dict)
    """By step: since its last shard."""
    _early: dict[str, Early] = field(default_factory=dict)

    @classmethod
    def open(cls, root: Path, *, run: str = "", seed: int = 0, tick: Tick | None = None) -> Self:
        """Lock the folder, making it if need be. Nothing in it is read yet.

        Raises:
            JournalError: another process runs in it, or something lies where the run's own files must.
        """
        for name in ("lock", "status.json"):  # which are not read first
            if (root / name).is_dir():
                raise JournalError(f"{root / name} is a folder, and a run has a file there. {ALIEN}")
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / "lock")
        try:
            lock.acquire(timeout=LET_GO, poll_interval=0.02)
        except Timeout:
            raise JournalError(
                f"{root} is in use by another process. Wait for it, or choose another --run-dir."
            ) from None
        return cls(root=root.resolve(), run=run, seed=seed, tick=tick or Tick(), _lock=lock)

    @cached_property
    def documents(self) -> Documents:
        return Documents(self.root, self.run)

    @cached_property
    def asks(self) -> Asks:
        return Asks(self.root / "asks", self.run)

    def check(self) -> None:
        """Whether everything that was committed is there, is what was written, and can be read. Writes nothing.

        Raises:
            JournalError, DamagedFile: it is not; which file, and what to do.
        """
        try:
            self._check()
        except IsADirectoryError as e:
            raise JournalError(f"{e.filename} is a folder, and a run has a file there. {ALIEN}") from None

    def _check(self) -> None:
        for record in self.documents.records():
            if of := value_of(record["step"]):
                self.documents.value(record, of)
            for path, known in record["files"].items():
                whole(self.root / path, Checksum(*known))
        for name in ("course", "rows"):
            for path in sorted((self.root / name).rglob(LIST)):
                folder, asked = path.parent.relative_to(self.root), 0
                for part in checked_parts(self.root, folder.as_posix(), self.run):
                    asked = part.beside["asked"] if part.beside else 0
                self.asks.hold(folder.relative_to(name).as_posix(), asked)

    # ---- steps

    def step(self, name: str, do: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`do(*args, **kwargs)`, at most once per run folder.

        Args:
            name: Unique within the run, e.g. `3/teach`.
            do: Needs a return annotation. Its value is decoded from what was stored on the first run too, so a type
                that does not survive the trip fails at once and not on the day of the first resume.

        Raises:
            JournalError: the step is on record for other inputs, or as of another shape.
        """
        # Tables know the run folder; a run that was moved is the same run.
        inputs = hashlib.sha256(to_json([args, kwargs]).replace(to_json(self.root), b'""')).hexdigest()
        of = get_type_hints(getattr(do, "func", do))["return"]  # a `partial`'s own
        codec: TypeAdapter[R] = adapter(of)
        started = time.perf_counter()
        if not (replayed := self.done(name)):
            outer, self._left = self._left, Left()
            try:
                value = codec.dump_python(do(*args, **kwargs), mode="json")
                if asked := self.asks.compact(name):
                    self.vouch(asked)
                left = {"files": self._left.files, "notes": self._left.notes | self._noted.pop(name, {})}
            except BaseException:
                self._leave()  # now: roles are ended before the folder is let go, and nobody is to ask them meanwhile
                raise
            finally:
                self._left = outer
            seconds = round(time.perf_counter() - started, 3)
            self.documents.commit(name, {"inputs": inputs, "seconds": seconds, **left, "value": value})
        record = self.documents.step(name)
        if record["inputs"] != inputs:
            raise JournalError(
                f"step {name!r} in {self.root} is on record for other inputs ({record['inputs'][:8]}, now "
                f"{inputs[:8]}): config, data or an earlier step has changed. Use a new folder: --run-dir NEW"
            )
        self.tick.step(name, time.perf_counter() - started, replayed)
        if replayed:  # another version may have written it; what was made just now would fail by a bug
            found: R = self.documents.value(record, of)
            return found
        return codec.validate_python(record["value"], context={"root": self.root})

    def take_back(self, last: str) -> None:
        """All that came after a step is gone: records first, the latest of them first, then what only they have left.

        A kill in the middle leaves a run that is whole, and shorter.
        """
        records = sorted(self.documents.records(), key=lambda record: int(record["number"]))
        at = next(i for i, record in enumerate(records) if record["step"] == last) + 1
        for record in reversed(records[at:]):
            self.documents.withdraw(record["step"])
        kept = {path for record in records[:at] for path in record["files"]}
        for path in {path for record in records[at:] for path in record["files"]} - kept:
            (self.root / path).unlink(missing_ok=True)
            if Path(path).name == LIST:
                shutil.rmtree((self.root / path).parent)
            else:
                with suppress(OSError):  # there is more in it
                    (self.root / path).parent.rmdir()
        rounds = {record["step"].partition("/")[0] for record in records[:at]}
        for folder in (p for p in (self.root / "rows").iterdir() if p.name.isdigit() and p.name not in rounds):
            shutil.rmtree(folder)
        for path in (p for p in (self.root / "asks").glob("*") if p.name.partition("-")[0] not in rounds):
            path.unlink()
        self.__dict__.pop("asks", None)  # what is known of them is read anew

    def vouch(self, path: Path) -> None:
        """The running step has left this file, or this folder of files; they belong to what it came to."""
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                self._left.files[file.relative_to(self.root).as_posix()] = checksum(file)

    def done(self, name: str) -> bool:
        return self.documents.done(name)

    def seconds(self, prefix: str) -> float:
        """What the finished steps below this name took."""
        below = [name for name in self.documents.steps() if name.startswith(f"{prefix}/")]
        return sum(float(self.documents.step(name)["seconds"]) for name in below)

    # ---- tables

    def shards(
        self,
        name: str,
        of: type[T],
        total: int,
        make: Callable[[int], Sequence[T | Failure]],
        lanes: Lanes | None = None,
        then: Callable[[int], None] = lambda index: None,
    ) -> Rows[T]:
        """A table of `total` parts, made in `lanes` (one), written in order; a part on disk is not made again.

        Args:
            then: Is told the number of each part that is on disk.
        """
        seen = 0
        if early := self._early.pop(name, None):
            for seen in early.parts():
                then(seen - 1)
                self.tick(name, seen, total)
        table = self._table(name, of)
        for beside in table.beside:
            self._left.notes |= beside["notes"]
        with closing((lanes or Lanes()).run(make, range(table.parts, total))) as shards:
            for index in range(total):
                if index >= table.parts:
                    self._left.notes |= self._add(name, table, next(shards))
                if index >= seen:
                    then(index)
                    self.tick(name, index + 1, total)
        return self._vouched(table.rows())

    def early(
        self,
        name: str,
        of: type[T],
        total: int,
        make: Callable[[int], Sequence[T | Failure]],
        lanes: Lanes,
        then: Callable[[int], None],
    ) -> Early:
        """Begin a table before its step, whose `shards` goes on with it."""
        table = self._table(name, of)
        early = Early(partial(self._add, name, table), make, lanes, range(table.parts, total), then)
        self._early[name] = early
        return early

    def _add(self, name: str, table: Table[T], made: Sequence[T | Failure]) -> dict[str, Json]:
        """A shard to its table; what was noted while it was made."""
        failures, noted = [x for x in made if isinstance(x, Failure)], self._noted.pop(name, {})
        beside = {"asked": self.asks.answers(name), "notes": noted}
        table.add([x for x in made if not isinstance(x, Failure)], failures, beside)
        return noted

    def _leave(self) -> None:
        """Nothing is done early any more."""
        while self._early:
            self._early.popitem()[1].leave()

    def begun(self, name: str, of: type[T]) -> Rows[T]:
        """What there is of a table: the parts that are done."""
        return self._table(name, of).rows()

    def table(self, name: str, of: type[T], records: Iterable[T], shard: int = 64) -> Rows[T]:
        """Records that are at hand, as a table. Made whole: parts that a killed attempt left may be of others."""
        return self._vouched(write_rows(self.root, f"rows/{name}", of, records, run=self.run, shard=shard))

    def _table(self, name: str, of: type[T]) -> Table[T]:
        return Table(self.root, f"rows/{name}", of, run=self.run)

    def _vouched(self, rows: Rows[T]) -> Rows[T]:
        if rows.parts:
            self.vouch(self.root / rows.folder / LIST)
        return rows

    # ---- asks and notes (the room's `Ledger`)

    def recall(self, key: str) -> Recalled | None:
        return self.asks.recall(key)

    def record(self, step: str, **what: Any) -> None:
        self.asks.record(step, **what)

    def spent(self, step: str = "", member: str = "teacher") -> Cost:
        return self.asks.spent(step, member)

    def faults(self, step: str = "", member: str = "teacher") -> Mapping[str, int]:
        return self.asks.faults(step, member)

    def note(self, step: str, notes: Mapping[str, Json]) -> None:
        """What is noted while a shard is made is kept with the shard."""
        self._noted.setdefault(step, {}).update(notes)

    def notes(self, number: int) -> dict[str, Json]:
        """What the slots of a round noted; the last word on each key counts."""
        below = [name for name in self.documents.steps() if name.startswith(f"{number}/")]
        records = sorted((self.documents.step(name) for name in below), key=lambda record: int(record["number"]))
        return {key: value for record in records for key, value in record["notes"].items()}

    # ---- the run's own files

    def settle(self, status: Status, why: str = "") -> None:
        why = why.encode(errors="backslashreplace").decode()  # an error may tell of what is no whole character
        self.documents.write("status.json", {"status": status, "why": why, "pid": os.getpid()})

    def release(self) -> None:
        """Let another process have the folder."""
        self._leave()
        if "asks" in self.__dict__:
            self.asks.close()
        if self._lock is not None:
            self._lock.release()


def read_status(root: Path) -> tuple[Status, str]:
    """Status of a run folder and why. A `running` one whose process is gone was killed: it is `paused`.

    Raises:
        JournalError: its `status.json` is damaged, another run's, or of another shape. The next start of the run writes
            it anew.
    """
    if not (root / "status.json").exists():
        return "paused", "killed before it began"
    run = str(run_record(root)["run"]) if (root / "run.json").exists() else ""
    try:
        told = Documents(root, run).read("status.json", StatusRecord)
    except JournalError as e:
        if str(e).endswith(ALIEN):  # no start writes over a folder
            raise
        what = str(e).removesuffix(REMEDY).removesuffix(OTHER)
        raise JournalError(f"{what}The next start writes it anew.") from None
    if told["status"] == "running" and not locked(root):
        return "paused", "its process was killed; the same command goes on"
    return told["status"], told["why"]


def locked(root: Path) -> bool:
    """Whether a living process runs in this folder."""
    if not (root / "lock").is_file():
        return False
    lock = FileLock(root / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
