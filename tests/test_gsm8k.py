"""GSM8K through the whole loop, with a student that has learnt nothing: the plumbing, on real rows where they are.

The real rows are no part of the repository. They are looked for in `$TUTORLOOP_SHARED/data/gsm8k/train.jsonl`, by
default `../shared` beside the checkout; without them the same goes through with rows made here.
"""

import importlib.util
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tutorloop.evals.graders import grade
from tutorloop.evals.gsm8k import digest, from_hub, problems_of, readable
from tutorloop.evals.jsonl import BadData, Row, rows_of
from tutorloop.evals.records import Attempt
from tutorloop.loops.config import ConfigError
from tutorloop.loops.courses import read_course
from tutorloop.loops.launch import launch
from tutorloop.loops.parts import CourseConfig, RoleConfig
from tutorloop.policies.rounds import Report

HERE = Path(__file__).parent.parent
EXAMPLE = HERE / "examples" / "gsm8k.yaml"


@pytest.fixture(scope="module")
def real() -> Path:
    path = Path(os.environ.get("TUTORLOOP_SHARED", HERE.parent / "shared")) / "data" / "gsm8k" / "train.jsonl"
    if not path.exists():
        pytest.skip(f"the real rows of GSM8K are not at {path}; set TUTORLOOP_SHARED to the folder that has them")
    return path


def made(n: int) -> Iterator[dict[str, str]]:
    """Rows in GSM8K's format, of our own making."""
    rng = Random(0)
    for i in range(n):
        name, boxes, each, given = rng.choice(["Ada", "Tom", "Mei"]), i + 3, rng.randrange(4, 400), rng.randrange(2, 9)
        have = boxes * each
        yield {
            "question": f"{name} has {boxes} boxes of {each:,} marbles and gives {given} away. How many are left?",
            "answer": f"{name} has {boxes}*{each} = <<{boxes}*{each}={have}>>{have:,} marbles.\n"
            f"So {have}-{given} = <<{have}-{given}={have - given}>>{have - given} are left.\n#### {have - given:,}",
        }


@pytest.fixture
def invented(tmp_path: Path) -> Path:
    """60 rows, of which the last two ask what others ask."""
    rows = list(made(58))
    path = tmp_path / "made.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in [*rows, *rows[:2]]))
    return path


@pytest.fixture(scope="module")
def tiny_llama() -> Any:
    """The example's script, as a module."""
    spec = importlib.util.spec_from_file_location("tiny_llama", HERE / "examples" / "tiny_llama.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tutor(tiny_llama: Any, tmp_path: Path) -> Callable[..., Report]:
    """`tutor(rows)`: the example's experiment with a student made for these rows, in this process."""

    def run(rows: Path, *overrides: str) -> Report:
        model = tiny_llama.make(rows, tmp_path / "model")
        theirs = [f"course.path={rows}", f"student.model={model}", f"teacher.model={model}", "placement=local"]
        return launch(EXAMPLE, tmp_path / "run", [*theirs, *overrides])

    return run


# ---- rows


def row(answer: str) -> Row:
    return Row("train.jsonl, line 7", 7, {"question": "How many?", "answer": answer})


def test_a_solution_is_the_data_sets_own_without_the_calculators_notes() -> None:
    ((problem, gold, _),) = problems_of(
        [row("He has 3*4 = <<3*4=12>>12 pens. \nAdd $<<12*100=1200>>1,200.\n#### 1,212")]
    )
    assert (problem.id, problem.domain, problem.kind) == ("gsm8k-0007", "gsm8k", "number")
    assert gold.answer == "1,212"
    assert gold.solution == "He has 3*4 = 12 pens.\nAdd $1,200.\n#### 1,212"
    assert "1,212" not in problem.question


def test_a_result_that_stood_only_in_the_note_is_written_out() -> None:
    assert readable("Half is <<48/2=24>> and a tenth $<<5*.1=0.5>>.5") == "Half is 24 and a tenth $.5"


def test_a_bare_answer_is_no_solution() -> None:
    assert next(problems_of([row("#### 5")])).gold.solution == ""


@pytest.mark.parametrize("answer", ["5", "so 5\n####", "so\n#### five", "so\n#### 5 or 6"])
def test_an_answer_without_one_number_behind_the_mark_names_its_line(answer: str) -> None:
    with pytest.raises(BadData, match=r"train\.jsonl, line 7: `answer` must end in a line `#### 72`"):
        list(problems_of([row(answer)]))


def test_every_real_row_is_read_and_its_own_solution_is_graded_right(real: Path) -> None:
    asked = list(problems_of(rows_of(real)))
    assert len(asked) == 7473 == len({a.problem.digest for a in asked})
    assert (asked[0].problem.id, asked[0].gold.answer) == ("gsm8k-0001", "72")
    for problem, gold, where in asked:
        solved = Attempt(problem=problem.id, text=gold.solution, finish="stop", state="")
        assert grade(problem, gold, solved).right, where
        assert "<<" not in gold.solution and gold.solution.endswith(f"\n#### {gold.answer}")


# ---- the hub


def test_offline_the_way_out_is_a_file(tmp_path: Path) -> None:
    course = CourseConfig(kind="gsm8k", hub="nobody-here/no-such-data")
    with pytest.raises(ConfigError, match=r"'nobody-here/no-such-data' cannot be loaded: .* course\.path=train\.jsonl"):
        read_course(course, 0, RoleConfig(), tmp_path)


def test_rows_of_the_hub_are_asked_like_those_of_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    asked: list[object] = []

    def load_dataset(*args: object, **named: object) -> datasets.Dataset:
        asked.extend((*args, named))
        return datasets.Dataset.from_list(list(made(9)))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    course = CourseConfig(kind="gsm8k", hub="openai/gsm8k", revision="abc", practice=3, quiz=3, exam=3)
    data = read_course(course, 0, RoleConfig(), tmp_path)
    assert asked == ["openai/gsm8k", "main", {"split": "train", "revision": "abc"}]
    assert len(list(data.splits["exam"])) == 3
    rows = from_hub("openai/gsm8k")
    assert data.sources == {"openai/gsm8k": digest(rows)} != {"openai/gsm8k": digest(rows[1:])}


# ---- the example


def test_the_tiny_llama_is_the_same_every_time_and_loads_like_any_other(
    tiny_llama: Any, invented: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tutorloop.agents.weights import model_digest

    one, two, other = (
        tiny_llama.make(invented, tmp_path / name, seed=seed) for name, seed in (("one", 0), ("two", 0), ("other", 1))
    )
    assert model_digest(one) == model_digest(two) != model_digest(other)
    words: Any = AutoTokenizer.from_pretrained(one)
    model: Any = AutoModelForCausalLM.from_pretrained(one, use_safetensors=True)
    assert words.decode(words("½ día\n😀")["input_ids"]) == "½ día\n😀"
    chat = words.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False, add_generation_prompt=True)
    assert chat == "<|user|>a<|assistant|>"
    assert model.config.max_position_embeddings >= 512 and model.num_parameters() < 1_000_000


def goes_through(report: Report, run: Path) -> None:
    """Teach, check, curate, update, publish and quiz were all done on gold work."""
    zero, one = report.rounds
    assert report.status == "finished" and report.after is not None
    assert zero.quiz.n == one.quiz.n == report.after["exam"].n == 16
    assert one.tables is not None and one.proof is not None
    lessons = list(one.tables.lessons)
    assert one.accepted == len(lessons) == len(one.tables.cases) > 8
    assert {x.verdict.by for x in lessons if x.verdict} == {"gold"}
    assert dict(one.origins) == {"gold": 16}
    assert all("####" in e.completion and "<<" not in e.completion for e in one.tables.examples)
    assert one.proof.status == "published" and one.proof.effect > one.proof.noise
    assert one.quiz.state == one.candidate.digest != zero.quiz.state
    assert (run / one.candidate.weights / "adapter_model.safetensors").exists()


def test_real_rows_go_through_the_whole_loop(real: Path, tutor: Callable[..., Report], tmp_path: Path) -> None:
    report = tutor(real)
    goes_through(report, tmp_path / "run")
    assert {row.problem.id[:6] for row in report.rounds[1].quiz.rows} == {"gsm8k-"}


def test_made_rows_go_through_the_whole_loop(
    invented: Path, tutor: Callable[..., Report], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        report = tutor(invented)
    goes_through(report, tmp_path / "run")
    assert "2 of 60 rows ask what an earlier row asks" in caplog.text and "line 59" in caplog.text


def test_of_a_random_teacher_and_of_glued_gold_nothing_is_accepted(
    invented: Path, tutor: Callable[..., Report], tmp_path: Path
) -> None:
    policy = tmp_path / "mixed.py"
    policy.write_text(
        "from tutorloop.policies.records import Lesson\n\n\n"
        "def mixed(case, room):\n"
        "    said = room.teacher.ask(case.question)\n"
        "    gold = room.gold(case)\n"
        "    glued = f'0+{gold.answer}={gold.answer}\\n#### {gold.answer}'\n"
        "    return [Lesson(act=act, target=text) for act, text in\n"
        "            (('teacher', said), ('glued', glued), ('gold', gold.solution))]\n"
    )
    (_, one) = tutor(
        invented, f"teacher.policy={policy}:mixed", "check=[answer, own, gold]", "teacher.max_tokens=8", "course.quiz=2"
    ).rounds
    assert one.tables is not None
    assert one.cost.calls == len(one.tables.cases) > 8, "the teacher was asked"
    assert {x.act for x in one.tables.lessons if x.sound} == {"gold"}
    assert one.accepted == len(one.tables.cases) and one.origins == {"gold": 16}
