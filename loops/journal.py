"""The journal: a run is a folder, and what finished in it is never done, or paid for, again.

    run.json         schema version, the config as it was resolved, the environment
    status.json      running, paused, stopped, finished or failed, and why
    steps/3/teach.json    one finished step: digest of its inputs, seconds, its value
    rows/3/teach/    a table, one Parquet part per shard; a part counts when `parts.jsonl` beside it lists it
    asks/3-teach.jsonl    every ask of a model, an entry before and one after; Parquet once the step is done
    notes.jsonl      what slots noted
    lock             held by the process that runs

Everything appears by a rename after an fsync, so after a crash a step, a shard or an entry is there whole or not at
all, and resuming is the same command again. A step is refused when it is asked for with other inputs than recorded.

Not covered: file systems without atomic rename or locks between machines; asks that were in flight at a kill (their
entries say so; they are asked again, at most one wave).
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, ParamSpec, Self, TypeVar, get_type_hints

from filelock import FileLock, Timeout
from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from ..agents.lanes import Lanes
from ..evals.records import Failure
from ..evals.redact import redacted
from ..evals.rows import Rows, Table, adapter, atomic_write, write_rows
from ..policies.records import Cost, Json
from ..policies.room import Asked, Recalled
from .asks import Asks

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

SCHEMA = 1
Status = Literal["running", "paused", "stopped", "finished", "failed"]


class JournalError(RuntimeError):
    """A run folder cannot be used as asked: it is another run's, in use, damaged, or of another schema."""


class Tick:
    """Told how far a table is: name, shards done, shards in all. The default says nothing."""

    def __call__(self, name: str, done: int, total: int) -> None:
        return None

    def step(self, name: str, seconds: float, replayed: bool) -> None:
        return None


@dataclass
class Journal:
    """One run folder, locked. Use `open`."""

    root: Path
    seed: int = 0
    tick: Tick = field(default_factory=Tick)
    _lock: FileLock | None = None
    _asks: Asks | None = None

    @classmethod
    def open(cls, root: Path, *, seed: int = 0, tick: Tick | None = None) -> Self:
        """Lock the folder, making it if need be.

        Raises:
            JournalError: another process runs in it, or it is of another schema.
        """
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise JournalError(
                f"{root} is in use by another process. Wait for it, or choose another --run-dir."
            ) from None
        return cls(root=root.resolve(), seed=seed, tick=tick or Tick(), _lock=lock, _asks=Asks(root / "asks"))

    @property
    def asks(self) -> Asks:
        assert self._asks is not None, "opened by `open`"
        return self._asks

    # ---- steps

    def step(self, name: str, do: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`do(*args, **kwargs)`, at most once per run folder.

        Args:
            name: Unique within the run, e.g. `3/teach`.
            do: Needs a return annotation. Its value is decoded from what was stored on the first run too, so a type
                that does not survive the trip fails at once and not on the day of the first resume.

        Raises:
            JournalError: the step is on record for other inputs.
        """
        path = self.root / "steps" / f"{name}.json"
        # Tables know the run folder; a run that was moved is the same run.
        inputs = hashlib.sha256(to_json([args, kwargs]).replace(to_json(self.root), b'""')).hexdigest()
        codec: TypeAdapter[R] = adapter(get_type_hints(getattr(do, "func", do))["return"])  # a `partial`'s own
        started = time.perf_counter()
        if not (replayed := path.exists()):
            value = codec.dump_python(do(*args, **kwargs), mode="json")
            seconds = round(time.perf_counter() - started, 3)
            self.asks.compact(name)
            record = {"step": name, "inputs": inputs, "seconds": seconds, "value": value}
            atomic_write(path, to_json(record, indent=1))
        record = self._record(path)
        if record["inputs"] != inputs:
            raise JournalError(
                f"step {name!r} in {self.root} is on record for other inputs ({record['inputs'][:8]}, now "
                f"{inputs[:8]}): config, data or an earlier step has changed. Use a new folder: --run-dir NEW"
            )
        self.tick.step(name, time.perf_counter() - started, replayed)
        return codec.validate_python(record["value"], context={"root": self.root})

    def done(self, name: str) -> bool:
        return (self.root / "steps" / f"{name}.json").exists()

    def seconds(self, prefix: str) -> float:
        """What the finished steps below this name took."""
        return sum(float(self._record(p)["seconds"]) for p in sorted((self.root / "steps" / prefix).rglob("*.json")))

    def _record(self, path: Path) -> dict[str, Any]:
        try:
            record: dict[str, Any] = from_json(path.read_bytes())
        except ValueError as e:
            raise JournalError(f"{path} is damaged ({e}). Restore it from a copy, or use a new --run-dir.") from e
        return record

    # ---- tables

    def shards(
        self,
        name: str,
        of: type[T],
        total: int,
        make: Callable[[int], Sequence[T | Failure]],
        lanes: Lanes | None = None,
    ) -> Rows[T]:
        """A table of `total` parts, made in `lanes` (one), written in order; a part on disk is not made again."""
        table = self._table(name, of)
        with closing((lanes or Lanes()).run(make, range(table.parts, total))) as shards:
            for index in range(total):
                if index >= table.parts:
                    made = next(shards)
                    failures = [x for x in made if isinstance(x, Failure)]
                    table.add([x for x in made if not isinstance(x, Failure)], failures)
                self.tick(name, index + 1, total)
        return table.rows()

    def begun(self, name: str, of: type[T]) -> Rows[T]:
        """What there is of a table: the parts that are done."""
        return self._table(name, of).rows()

    def table(self, name: str, of: type[T], records: Iterable[T], shard: int = 64) -> Rows[T]:
        """Records that are at hand, as a table. Made whole: parts that a killed attempt left may be of others."""
        return write_rows(self.root, f"rows/{name}", of, records, shard)

    def _table(self, name: str, of: type[T]) -> Table[T]:
        return Table(self.root, f"rows/{name}", of)

    # ---- asks and notes (the room's `Ledger`)

    def recall(self, key: str) -> Recalled | None:
        return self.asks.recall(key)

    def asking(self, step: str, asks: Mapping[str, Asked]) -> None:
        self.asks.asking(step, asks)

    def answered(self, step: str, replies: Mapping[str, tuple[str, Cost]]) -> None:
        self.asks.answered(step, replies)

    def reused(self, step: str, asks: Sequence[tuple[str, str, str]]) -> None:
        self.asks.reused(step, asks)

    def spent(self, step: str = "", member: str = "teacher") -> Cost:
        return self.asks.spent(step, member)

    def note(self, step: str, notes: Mapping[str, Json]) -> None:
        with (self.root / "notes.jsonl").open("ab") as f:
            if f.tell():
                f.write(b"\n")  # whatever stands there, whole or torn by a kill, is a line of its own
            f.write(redacted(b"\n".join(to_json([step, key, value]) for key, value in notes.items())))
            f.flush()
            os.fsync(f.fileno())

    def notes(self, number: int) -> dict[str, Json]:
        """What the slots of a round noted; the last word on each key counts."""
        path = self.root / "notes.jsonl"
        told: dict[str, Json] = {}
        for line in path.read_bytes().splitlines() if path.exists() else []:
            with suppress(ValueError):  # torn by a kill; it was noted again
                step, key, value = from_json(line)
                if step.startswith(f"{number}/"):
                    told[key] = value
        return told

    # ---- the run's own files

    def settle(self, status: Status, why: str = "") -> None:
        atomic_write(self.root / "status.json", to_json({"status": status, "why": why, "pid": os.getpid()}))

    def release(self) -> None:
        """Let another process have the folder."""
        if self._lock is not None:
            self._lock.release()


def read_status(root: Path) -> tuple[Status, str]:
    """Status of a run folder and why. A `running` one whose process is gone was killed: it is `paused`."""
    path = root / "status.json"
    if not path.exists():
        return "paused", "killed before it began"
    told = json.loads(path.read_text(encoding="utf-8"))
    if told["status"] == "running" and not locked(root):
        return "paused", "its process was killed; the same command goes on"
    return told["status"], told["why"]


def locked(root: Path) -> bool:
    """Whether a living process runs in this folder."""
    lock = FileLock(root / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
