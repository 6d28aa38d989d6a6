"""A small experiment on scripted roles, and what tests look at in its folder. No test by itself."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tutorloop.agents.cast import Cast
from tutorloop.agents.hosts import InProcess
from tutorloop.agents.seats import Replica, Seat
from tutorloop.evals.arithmetic import draw_profile
from tutorloop.evals.pools import Course
from tutorloop.evals.records import Gold, State
from tutorloop.evals.rows import Rows
from tutorloop.loops.asks import Entry, read_asks
from tutorloop.loops.book import Book
from tutorloop.loops.documents import run_record
from tutorloop.loops.fitting import spendable
from tutorloop.loops.journal import Tick
from tutorloop.loops.launch import prepare, role_specs
from tutorloop.loops.slots import Slots
from tutorloop.policies.gate import next_round
from tutorloop.policies.records import Case, Example, Lesson
from tutorloop.policies.rounds import RoundReport

BUGS = draw_profile(0)
UNLIKE = ("seconds", "environment", "folder", "number", "stamp")
"""What differs between two runs of one experiment: a run that was continued has an earlier end among its steps."""


def student(folder: Path) -> str:
    """A scripted student's folder: nothing but its misconceptions."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "provenance.json").write_text(json.dumps({"bugs": BUGS}))
    return str(folder)


def experiment(folder: Path, **changes: Any) -> dict[str, Any]:
    """Sixty problems a pool, 120 rows a round, two rounds. `changes` with `__` for a dot: `teacher__policy="..."`."""
    told: dict[str, Any] = {
        "student": {"engine": "scripted", "model": student(folder / "student")},
        "placement": "local",
        "rounds": 2,
        "course": {"practice": 60, "quiz": 60, "exam": 60, "twins": 2, "retention": 20},
        "schedule": {"rows": 120},
    }
    for key, value in changes.items():
        *above, last = key.split("__")
        tree = told
        for part in above:
            tree = tree.setdefault(part, {})
        tree[last] = value
    return told


def policy(folder: Path, text: str, name: str = "policy") -> str:
    """A policy's file with this text; its import path."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "my_policies.py"
    file.write_text(text)
    return f"{file}:{name}"


def value(root: Path, step: str, kind: Any) -> Any:
    """What a finished step of a run folder came to."""
    record = json.loads((root / "steps" / f"{step}.json").read_bytes())
    return TypeAdapter(kind).validate_python(record["value"], context={"root": root})


def table(root: Path, step: str) -> Rows[Any]:
    found: Rows[Any] = value(root, step, Rows[Any])
    return found


def course(root: Path) -> Course:
    found: Course = value(root, "course", Course)
    return found


def report(root: Path, number: int) -> RoundReport:
    found: RoundReport = value(root, f"{number}/gate", RoundReport)
    return found


def asks(root: Path) -> list[Entry]:
    """Every answered ask, in the order of its key."""
    run = run_record(root)["run"]
    found = (e for path in (root / "asks").glob("*") for e in read_asks(path, run))
    return sorted(found, key=lambda e: (e.step, e.key, e.item))


def paid(root: Path) -> list[Entry]:
    return [e for e in asks(root) if not e.reused]


def transcript(root: Path) -> dict[str, Any]:
    """All that a run came to but times and process ids: tables by content, steps by value, asks, states, notes."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_dir() or name in ("lock", "status.json", "report.html") or name.startswith("asks/"):
            continue
        if path.suffix == ".json" and not name.startswith("logs/"):
            told = json.loads(path.read_bytes())
            found[name] = {k: v for k, v in told.items() if k not in UNLIKE}
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    found["asks"] = asks(root)
    return found


def tree(root: Path) -> str:
    """Digest of every name and byte below a folder."""
    files = sorted(p for p in root.rglob("*") if p.is_file())
    parts = (f"{p.relative_to(root)} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in files)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def states(root: Path) -> Mapping[str, str]:
    """Digest of the state that each finished training left."""
    trained = sorted(root.glob("steps/*/train-*.json"))
    return {str(p.relative_to(root)): _state(p).digest for p in trained}


def _state(path: Path) -> State:
    return TypeAdapter(State).validate_python(json.loads(path.read_bytes())["value"]["state"])


@dataclass
class Counting:
    """Implements `Host` in this process; keeps what was called."""

    name: str
    host: InProcess
    calls: list[tuple[str, int]] = field(default_factory=list)
    """Method, and how many requests."""

    def call(self, method: str, *args: Any) -> Any:
        self.calls.append((method, len(args[1]) if method == "generate" else 0))
        return self.host.call(method, *args)

    def restart(self) -> None:
        self.host.restart()

    def close(self) -> None:
        self.host.close()


@dataclass
class Bench:
    """A round of a recorded run, up to its triage, in a folder of its own; what comes after is tried with other slots.

    With `Bench(recorded, tmp_path / "bench", told)` as `bench`: `bench.lessons(teach=my_policy)`.
    """

    recorded: Path
    root: Path
    told: Mapping[str, Any]
    gold: Callable[[Mapping[str, Gold]], Mapping[str, Gold]] = dict
    """What the practice pool's gold is taken for."""
    number: int = 1
    keep: Sequence[str] = ("select", "attempt", "verify", "triage")
    """Slots that are not done again."""
    cases: Rows[Case] = field(init=False)
    hosts: dict[str, Counting] = field(init=False)
    book: Book = field(init=False)

    def __post_init__(self) -> None:
        shutil.copytree(self.recorded, self.root)
        for kind in ("steps", "rows"):
            for path in (self.root / kind / str(self.number)).iterdir():
                if path.stem not in self.keep:
                    path.unlink() if path.is_file() else shutil.rmtree(path)
        for path in (self.root / "asks").glob("*"):
            number, slot = path.stem.split("-")
            if int(number) > self.number or (int(number) == self.number and slot not in self.keep):
                path.unlink()
        self.open()

    def open(self) -> None:
        """As a new process would."""
        ready = prepare(self.told)
        self.book = Book.open(self.root, run=run_record(self.root)["run"], seed=ready.experiment.seed)
        self.book.budget, self.book.failures = spendable(ready.experiment), ready.experiment.failures
        specs = role_specs(ready, self.book.root)
        self.hosts = {name: Counting(name, InProcess(spec)) for name, spec in specs.items()}
        seats = {name: Seat(specs[name], [Replica(host)]) for name, host in self.hosts.items()}
        self.cast = Cast(
            root=self.book.root, seats=seats, shelf=self.book, policy_seconds=ready.experiment.policy_seconds
        )
        self.course, self.method = course(self.root), ready.stages[0]
        self.reports = [value(self.root, "0", RoundReport)]
        self.reports += [report(self.root, n) for n in range(1, self.number)]
        plan = next_round(ready.stages, self.reports, seed=ready.experiment.seed)
        assert plan is not None, "a recorded round has a plan"
        self.plan = plan

    def slots(self, **slots: Any) -> Slots:
        """The round with other slots, its cases shown."""
        method = replace(self.method, **slots)
        do = self.book.slots(method, self.plan, self.course, self.cast, self.reports)
        do.room.gold = self.gold(do.room.gold)
        self.cases = do.triage(do.verify(do.attempt(do.select(self.course.practice))))
        return do

    def taught(self, **slots: Any) -> Rows[Lesson]:
        """Lessons, not yet checked."""
        return self.slots(**slots).teach(self.cases)

    def lessons(self, **slots: Any) -> list[Lesson]:
        """Lessons, checked."""
        do = self.slots(**slots)
        return list(do.check(do.teach(self.cases)))

    def examples(self, **slots: Any) -> list[Example]:
        do = self.slots(**slots)
        return list(do.curate(do.check(do.teach(self.cases))))

    def close(self) -> None:
        self.book.release()

    def again(self) -> None:
        """What a process knew is gone, but for what is in the folder."""
        self.close()
        self.open()


class Log(Tick):
    """Every step and shard of a run as it is done: `step 1/teach`, `shard 1/teach 1/1`; replayed steps with a `*`."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, name: str, done: int, total: int) -> None:
        self.lines.append(f"shard {name} {done}/{total}")

    def step(self, name: str, seconds: float, replayed: bool) -> None:
        self.lines.append(f"step {name}{'*' if replayed else ''}")
