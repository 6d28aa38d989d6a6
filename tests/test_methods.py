"""The methods that ship: each teaches the scripted student, and what a hint told is in no prompt that is trained."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tutorloop.agents.roles import Trained
from tutorloop.evals.records import Turn
from tutorloop.loops.launch import launch
from tutorloop.loops.plan import plan
from tutorloop.policies.hinting import HintThenRetry, Socratic
from tutorloop.policies.methods import METHODS
from tutorloop.policies.records import Case, Example, Lesson
from tutorloop.policies.room import Room
from tutorloop.policies.rounds import Report
from tutorloop.policies.updating import rehearse_then_dpo
from tutorloop.tests.policies_for_tests import small

pytestmark = pytest.mark.usefixtures("no_power_cuts")


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`taught(method)`: a run of two rounds by it, and its folder."""
    done: dict[str, tuple[Report, Path]] = {}

    def run(method: str) -> tuple[Report, Path]:
        if method not in done:
            folder = tmp_path_factory.mktemp(method)
            done[method] = launch(small.experiment(folder, method=method), folder / "run"), folder / "run"
        return done[method]

    return run


@pytest.fixture
def bench(taught: Any, tmp_path: Path) -> Iterator[Any]:
    """The first round of `retry` up to its triage, to be taught otherwise."""
    _, root = taught("retry")
    it = small.Bench(root, tmp_path / "bench", small.experiment(tmp_path, method="retry"))
    yield it
    it.close()


def lessons(root: Path, number: int = 1) -> list[Lesson]:
    return list(small.table(root, f"{number}/check"))


def examples(root: Path, number: int = 1) -> list[Example]:
    """New ones."""
    return [e for e in small.table(root, f"{number}/curate") if e.origin == "lesson"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_that_ships_teaches_the_scripted_student(method: str, taught: Any) -> None:
    report, _ = taught(method)
    assert report.after["exam"].right > report.before["exam"].right + 10
    assert report.after["retention"].accuracy == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_a_method_asks_its_teacher_as_often_as_it_says(method: str, taught: Any) -> None:
    _, root = taught(method)
    (stage,) = METHODS[method]
    said = getattr(stage.teach, "asks", 0)
    asked = Counter((e.step, e.item) for e in small.asks(root) if "/teach" in e.step and e.member == "teacher")
    assert max(asked.values(), default=0) == said, "so often for some case, and for none more often"


def test_a_plan_counts_what_a_policy_says_that_it_asks_and_else_once(tmp_path: Path) -> None:
    once = small.policy(tmp_path / "once", "def policy(case, room):\n    return room.teacher.ask('x')\n")
    twice = small.policy(tmp_path / "twice", "def policy(case, room):\n    return None\npolicy.asks = 2\n")
    # In one round the teacher diagnoses each wrong case, and each is taught.
    first = ["rounds=1", "check=[gold]"]
    estimates = {
        name: plan("scripted", [*first, "method=contrast", f"teacher.policy={policy}"]).estimate
        for name, policy in (("once", once), ("twice", twice))
    }
    estimates |= {name: plan("scripted", [*first, f"method={name}"]).estimate for name in ("socratic", "retry")}
    wrong = estimates["once"].most_calls // 2
    assert wrong > 100
    assert {name: (e.teacher_calls, e.most_calls) for name, e in estimates.items()} == {
        "once": (2 * wrong, 2 * wrong),
        "twice": (3 * wrong, 3 * wrong),
        "retry": (2 * wrong, 2 * wrong),
        "socratic": (round(1 * wrong + 1.5 * wrong), 3 * wrong),  # half of the hints help
    }
    assert any("policy asks once for each case (assumed" in line for line in estimates["once"].how)
    assert not any("assumed: no" in line for name in ("twice", "retry", "socratic") for line in estimates[name].how)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_says_where_it_is_from_and_where_it_departs_or_that_it_is_a_control(method: str) -> None:
    (stage,) = METHODS[method]
    assert stage.summary.startswith("control: ") or (stage.citation and stage.deviations)


# ---- hints


@pytest.mark.parametrize("method", ["retry", "socratic"])
def test_the_hint_is_in_the_prompt_that_the_student_answered_and_in_none_that_is_trained(
    method: str, taught: Any
) -> None:
    _, root = taught(method)
    tries = [json.loads(e.request) for e in small.asks(root) if e.member == "student" and e.step == "1/teach"]
    asked = {request["messages"][-1]["content"] for request in tries}
    cases = {c.id: c for c in small.table(root, "1/triage")}
    hinted = {x.id: x for x in lessons(root) if x.act == "hint" and x.sound}
    assert len(hinted) > 20 and all(x.own and x.text for x in hinted.values())
    for x in hinted.values():
        assert f"{cases[x.case].question}\n{x.text}" in asked
    learnt = [e for e in examples(root) if e.lesson in hinted]
    assert len(learnt) > 20
    for example in learnt:
        x = hinted[example.lesson]
        assert example.prompt == cases[x.case].problem.messages == (Turn(role="user", content=cases[x.case].question),)
        assert (example.completion, example.rejected) == (x.target, cases[x.case].work)


def test_the_hint_is_not_in_the_rows_that_reach_trl(taught: Any) -> None:
    from tutorloop.agents.base import Base
    from tutorloop.agents.roles import Job, RoleSpec
    from tutorloop.agents.trl_rows import TokenRows
    from tutorloop.evals.records import State
    from tutorloop.evals.rows import write_rows

    _, root = taught("retry")
    hints = {x.id: x.text for x in lessons(root) if x.sound}
    new = [e for e in examples(root) if e.lesson in hints]
    chat = Base(RoleSpec(role="learner", engine="transformers", root=root)).chat  # of the student that ships
    state = State(member="student", name="student-base", digest="")
    rows = write_rows(root, "rows-for-trl", Example, new)
    job = Job(
        loss="sft", start=state, reference=None, examples=rows, name="job", settings={}, lora={}, rate=1.0, seed=0
    )
    sft, dpo = TokenRows(chat, job).dataset, TokenRows(chat, replace(job, loss="dpo")).dataset
    assert len(new) == len(sft) == len(dpo) > 20
    for example, row, pair in zip(new, sft, dpo, strict=True):
        hint = hints[example.lesson]
        prompt = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label == -100]
        assert prompt == pair["prompt_ids"] == chat.prompt(example.prompt)
        assert chat.text(prompt) == example.prompt[0].content and hint not in chat.text(prompt)
        assert chat.text(pair["chosen_ids"]) == example.completion and hint in example.completion, "it did follow it"


def test_a_hint_that_does_not_help_is_on_record_and_teaches_nothing(taught: Any) -> None:
    _, root = taught("retry")
    others = [x for x in lessons(root) if not x.sound]
    assert others and {(x.act, x.target, x.verdict.by) for x in others if x.verdict} == {("hint", "", "no target")}
    assert all(x.text for x in others) and not {x.id for x in others} & {e.lesson for e in examples(root)}


def test_socratic_hints_go_from_weak_to_strong_and_stop_where_the_learner_gets_it(bench: Any) -> None:
    shown: dict[str, list[str]] = {}
    told = list(bench.slots(teach=Socratic()).teach(bench.cases))
    for entry in small.asks(bench.root):
        if entry.member == "student" and entry.step == "1/teach":
            shown.setdefault(entry.item, []).append(json.loads(entry.request)["messages"][-1]["content"])
    assert {x.act for x in told} == {"hint", "telling"} and not any(x.gold_seen for x in told)
    for lesson in told:
        case = next(c for c in bench.cases if c.id == lesson.case)
        step = case.verdicts[0].step
        weak = f"{case.question}\nLook again at line {step + 1}."
        assert weak in shown[case.id] and len(shown[case.id]) == 2, "no third try: it would tell the answer"
        assert lesson.rejected == case.work


def test_who_is_not_told_gets_hints_alone(bench: Any) -> None:
    told = list(bench.slots(teach=Socratic(tell=False)).teach(bench.cases))
    assert 0 < len(told) < len(bench.cases) and {x.act for x in told} == {"hint"}


def test_a_second_hint_is_for_the_new_work_and_shown_with_the_first(bench: Any) -> None:
    told = list(bench.slots(teach=HintThenRetry(tries=2)).teach(bench.cases))
    twice = [x for x in told if "\n" in x.text]
    assert twice and len(told) == len(bench.cases)
    for lesson in twice:
        first, second = lesson.text.splitlines()
        assert first != second and (not lesson.target or (first in lesson.target and second in lesson.target))
    assert any(x.target for x in twice), "the exact student reads both lines"


def test_where_one_guess_tells_there_is_one_hint_and_one_try(bench: Any) -> None:
    """Problems as they are, but for their kind: a choice."""
    tries = Counter[str]()

    async def as_choices(case: Case, room: Room, policy: Any) -> list[Lesson]:
        class Choosing:
            teacher = room.teacher

            async def aretry(self, what: Case, *, context: str) -> Case:
                tries[what.id] += 1
                return await room.aretry(case, context=context)

        found: list[Lesson] = await policy(replace(case, problem=replace(case.problem, kind="choice")), Choosing())
        return found

    for policy in (Socratic(), HintThenRetry(tries=5)):
        it = small.Bench(bench.recorded, bench.root.parent / type(policy).__name__, bench.told)
        list(it.slots(teach=partial(as_choices, policy=policy)).teach(it.cases))
        assert set(tries.values()) == {1} and len(tries) == len(it.cases)
        tries.clear()
        it.close()


# ---- the others


def test_an_explanation_is_said_and_the_similar_problems_are_learnt(taught: Any) -> None:
    _, root = taught("explain")
    acts = {x.act: [y for y in lessons(root) if y.act == x.act] for x in lessons(root)}
    assert set(acts) == {"explanation", "similar"} and all(x.text for x in acts["explanation"])
    assert not any(x.sound for x in acts["explanation"]) and all(x.sound for x in acts["similar"])
    asked = [json.loads(e.request) for e in small.asks(root) if e.step == "1/teach"]
    practice = [r["messages"][-1]["content"] for r in asked if r["schema"] == "Practice"]
    assert all(any(x.text in prompt for prompt in practice) for x in acts["explanation"]), "written with it in view"
    written = {x.problem.messages for x in acts["similar"] if x.problem}
    assert {e.prompt for e in examples(root)} <= written, "the problem that was wrong is not itself learnt"


def test_a_contrast_is_learnt_by_dpo_alone_and_sft_rehearses_what_is_right(taught: Any) -> None:
    _, root = taught("contrast")
    rows = list(small.table(root, "1/curate"))
    own, pairs = [e for e in rows if not e.rejected], [e for e in rows if e.rejected]
    sft, dpo = (small.value(root, f"1/{name}", Trained) for name in ("train-1-sft", "train-2-dpo"))
    assert (sft.steps, dpo.steps) == (len(own), len(pairs)) and sft.steps and dpo.steps
    assert {e.origin for e in own} == {"own"} and {e.origin for e in pairs} == {"lesson"}
    cases = {c.id: c for c in small.table(root, "1/triage")}
    for example in pairs:
        mistake, step = cases[example.problem].work, cases[example.problem].verdicts[0].step
        assert example.rejected == mistake
        assert example.completion.splitlines()[:step] == mistake.splitlines()[:step], "they share the right beginning"


def test_without_a_pair_a_contrast_is_rehearsal_alone(bench: Any) -> None:
    do, trained = bench.slots(), list[tuple[int, str]]()

    class Trains:
        plan = bench.plan

        def train(self, examples: Any, loss: str, *, start: Any, reference: Any = None) -> Any:
            trained.append((len(examples), loss))
            return start

    own = [e for e in do.curate(do.check(do.teach(bench.cases))) if e.origin == "own"]
    assert rehearse_then_dpo(own, Trains()) == bench.plan.start  # type: ignore[arg-type]
    assert trained == [(len(own), "sft")]
