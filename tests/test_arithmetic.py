"""The embedded world without its model: notation, misconceptions, pools."""

from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from tutorloop.evals.arithmetic import (
    BUGS,
    MIX,
    SKILLS,
    TEACHER_KNOWS,
    TEACHER_LACKS,
    Sheet,
    World,
    anything,
    beyond_teacher,
    check_work,
    clean,
    digest,
    draw_profile,
    exercised_by,
    fresh,
    mastered,
    needs,
    side,
    slips,
    solve,
    unseen,
    why_wrong,
    work,
    world,
)
from tutorloop.evals.arithmetic.skills import draw

PROFILES = [draw_profile(seed) for seed in range(12)]


@pytest.fixture(scope="module")
def course() -> World:
    return world()


def any_questions(n: int, seed: int = 0) -> list[str]:
    """Questions of skills and of none, up to four digits."""
    rng, found = Random(f"any {seed}"), list[str]()
    for i in range(n):
        a, b = rng.randrange(10 ** rng.choice((2, 3, 4))), rng.randrange(10 ** rng.choice((2, 3, 4)))
        found.append((f"{a}+{b}", f"{max(a, b)}-{min(a, b)}", anything(rng))[i % 3])
    return found


# Notation


def test_right_work_ends_in_the_sum_or_difference() -> None:
    for question in any_questions(600):
        sign = "+" if "+" in question else "-"
        a, b = map(int, question.split(sign))
        assert solve(question).endswith(f"\n={a + b if sign == '+' else a - b}"), question


def test_the_checker_finds_right_work_sound() -> None:
    for question in any_questions(600):
        check = check_work(question, solve(question))
        assert check.sound and check.first_wrong is None and all(check.derives)


def test_the_checker_finds_the_line_that_a_misconception_wrote() -> None:
    found = 0
    for bugs in PROFILES:
        for question in any_questions(150):
            written = slips(question, bugs)
            check = check_work(question, work(question, bugs))
            assert check.readable
            assert check.first_wrong == (written[0].step if written else None)
            assert check.follows, "the answer is what the lines put down, even when they are wrong"
            if written:
                assert check.due == solve(question).splitlines()[written[0].step]
                found += 1
    assert found > 500


@pytest.mark.parametrize(
    ("question", "work", "first_wrong", "readable"),
    [
        ("30+42", "0+72=72", 0, False),
        ("30+42", "0+72=72\n=72", 0, False),
        ("30+42", "0+72 put 72\n=72", 0, True),
        ("30+42", "=72", 0, True),
        ("30+42", "The answer is 72.", 0, False),
        ("30+42", "0+2 put 2\nso\n3+4 put 7\n=72", 1, False),
        ("30+42", "0+2 put 2\n3+4 put 7\n=72\n=72", 3, True),
        ("30+42", "0+2 put 2\n3+4 put 7\n=72\n3+4 put 7", 3, True),
        ("30+42", "0+2 put 2\n=72", 1, True),
        ("30+42", "2+0 put 2\n3+4 put 7\n=72", 0, True),
        ("52-18", "2-8 put 6\n5-1 put 4\n=34", 0, True),
    ],
)
def test_a_right_answer_under_nonsense_is_unsound(question: str, work: str, first_wrong: int, readable: bool) -> None:
    check = check_work(question, work)
    assert not check.sound
    assert (check.first_wrong, check.readable) == (first_wrong, readable)


def test_a_wrong_answer_line_under_right_columns_is_found() -> None:
    check = check_work("52-18", "2-8 take 12 put 4\n5-1-1 put 3\n=35")
    assert (check.first_wrong, check.follows, check.due) == (2, False, "=34")


def test_work_that_was_cut_off_is_unfinished_and_not_wrong() -> None:
    check = check_work("52-18", "2-8 take 12 put 4")
    assert check.first_wrong is None and not check.finished and not check.sound
    assert check.due == "5-1-1 put 3"


def test_a_line_with_foreign_numbers_does_not_derive_and_one_with_a_wrong_result_does() -> None:
    assert check_work("52-18", "3-8 take 13 put 5").derives == (False,)
    assert check_work("52-18", "2-8 take 12 put 5").derives == (True,)


@pytest.mark.parametrize("question", ["", "hello", "12-50", "2*3", "1+2+3", "12345+1"])
def test_what_is_no_exercise_is_unreadable(question: str) -> None:
    assert not check_work(question, "=1").readable
    with pytest.raises(ValueError, match="no exercise"):
        solve(question)


# Misconceptions


@pytest.mark.parametrize("name", BUGS)
def test_every_misconception_is_cited_and_changes_work_where_it_is_exercised(name: str) -> None:
    bug = BUGS[name]
    assert bug.says and any(year in bug.source for year in ("1975", "1976", "1978", "1982", "1990"))
    rng = Random(name)
    for skill in exercised_by(name):
        changed = [q for q in (draw(skill, rng) for _ in range(40)) if work(q, [name]) != solve(q)]
        assert len(changed) >= 20, skill
        for question in changed:
            step = slips(question, [name])[0].step
            before, after = solve(question).splitlines()[:step], work(question, [name]).splitlines()
            assert after[:step] == before
            assert check_work(question, work(question, [name])).follows


def test_a_misconception_does_nothing_to_problems_of_the_other_sign() -> None:
    for question in any_questions(300):
        for name, bug in BUGS.items():
            if bug.sign not in question:
                assert work(question, [name]) == solve(question)


def test_what_hides_behind_a_gate_never_shows_while_the_gate_is_there() -> None:
    gates = {sign: [b.name for b in BUGS.values() if b.reach == "gate" and b.sign == sign] for sign in "+-"}
    behind = {b.name for b in BUGS.values() if b.reach == "behind"}
    shown = set[str]()
    for question in any_questions(900):
        for gate in gates["+"] + gates["-"]:
            if BUGS[gate].sign in question:
                assert not behind & {slip.bug for slip in slips(question, [gate, *behind])}
        shown |= {name for name in behind if slips(question, [name])}
    assert shown == behind, "and each of them shows once the gate is gone"


def test_an_unknown_misconception_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown bug 'laziness'"):
        work("52-18", ["laziness"])


def test_a_right_next_line_as_hint_uncovers_the_next_reason_and_other_lines_do_nothing() -> None:
    for bugs in PROFILES:
        rng = Random(1)
        for question in (q for q in (anything(rng) for _ in range(120)) if why_wrong(q, bugs) and clean(q, bugs)):
            reasons, right = why_wrong(question, bugs), solve(question).splitlines()
            step = slips(question, bugs)[0].step
            told = work(question, bugs, hint=right[step])
            assert (told == solve(question)) == (len(reasons) == 1)
            if len(reasons) == 2:
                assert slips(question, bugs, hint=right[step])[0].bug == reasons[1]
            assert work(question, bugs, hint="9-9 take 19 put 10") == work(question, bugs)
            for other in right[:step]:
                assert work(question, bugs, hint=other) in (work(question, bugs), told)


# Profiles and pools


@pytest.mark.parametrize("bugs", PROFILES, ids=range(len(PROFILES)))
def test_every_drawn_student_has_masking_mastery_and_something_that_the_teacher_does_not_know(
    bugs: tuple[str, ...],
) -> None:
    assert len(set(bugs) & TEACHER_LACKS) == 2
    assert sum(BUGS[b].reach == "behind" for b in bugs) >= 3
    assert len(mastered(bugs)) >= 4
    found = needs(bugs)
    assert set(found.values()) == set(MIX)
    second = {why[1] for _, why in found if len(why) == 2}
    assert len(second) >= 2 and not second & {why[0] for _, why in found if why}, "reachable only behind another"


def test_students_differ() -> None:
    assert len(set(PROFILES)) == len(PROFILES) and draw_profile(5) == draw_profile(5)


def test_the_catalogue_lacks_what_it_says() -> None:
    assert set(BUGS) == TEACHER_KNOWS | TEACHER_LACKS and len(BUGS) >= 10 and not TEACHER_KNOWS & TEACHER_LACKS


def test_every_pool_has_the_mix_that_it_promises(course: World) -> None:
    for sheet, n in ((course.practice, 300), (course.quiz, 300), (course.exam, 500)):
        kinds = Counter(len(gold.misconceptions) for gold in sheet.gold.values())
        assert len(sheet.problems) == len(sheet.gold) == n
        assert 0.20 <= kinds[2] / n <= 0.30
        assert 0.25 <= kinds[0] / n <= 0.45, "what the untaught student gets right"
        assert 0.03 <= sum(map(beyond_teacher, sheet.gold.values())) / n <= 0.07
    per_skill = Counter(gold.skill for gold in course.retention.gold.values())
    assert set(per_skill) == set(course.mastered) and min(per_skill.values()) >= 200


def test_no_problem_occurs_twice_and_none_was_pretrained_on(course: World) -> None:
    sheets = (course.practice, course.quiz, course.exam, course.probe, course.retention)
    problems = [p for sheet in sheets for p in sheet.problems]
    assert len({p.digest for p in problems}) == len({p.id for p in problems}) == len(problems)
    assert all(unseen(p.question) for p in problems)
    assert {side(p.question) for p in course.practice.problems} == {"practice"}
    assert {side(p.question) for sheet in sheets[1:] for p in sheet.problems} == {"exam"}


def test_gold_tells_the_truth_about_the_untaught_student(course: World) -> None:
    for sheet in (course.practice, course.quiz, course.exam, course.probe, course.retention):
        for problem in sheet.problems:
            gold = sheet.gold[problem.id]
            assert gold.solution == solve(problem.question) and gold.solution.endswith(f"={gold.answer}")
            assert gold.misconceptions == why_wrong(problem.question, course.student)
            assert clean(problem.question, course.student)


def test_twins_share_skill_and_reasons(course: World) -> None:
    for gold in course.practice.gold.values():
        assert bool(gold.twins) == bool(gold.misconceptions)
        assert len(gold.twins) != 1
        for twin in gold.twins:
            assert (course.probe.gold[twin].skill, course.probe.gold[twin].misconceptions) == (
                gold.skill,
                gold.misconceptions,
            )


def test_ids_and_order_say_nothing_about_the_skill(course: World) -> None:
    ids = [p.id for p in course.practice.problems]
    assert [int(id[4:]) for id in ids] == list(range(300)) and {id[:3] for id in ids} == {"add", "sub"}
    runs = [course.practice.gold[id].skill for id in ids]
    assert sum(a == b for a, b in pairwise(runs)) < 60


def test_problems_carry_no_gold(course: World) -> None:
    for problem in course.practice.problems:
        assert not problem.material and problem.messages[0].content == problem.question
        assert problem.question.count("\n") == 0


def test_the_same_seed_gives_the_same_world_and_another_seed_another(course: World) -> None:
    assert world() == course
    other = world(seed=1)
    assert other.student == course.student and other.practice != course.practice


def test_practice_and_exam_share_columns_and_no_combination_of_them(course: World) -> None:
    def columns(sheet: Sheet) -> set[tuple[str, str, str]]:
        signs = {p.question: "+" if "+" in p.question else "-" for p in sheet.problems}
        operands = [(sign, *(n[::-1] for n in q.split(sign))) for q, sign in signs.items()]
        return {(sign, t, b) for sign, top, bottom in operands for t, b in zip(top, bottom, strict=False)}

    taught, examined = columns(course.practice), columns(course.exam)
    assert len(taught & examined) > 0.9 * len(examined)
    assert not {p.digest for p in course.practice.problems} & {p.digest for p in course.exam.problems}


@pytest.mark.parametrize("what", [*SKILLS, *BUGS])
def test_fresh_problems_exercise_what_was_asked_for(what: str) -> None:
    first = fresh(what, rng=Random(0), n=5)
    again = fresh(what, rng=Random(0), n=5, avoid={digest(q) for q in first})
    assert len(first) == len(again) == 5 and not set(first) & set(again)
    assert all(side(q) == "practice" and unseen(q) for q in first + again)
    if what in BUGS and what != "stutter-subtract" and what != "stutter-add":  # these need a digit that leaves room
        assert all(what in why_wrong(q, [what]) for q in first)


def test_practice_for_a_gate_does_not_exercise_what_hides_behind_it() -> None:
    behind = [b.name for b in BUGS.values() if b.reach == "behind"]
    for bug in BUGS.values():
        if bug.reach == "gate":
            assert all(why_wrong(q, behind) == () for q in fresh(bug.name, rng=Random(2), n=20))
