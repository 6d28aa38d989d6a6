"""Recorded answers in a student's place: the whole cycle on what somebody once wrote. Nothing is trained, or made up.

Real students' answers are no part of the repository. They are looked for in `$TUTORLOOP_SHARED/data`, by default
`../shared` beside the checkout.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import tutorloop
from tutorloop.agents.replay import PLACE, ReplayStudent, lay_down
from tutorloop.agents.roles import Evidence, PublishError, Request, RoleSpec, Unproven
from tutorloop.evals.answers import answers_of
from tutorloop.evals.files import DamagedFile
from tutorloop.evals.jsonl import BadData, Row, problems_of, rows_of
from tutorloop.evals.records import Problem, State, user
from tutorloop.loops.chat_model import StudentChatModel
from tutorloop.loops.config import ConfigError
from tutorloop.loops.fork import fork
from tutorloop.loops.launch import launch, prepare
from tutorloop.loops.show import read_run
from tutorloop.loops.slots import TooManyFailures
from tutorloop.loops.words import run_lines
from tutorloop.policies.rounds import Report
from tutorloop.tests.policies_for_tests import small

HERE = Path(__file__).parent.parent
EXAMPLE = HERE / "examples" / "replay.yaml"

Made = Callable[..., dict[str, Any]]


def question(i: int) -> str:
    return f"Ada has {i} boxes of {i + 2} marbles. How many marbles?"


def work(i: int, answer: int) -> str:
    return f"{i} times {i + 2} is {answer}.\n#### {answer}"


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recorded(i: int) -> dict[str, Any]:
    """Every third student is one too high; the second try is always right."""
    right = i * (i + 2)
    return {"question": question(i), "answers": [work(i, right + (i % 3 == 0)), work(i, right)]}


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """`made(answers=rows, ...)`: an experiment over 30 word problems, 10 a pool."""

    def experiment(answers: Sequence[Mapping[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
        write(tmp_path / "answers.jsonl", [recorded(i) for i in range(1, 31)] if answers is None else answers)
        for n, pool in enumerate(("practice", "quiz", "exam")):
            ours = [
                {"question": question(i), "answer": i * (i + 2), "solution": work(i, i * (i + 2)), "id": f"ada-{i}"}
                for i in range(10 * n + 1, 10 * n + 11)
            ]
            write(tmp_path / f"{pool}.jsonl", ours)
        return {
            "course": {"kind": "jsonl", **{pool: f"{tmp_path}/{pool}.jsonl" for pool in ("practice", "quiz", "exam")}},
            "method": "gold",
            "check": ["answer", "own", "gold"],
            "rounds": 1,
            "schedule": {"rows": 20},
            "student": {"engine": "replay", "model": str(tmp_path / "answers.jsonl")},
            "placement": "local",
            **changes,
        }

    return experiment


# ---- the cycle


def test_recorded_answers_are_examined_graded_triaged_and_taught(made: Made, tmp_path: Path) -> None:
    report = launch(made(), tmp_path / "run")
    zero, one = report.rounds
    assert report.status == "finished" and one.tables is not None
    assert (zero.quiz.right, zero.quiz.n, report.before["exam"].right) == (7, 10, 6)
    answered = list(one.tables.answered)
    assert {c.id: c.work for c in answered} == {f"ada-{i}": recorded(i)["answers"][0] for i in range(1, 11)}
    assert [c.id for c in one.tables.cases] == ["ada-3", "ada-6", "ada-9"]
    assert [(x.target, x.rejected) for x in one.tables.lessons] == [
        (work(i, i * (i + 2)), work(i, i * (i + 2) + 1)) for i in (3, 6, 9)
    ]
    assert one.accepted == 3 and len(one.tables.examples) == 20
    assert {"gold", "own"} <= set(one.origins)


def test_nothing_is_trained_and_the_run_says_so(made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    report = launch(made(), tmp_path / "run")
    zero, one = report.rounds
    assert one.proof is not None and one.proof.status == "unchanged"
    assert one.candidate == zero.candidate and one.serving == zero.serving
    assert one.why == "the state is unchanged; the update made nothing of 20 examples"
    assert report.after is not None and report.after["exam"].right == report.before["exam"].right
    assert "the student's answers are recorded: it is examined and taught, and nothing is trained" in caplog.text
    trained = json.loads((tmp_path / "run/steps/1/train-1-sft.json").read_text())["value"]
    assert trained["notes"]["nothing was trained"] == "a student of recorded answers cannot be trained"
    table = list(run_lines(read_run(tmp_path / "run")))
    assert "3/3           0" in table[5], "none of the 20 rows counts as trained on"


def test_a_window_of_the_practice_pool_is_another_one_each_round(made: Made, tmp_path: Path) -> None:
    report = launch(made(rounds=2, schedule={"rows": 20, "ask": 5}), tmp_path / "run")
    asked = [{c.id for c in r.tables.answered} for r in report.rounds if r.tables]
    assert len(asked) == 2 and not asked[0] & asked[1]
    assert launch(made(rounds=3, schedule={"rows": 20, "ask": 5}), tmp_path / "run").status == "finished"


@pytest.mark.ray
def test_on_ray_recorded_answers_leave_the_same(made: Made, tmp_path: Path) -> None:
    launch(made(), tmp_path / "here")
    launch(made(placement="ray", evaluator={"replicas": 2}), tmp_path / "there")
    here, there = (
        {k: v for k, v in small.transcript(tmp_path / name).items() if k != "run.json" and not k.startswith("logs/")}
        for name in ("here", "there")
    )
    assert here == there and PLACE in here


# ---- which answer is whose


def rows(*fields: Mapping[str, Any]) -> list[Row]:
    return [Row(f"answers.jsonl, line {n}", n, row) for n, row in enumerate(fields, 1)]


ASKED = [Problem(id="a", messages=user("17+25")), Problem(id="b", messages=user("2-2"))]


def test_a_problem_is_named_by_its_id_its_question_or_both_and_rows_add_up() -> None:
    found = answers_of(
        rows(
            {"id": "b", "answers": "0"},
            {"question": " 25 + 17", "answers": ["42", ""]},
            {"id": "a", "question": "17+25", "answers": ["  41\n"], "model": "any"},
            {"id": "z", "answers": "1"},
            {"question": "1+1", "answers": "2"},
        ),
        ASKED,
    )
    assert found.texts == {ASKED[1].digest: ["0"], ASKED[0].digest: ["42", "", "  41\n"]}, "texts stay as they are"
    assert (found.rows, found.others) == (5, 2)


FAULTS: Mapping[str, Mapping[str, Any]] = {
    "there is no `answers`, only `id`, `answer`": {"id": "a", "answer": "42"},
    "`answers` is '\\[\\]'; it must be a text, or a list of at least one": {"id": "a", "answers": []},
    "`answers` is 'None'": {"id": "a", "answers": None},
    "`answers` is": {"id": "a", "answers": [{"text": "42"}]},
    "an `id` or a `question` must say which problem was answered; the row has `answers`": {"answers": "42"},
    "the id 'a' is another problem of this course than the question '2-2'": {
        "id": "a",
        "question": "2-2",
        "answers": "0",
    },
    "`answers` has half of a character": {"id": "a", "answers": "\ud83d"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_row_that_cannot_be_used_names_its_line(fault: str) -> None:
    with pytest.raises(BadData, match=rf"answers\.jsonl, line 2: {fault}"):
        answers_of(rows({"id": "a", "answers": "42"}, FAULTS[fault]), ASKED)


def test_a_problem_without_an_answer_is_refused_before_anything_is_written(made: Made, tmp_path: Path) -> None:
    few = [recorded(i) for i in range(1, 31) if i not in (4, 11, 12)]
    with pytest.raises(ConfigError) as e:
        launch(made([*few, {"question": "1+1", "answers": "2"}]), tmp_path / "run")
    assert "3 problems have no recorded answer" in str(e.value)
    assert "(1 of `practice`, 2 of `quiz`; e.g. ada-4, 'Ada has 4 boxes" in str(e.value)
    assert "of its 28 rows 1 are on problems that the course does not ask" in str(e.value)
    assert not (tmp_path / "run").exists()


def test_the_file_must_be_named_and_there_and_a_teacher_is_not_recorded(made: Made, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"answers from a file; name it: student\.model=answers\.jsonl"):
        prepare(made(student={"engine": "replay"}))
    with pytest.raises(ConfigError, match=r"`student\.model` is 'gone\.jsonl', and there is no file"):
        prepare(made(student={"engine": "replay", "model": "gone.jsonl"}))
    with pytest.raises(ConfigError, match=r"`teacher\.engine`: .*recorded answers are a student's; .*, got 'replay'"):
        prepare(made(teacher={"engine": "replay"}))


# ---- what was never answered


def teaching(tmp_path: Path, text: str) -> str:
    return small.policy(tmp_path / "mine", f"from tutorloop.policies.records import Lesson\n\n\n{text}")


def test_a_retry_with_a_hint_is_an_error_in_the_policys_hands(made: Made, tmp_path: Path) -> None:
    policy = teaching(
        tmp_path,
        "def policy(case, room):\n"
        "    try:\n"
        "        room.retry(case, context='Count again.')\n"
        "    except ValueError as e:\n"
        "        return Lesson(act='hint', text=str(e))\n",
    )
    (_, one) = launch(made(teacher={"policy": policy}), tmp_path / "run").rounds
    assert one.tables is not None
    for lesson in one.tables.lessons:
        assert lesson.text.startswith("the student could not answer: no answer was recorded to")
        assert "Ada has" in lesson.text and "takes a student that answers" in lesson.text


def test_a_policy_that_does_not_expect_it_costs_its_cases_and_the_run_says_why(made: Made, tmp_path: Path) -> None:
    policy = teaching(tmp_path, "def policy(case, room):\n    return room.retry(case, context='Again.').work\n")
    with pytest.raises(TooManyFailures, match="ValueError: the student could not answer: no answer was recorded to"):
        launch(made(teacher={"policy": policy}), tmp_path / "run")


def test_a_plain_retry_is_the_next_sample_until_there_is_none(made: Made, tmp_path: Path) -> None:
    policy = teaching(
        tmp_path,
        "def policy(case, room):\n"
        "    first, second = room.retry(case), room.retry(case)\n"
        "    assert first.work == case.work\n"
        "    try:\n"
        "        room.retry(case)\n"
        "    except ValueError as e:\n"
        "        return Lesson(act='own', target=second.work, text=str(e))\n",
    )
    (_, one) = launch(
        made(teacher={"policy": policy}, triage="tutorloop.policies.triage:wrong"), tmp_path / "run"
    ).rounds
    assert one.tables is not None
    lessons = list(one.tables.lessons)
    assert len(lessons) == one.accepted == 3
    assert {x.verdict.by for x in lessons if x.verdict} <= {"answer", "own"}, "the student's own second try is learnt"
    assert lessons[0].target == recorded(3)["answers"][1]
    assert lessons[0].text.endswith("2 answers were recorded to this problem, and sample 2 was asked (the first is 0)")


def test_a_method_that_asks_for_more_samples_than_there_are_is_stopped_and_nothing_stands_in_for_them(
    made: Made, tmp_path: Path
) -> None:
    (tmp_path / "several.py").write_text(
        "from dataclasses import replace\n"
        "from tutorloop.policies.gold import METHOD as gold\n\n\n"
        "async def thrice(problem, room):\n"
        "    return [await room.learner.aattempt(problem) for _ in range(3)]\n\n\n"
        "METHOD = replace(gold, attempt=thrice)\n"
    )
    with pytest.raises(TooManyFailures, match=r"`attempt`: 10 of 10 items failed.*2 answers were recorded"):
        launch(made(method=f"{tmp_path / 'several.py'}:METHOD"), tmp_path / "run")


@pytest.fixture
def student(tmp_path: Path) -> ReplayStudent:
    lay_down(tmp_path, "ab" * 32, {ASKED[0].digest: ["42", "41"]})
    return ReplayStudent(RoleSpec(role="student", engine="replay", root=tmp_path))


def test_it_answers_nothing_before_its_state_is_proven_and_proves_no_other(student: ReplayStudent) -> None:
    base = student.hello().base
    with pytest.raises(Unproven):
        student.generate(base, [Request(messages=user("17+25"))])
    other = State(member="student", name="student-r0001", digest="0" * 64)
    with pytest.raises(PublishError, match="of one state, and this is another"):
        student.prove(Evidence(state=other, canaries=(), before=(), after=(), noise=0.0))
    student.prove(Evidence(state=base, canaries=(), before=(), after=(), noise=0.0))
    asked = [Request(messages=user("17+25"), sample=i) for i in range(3)]
    asked += [Request(messages=user("17+25"), prefix="4"), Request(messages=user("17+25"), schema="Hint")]
    asked += [Request(messages=user("17+25\nhint"))]
    replies = student.generate(base, asked)
    assert [r.text for r in replies[:2]] == ["42", "41"]
    assert [r.finish for r in replies] == ["stop", "stop", "error", "error", "error", "error"]


# ---- whose state it is


def test_the_state_is_the_files_content_wherever_it_lies(made: Made, tmp_path: Path) -> None:
    told = made()
    one = launch(told, tmp_path / "one").rounds[0].candidate
    moved = Path(told["student"]["model"]).rename(tmp_path / "moved.jsonl")
    two = launch({**told, "student": {"engine": "replay", "model": str(moved)}}, tmp_path / "two").rounds[0].candidate
    other = launch(made([*map(recorded, range(1, 31)), {"id": "z", "answers": "0"}]), tmp_path / "three").rounds[0]
    assert one.digest == two.digest != other.candidate.digest


def test_a_run_is_answered_by_what_it_began_with(made: Made, tmp_path: Path) -> None:
    launch(made(schedule={"rows": 20, "ask": 5}), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"`.*answers\.jsonl` has changed"):
        launch(made([recorded(i) for i in range(1, 32)], rounds=2, schedule={"rows": 20, "ask": 5}), tmp_path / "run")
    kept = (tmp_path / "run" / PLACE).read_bytes()
    (tmp_path / "run" / PLACE).write_bytes(kept.replace(b"#### 8", b"#### 9"))
    with pytest.raises(DamagedFile, match=r"course/answers\.jsonl is not the file that was written"):
        launch(made(rounds=2, schedule={"rows": 20, "ask": 5}), tmp_path / "run")
    (tmp_path / "run" / PLACE).write_bytes(kept)
    assert len(launch(made(rounds=2, schedule={"rows": 20, "ask": 5}), tmp_path / "run").rounds) == 3


def test_a_fork_takes_the_answers_with_it(made: Made, tmp_path: Path) -> None:
    launch(made(schedule={"rows": 20, "ask": 5}), tmp_path / "run")
    forked = fork(tmp_path / "run", tmp_path / "fork", 1, ["rounds=2"])
    assert [r.number for r in forked.rounds] == [0, 1, 2] and (tmp_path / "fork" / PLACE).exists()
    assert forked.rounds[2].candidate.digest == forked.rounds[0].candidate.digest


def test_such_a_student_is_not_taught_by_hand(made: Made, tmp_path: Path) -> None:
    launch(made(), tmp_path / "run")
    with (
        pytest.raises(ConfigError, match="has a student of recorded answers, which nothing can be taught"),
        tutorloop.open(tmp_path / "run"),
    ):
        pass
    assert not (tmp_path / "run-taught").exists()


# ---- what ships


def test_the_example_runs_as_shipped_and_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys, tutorloop\n"
        f"report = tutorloop.launch({str(EXAMPLE)!r}, {str(tmp_path / 'run')!r})\n"
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)\n"
        "print(report.rounds[1].accepted, report.rounds[1].proof.status)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    accepted, status = done.stdout.split()
    assert int(accepted) > 100 and status == "unchanged"


def test_the_recorded_answers_that_ship_are_the_shipped_students() -> None:
    spec = importlib.util.spec_from_file_location("record", HERE / "examples" / "record.py")
    assert spec is not None and spec.loader is not None
    record = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(record)
    made = record.record(EXAMPLE, ["student={engine: transformers}"], 1)
    kept = [dict(row.fields) for row in rows_of(HERE / "examples" / "replay" / "answers.jsonl")]
    assert [row["id"] for row in made] == [row["id"] for row in kept]
    same = sum(a == b for a, b in zip(made, kept, strict=True))
    assert same >= 0.95 * len(kept), "another kind of machine may round a tie the other way, now and then"


# ---- answers of real students


def shared(name: str) -> Path:
    path = Path(os.environ.get("TUTORLOOP_SHARED", HERE.parent / "shared")) / "data" / name
    if not path.exists():
        pytest.skip(f"the real answers are not at {path}; set TUTORLOOP_SHARED to the folder that has them")
    return path


Fields = Sequence[Mapping[str, Any]]


def real_run(tmp_path: Path, asked: Fields, said: Fields, **sizes: int) -> Report:
    write(tmp_path / "rows.jsonl", asked)
    write(tmp_path / "answers.jsonl", said)
    experiment = {
        "course": {"kind": "jsonl", "path": str(tmp_path / "rows.jsonl"), **sizes},
        "method": "gold",
        "check": ["gold"],
        "rounds": 1,
        "schedule": {"rows": 100, "new": 1.0},
        "student": {"engine": "replay", "model": str(tmp_path / "answers.jsonl")},
        "placement": "local",
    }
    return launch(experiment, tmp_path / "run")


def usable(row: Mapping[str, Any]) -> bool:
    try:
        return bool(list(problems_of([Row("", 1, row)])))
    except BadData:
        return False


def test_wrong_solutions_of_real_students_are_all_found_wrong_and_taught_from_gold(tmp_path: Path) -> None:
    found = json.loads(shared("stepverify/dataset_public.json").read_text())
    asked = {}
    for row in found:
        solution, _, answer = row["reference_solution"].rpartition("\n")
        asked[row["problem"]] = {"question": row["problem"], "answer": answer.strip(), "solution": solution}
    said = [{"question": row["problem"], "answers": "\n".join(row["student_incorrect_solution"])} for row in found]
    report = real_run(tmp_path, list(asked.values()), said, practice=90, quiz=35, exam=35)
    (zero, one) = report.rounds
    assert (len(found), len(asked)) == (220, 160)
    assert zero.quiz.right == report.before["exam"].right == 0, "every one of them was labelled wrong"
    assert one.tables is not None and len(one.tables.cases) == one.accepted == 90
    assert zero.quiz.unparsed == 0 and all(x.rejected for x in one.tables.lessons)


def test_real_answers_right_and_wrong_are_told_apart_and_taught_from_gold(tmp_path: Path) -> None:
    found = [row.fields for row in rows_of(shared("gsm8k_verifier/benchmark_public.jsonl"))]
    asked = [
        {"question": row["question"], "answer": row["offical answer"], "solution": row["offical response"]}
        for row in found
    ]
    asked = [row for row in asked if usable(row)]
    said = [{"question": row["question"], "answers": row["student answer"]} for row in found]
    report = real_run(tmp_path, asked, said, practice=27, quiz=10, exam=10)
    (_, one) = report.rounds
    assert (len(found), len(asked)) == (49, 47), "the official work of two comes to another number than its answer"
    assert one.tables is not None and 5 < one.accepted == len(one.tables.cases) < 22
    # Its labels judge the work, which may be faulty where the answer is right; right work is right, but for one answer
    # in words ("ten dollar"), which nobody reads.
    faultless = {row["question"] for row in found if row["wrong"] == "no"}
    sheets = report.rounds[0].quiz, report.before["exam"]
    marks = [(m.problem.question, m.verdict.label) for sheet in sheets for m in sheet.rows]
    marks += [(c.question, c.grades[0].label) for c in one.tables.answered]
    assert [label for question, label in marks if question in faultless and label != "right"] == ["unparsed"]


def test_recorded_answers_are_no_chat_model(made: Made, tmp_path: Path) -> None:
    launch(made(), tmp_path / "run")
    with pytest.raises(
        ConfigError, match="a student of recorded answers, which has nothing to say to any other question"
    ):
        StudentChatModel(run=tmp_path / "run")
