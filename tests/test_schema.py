"""What a run stores cannot change unnoticed: whoever changes it decides whether it is another schema.

Not covered: what a field means. A record of the same shape, to be understood otherwise, needs another `SCHEMA` too.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from pydantic import TypeAdapter
from pydantic_core import to_json

from tutorloop.agents.roles import Evidence, Reply, Request
from tutorloop.evals.records import Failure, Gold, Problem
from tutorloop.evals.rows import Part, Table, record_name
from tutorloop.loops.asks import Entry
from tutorloop.loops.documents import SCHEMA, RunRecord, StepRecord
from tutorloop.loops.fork import fork
from tutorloop.loops.journal import STEPS, Journal, StatusRecord, value_of
from tutorloop.loops.launch import launch
from tutorloop.policies.records import Case, Example, Lesson, Marked
from tutorloop.policies.room import Asked
from tutorloop.policies.rounds import RoundReport
from tutorloop.tests.policies_for_tests import small

TABLES = (Problem, Gold, Case, Lesson, Example, Marked)
OTHERS = (RunRecord, StatusRecord, StepRecord, Part, Failure, Entry, Asked, Request, Reply, Evidence)
PINNED = {2: "4c1a6916aa6bd17d"}
"""By schema: a digest over the shapes of all that is stored."""


def bare(schema: Any) -> Any:
    """Without words.

    >>> bare({"title": "N", "type": "integer"})
    {'type': 'integer'}
    """
    if isinstance(schema, dict):
        words = {key for key in ("title", "description") if isinstance(schema.get(key), str)}
        return {key: bare(below) for key, below in schema.items() if key not in words}
    return [bare(below) for below in schema] if isinstance(schema, list) else schema


def shapes() -> dict[str, Any]:
    stored = {**{f"step {name}": of for name, of in STEPS.items()}, **{of.__name__: of for of in (*TABLES, *OTHERS)}}
    return {name: bare(TypeAdapter(of).json_schema(mode="serialization")) for name, of in sorted(stored.items())}


def test_whoever_changes_what_a_run_stores_decides_about_its_schema() -> None:
    digest = hashlib.sha256(to_json(shapes())).hexdigest()[:16]
    assert PINNED.get(SCHEMA) == digest, (
        f"what a run stores has another shape now, {digest}. Raise SCHEMA in loops/documents.py, so that earlier runs "
        f"are refused by name, and put {digest} here under the new number. Put it under {SCHEMA} only if all that was "
        "stored before reads as what it was, such as where a field with a default has come, or if nothing but "
        "pydantic's way to tell of a shape has changed."
    )


@dataclass(frozen=True, kw_only=True)
class Longer(RoundReport):
    more: str = ""


def test_one_field_more_is_such_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    before = to_json(shapes())
    monkeypatch.setitem(STEPS, "gate", Longer)
    assert to_json(shapes()) != before


def test_nothing_is_stored_whose_shape_is_not_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step comes to what `STEPS` says, which is also by what a start looks through an earlier one's."""
    steps, tables = dict[str, Any](), set[str]()
    step: Any = Journal.step
    table: Any = Table.__init__

    def stepped(self: Journal, name: str, do: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        steps[name] = get_type_hints(getattr(do, "func", do))["return"]
        return step(self, name, do, *args, **kwargs)

    def begun(self: Table[Any], root: Path, folder: str, of: type[Any], **how: Any) -> None:
        tables.add(record_name(of))
        table(self, root, folder, of, **how)

    monkeypatch.setattr(Journal, "step", stepped)
    monkeypatch.setattr(Table, "__init__", begun)
    text = "def policy(cases, room):\n    return cases\n"
    told = small.experiment(tmp_path, rounds=1, schedule__ask=40, triage=small.policy(tmp_path, text))
    launch(told, tmp_path / "run")
    fork(tmp_path / "run", tmp_path / "fork", 1)
    assert {name: value_of(name) for name in steps} == steps
    seen = {name.rpartition("/")[2].partition("-")[0] for name in steps if name[:2] == "1/"}
    assert {*STEPS} == seen | {"course", "0", "final", "fork"}, "every step was seen"
    assert tables == {record_name(of) for of in TABLES}
