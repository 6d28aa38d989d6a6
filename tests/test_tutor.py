"""The scripted teacher: what it sees, what it says, and when it says that it does not know."""

import ast
import inspect
from random import Random

import pytest

from tutorloop.agents import tutor as module
from tutorloop.agents.tutor import Tutor, diagnosis_rates, find
from tutorloop.evals.arithmetic import (
    BUGS,
    TEACHER_KNOWS,
    TEACHER_LACKS,
    anything,
    check_work,
    clean,
    digest,
    draw_profile,
    exercised_by,
    side,
    solve,
    why_wrong,
    work,
    wrong_cases,
)

BUGGY = "2-8 put 6\n0-7 put 7\n5-1 put 4\n=476"


@pytest.mark.parametrize(
    "prompt",
    [
        f"502-178\n{BUGGY}",
        f"Find the first wrong step and correct it from there.\n502-178\n{BUGGY}",
        f"You are a teacher.\n\nQuestion: 502 - 178\nA student wrote:\n\n{BUGGY}\n\nSay what is right. 2-8 put 9",
        f"**Problem:** 502-178 = ?\n\n> {BUGGY}".replace("\n", "\n> "),
        "1. 502-178\n\nWork:\n- 2-8 put 6\n- 0-7 put 7\n- 5-1 put 4\n- =476\n\nNext: 12-50",
        f"There are 3 rules; 1+1 is none.\n502-178\n{BUGGY}\nAnother one:\n52-18\n2-8 put 6\n=46",
        "502-178\n=476",
        "502-178\n2-8 put 6\n0-7 putt 7",
    ],
)
def test_it_corrects_the_first_problem_whatever_the_prose_around(prompt: str) -> None:
    assert Tutor().reply(prompt) == solve("502-178")


@pytest.mark.parametrize(
    "prompt", ["", "Hello!", "502-178", "What do you make of 502-178?", BUGGY, "12-50\n2-0 put 2\n=2"]
)
def test_it_abstains_where_there_is_no_problem_or_no_work(prompt: str) -> None:
    assert Tutor().reply(prompt) is None


def test_a_garbled_line_among_the_work_stays_and_is_the_wrong_one() -> None:
    found = find("502-178\n2-8 take 12 put 4\n0-1-7 take put 2\n5-1-1 put 3\n=324")
    assert found is not None and check_work(*found).first_wrong == 1
    diagnosis = Tutor().diagnose(*found)
    assert (diagnosis.bug, diagnosis.step, diagnosis.due) == (None, 1, "0-1-7 take 10 put 2")
    assert "do not know" in diagnosis.text


def test_it_names_the_misconception_that_shows_and_the_next_one_once_that_is_cured() -> None:
    bugs = ["smaller-from-larger", "borrow-from-zero"]
    first = Tutor().diagnose("502-178", work("502-178", bugs))
    then = Tutor().diagnose("502-178", work("502-178", bugs[1:]))
    assert (first.bug, first.step, first.wrote) == ("smaller-from-larger", 0, "2-8 put 6")
    assert (then.bug, then.step, then.wrote) == ("borrow-from-zero", 1, "9-7 put 2")
    assert BUGS["borrow-from-zero"].says in then.text


def test_right_work_has_no_diagnosis_and_needs_no_hint() -> None:
    diagnosis = Tutor().diagnose("502-178", solve("502-178"))
    assert diagnosis.bug is None and diagnosis.step is None
    assert Tutor().hint("502-178", solve("502-178")) == ""


def test_where_two_misconceptions_write_the_same_line_the_first_of_the_catalogue_is_named() -> None:
    assert work("63-36", ["smaller-from-larger"]) == work("63-36", ["top-instead-of-borrow"])
    assert Tutor().diagnose("63-36", work("63-36", ["top-instead-of-borrow"])).bug == "smaller-from-larger"


@pytest.mark.parametrize("bug", sorted(TEACHER_LACKS))
def test_what_its_catalogue_lacks_it_corrects_and_does_not_name(bug: str) -> None:
    named = 0
    for question in wrong_cases([bug], 60):
        wrong = work(question, [bug])
        diagnosis = Tutor().diagnose(question, wrong)
        assert diagnosis.due == Tutor().hint(question, wrong) == solve(question).splitlines()[diagnosis.step or 0]
        assert Tutor().reply(f"{question}\n{wrong}") == solve(question)
        named += diagnosis.bug is not None
    assert named <= 15, "only where another misconception happens to write the same line"
    assert Tutor().practice(bug, 5, "case") == [] == Tutor().practice(None, 5, "case")


def test_a_hint_is_the_right_line_where_the_work_goes_wrong_and_moves_the_student_on() -> None:
    bugs, rng = draw_profile(0), Random(1)
    for question in (anything(rng) for _ in range(300)):
        if (reasons := why_wrong(question, bugs)) and clean(question, bugs):
            wrong = work(question, bugs)
            told = work(question, bugs, hint=Tutor().hint(question, wrong))
            assert why_wrong(question, set(bugs) - {reasons[0]}) == reasons[1:]
            before, after = check_work(question, wrong).first_wrong, check_work(question, told).first_wrong
            assert before is not None and (after is None) == (len(reasons) == 1) and (after is None or after > before)


@pytest.mark.parametrize("bug", sorted(TEACHER_KNOWS))
def test_practice_exercises_the_cured_step_with_sound_work_and_never_what_is_to_be_avoided(bug: str) -> None:
    first = Tutor().practice(bug, 6, "502-178")
    assert len(first) == 6 and first == Tutor().practice(bug, 6, "502-178") != Tutor().practice(bug, 6, "another case")
    again = Tutor().practice(bug, 6, "502-178", avoid={digest(q) for q, _ in first})
    assert not {q for q, _ in first} & {q for q, _ in again}
    for question, right in first + again:
        assert check_work(question, right).sound and side(question) == "practice"


def test_practice_for_what_shows_first_does_not_teach_what_hides_behind_it() -> None:
    bugs = draw_profile(0)
    behind = [b for b in bugs if BUGS[b].reach == "behind"]
    for gate in (b for b in bugs if BUGS[b].reach == "gate"):
        assert all(why_wrong(q, behind) == () for q, _ in Tutor().practice(gate, 20, "case"))
    for bug in behind:
        wrong = [q for q, _ in Tutor().practice(bug, 20, "case") if bug in why_wrong(q, [bug])]
        assert len(wrong) == 20 and exercised_by(bug)


def test_an_imperfect_teacher_errs_at_the_stated_rate_in_one_line_that_a_checker_finds() -> None:
    cases = [(q, work(q, draw_profile(0))) for q in wrong_cases(draw_profile(0), 400)]
    tutor, wrong = Tutor(error_rate=0.3, seed=5), 0
    for question, wrote in cases:
        reply = tutor.reply(f"{question}\n{wrote}")
        assert reply is not None and reply == tutor.reply(f"Please correct.\n{question}\n{wrote}")
        check = check_work(question, reply)
        assert check.readable and check.follows
        wrong += not check.sound
        if not check.sound:
            pairs = zip(reply.splitlines(), solve(question).splitlines(), strict=True)
            assert [i for i, (said, right) in enumerate(pairs) if said != right] == [check.first_wrong, check.steps]
    assert 0.22 < wrong / len(cases) < 0.38
    assert all(Tutor(error_rate=1.0).reply(f"{q}\n{w}") != solve(q) for q, w in cases[:50])
    assert all(Tutor(error_rate=1.0).hint(q, w) != Tutor().hint(q, w) for q, w in cases[:50])
    assert not any(check_work(q, w).sound for q, w in Tutor(error_rate=1.0).practice("smaller-from-larger", 10, "x"))
    other = Tutor(error_rate=0.3, seed=6)
    assert any(other.reply(f"{q}\n{w}") != tutor.reply(f"{q}\n{w}") for q, w in cases[:50])


def test_an_error_rate_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="error_rate"):
        Tutor(error_rate=1.5)


def test_it_never_asks_for_gold() -> None:
    """By its imports and signatures: text goes in, and nothing of a course, a pool or a profile."""
    names = {
        a.name
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.ImportFrom)
        for a in node.names
    }
    assert not names & {"Gold", "world", "profile", "draw_profile", "needs", "Sheet"}
    source = inspect.getsource(Tutor)
    assert "why_wrong" not in source and "wrong_cases" not in source and "slips" not in source
    for name in ("reply", "diagnose", "hint", "practice"):
        assert "str" in str(inspect.signature(getattr(Tutor, name)))


@pytest.mark.parametrize("seed", range(8))
def test_diagnosis_is_mostly_right_and_mostly_silent_where_it_should_be(seed: int) -> None:
    rates = diagnosis_rates(draw_profile(seed), n=300)
    assert rates.known + rates.lacking == 300
    assert rates.named / rates.known > 0.75
    assert rates.abstained / rates.lacking > 0.75
