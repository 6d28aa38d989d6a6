"""The JSON documents of a run folder. Each says by its stamp that it is whole, in its place, and of this run.

    {"step": "1/teach", "number": 7, ..., "stamp": "9f0c..."}

A stamp is a sha256 over the run's identity, which `run.json` has, the document's place in the folder, and its content.
Steps are numbered as they were committed, so that none can be missing between two others.

A document may be whole and have another shape than this version gives it: then its writer has changed and `SCHEMA`
has not. It is refused like a damaged one; `tests/test_schema.py` sees to it that this does not come about.

Not covered: `logs/`; a last step that was removed is taken for one that was never done, and done again; a stamp shows
damage and mix-ups and is no signature: who means to forge one can.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from ..evals.files import ALIEN, REMEDY, Checksum, atomic_write
from ..evals.redact import redacted
from ..evals.rows import adapter
from ..policies.records import Json

SCHEMA = 2
"""Of what a run stores: these documents, the values of steps, tables, asks. Pinned in `tests/test_schema.py`."""
OTHER = "Another version wrote it, under the same schema. Use that version for it, or a new --run-dir."


class JournalError(RuntimeError):
    """A run folder cannot be used as asked: it is another run's, in use, damaged, or of another schema."""


@dataclass(frozen=True, kw_only=True)
class Fork:
    """Where a run was forked off."""

    parent: str
    """Folder of the run whose first rounds it shares; that may be gone by now."""
    round: int
    """The last one that they share."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What `run.json` holds."""

    run: str
    """The run's identity. A fork has its parent's: what they share is one and the same file."""
    schema: int
    config: Mapping[str, Json]
    """As it was resolved."""
    rounds: int
    sources: Mapping[str, str]
    """sha256 of each file outside the package that shapes the run."""
    environment: Mapping[str, str]
    folder: str = ""
    """From which relative paths in the config are taken; empty: nobody knows."""
    fork: Fork | None = None


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What is on record of a finished step."""

    step: str
    number: int
    """In the order in which steps were committed, from 1."""
    inputs: str
    """Digest."""
    seconds: float
    files: Mapping[str, Checksum]
    """What it left, by path in the run folder."""
    notes: Mapping[str, Json]
    value: Any


@dataclass
class Documents:
    """Those of one run."""

    root: Path
    run: str
    """Its identity, from `run.json`."""
    _count: int | None = None
    """How many steps are on record: there may be thousands. `None`: to be looked up."""

    def write(self, place: str, told: Mapping[str, Any]) -> None:
        """Write a document whole, or not at all. `place` is relative to the run folder."""
        told = from_json(redacted(to_json(told)))
        atomic_write(self.root / place, to_json({**told, "stamp": self._stamp(place, told)}, indent=1))

    def read(self, place: str, of: type[Any]) -> dict[str, Any]:
        """What was written there.

        Args:
            of: A dataclass of what there must be.

        Raises:
            JournalError: it is damaged, in another's place, another run's, or of another shape.
        """
        told = _parsed(self.root / place)
        if told.pop("stamp", None) != self._stamp(place, told):
            which = "" if place == "run.json" else ", or one of it and run.json is another run's"
            raise JournalError(
                f"{self.root / place} is damaged: it is not what was written there. It was changed, exchanged with "
                f"another file{which}. {REMEDY}"
            )
        self._shaped(place, of, told)
        return told

    def value(self, record: Mapping[str, Any], of: Any) -> Any:
        """What a finished step came to, by its record.

        Raises:
            JournalError: it is of another shape.
        """
        return self._shaped(_place(record["step"]), of, record["value"])

    def _shaped(self, place: str, of: Any, told: Any) -> Any:
        try:
            return adapter(of).validate_python(told, context={"root": self.root.resolve()})
        except ValidationError as e:
            wrong = e.errors()[0]
            where = ".".join(map(str, wrong["loc"]))
            raise JournalError(
                f"{self.root / place} is whole, and of another shape than this version reads: {where or 'it'}: "
                f"{wrong['msg']}. {OTHER}"
            ) from None

    def _stamp(self, place: str, told: Mapping[str, Any]) -> str:
        return hashlib.sha256(to_json([self.run, place, told])).hexdigest()

    # ---- steps

    def step(self, name: str) -> dict[str, Any]:
        """The record of a finished step."""
        return self.read(_place(name), StepRecord)

    def done(self, name: str) -> bool:
        return (self.root / _place(name)).exists()

    def commit(self, name: str, record: Mapping[str, Any]) -> None:
        """Put a step on record. Whoever commits holds the run's lock: nobody else adds to them meanwhile."""
        count, self._count = self._count, None
        number = (len(self.steps()) if count is None else count) + 1
        self.write(_place(name), {"step": name, "number": number, **record})
        self._count = number

    def withdraw(self, name: str) -> None:
        """Take a step off the record: it must be the last one."""
        (self.root / _place(name)).unlink()
        self._count = None

    def steps(self) -> list[str]:
        """Names of the finished steps."""
        folder = self.root / "steps"
        return sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.json"))

    def records(self) -> Iterator[dict[str, Any]]:
        """Those of all finished steps.

        Raises:
            JournalError: one is damaged, or missing between two others.
        """
        order: dict[int, str] = {}
        listed = set(self.steps())
        for name in self.steps():  # again: all that were finished before those of the first list are in the second
            record = self.step(name)
            order[record["number"]] = name
            yield record
        last = max((number for number, name in order.items() if name in listed), default=0)
        if gap := next((number for number in range(1, last) if number not in order), 0):
            later = min(number for number in order if number > gap)
            after = f" and after {_place(order[gap - 1])}" if gap > 1 else ""
            raise JournalError(
                f"the record of a step in {self.root} is missing: it was written before {_place(order[later])}{after}. "
                f"{REMEDY}"
            )


def run_record(root: Path) -> dict[str, Any]:
    """What `run.json` says.

    Raises:
        JournalError: it is of another schema or shape, or the file is damaged or missing.
    """
    told = _parsed(root / "run.json")
    schema = told.get("schema")
    if isinstance(schema, int) and schema != SCHEMA:
        found = told.get("environment")
        by = f"tutorloop {found['tutorloop']}, " if isinstance(found, dict) and "tutorloop" in found else ""
        out = "Use that version for it, or" if schema < SCHEMA else "Use that version, or a later one, for it, or"
        raise JournalError(f"{root} was written with {by}schema {schema}, this is {SCHEMA}. {out} a new --run-dir.")
    return Documents(root, str(told.get("run"))).read("run.json", RunRecord)


def home(record: Mapping[str, Any]) -> Path:
    """From which relative paths in a run's config are taken; where that is not on record, from here."""
    return Path(record.get("folder") or Path.cwd())


def _place(step: str) -> str:
    return f"steps/{step}.json"


def _parsed(path: Path) -> dict[str, Any]:
    try:
        value = from_json(path.read_bytes())
    except FileNotFoundError:
        raise JournalError(f"{path} is missing. {REMEDY}") from None
    except IsADirectoryError:
        raise JournalError(f"{path} is a folder, and a run has a file there. {ALIEN}") from None
    except ValueError as e:
        raise JournalError(f"{path} is damaged ({e}). {REMEDY}") from None
    if not isinstance(value, dict):
        raise JournalError(f"{path} is damaged: it holds a {type(value).__name__}. {REMEDY}")
    return value
