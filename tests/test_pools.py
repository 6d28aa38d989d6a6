"""Pools are disjoint, hold no gold beside a problem, and all but practice open to the evaluator alone."""

import ast
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

import tutorloop
from tutorloop.agents.evaluator import Evaluator
from tutorloop.evals.pools import Course, OverlappingPools, Pool, Sealed, SealedPool, Split, make_course
from tutorloop.evals.records import Gold, Problem, user

ROOT = Path(tutorloop.__file__).parent


def split(*questions: str, pool: str = "p") -> list[tuple[Problem, Gold | None]]:
    problems = [Problem(id=f"{pool}-{i}", messages=user(q)) for i, q in enumerate(questions)]
    return [(p, Gold(problem=p.id, answer="secret-answer")) for p in problems]


def splits(**pools: tuple[str, ...]) -> dict[str, Split]:
    return {name: split(*questions, pool=name) for name, questions in pools.items()}


PLAIN = {"practice": ("1+2", "2+3"), "quiz": ("3+4",), "exam": ("4+5",)}


@pytest.fixture
def course(tmp_path: Path) -> Course:
    exam = tuple(f"{i}+{1000 + i}" for i in range(70))
    return make_course("small", tmp_path, splits(**{**PLAIN, "exam": exam}))


# ---- sealed


@pytest.mark.parametrize(
    "reach",
    [
        lambda pool: list(pool),
        lambda pool: pool[0],
        lambda pool: Problem(id="x", messages=user("x")) in pool,
        lambda pool: [p for p in pool],
        lambda pool: random.Random(0).choice(pool),
        lambda pool: dict(enumerate(pool)),
        lambda pool: pool.problems,
        lambda pool: pool.gold,
    ],
)
def test_whoever_reaches_into_a_sealed_pool_is_told_that_it_is_sealed(
    reach: Callable[[Any], Any], course: Course
) -> None:
    for pool in course.sealed:
        with pytest.raises(SealedPool, match=f"`{pool.name}` is sealed"):
            reach(pool)


def test_a_sealed_pool_tells_its_name_its_size_and_what_a_teacher_may_not_write(course: Course) -> None:
    assert (course.exam.name, len(course.exam), course.exam.shards) == ("exam", 70, 2)
    assert course.holds(Problem(id="mine", messages=user(" 1003 + 3 "))) == "exam"
    assert course.holds(Problem(id="mine", messages=user("4 + 3"))) == "quiz"
    assert course.holds(Problem(id="exam-0", messages=user("77+78"))) == "", "the content counts, not the id"
    assert course.holds(Problem(id="mine", messages=user("1+2"))) == "", "practice is not sealed"
    assert course.holds(Problem(id="mine", messages=user("half a character: \ud83d"))) == ""


def test_printing_a_course_shows_no_problem(course: Course) -> None:
    assert "1+1001" not in repr(course) and "parquet" not in repr(course.exam)


def test_the_sealed_pools_are_quiz_exam_and_whatever_else_is_only_reported(tmp_path: Path) -> None:
    made = make_course("c", tmp_path, splits(**PLAIN, probe=("5+6",), retention=("6+7",)))
    assert [p.name for p in made.sealed] == ["quiz", "exam", "probe", "retention"]
    assert [p.name for p in made.final] == ["exam", "probe", "retention"]
    assert isinstance(made.practice, Pool) and all(isinstance(p, Sealed) for p in made.sealed)


def test_only_the_evaluator_uses_the_key() -> None:
    """`.locked` is the key. Whoever else touches it could teach to the exam."""
    users = set()
    for path in ROOT.glob("[aelp]*/**/*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if any(isinstance(n, ast.Attribute) and n.attr == "locked" for n in nodes):
            users.add(path.relative_to(ROOT).as_posix())
    assert users == {"agents/evaluator.py", "evals/pools.py"}
    assert Evaluator.__module__ == "tutorloop.agents.evaluator"


SNIPPET = """
from tutorloop.agents.room import RoundRoom
from tutorloop.evals.pools import Course, Pool
from tutorloop.evals.records import Problem
from tutorloop.loops.slots import Slots
from tutorloop.policies.room import Room


def select(do: Slots, course: Course) -> None:
    do.select(course.exam)


def ask(room: Room, course: Course) -> None:
    room.teacher.ask(course.exam)


def hold(room: RoundRoom, course: Course) -> None:
    room.practice = course.exam


def loop(course: Course) -> list[Problem]:
    return [p for p in course.exam]


def open_it(course: Course) -> Pool:
    return course.quiz


def read(course: Course) -> object:
    return course.exam.problems


def fine(do: Slots, course: Course, room: Room) -> None:
    do.select(course.practice)
    room.teacher.ask(room.practice[0].messages)
"""


def test_handing_a_sealed_pool_to_the_teacher_does_not_type_check(tmp_path: Path) -> None:
    file = tmp_path / "snippet.py"
    file.write_text(SNIPPET)
    cache = ROOT / ".mypy_cache"  # else this takes half a minute
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(cache), str(file)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT / ".typing")},
    )
    lines = SNIPPET.splitlines()
    told = re.findall(r"snippet\.py:(\d+): error", done.stdout)  # from the cache it comes with an earlier folder
    refused = {lines[int(number) - 1].strip() for number in told}
    assert refused == {
        "do.select(course.exam)",
        "room.teacher.ask(course.exam)",
        "room.practice = course.exam",
        "return [p for p in course.exam]",
        "return course.quiz",
        "return course.exam.problems",
    }, done.stdout + done.stderr


# ---- apart


def test_problem_files_hold_no_gold(course: Course, tmp_path: Path) -> None:
    names = {f.name for f in fields(Problem)} & {f.name for f in fields(Gold)}
    assert names == set(), "a field of both would be gold on a problem"
    for path in tmp_path.glob("course/*/problems/*.parquet"):
        assert "secret" not in str(pq.ParquetFile(path).read().to_pylist())


def test_each_pool_has_a_gold_for_each_problem_in_the_same_order(course: Course) -> None:
    pool = course.practice
    assert [p.id for p in pool.problems] == [g.problem for g in pool.gold] == ["practice-0", "practice-1"]
    assert len(pool) == 2


def test_a_course_survives_the_journal(course: Course, tmp_path: Path) -> None:
    codec = TypeAdapter(Course)
    back = codec.validate_json(codec.dump_json(course), context={"root": tmp_path})
    assert back == course and list(back.practice.problems) == list(course.practice.problems)
    assert back.holds(Problem(id="", messages=user("3+4"))) == "quiz"


# ---- disjoint


@pytest.mark.parametrize(
    ("pools", "named"),
    [
        ({**PLAIN, "exam": ("2 + 1",)}, ["practice", "exam", "1"]),
        ({**PLAIN, "quiz": ("  1+2 ",)}, ["practice", "quiz"]),
        ({**PLAIN, "practice": ("1+2", "2+1")}, ["practice"]),
        ({**PLAIN, "quiz": ("What IS it?",), "exam": ("what is  it?",)}, ["quiz", "exam"]),
    ],
)
def test_pools_that_share_a_problem_are_refused_by_content(
    pools: dict[str, tuple[str, ...]], named: list[str], tmp_path: Path
) -> None:
    with pytest.raises(OverlappingPools) as told:
        make_course("c", tmp_path, splits(**pools))
    assert all(name in str(told.value) for name in named)


def test_order_matters_where_it_does_to_arithmetic(tmp_path: Path) -> None:
    make_course("c", tmp_path, splits(practice=("25-17",), quiz=("17-25",), exam=("17+25",)))


def test_one_id_is_one_problem(tmp_path: Path) -> None:
    made = splits(**PLAIN)
    ((twin, gold),) = split("8+9", pool="quiz")
    assert gold is not None
    made["exam"] = [(replace(twin, id="practice-0"), replace(gold, problem="practice-0"))]
    with pytest.raises(OverlappingPools, match="'practice-0'"):
        make_course("c", tmp_path, made)


def test_an_empty_pool_and_a_problem_without_gold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`exam`.*empty"):
        make_course("c", tmp_path, splits(**{**PLAIN, "exam": ()}))
    made = splits(**PLAIN)
    made["quiz"] = [(problem, None) for problem, _ in made["quiz"]]
    with pytest.raises(ValueError, match=r"'quiz-0'.*no gold"):
        make_course("c", tmp_path, made)
