"""Tables on disk: what is written is what is read, whole or not at all, and damage is named."""

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter
from pydantic_core import to_json

from tutorloop.evals.files import DamagedFile
from tutorloop.evals.records import Attempt, Failure, Gold, Problem, State, Turn, Verdict, user
from tutorloop.evals.rows import Rows, Table, where, write_rows
from tutorloop.policies.records import Case, Cost, Example, Lesson, Marked

WORDS = 'Ünïcode 日本 🙂 \x00 "quoted" \\ \r\n\t\u2028 end'
TURNS = (Turn(role="system", content=""), Turn(role="user", content=WORDS), Turn(role="assistant", content="4"))
PROBLEM = Problem(id="p", messages=TURNS, kind="text", material={"notes": WORDS, "": ""}, parent="q", variant=3)
ATTEMPT = Attempt(
    problem="p", text=WORDS, finish="length", state="d", token_ids=(1, 2), logprobs=(-0.1, -1e-300), turns=TURNS
)
VERDICT = Verdict(
    label="wrong", by="x", scores={"a": 0.1, "b": -1.0}, step=0, span=(0, 2), evidence=WORDS, gold_seen=True
)
RECORDS: list[list[Any]] = [
    [PROBLEM, Problem(id="", messages=())],
    [Gold(problem="p", answer=WORDS, misconceptions=("a", "b"), twins=("t",)), Gold(problem="", answer="")],
    [State(member="student", name="n", digest="d", decoder={"temperature": 0.5}), State(member="", name="", digest="")],
    [ATTEMPT, Attempt(problem="p", text="", finish="error", state="")],
    [VERDICT, Verdict(label="right", by="")],
    [Failure(item="i", where="teach", error=WORDS)],
    [Case(id="c", problem=PROBLEM, attempts=(ATTEMPT,) * 2, grades=(VERDICT,), history=("wrong",), priority=-0.5)],
    [
        Lesson(text=WORDS, target=WORDS, problem=PROBLEM, verdict=VERDICT, cost=Cost(calls=2, reused=1), own=True),
        Lesson(),
    ],
    [
        Example(id="e", prompt=TURNS, completion=WORDS, spans=((0, 3, 0.5),), weight=0.1),
        Example(id="", prompt=(), completion=""),
    ],
    [Marked(problem=PROBLEM, attempt=ATTEMPT, verdict=VERDICT, skill="s")],
]


def written(root: Path, records: list[Any], folder: str = "t", failures: Sequence[Failure] = ()) -> Rows[Any]:
    table = Table(root, folder, type(records[0]))
    table.add(records, failures)
    return table.rows()


@pytest.mark.parametrize("records", RECORDS, ids=lambda r: type(r[0]).__name__)
def test_every_record_comes_back_as_it_was(records: list[Any], tmp_path: Path) -> None:
    rows = written(tmp_path, records)
    assert list(rows) == records
    assert len(rows) == len(records) and rows.failed == 0


def test_what_is_no_number_comes_back_as_it_was(tmp_path: Path) -> None:
    attempt = Attempt(problem="a", text="1", finish="stop", state="s", logprobs=(-math.inf, math.nan))
    verdict = Verdict(label="wrong", by="me", scores={"margin": math.inf})
    case = Case(id="a", problem=Problem(id="a", messages=user("1")), attempts=(attempt,), grades=(verdict,))
    (back,) = written(tmp_path, [case])
    assert repr(back) == repr(case)  # NaN equals nothing


def test_no_rows_are_a_table_too(tmp_path: Path) -> None:
    for rows in (write_rows(tmp_path, "none", Lesson, []), Table(tmp_path, "never", Lesson).rows()):
        assert list(rows) == [] and len(rows) == 0 and not list(rows.failures())


def test_a_table_travels_without_its_folder_and_is_found_in_another(tmp_path: Path) -> None:
    rows = written(tmp_path / "here", RECORDS[0])
    stored = TypeAdapter(Rows[Problem]).dump_json(rows)
    assert str(tmp_path).encode() not in stored
    (tmp_path / "here").rename(tmp_path / "there")
    back = TypeAdapter(Rows[Problem]).validate_json(stored, context={"root": tmp_path / "there"})
    assert back == rows and list(back) == RECORDS[0]


def test_the_digest_is_over_the_records_and_not_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = written(tmp_path, RECORDS[0], "one")
    plain: Callable[..., None] = pq.write_table
    monkeypatch.setattr(pq, "write_table", lambda table, path, **_: plain(table, path, compression="none"))
    two = written(tmp_path, RECORDS[0], "two")
    assert one.path(0).read_bytes() != two.path(0).read_bytes()
    part = hashlib.sha256(to_json(RECORDS[0])).hexdigest()
    assert one.digest == two.digest == hashlib.sha256(part.encode()).hexdigest()


def test_another_record_another_order_or_another_failure_is_another_digest(tmp_path: Path) -> None:
    a, b = RECORDS[0]
    failure = [Failure(item="i", where="w", error="e")]
    digests = {
        written(tmp_path, records, f"{i}", failures).digest
        for i, (records, failures) in enumerate([([a, b], []), ([b, a], []), ([a], []), ([a, b], failure)])
    }
    assert len(digests) == 4


def test_a_scalar_is_a_column_for_other_programs_and_a_nested_record_is_json(tmp_path: Path) -> None:
    written(tmp_path, [ATTEMPT])
    found = pq.ParquetFile(tmp_path / "t/part-00000.parquet").read().to_pylist()[0]
    assert found["text"] == WORDS and found["token_ids"] == [1, 2] and found["sample"] == 0
    assert found["turns"].startswith('[{"role":"system"')


def test_reading_is_part_by_part(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, "t", Problem, RECORDS[0] * 2, shard=2)
    rows.path(1).unlink()
    assert len(rows) == 4 and rows.digest  # cost no reading
    shards = rows.shards()
    assert list(next(shards)) == RECORDS[0]
    with pytest.raises(DamagedFile, match=r"part-00001\.parquet is missing"):
        next(shards)


def numbered(root: Path) -> Rows[Verdict]:
    """Nine verdicts in parts of four, four and one."""
    return write_rows(root, "t", Verdict, [Verdict(label="right", by=f"{i}") for i in range(9)], shard=4)


def test_a_table_is_a_sequence_that_reads_what_it_is_asked_for(tmp_path: Path) -> None:
    rows = numbered(tmp_path)
    assert [rows[i].by for i in (0, 3, 4, 8, -1, -9)] == ["0", "3", "4", "8", "8", "0"]
    assert [v.by for v in rows[2:6]] == ["2", "3", "4", "5"] and rows[9:] == []
    assert list(rows.column("by")) == [str(i) for i in range(9)]
    with pytest.raises(IndexError):
        rows[9]


def test_some_rows_of_a_table_are_a_sequence_too(tmp_path: Path) -> None:
    even = where(numbered(tmp_path), lambda v: int(v.by) % 2 == 0)
    assert len(even) == 5 and [v.by for v in even] == ["0", "2", "4", "6", "8"]
    assert even[-1].by == "8" and [v.by for v in even[:2]] == ["0", "2"]


def test_a_table_that_is_being_made_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = numbered(tmp_path)
    table = Table(tmp_path, "t", Verdict)
    assert table.rows() == whole
    with (tmp_path / "t/parts.jsonl").open("ab") as f:
        f.write(b'[1,0,"torn by a ki')
    table = Table(tmp_path, "t", Verdict)
    table.add([Verdict(label="wrong", by="9")])
    assert [v.by for v in table.rows()] == [str(i) for i in range(10)]
    assert Table(tmp_path, "t", Verdict).rows() == table.rows() != whole
    assert [v.by for v in whole] == [str(i) for i in range(9)], "what was handed out stays what it was"


@pytest.mark.parametrize("damage", [b"", b'["t","",0]\n[4,0,0]\n', b"[]\ntorn", None])
def test_a_damaged_list_of_parts_is_named(damage: bytes | None, tmp_path: Path) -> None:
    rows = numbered(tmp_path)
    path = tmp_path / "t/parts.jsonl"
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(DamagedFile, match=r"parts\.jsonl"):
        list(rows)


def test_parts_that_changed_places_are_named(tmp_path: Path) -> None:
    rows = numbered(tmp_path)
    one, two = rows.path(0), rows.path(1)
    one.rename(tmp_path / "aside")
    two.rename(one)
    (tmp_path / "aside").rename(two)
    with pytest.raises(DamagedFile, match=r"part-00000\.parquet is not the file that was written"):
        list(rows)


def test_a_flipped_byte_is_named(tmp_path: Path) -> None:
    rows = written(tmp_path, RECORDS[0])
    path = rows.path(0)
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=r"part-00000\.parquet is not the file that was written"):
        list(rows)


FAILED = [Failure(item="a", where="teach", error=WORDS), Failure(item="b", where="teach", error="")]


def test_failures_lie_beside_their_part(tmp_path: Path) -> None:
    rows = written(tmp_path, RECORDS[0], "t", FAILED)
    assert list(rows) == RECORDS[0] and list(rows.failures()) == FAILED and rows.failed == 2


@pytest.mark.parametrize("damage", [b"", b"{}\n{}\n", b"torn", None])
def test_damaged_failures_are_named(damage: bytes | None, tmp_path: Path) -> None:
    rows = written(tmp_path, RECORDS[0], "t", FAILED)
    path = tmp_path / "t/part-00000.failures.jsonl"
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(DamagedFile, match=r"part-00000\.failures\.jsonl"):
        list(rows.failures())


def anything(value: object) -> Any:
    """Typed as what a dataclass would take from an unchecked user."""
    return value


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (Lesson(text=anything(None)), "Lesson.text"),
        (Lesson(target=anything(5)), "Lesson.target"),
        (Lesson(problem=anything("17+25")), "Lesson.problem"),
        (Lesson(verdict=Verdict(label=anything("fine"), by="me")), "Lesson.verdict.label"),
        (Lesson(about=anything(object())), "Lesson"),
        (Lesson(text="half a pair: \ud83d"), "Lesson"),
    ],
)
def test_what_could_not_be_read_back_is_never_written(wrong: Lesson, field: str, tmp_path: Path) -> None:
    """A part with such a record would be refused by every later start of its run."""
    with pytest.raises(TypeError, match=field):
        write_rows(tmp_path, "t", Lesson, [Lesson(), wrong])
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path.write_bytes

    def half(path: Path, content: bytes) -> None:
        whole(path, content[: len(content) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="disk full"):
        written(tmp_path, RECORDS[0])
    assert not list((tmp_path / "t").iterdir())
