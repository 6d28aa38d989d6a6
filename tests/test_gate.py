"""What comes next, and whether a round is kept: on sheets made by hand, as both are pure."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tutorloop.evals.records import Attempt, Problem, State, Verdict, user
from tutorloop.evals.rows import Rows, write_rows
from tutorloop.policies.gate import gate, next_round
from tutorloop.policies.records import Case, Cost, Example, Lesson, Marked
from tutorloop.policies.rounds import Plan, Proof, Reports, RoundReport, Rounds, Sheet, Tables
from tutorloop.policies.slots import Method, Stages

N = 40


def state(number: int, member: str = "student") -> State:
    name = f"{member}-r{number}" if number else f"{member}-base"
    return State(member=member, name=name, digest=f"digest of {name}")


TEACHER = State(member="teacher", name="teacher-base", digest="t")


def refuse(*_: Any) -> Any:
    raise AssertionError("a plan is made without calling a slot")


def planned(stages: Stages, reports: Reports) -> Plan:
    plan = next_round(stages, reports, seed=3)
    assert plan is not None
    return plan


def method(learner: str = "student", select: Any = None, **rounds: Any) -> Method:
    return Method(
        name="m",
        summary="",
        learner=learner,
        select=select,
        check=refuse,
        curate=refuse,
        update=refuse,
        rounds=Rounds(**rounds),
    )


@pytest.fixture
def sheet(tmp_path: Path) -> Callable[..., Sheet]:
    """`sheet(30, wrong=[3])`: a quiz of N problems, the first 30 right but for number 3."""

    def make(right: int, wrong: Sequence[int] = (), also: Sequence[int] = (), of: int = 0) -> Sheet:
        marks = {i: (i < right or i in also) and i not in wrong for i in range(N)}
        rows = [
            Marked(
                problem=Problem(id=f"q{i}", messages=user(f"{i}")),
                attempt=Attempt(problem=f"q{i}", text="", finish="stop", state=""),
                verdict=Verdict(label="right" if marks[i] else "wrong", by="number"),
            )
            for i in range(N)
        ]
        table = write_rows(tmp_path, f"sheet-{len(list(tmp_path.iterdir()))}", Marked, rows)
        return Sheet(
            pool="quiz", state=state(of).digest, n=N, right=sum(marks.values()), truncated=0, unparsed=0, rows=table
        )

    return make


@pytest.fixture
def tables(tmp_path: Path) -> Callable[..., Tables]:
    """`tables(3)`: a round with three examples; the lessons are one sound and two refused."""

    def make(examples: int = 3) -> Tables:
        def rows(of: type[Any], records: list[Any]) -> Rows[Any]:
            return write_rows(tmp_path, f"t-{len(list(tmp_path.iterdir()))}", of, records)

        verdicts = [("right", "steps"), ("wrong", "sealed"), ("wrong", "no evidence"), ("wrong", "sealed")]
        lessons = [Lesson(verdict=Verdict(label=label, by=by)) for label, by in verdicts]  # type: ignore[arg-type]
        made = [Example(id=f"e{i}", prompt=(), completion="x", origin="own") for i in range(examples)]
        return Tables(
            answered=rows(Case, []), cases=rows(Case, []), lessons=rows(Lesson, lessons), examples=rows(Example, made)
        )

    return make


@pytest.fixture
def first(sheet: Callable[..., Sheet]) -> Callable[[int], RoundReport]:
    """`first(30)`: round 0 with 30 right."""

    def make(right: int) -> RoundReport:
        return RoundReport(
            number=0, quiz=sheet(right), candidate=state(0), serving={"student": state(0), "teacher": TEACHER}
        )

    return make


@pytest.fixture
def judged(tables: Callable[..., Tables]) -> Callable[..., RoundReport]:
    """`judged(reports, quiz)`: the next round, judged by the gate on this quiz."""

    def judge(
        reports: list[RoundReport],
        quiz: Sheet,
        status: Any = "published",
        level: float | None = 0.05,
        plan: Plan | None = None,
    ) -> RoundReport:
        plan = plan or planned((method(gate=level),), reports)
        candidate = plan.serving["student"] if status == "unchanged" else state(plan.number)
        proof = Proof(status=status, state=candidate)
        reports.append(gate(plan, reports, quiz, proof, tables(), Cost(calls=7), {"k": 1}))
        return reports[-1]

    return judge


# ---- the gate


def test_a_significant_drop_is_rolled_back(first: Any, judged: Any, sheet: Any) -> None:
    """Five regressions and no fix: 2**-5 = 0.031."""
    report = judged([first(30)], sheet(25))
    assert not report.kept and report.p_drop == 1 / 32
    assert report.serving["student"] == state(0) and report.candidate == state(1)
    assert report.why.startswith("rolled back: quiz 0.625 against 0.750 of round 0")


def test_an_insignificant_drop_is_kept(first: Any, judged: Any, sheet: Any) -> None:
    """Four regressions and no fix: 2**-4 = 0.0625."""
    report = judged([first(30)], sheet(26))
    assert report.kept and report.p_drop == 1 / 16
    assert report.serving == {"student": state(1), "teacher": TEACHER}


def test_fixes_weigh_against_regressions(first: Any, judged: Any, sheet: Any) -> None:
    """Five regressions and two fixes: (C(7,5) + C(7,6) + C(7,7)) / 2**7 = 29/128."""
    report = judged([first(30)], sheet(25, also=[35, 36]))
    assert report.kept and report.p_drop == 29 / 128


def test_a_rise_is_kept(first: Any, judged: Any, sheet: Any) -> None:
    report = judged([first(30)], sheet(39))
    assert report.kept and report.p_drop == 1.0 and report.why == "kept"


def test_no_gate_keeps_everything(first: Any, judged: Any, sheet: Any) -> None:
    report = judged([first(30)], sheet(0), level=None)
    assert report.kept and report.smallest_drop is None


def test_it_compares_with_the_best_kept_so_far_and_not_with_the_last(first: Any, judged: Any, sheet: Any) -> None:
    """Small drops that nobody sees must not add up: 39, 36, 33 lose three each, but 33 loses six against 39."""
    reports = [first(30)]
    assert judged(reports, sheet(39)).kept
    assert judged(reports, sheet(36)).kept
    third = judged(reports, sheet(33))
    assert not third.kept and third.p_drop == 1 / 64 and "of round 1" in third.why
    assert third.serving["student"] == state(2), "what served before goes on serving"


def test_a_round_that_was_rolled_back_is_no_best(first: Any, judged: Any, sheet: Any) -> None:
    reports = [first(30)]
    reports.append(replace(judged([*reports], sheet(40)), kept=False, serving=reports[0].serving))
    assert judged(reports, sheet(30)).kept


def test_transitions_are_against_the_state_that_served(first: Any, judged: Any, sheet: Any) -> None:
    """Neither the best one, round 1, nor the one that was rolled back, round 3."""
    reports = [first(30)]
    assert [judged(reports, sheet(n)).kept for n in (38, 36, 20)] == [True, True, False]
    report = judged(reports, sheet(36, wrong=[3], also=[39]))
    assert report.transitions.fixed == ("q39",) and report.transitions.regressed == ("q3",)
    assert report.transitions.counts["kept_right"] == 35 and report.transitions.counts["persistent"] == 3


def test_the_report_says_what_drop_it_could_have_seen(first: Any, judged: Any, sheet: Any) -> None:
    """Without a fix five regressions of forty; with three fixed it takes ten, a net drop of seven."""
    assert judged([first(30)], sheet(30)).smallest_drop == 5 / N
    assert judged([first(30)], sheet(33)).smallest_drop == 7 / N


def test_a_round_with_nothing_to_learn_says_so_and_serves_on(first: Any, judged: Any, sheet: Any) -> None:
    reports = [first(30)]
    judged(reports, sheet(36))
    report = judged(reports, sheet(36), status="unchanged")
    assert report.kept and "unchanged" in report.why and report.serving["student"] == state(1)


def test_an_effect_below_the_noise_is_said_aloud(first: Any, judged: Any, sheet: Any) -> None:
    assert judged([first(30)], sheet(30), status="effect below noise").why == "kept, but effect below noise"


def test_the_report_counts_lessons_refusals_origins_and_cost(first: Any, judged: Any, sheet: Any) -> None:
    report = judged([first(30)], sheet(30))
    assert (report.accepted, report.rejected) == (1, {"no evidence": 1, "sealed": 2})
    assert report.origins == {"own": 3} and report.cost == Cost(calls=7) and report.notes == {"k": 1}


def test_a_policy_reads_nothing_of_quiz_or_exam(first: Any, judged: Any, sheet: Any) -> None:
    practice = judged([first(30)], sheet(33)).practice
    assert set(vars(practice)) == {"number", "kept", "cases", "lessons", "accepted", "notes"}
    assert (practice.lessons, practice.accepted, practice.notes) == (4, 1, {"k": 1})


# ---- what comes next


@pytest.fixture
def past(first: Any, judged: Any, sheet: Any) -> list[RoundReport]:
    """Round 0 with 20 right; 1 with 38, the best; 2 with 36, kept; 3 with 10, rolled back."""
    reports = [first(20)]
    for right in (38, 36, 10):
        judged(reports, sheet(right))
    assert [r.kept for r in reports] == [True, True, True, False]
    return reports


@pytest.mark.parametrize(
    ("start", "number"), [("previous", 2), ("base", 0), ("best", 1), ("0", 0), ("1", 1), ("2", 2), ("3", 2)]
)
def test_training_starts_where_the_schedule_says(start: str, number: int, past: list[RoundReport]) -> None:
    plan = planned((method(start=start),), past)
    assert plan.start == state(number), "a round's name means what served after it"
    assert plan.serving["student"] == state(2) and plan.number == 4


def test_the_best_to_start_from_is_one_that_was_kept(past: list[RoundReport], sheet: Callable[..., Sheet]) -> None:
    past[-1] = replace(past[-1], quiz=sheet(40))
    assert planned((method(start="best"),), past).start == state(1)


@pytest.mark.parametrize(
    ("reference", "expected"), [("sft", None), ("start", state(1)), ("base", state(0)), ("2", state(2))]
)
def test_dpo_compares_with_what_the_schedule_says(
    reference: str, expected: State | None, past: list[RoundReport]
) -> None:
    assert planned((method(start="best", reference=reference),), past).reference == expected


def test_a_round_that_does_not_exist_is_named(past: list[RoundReport]) -> None:
    with pytest.raises(ValueError, match=r"round '7'; rounds so far: 0, 1, 2, 3"):
        next_round((method(start="7"),), past, seed=0)


def test_the_plan_carries_the_schedule(past: list[RoundReport]) -> None:
    rounds: dict[str, Any] = dict(
        ask=9, rows=11, fill={"own": 1.0}, new=0.3, gate=0.01, decay=0.5, settings={"sft": {"a": 1}}
    )
    plan = planned((method(**rounds),), past)
    assert (plan.ask, plan.rows, plan.fill, plan.new, plan.gate) == (9, 11, {"own": 1.0}, 0.3, 0.01)
    assert plan.rate == 0.5**3 and plan.settings == {"sft": {"a": 1}} and plan.seed == 3


def test_a_plan_is_a_function_of_what_is_given(past: list[RoundReport]) -> None:
    stages = (method(times=4),)
    assert next_round(stages, past, seed=0) == next_round(stages, list(past), seed=0)
    assert planned(stages, past[:2]).number == 2, "earlier reports give the earlier plan"


def test_a_plan_says_nothing_of_how_many_rounds_there_will_be(past: list[RoundReport]) -> None:
    """Else a run of two rounds, continued to nine, would not be the run of nine."""
    assert planned((method(times=4),), past) == planned((method(times=9),), past)


@pytest.mark.parametrize(("times", "more"), [(4, True), (3, False), (0, False)])
def test_the_rounds_come_to_an_end(times: int, more: bool, past: list[RoundReport]) -> None:
    assert (next_round((method(times=times),), past, seed=0) is not None) is more


def test_patience_counts_rolled_back_rounds_in_a_row(first: Any, judged: Any, sheet: Any) -> None:
    reports = [first(40)]
    for right, over in ((10, False), (39, False), (10, False), (11, True)):
        judged(reports, sheet(right))
        assert (next_round((method(times=9, patience=2),), reports, seed=0) is None) is over, right


def test_without_examples_the_stage_is_through(past: list[RoundReport], tables: Any) -> None:
    past[-1] = replace(past[-1], tables=tables(0))
    assert next_round((method(times=9),), past, seed=0) is None


def test_without_examples_another_window_of_practice_may_have_some(past: list[RoundReport], tables: Any) -> None:
    past[-1] = replace(past[-1], tables=tables(0))
    assert planned((method(times=9, ask=10),), past).number == 4
    assert planned((method(times=9, select=refuse),), past).number == 4


def test_stages_run_one_after_another_each_with_its_own_schedule(first: Any, judged: Any, sheet: Any) -> None:
    stages = (method(times=1, rows=10), method(times=0), method(times=2, rows=30, decay=0.5, start="base"))
    reports = [first(30)]
    seen = []
    while plan := next_round(stages, reports, seed=0):
        seen.append((plan.number, plan.stage, plan.rows, plan.rate, plan.start.name))
        judged(reports, sheet(35), plan=plan)
    assert seen == [
        (1, 0, 10, 1.0, "student-base"),
        (2, 2, 30, 1.0, "student-base"),
        (3, 2, 30, 0.5, "student-base"),
    ]


def test_the_patience_of_one_stage_is_not_used_up_by_another(first: Any, judged: Any, sheet: Any) -> None:
    stages = (method(times=2), method(times=2, patience=1))
    reports = [first(40)]
    for right in (5, 6):
        judged(reports, sheet(right))
    assert planned(stages, reports).stage == 1


def test_another_learner_starts_from_its_own_state(past: list[RoundReport]) -> None:
    plan = planned((method(learner="teacher", times=9),), past)
    assert (plan.learner, plan.start) == ("teacher", TEACHER)
    assert plan.serves(state(9, "teacher")) == {"student": state(2), "teacher": state(9, "teacher")}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"times": -1}, "times"),
        ({"rows": 0}, "rows"),
        ({"new": 0.0}, "new"),
        ({"new": 1.5}, "new"),
        ({"fill": {"gold": 1.0}}, "gold"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Rounds(**wrong)
