"""A small experiment on scripted roles, and what tests look at in its folder. No test by itself."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tutorloop.evals.arithmetic import draw_profile
from tutorloop.evals.pools import Course
from tutorloop.evals.records import State
from tutorloop.evals.rows import Rows
from tutorloop.loops.asks import Entry, read_asks
from tutorloop.loops.journal import Tick
from tutorloop.policies.rounds import RoundReport

BUGS = draw_profile(0)


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
    found = (e for path in (root / "asks").glob("*") for e in read_asks(path))
    return sorted(found, key=lambda e: (e.step, e.key, e.item))


def paid(root: Path) -> list[Entry]:
    return [e for e in asks(root) if not e.reused]


def transcript(root: Path) -> dict[str, Any]:
    """All that a run came to but times and process ids: tables by content, steps by value, asks, states, notes."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_dir() or name in ("lock", "status.json", "notes.jsonl") or name.startswith("asks/"):
            continue
        if path.suffix == ".json" and not name.startswith("logs/"):
            told = json.loads(path.read_bytes())
            found[name] = {k: v for k, v in told.items() if k not in ("seconds", "environment")}
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    found["asks"] = asks(root)
    notes = root / "notes.jsonl"
    lines = notes.read_bytes().splitlines() if notes.exists() else []
    found["notes"] = {json.dumps(json.loads(line)[:2]): json.loads(line)[2] for line in lines}
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


class Log(Tick):
    """Every step and shard of a run as it is done: `step 1/teach`, `shard 1/teach 1/1`; replayed steps with a `*`."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, name: str, done: int, total: int) -> None:
        self.lines.append(f"shard {name} {done}/{total}")

    def step(self, name: str, seconds: float, replayed: bool) -> None:
        self.lines.append(f"step {name}{'*' if replayed else ''}")
