"""Problems from files: what is read, what is refused and where, how pools are drawn. All before a run folder exists."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tutorloop.evals.arithmetic import anything, solve
from tutorloop.evals.jsonl import BadData, distinct, divided, problems_of, rows_of
from tutorloop.evals.pools import OverlappingPools
from tutorloop.evals.records import Kind
from tutorloop.loops.config import ConfigError
from tutorloop.loops.courses import read_course
from tutorloop.loops.launch import launch, prepare
from tutorloop.loops.parts import CourseConfig, RoleConfig

Files = Callable[..., Path]


@pytest.fixture
def file(tmp_path: Path) -> Files:
    """`file("a.jsonl", *rows)`: write rows, or lines as they are."""

    def write(name: str, *rows: Mapping[str, Any] | str) -> Path:
        path = tmp_path / name
        path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
        return path

    return write


def sums(first: int, n: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"question": f"{i}+{i + 1}", "answer": 2 * i + 1, **fields} for i in range(first, first + n)]


def read(folder: Path, seed: int = 0, **course: Any) -> Any:
    return read_course(CourseConfig(**{"kind": "jsonl", **course}), seed, RoleConfig(), folder)


def ids(data: Any) -> dict[str, list[str]]:
    return {name: [p.id for p, _ in split] for name, split in data.splits.items()}


# ---- rows


def test_a_row_becomes_a_problem_and_apart_from_it_its_gold(file: Files) -> None:
    path = file(
        "a.jsonl",
        {"question": " What is 17+25? ", "answer": 42, "solution": "17+25 = 42", "skill": "add", "id": 7, "more": []},
        "",
        {"question": "2-2", "answer": "0"},
    )
    one, two = problems_of(rows_of(path))
    assert (one.problem.id, one.problem.question, one.problem.kind) == ("7", "What is 17+25?", "number")
    assert (one.gold.problem, one.gold.answer, one.gold.solution, one.gold.skill) == ("7", "42", "17+25 = 42", "add")
    assert two.problem.id == "row-0003", "a row without an id is called after its line; empty lines count"
    assert two.gold.solution == ""


def test_numbers_stay_as_they_are_written(file: Files) -> None:
    path = file("a.jsonl", '{"question": "q", "answer": 1250.50, "solution": "so 1250.50"}')
    assert next(problems_of(rows_of(path))).gold.answer == "1250.50"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_a_newline_ends_a_line_and_a_byte_order_mark_is_no_text(tmp_path: Path, end: str) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"question": f"a\u2028b {i}", "answer": i} for i in range(2)]
    path.write_bytes(b"\xef\xbb\xbf" + end.join(json.dumps(r, ensure_ascii=False) for r in rows).encode())
    assert [a.problem.question for a in problems_of(rows_of(path))] == ["a\u2028b 0", "a\u2028b 1"]


@pytest.mark.parametrize(
    ("kind", "answer", "solution", "becomes"),
    [
        ("number", "12", "3*4 = 12", "3*4 = 12"),
        ("number", "12", "3*4 = 12 so a dozen, and 0 are left", "3*4 = 12 so a dozen, and 0 are left\n#### 12"),
        ("number", "12", "a dozen", "a dozen\n#### 12"),
        ("number", "12", "three fours\n#### 12", "three fours\n#### 12"),
        ("number", "12", "12", ""),
        ("number", "12", "#### 12", ""),
        ("choice", "B", "Not A.", "Not A.\n#### B"),
        ("boolean", "yes", "Whales are mammals.", "Whales are mammals.\n#### yes"),
        ("text", "Eiffel Tower", "It stands in Paris.", "It stands in Paris.\n#### Eiffel Tower"),
    ],
)
def test_a_solution_ends_in_its_answer_and_a_bare_answer_is_none(
    file: Files, kind: Kind, answer: str, solution: str, becomes: str
) -> None:
    path = file("a.jsonl", {"question": "?", "answer": answer, "solution": solution})
    assert next(problems_of(rows_of(path), kind=kind)).gold.solution == becomes


FAULTS = {
    "no JSON": ['{"question": "1+1", "answer": '],
    "no JSON ": ["[" * 100_000],
    "is one object": ['["1+1", 2]'],
    "there is no `question`; the row has `Question`, `answer`": ['{"Question": "1+1", "answer": 2}'],
    "there is no `answer`": ['{"question": "1+1", "answer": null}'],
    "`answer` is empty": ['{"question": "1+1", "answer": "  "}'],
    "`answer` is a list": ['{"question": "1+1", "answer": [2]}'],
    "`question` is empty": ['{"question": "", "answer": 2}'],
    "half of a character": ['{"question": "\\ud83d", "answer": 2}'],
    "the answer 'two' is no number": ['{"question": "1+1", "answer": "two"}'],
    "the answer '2 or 3' is no number": ['{"question": "1+1", "answer": "2 or 3"}'],
    "the answer 'nan' is no number": ['{"question": "1+1", "answer": NaN}'],
    "comes to something else": ['{"question": "1+1", "answer": 2, "solution": "1+1 = 2\\n#### 3"}'],
    "comes to something else ": ['{"question": "1+1", "answer": 2, "solution": "The answer is 3."}'],
    "the id 'a' is that of": ['{"question": "1+1", "answer": 2, "id": "a"}'] * 2,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_file_and_line(file: Files, tmp_path: Path, fault: str) -> None:
    file("rows.jsonl", *sums(1, 9), *FAULTS[fault])
    with pytest.raises(ConfigError) as e:
        read(tmp_path, path="rows.jsonl", practice=3, quiz=3, exam=3)
    assert f"rows.jsonl, line {9 + len(FAULTS[fault])}: " in str(e.value)
    assert fault.strip() in str(e.value)


def test_bytes_that_are_no_utf8_are_a_fault_of_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"question": "1+1", "answer": 2}\n{"question": "\xff", "answer": 2}\n')
    with pytest.raises(BadData, match=r"a\.jsonl, line 2: this is no UTF-8"):
        list(rows_of(tmp_path / "a.jsonl"))


@pytest.mark.parametrize(("kind", "answer"), [("choice", "7"), ("boolean", "maybe")])
def test_an_answer_is_read_by_the_grader_of_its_kind(file: Files, tmp_path: Path, kind: Kind, answer: str) -> None:
    file("a.jsonl", {"question": "?", "answer": answer})
    with pytest.raises(ConfigError, match=f"no {kind} that a grader can read"):
        read(tmp_path, path="a.jsonl", answer=kind)


# ---- pools


def test_what_asks_the_same_is_left_out_and_counted_aloud(file: Files, caplog: pytest.LogCaptureFixture) -> None:
    path = file(
        "a.jsonl",
        {"question": "17+25", "answer": 42},
        {"question": "25 + 17", "answer": "42.0"},
        {"question": "25+17", "answer": 43},
        {"question": "17-25", "answer": -8},
    )
    with caplog.at_level(logging.WARNING):
        kept = list(distinct(problems_of(rows_of(path)), "a.jsonl"))
    assert [a.problem.id for a in kept] == ["row-0001", "row-0004"]
    assert "a.jsonl: 2 of 4 rows" in caplog.text
    assert "1 of them have another answer" in caplog.text


def test_pools_are_drawn_by_seed_and_more_practice_leaves_the_exam_as_it_is(file: Files, tmp_path: Path) -> None:
    file("a.jsonl", *sums(1, 40))
    small, again, larger, other = (
        ids(read(tmp_path, seed, path="a.jsonl", practice=n, quiz=5, exam=5))
        for seed, n in ((0, 10), (0, 10), (0, 30), (1, 10))
    )
    assert small == again != other
    assert {k: len(v) for k, v in small.items()} == {"practice": 10, "quiz": 5, "exam": 5}
    assert (larger["quiz"], larger["exam"], larger["practice"][:10]) == tuple(
        small[pool] for pool in ("quiz", "exam", "practice")
    )
    assert len({id for pool in larger.values() for id in pool}) == 40, "disjoint"


def test_too_few_rows_say_how_many_there_are_after_duplicates(file: Files) -> None:
    path = file("a.jsonl", *sums(1, 10), *sums(1, 3))
    asked = distinct(problems_of(rows_of(path)), "a.jsonl")
    with pytest.raises(BadData, match=r"a.jsonl has 10 different problems; asked for are 8 .*3 for `exam`, 11 in all"):
        divided(asked, {"practice": 8, "exam": 3}, seed=0, source="a.jsonl")


def test_a_pool_may_be_a_file_of_its_own(file: Files, tmp_path: Path) -> None:
    file("train.jsonl", *sums(1, 10))
    file("test.jsonl", *sums(50, 4))
    found = ids(read(tmp_path, path="train.jsonl", practice=6, quiz=2, exam="test.jsonl"))
    assert {k: len(v) for k, v in found.items()} == {"practice": 6, "quiz": 2, "exam": 4}
    assert found["exam"] == [f"exam-000{i}" for i in range(1, 5)]


def three(file: Files, exam: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A course of three files."""
    file("practice.jsonl", {"question": "17+25", "answer": 42, "id": "p1"}, *sums(30, 3))
    file("quiz.jsonl", *sums(40, 3))
    file("exam.jsonl", *exam)
    return {"kind": "jsonl", **{pool: f"{pool}.jsonl" for pool in ("practice", "quiz", "exam")}}


def test_overlapping_pools_are_refused_by_name_with_an_example(file: Files, tmp_path: Path) -> None:
    course = three(file, [*sums(50, 3), {"question": "25+17", "answer": 42}])
    with pytest.raises(OverlappingPools, match=r"`practice` and `exam` .*'17\+25' \(p1\) is '25\+17' \(exam-0004\)"):
        read(tmp_path, **course)
    course = three(file, sums(50, 3, id="p1")[:1])
    with pytest.raises(OverlappingPools, match="'p1' is in `practice` and in `exam`"):
        read(tmp_path, **course)


@pytest.mark.parametrize(
    ("course", "said"),
    [
        ({}, "needs rows: `course.path: rows.jsonl`, or for each of practice, quiz, exam a file"),
        ({"kind": "gsm8k"}, "or `course.hub: openai/gsm8k`"),
        ({"path": "gone.jsonl"}, "`course.path` is 'gone.jsonl', and there is no file"),
        ({"path": "empty.jsonl"}, "has no rows"),
        ({"path": "a.jsonl", "practice": 0}, "`course.practice` must be at least 1"),
        ({"path": "a.jsonl", "twins": 3}, "`course.twins` says nothing to a course of kind 'jsonl'"),
        ({"kind": "arithmetic", "path": "a.jsonl"}, "`course.path` says nothing"),
        ({"kind": "arithmetic", "quiz": "a.jsonl"}, "`course.quiz` is 'a.jsonl'; the arithmetic course takes a number"),
        ({"path": "a.jsonl", "practice": "a.jsonl", "quiz": "a.jsonl", "exam": "a.jsonl"}, "each has its own file"),
    ],
)
def test_a_course_that_cannot_be_made_says_why(file: Files, tmp_path: Path, course: dict[str, Any], said: str) -> None:
    file("a.jsonl", *sums(1, 9))
    file("empty.jsonl")
    with pytest.raises(ConfigError) as e:
        read(tmp_path, **course)
    assert said in str(e.value)


# ---- runs


@pytest.fixture
def experiment(file: Files, tmp_path: Path) -> Path:
    """Column arithmetic as rows of one's own, for a scripted student with one misconception."""
    rng = Random(0)
    questions = list(dict.fromkeys(anything(rng) for _ in range(100)))
    rows = [{"question": q, "answer": solve(q).rpartition("=")[2], "solution": solve(q)} for q in questions]
    file("rows.jsonl", *rows)
    (tmp_path / "provenance.json").write_text('{"bugs": ["smaller-from-larger"]}')
    path = tmp_path / "own.yaml"
    path.write_text(
        """
        course: {kind: jsonl, path: rows.jsonl, practice: 60, quiz: 10, exam: 10}
        method: gold
        check: [gold]
        rounds: 1
        schedule: {ask: 12, rows: 40}
        student: {engine: scripted, model: .}
        placement: local
        """
    )
    return path


@pytest.mark.parametrize("bad", ["overlap", "line", "small"])
def test_bad_data_is_refused_before_a_run_folder_exists(
    file: Files, tmp_path: Path, experiment: Path, bad: str
) -> None:
    overrides = {"overlap": "course.exam=rows.jsonl", "line": "course.exam=bad.jsonl", "small": "course.exam=999"}
    file("bad.jsonl", "{")
    with pytest.raises((ConfigError, OverlappingPools)):
        launch(experiment, tmp_path / "run", [overrides[bad]])
    assert not (tmp_path / "run").exists()


def test_rows_of_ones_own_go_through_the_loop_and_unasked_ones_are_fresh_practice(
    tmp_path: Path, experiment: Path
) -> None:
    report = launch(experiment, tmp_path / "run")
    (_, one) = report.rounds
    assert one.tables is not None and report.after is not None
    asked = {c.id for c in one.tables.answered}
    cases = list(one.tables.cases)
    wrong = [c for c in cases if c.id in asked]
    fresh = [c for c in cases if c.id not in asked]
    assert len(asked) == 12 and wrong and all(c.grades[0].label == "wrong" for c in wrong)
    assert len(fresh) == min(48, 4 * len(wrong)) and {c.reason for c in fresh} == {"fresh practice"}
    assert one.accepted == len(cases) and set(one.origins) <= {"gold", "own"}
    assert report.after["exam"].right > report.before["exam"].right


def test_data_that_changed_under_a_run_is_refused(tmp_path: Path, experiment: Path) -> None:
    launch(experiment, tmp_path / "run")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(rows.read_text() + '{"question": "1+1", "answer": 2}\n')
    with pytest.raises(ConfigError, match=r"`rows\.jsonl` has changed"):
        launch(experiment, tmp_path / "run")


def test_the_kinds_of_evidence_and_the_triage_can_be_chosen(experiment: Path) -> None:
    chosen = prepare(experiment, ["check=[answer, own]", "triage=tutorloop.policies.triage:unsolved"]).stages[0]
    assert repr(chosen.check) == "Sound(kinds=('answer', 'own'))"
    assert getattr(chosen.triage, "__name__", "") == "unsolved"
    with pytest.raises(ConfigError, match=r"check\.0.*'steps'"):
        prepare(experiment, ["check=[step]"])
    with pytest.raises(ConfigError, match=r"`triage` .*no `unsolve` in .*the nearest is `unsolved`"):
        prepare(experiment, ["triage=tutorloop.policies.triage:unsolve"])
