"""GSM8K as others ask and read it: the prompt's shape, two readings, and both against lm-evaluation-harness itself.

The harness is no dependency. `LM_EVAL_PYTHON` names a Python that has it (by default this one); without it, or without
real rows at `$TUTORLOOP_SHARED/data`, what needs them is skipped, aloud. docs/baselines.md has what was found.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tutorloop.evals.graders import grade, number, strict_number
from tutorloop.evals.gsm8k import problems_of
from tutorloop.evals.harness import SCORES, flexible, prompt, scores, strict
from tutorloop.evals.jsonl import Row, rows_of
from tutorloop.evals.pools import make_course
from tutorloop.evals.records import Attempt, Gold, Problem, content_digest, unframed, user
from tutorloop.loops.config import ConfigError
from tutorloop.loops.courses import Data, read_course
from tutorloop.loops.launch import launch
from tutorloop.loops.parts import CourseConfig, RoleConfig
from tutorloop.loops.progress import outcome
from tutorloop.loops.show import read_run
from tutorloop.loops.words import run_lines

HERE = Path(__file__).parent.parent


def row(i: int) -> dict[str, str]:
    return {
        "question": f"Mei has {i} boxes of 1,000 pens. How many pens?",
        "answer": f"She has {i}*1000 = <<{i}*1000={i}000>>{i},000 pens.\n#### {i},000",
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """40 rows in GSM8K's format."""
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row(i)) + "\n" for i in range(1, 41)))
    return path


def course(folder: Path, **told: Any) -> Data:
    sizes = {"kind": "gsm8k", "path": "train.jsonl", "practice": 15, "quiz": 10, "exam": 10}
    return read_course(CourseConfig(**{**sizes, **told}), 0, RoleConfig(), folder)


# ---- how it is asked


def test_the_zero_shot_prompt_is_the_question_in_its_frame(file: Path) -> None:
    data = course(file.parent, prompt="lm-eval")
    for problem, _ in data.splits["exam"]:
        (turn,) = problem.messages
        assert turn.role == "user" and turn.content == f"Question: {problem.question}\nAnswer:"
        assert problem.question == row(int(problem.id[6:]))["question"]


def test_few_shots_are_the_first_rows_as_they_are_and_in_no_pool(file: Path) -> None:
    data = course(file.parent, prompt="lm-eval", shots=5)
    shown = "".join(f"Question: {r['question']}\nAnswer: {r['answer']}\n\n" for r in map(row, range(1, 6)))
    asked = [problem for split in data.splits.values() for problem, _ in split]
    assert len(asked) == 35 and {int(p.id[6:]) for p in asked} == set(range(6, 41))
    for problem in asked:
        assert problem.messages[0].content == f"{shown}Question: {problem.question}\nAnswer:"
    assert "<<1*1000=1000>>1,000 pens.\n#### 1,000\n\n" in shown, "the notes stay: they are in the harness's prompt"
    with pytest.raises(ConfigError, match="has 35 different problems; asked for are 16 for `practice`"):
        course(file.parent, prompt="lm-eval", shots=5, practice=16)


def test_shots_are_taken_out_of_a_practice_file_and_refused_in_a_sealed_one(file: Path) -> None:
    test = file.with_name("test.jsonl")
    test.write_text("".join(json.dumps(row(i)) + "\n" for i in range(41, 51)))
    quiz = file.with_name("quiz.jsonl")
    quiz.write_text("".join(json.dumps(row(i)) + "\n" for i in range(51, 61)))
    told = {"prompt": "lm-eval", "shots": 5, "practice": "train.jsonl", "quiz": "quiz.jsonl"}
    data = course(file.parent, **told, exam="test.jsonl")
    assert [len(list(split)) for split in data.splits.values()] == [35, 10, 10]
    assert set(data.sources) == {"train.jsonl", "quiz.jsonl", "test.jsonl"}
    test.write_text(test.read_text() + json.dumps(row(3)) + "\n")
    with pytest.raises(ConfigError, match=r"test\.jsonl, line 11: `exam` has a problem that every prompt shows solved"):
        course(file.parent, **told, exam="test.jsonl")


def test_what_only_the_harness_has_is_not_asked_of_others(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"`course\.shots` are shown in the prompt of `course\.prompt: lm-eval`"):
        course(file.parent, shots=5)
    with pytest.raises(ConfigError, match=r"`course\.prompt` says nothing to a course of kind 'jsonl', only to gsm8k"):
        course(file.parent, kind="jsonl", prompt="lm-eval")


def test_a_sealed_problem_is_known_without_its_frame_and_shots(file: Path, tmp_path: Path) -> None:
    data = course(file.parent, prompt="lm-eval", shots=2)
    made = make_course("gsm8k", tmp_path / "run", data.splits)
    sealed = next(problem for problem, _ in data.splits["exam"])
    for text in (sealed.question, sealed.messages[0].content, f" question: {sealed.question.upper()}"[11:]):
        assert made.holds(Problem(id="mine", messages=user(text))) == "exam", text
    assert made.holds(Problem(id="mine", messages=user("How many pens?"))) == ""


@pytest.mark.parametrize(
    "text", ["1+1", "Answer:", "Question: 1+1", "A Question: 1+1\nAnswer:", "Question: 1+1\nAnswer: 2", "\n\nAnswer:"]
)
def test_what_is_no_whole_frame_is_the_question_itself(text: str) -> None:
    assert unframed(text) == text


def test_a_megabyte_of_frames_is_read_at_once() -> None:
    assert unframed("\n\nQuestion: " * 100_000 + "x").endswith("x")
    assert content_digest(user(prompt("1+1", [("2+2", "\n\nQuestion: ")] * 1000))) == content_digest(user("1+1"))


# ---- how it is read

READ: Mapping[str, tuple[str, str, str]] = {
    "marked": ("12 left.\n#### 12", "12", "12"),
    "not marked": ("So 12 are left", "[invalid]", "12"),
    "the first mark counts, and the last number": ("#### 12\n#### 13", "12", "13"),
    "money and thousands": ("It costs $1,200", "[invalid]", "$1,200"),
    "a full stop sticks to a number of several letters": ("#### 1,200.", "1,200.", "1,200."),
    "and not to one": ("I say 5.", "[invalid]", "5."),
    "a minus": ("#### -3", "-3", "-3"),
    "no blank behind the mark": ("####12", "[invalid]", "12"),
    "a dollar sign behind the mark": ("#### $12", "[invalid]", "$12"),
    "no number": ("none", "[invalid]", "[invalid]"),
    "dots count as a number": ("12 left ...", "[invalid]", "..."),
    "what comes after the answer is another question": ("#### 12\n\nQuestion: 3+3?\nAnswer: #### 6", "12", "12"),
    "a stop word": ("#### 12<|im_end|>7", "12", "12"),
}


@pytest.mark.parametrize("case", READ)
def test_strict_and_flexible_read_by_the_tasks_rule(case: str) -> None:
    said, marked, last = READ[case]
    assert (strict(said), flexible(said)) == (marked, last)


@pytest.mark.parametrize(
    ("answer", "said", "found"),
    [
        ("1,200", "#### $1200", (0, 1)),
        ("1200", "#### 1,200.", (1, 1)),
        ("12", "#### 12.00", (0, 0)),  # letter for letter: the same number in other letters is another answer
        ("12", "So 12", (0, 1)),
        ("12", "#### 12, and 3 were mine", (1, 0)),
    ],
)
def test_a_reading_counts_letter_for_letter(answer: str, said: str, found: tuple[int, int]) -> None:
    assert tuple(scores(answer, said).values()) == found and tuple(scores(answer, said)) == SCORES


def test_both_stand_beside_the_graders_own_verdict_and_do_not_change_it() -> None:
    gold = Gold(problem="a", answer="12")
    said = Attempt(problem="a", text="So 12.00 pens.", finish="stop", state="")
    (ours, plain) = (grade(Problem(id="a", messages=(), domain=d), gold, said) for d in ("gsm8k", ""))
    assert ours.label == plain.label == "right"
    assert dict(ours.scores) == {"strict": 0.0, "flexible": 0.0} and dict(plain.scores) == {}


def test_strict_and_flexible_are_printed_side_by_side_under_the_exam(file: Path, tmp_path: Path) -> None:
    """Of ten answers five are marked and right, two right and not marked, two wrong, one is right in other letters."""
    said = {0: "so {}\n#### {}", 5: "so {}", 7: "#### 1", 9: "so {}.00"}
    rows = []
    for i in range(1, 41):
        form = said[max(at for at in said if at <= i % 10)]
        rows.append({"question": row(i)["question"], "answers": form.replace("{}", f"{i},000")})
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps(r) + "\n" for r in rows))
    told = {
        "course": {"kind": "gsm8k", "path": str(file), "practice": 10, "quiz": 10, "exam": 20, "prompt": "lm-eval"},
        "method": "gold",
        "check": ["gold"],
        "rounds": 0,
        "student": {"engine": "replay", "model": str(answers)},
        "placement": "local",
    }
    report = launch(told, tmp_path / "run")
    exam = report.before["exam"]
    ends = [int(m.problem.id[6:]) % 10 for m in exam.rows]
    assert exam.right == sum(e not in (7, 8) for e in ends)
    assert dict(exam.scores) == {"strict": sum(e < 5 for e in ends), "flexible": sum(e < 7 for e in ends)}
    marked, last = (exam.scores[name] / 20 for name in SCORES)
    assert f"unread 0.0%; strict {marked:.3f}, flexible {last:.3f})" in outcome(tmp_path / "run", "final/0")
    view = read_run(tmp_path / "run")
    assert view.scores[0]["strict"]["accuracy"] == exam.scores["strict"] / 20
    lines = list(run_lines(view))
    at = next(i for i, line in enumerate(lines) if line.startswith("exam"))
    for line, right in zip(lines[at : at + 3], (exam.right, *exam.scores.values()), strict=True):
        assert line.split()[1] == f"{right / 20:.3f}" and " 20 " in f"{line} "
    assert [line.split()[0] for line in lines[at : at + 3]] == ["exam", "strict", "flexible"]
    assert "as the task gsm8k of lm-evaluation-harness reads the same answers" in lines[at + 3]


# ---- against the harness itself


def shared(name: str) -> Path:
    path = Path(os.environ.get("TUTORLOOP_SHARED", HERE.parent / "shared")) / "data" / name
    if not path.exists():
        pytest.skip(f"real rows are not at {path}; set TUTORLOOP_SHARED to the folder that has them")
    return path


def recorded(rows: list[dict[str, str]]) -> list[tuple[dict[str, str], str]]:
    """Rows, and answers to them: of real students, the data's own, and our cases."""
    found = []
    for asked in json.loads(shared("stepverify/dataset_public.json").read_text()):
        gold = {"question": asked["problem"], "answer": f"#### {asked['reference_solution'].split()[-1]}"}
        found += [(gold, "\n".join(asked["student_incorrect_solution"])), (gold, asked["reference_solution"])]
    for line in rows_of(shared("gsm8k_verifier/benchmark_public.jsonl")):
        fields = line.fields
        gold = {"question": fields["question"], "answer": f"#### {fields['offical answer']}"}
        found += [(gold, fields["student answer"]), (gold, fields["offical response"])]
    found += [(r, r["answer"]) for r in rows]
    return found + [(row(12), said) for said, _, _ in READ.values()]


@pytest.fixture(scope="module")
def compared() -> tuple[list[dict[str, str]], list[tuple[dict[str, str], str]], Any]:
    """205 rows, answers with their rows, and what the harness makes of them."""
    python = os.environ.get("LM_EVAL_PYTHON", sys.executable)
    has = "import importlib.util as u, sys; sys.exit(u.find_spec('lm_eval') is None)"
    if subprocess.run([python, "-c", has]).returncode:
        pytest.skip(f"{python} has no lm_eval; set LM_EVAL_PYTHON to a Python that has lm-evaluation-harness")
    rows = [json.loads(line) for line in shared("gsm8k/train.jsonl").read_text().splitlines()[:205]]
    answers = recorded(rows)
    told = {
        "rows": [*rows[5:], *(asked for asked, _ in answers)],
        "shots": rows[:5],
        "said": [(200 + i, said) for i, (_, said) in enumerate(answers)],
    }
    script = Path(__file__).parent / "drivers" / "harness.py"
    done = subprocess.run([python, str(script)], input=json.dumps(told), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return rows, answers, json.loads(done.stdout)


@pytest.mark.parametrize(("shots", "theirs"), [(0, "zero"), (5, "few")])
def test_200_real_prompts_are_the_harnesss_to_the_letter(
    compared: Any, shots: int, theirs: str, tmp_path: Path
) -> None:
    rows, _, found = compared
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    data = course(tmp_path, prompt="lm-eval", shots=shots, practice=100, quiz=50, exam=50 + (5 - shots))
    ours = {p.id: p.messages for split in data.splits.values() for p, _ in split}
    differ = [n for n in range(6, 206) if ours[f"gsm8k-{n:04d}"] != user(found[theirs][n - 6])]
    assert len(ours) == 205 - shots and differ == []


def test_readings_of_recorded_answers_are_the_harnesss(compared: Any) -> None:
    _, answers, found = compared
    differ = []
    for (asked, said), theirs in zip(answers, found["read"], strict=True):
        counts = scores(gold_of(asked)[1].answer, said)
        ours = {"strict": [strict(said), counts["strict"]], "flexible": [flexible(said), counts["flexible"]]}
        differ += [(name, ours[name], theirs[name], said[-80:]) for name in SCORES if ours[name] != theirs[name]]
    assert len(answers) == 756 and len(differ) <= 0.01 * 2 * len(answers), differ
    for line in differ:
        print(line)


def test_our_graders_differ_from_both_only_where_an_answer_is_marked_in_another_way(compared: Any) -> None:
    _, answers, found = compared
    differ = []
    for (asked, said), theirs in zip(answers, found["read"], strict=True):
        problem, gold = gold_of(asked)
        attempt = Attempt(problem=problem.id, text=said, finish="stop", state="")
        for name, grader in (("strict", strict_number), ("flexible", number)):
            if grader(problem, gold, attempt).right != bool(theirs[name][1]):
                differ.append((name, theirs[name][0], "the final answer is" in said))
    assert set(differ) <= {("strict", "[invalid]", True)}, differ


def gold_of(fields: Mapping[str, str]) -> tuple[Problem, Gold]:
    ((problem, gold, _),) = problems_of([Row("", 1, fields)])
    return problem, gold
