"""What may be learnt: nothing on the strength of an answer that was told, whatever a policy or a curator hands back."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tutorloop.evals.arithmetic import solve
from tutorloop.evals.records import Gold, Problem, Verdict, user
from tutorloop.evals.steps import check_steps
from tutorloop.loops.launch import launch
from tutorloop.policies.checking import Sound
from tutorloop.policies.records import Case, Evidence, Example, Lesson
from tutorloop.policies.room import Room
from tutorloop.policies.teaching import CorrectAndPractise
from tutorloop.tests.policies_for_tests import shapes, small
from tutorloop.tests.policies_for_tests.shapes import prompt

pytestmark = pytest.mark.usefixtures("no_power_cuts")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("recorded")
    told = small.experiment(folder, rounds=2)
    launch(told, folder / "run")
    return folder / "run", told


@pytest.fixture
def bench(recorded: tuple[Path, dict[str, Any]], tmp_path: Path) -> Iterator[Callable[..., small.Bench]]:
    """`bench()`: the recorded run's first round up to its triage, to be taught otherwise."""
    made: list[small.Bench] = []

    def make(**more: Any) -> small.Bench:
        folder, told = recorded
        made.append(small.Bench(folder, tmp_path / f"bench-{len(made)}", told, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def by(lessons: list[Lesson]) -> dict[str, int]:
    """How many lessons were accepted or refused, and on what ground."""
    return dict(Counter(("" if x.sound else "not: ") + x.verdict.by for x in lessons if x.verdict))


KINDS: tuple[Evidence, ...] = ("steps", "own", "gold", "answer")


# ---- the answer glued under nonsense


def under_nonsense(case: Case, room: Room) -> str:
    return f"Think hard and be careful.\n={room.gold(case).answer}"


def under_a_sum(case: Case, room: Room) -> str:
    """The published trick, in the student's own notation."""
    answer = room.gold(case).answer
    return f"0+{answer} put {answer}\n={answer}"


def bare(case: Case, room: Room) -> str:
    return f"={room.gold(case).answer}"


def under_the_mistake(case: Case, room: Room) -> str:
    return case.work.rpartition("=")[0] + f"={room.gold(case).answer}"


def after_the_work_of_another(case: Case, room: Room) -> str:
    return solve("52-18").rpartition("=")[0] + f"={room.gold(case).answer}"


GLUE = [under_nonsense, under_a_sum, bare, under_the_mistake, after_the_work_of_another]


@pytest.mark.parametrize("policy", GLUE)
def test_a_teacher_that_glues_the_answer_gets_nothing_accepted(policy: Any, bench: Any) -> None:
    it = bench()
    lessons = it.lessons(teach=policy, check=Sound(kinds=KINDS))
    assert by(lessons) == {"not: gold seen": len(it.cases)} and len(it.cases) > 20
    assert not it.examples(teach=policy, check=Sound(kinds=KINDS))


def test_a_whole_run_of_glue_leaves_the_student_as_it_was(tmp_path: Path) -> None:
    text = "def policy(case, room):\n    return f'0+72=72\\n={room.gold(case).answer}'\n"
    told = small.experiment(tmp_path, teacher__policy=small.policy(tmp_path, text))
    report = launch(told, tmp_path / "run")
    assert [r.accepted for r in report.rounds] == [0, 0] and report.rounds[1].rejected["gold seen"] > 20
    assert report.after is not None and report.after["exam"].rows.digest == report.before["exam"].rows.digest
    assert not small.states(tmp_path / "run"), "nothing was trained"


@pytest.mark.parametrize("policy", [shapes.awaiting, CorrectAndPractise(practice=2)])
def test_a_teacher_that_is_right_by_itself_gets_its_lessons_accepted(policy: Any, bench: Any) -> None:
    it = bench()
    assert by(it.lessons(teach=policy)) == {"steps": len(it.lessons(teach=policy))}
    assert len(it.lessons(teach=policy)) >= len(it.cases)


def test_a_right_answer_is_evidence_where_gold_was_not_seen(bench: Any) -> None:
    it = bench()
    assert by(it.lessons(teach=shapes.awaiting, check=Sound(kinds=("answer",)))) == {"answer": len(it.cases)}


def test_a_wrong_line_is_found_whatever_the_answer(bench: Any) -> None:
    it = bench()

    async def errs(case: Case, room: Room) -> str:
        lines = (await room.teacher.aask(prompt(case))).splitlines()
        return "\n".join([lines[0][:-1] + str((int(lines[0][-1]) + 1) % 10), *lines[1:]])

    lessons = it.lessons(teach=errs)
    assert by(lessons) == {"not: no evidence": len(it.cases)}
    assert {x.verdict.evidence[:27] for x in lessons if x.verdict} == {"line 1 is not what is due t"}


def test_unchecked_is_said_by_each_lesson(bench: Any) -> None:
    lessons = bench().lessons(teach=under_nonsense, check=Sound(kinds=("unchecked",)))
    assert set(by(lessons)) == {"unchecked"} and all(x.verdict.gold_seen for x in lessons if x.verdict)


# ---- the data set's own work


def test_the_data_sets_own_work_is_evidence_word_for_word_and_not_otherwise(bench: Any) -> None:
    check = Sound(kinds=("gold",))
    said: dict[str, Callable[[str], Lesson]] = {
        "gold": lambda work: Lesson(text=work, target=work),
        "not: gold seen": lambda work: Lesson(text=work, target=work + "\n"),
    }
    for ground, lesson in said.items():
        lessons = bench().lessons(teach=lambda case, room, f=lesson: f(room.gold(case).solution), check=check)
        assert set(by(lessons)) == {ground}
    bare_answer = bench().lessons(teach=bare, check=check)
    assert set(by(bare_answer)) == {"not: gold seen"}


def test_nothing_can_be_put_before_the_data_sets_own_work(bench: Any) -> None:
    """What is learnt is prefix and target together."""

    def before(case: Case, room: Room) -> Lesson:
        return Lesson(prefix="Nonsense first.\n", target=room.gold(case).solution)

    it = bench()
    assert set(by(it.lessons(teach=before, check=Sound(kinds=("gold",))))) == {"not: gold seen"}


# ---- the learner's own words


@dataclass(frozen=True)
class Hint:
    """The scripted teacher fills it."""

    line: str = ""


async def hinted(case: Case, room: Room) -> Case:
    hint = await room.teacher.afill(prompt(case), Hint)
    return await room.aretry(case, context=hint.line)


async def hint_and_retry(case: Case, room: Room) -> Lesson | None:
    again = await hinted(case, room)
    return Lesson(act="hint", text=again.brief, target=again.work if again.right else "")


OWN = Sound(kinds=("own",))


def test_what_the_learner_can_do_with_a_hint_is_learnt_in_its_own_words_without_the_hint(bench: Any) -> None:
    it = bench()
    lessons = it.lessons(teach=hint_and_retry, check=OWN)
    assert by(lessons)["own"] > 10 and set(by(lessons)) <= {"own", "not: no target"}
    sound = {x.id: x for x in lessons if x.sound}
    examples = [e for e in it.examples(teach=hint_and_retry, check=OWN) if e.origin == "lesson"]
    cases = {c.id: c for c in it.cases}
    assert {e.lesson for e in examples} == set(sound)
    for example in examples:
        lesson = sound[example.lesson]
        assert example.prompt == cases[lesson.case].problem.messages, "as it will be asked, with no hint in view"
        assert example.completion == lesson.target != lesson.text
    replies = {e.reply for e in small.paid(it.root) if e.member == "student"}
    assert all(any(x.target.splitlines()[0] in r for r in replies) for x in sound.values())


async def parroted(case: Case, room: Room) -> Lesson:
    """Words that it never heard from the learner."""
    return Lesson(target=await room.teacher.aask(prompt(case)), own=True, gold_seen=False)


async def prefixed(case: Case, room: Room) -> Lesson:
    again = await hinted(case, room)
    return Lesson(prefix="Nonsense first.\n", target=again.work)


async def for_another(case: Case, room: Room) -> Lesson:
    again = await hinted(case, room)
    return Lesson(problem=Problem(id="", messages=user("52-18"), domain="arithmetic"), target=again.work)


async def not_the_learners(case: Case, room: Room) -> Lesson:
    again = await room.aretry(case, context=case.work, who="teacher")
    assert again.right, "the teacher reads the work in the context"
    return Lesson(target=again.work)


async def wrong_again(case: Case, room: Room) -> Lesson:
    again = await room.aretry(case)
    assert not again.right
    return Lesson(target=again.work)


async def third_try(case: Case, room: Room) -> Lesson:
    """By then it may have been told by the grades."""
    room.grade(case, "=1")
    room.grade(case, "=2")
    again = await hinted(case, room)
    assert again.gold_seen
    return Lesson(target=again.work)


async def after_gold(case: Case, room: Room) -> Lesson:
    room.gold(case)
    return Lesson(target=(await hinted(case, room)).work)


async def before_gold(case: Case, room: Room) -> Lesson:
    again = await hinted(case, room)
    room.gold(case)
    return Lesson(target=again.work)


@pytest.mark.parametrize(
    "policy",
    [parroted, prefixed, for_another, not_the_learners, wrong_again, third_try, after_gold, before_gold],
)
def test_nothing_else_passes_for_the_learners_own_words(policy: Any, bench: Any) -> None:
    it = bench()
    lessons = it.lessons(teach=policy, check=OWN)
    assert len(lessons) == len(it.cases) and not any(x.sound for x in lessons), by(lessons)


def test_what_was_cut_off_is_not_right_by_luck(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    it = bench()
    student, call = it.hosts["student"], it.hosts["student"].call

    def cut(method: str, *args: Any) -> Any:
        found = call(method, *args)
        return [replace(r, finish="length") for r in found] if method == "generate" else found

    monkeypatch.setattr(student, "call", cut)
    grades: list[str] = []

    async def tries(case: Case, room: Room) -> Lesson:
        again = await hinted(case, room)
        grades.append(again.grades[0].label)
        return Lesson(target=again.work)

    assert not any(x.sound for x in it.lessons(teach=tries, check=OWN))
    assert set(grades) == {"truncated"}


def test_its_own_right_beginning_is_part_of_its_own_words_and_a_given_one_is_not(bench: Any) -> None:
    async def goes_on(case: Case, room: Room, given: bool = False) -> Lesson | None:
        hint = await room.teacher.afill(prompt(case), Hint)
        found = check_steps(case.problem, case.work)
        text = await room.teacher.aask(prompt(case)) if given else case.work
        first = "".join(text.splitlines(keepends=True)[: (found.step or 0) + given if found else 0])
        again = await room.aretry(case, context=hint.line, prefix=first)
        return Lesson(prefix=first, target=again.work) if first and again.right else None

    lessons = bench().lessons(teach=goes_on, check=OWN)
    assert len(lessons) > 5 and set(by(lessons)) == {"own"}
    lessons = bench().lessons(teach=partial(goes_on, given=True), check=OWN)
    assert len(lessons) > 5 and "own" not in by(lessons)


def test_words_that_the_learner_copied_from_what_it_was_told_are_not_its_own(bench: Any) -> None:
    async def tells_all(case: Case, room: Room) -> Lesson | None:
        corrected = await room.teacher.aask(prompt(case))
        again = await room.aretry(case, context=corrected)
        return Lesson(target=again.work) if again.right else None

    lessons = bench().lessons(teach=tells_all, check=OWN)
    assert len(lessons) > 5 and "own" not in by(lessons)


def forged(text: str, case: Case) -> Case:
    """The case, as if the learner had written this."""
    return replace(case, attempts=(replace(case.attempts[0], text=text),))


async def begun_by_a_forger(case: Case, room: Room) -> Lesson:
    """Another's work passed off as the learner's, of which it writes the last line."""
    work = await room.teacher.aask(prompt(case))
    prefix = work[: work.rindex("=")]
    again = await room.aretry(forged(work, case), prefix=prefix)
    assert again.right
    return Lesson(prefix=prefix, target=again.work)


async def all_but_the_last_line(case: Case, room: Room) -> Lesson:
    work = await room.teacher.aask(prompt(case))
    again = await room.aretry(case, context=work[: work.rindex("=")])
    assert again.right
    return Lesson(target=again.work)


async def the_rest_of_it(case: Case, room: Room) -> Lesson:
    """Told all lines, and begun anew with what it has copied."""
    work = await room.teacher.aask(prompt(case))
    told = await room.aretry(case, context=work[: work.rindex("=")])
    prefix = told.work[: told.work.rindex("=")]
    again = await room.aretry(told, prefix=prefix)
    assert again.right
    return Lesson(prefix=prefix, target=again.work)


async def with_the_answer_in_the_hint(case: Case, room: Room) -> Lesson:
    hint, work = await room.teacher.afill(prompt(case), Hint), await room.teacher.aask(prompt(case))
    again = await room.aretry(case, context=f"{hint.line}\nIt comes to {work.rpartition('=')[2]}.")
    return Lesson(target=again.work)


async def for_a_written_problem(case: Case, room: Room) -> Lesson:
    mine = Problem(id="mine", messages=user("2+3"), domain="arithmetic")
    again = await room.aretry(mine)
    assert again.problem is mine and (again.grades[0].label, again.grades[0].by) == ("abstain", "no gold")
    return Lesson(problem=mine, target=again.work)


async def under_a_borrowed_id(case: Case, room: Room) -> Lesson:
    mine = replace(case.problem, messages=user("2+3"))
    again = await room.aretry(mine)
    assert again.grades[0].by == "no gold"
    return Lesson(problem=mine, target=again.work)


@pytest.mark.parametrize(
    "policy",
    [
        begun_by_a_forger,
        all_but_the_last_line,
        the_rest_of_it,
        with_the_answer_in_the_hint,
        for_a_written_problem,
        under_a_borrowed_id,
    ],
)
def test_words_that_were_put_into_the_learners_mouth_are_not_its_own(policy: Any, bench: Any) -> None:
    it = bench()
    lessons = it.lessons(teach=policy, check=OWN)
    assert len(lessons) == len(it.cases) and not any(x.sound for x in lessons), by(lessons)


def test_a_written_problem_that_the_learner_tries_costs_no_try_of_the_cases_own(bench: Any) -> None:
    async def warms_up(case: Case, room: Room) -> Lesson:
        for i in range(3):
            await room.aretry(Problem(id=f"mine-{i}", messages=user(f"{i}+3"), domain="arithmetic"))
        again = await hinted(case, room)
        assert not again.gold_seen
        return Lesson(target=again.work)

    assert by(bench().lessons(teach=warms_up, check=OWN))["own"] > 10


def test_what_it_began_by_itself_in_an_earlier_try_is_its_own_beginning(bench: Any) -> None:
    async def goes_on(case: Case, room: Room) -> Lesson | None:
        first = await hinted(case, room)
        prefix = first.work[: first.work.rindex("=")]
        again = await room.aretry(case.problem, prefix=prefix)
        assert not again.gold_seen, "two tries do not tell the answer"
        return Lesson(prefix=prefix, target=again.work) if again.right else None

    assert by(bench().lessons(teach=goes_on, check=OWN))["own"] > 10


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_try_counts_whoever_makes_it(who: str, bench: Any) -> None:
    async def tries(case: Case, room: Room) -> Lesson:
        seen = [(await room.aretry(case, context=case.work, who=who)).gold_seen for _ in range(3)]
        return Lesson(text=str(seen))

    assert {x.text for x in bench().taught(teach=tries)} == {"[False, False, True]"}


def test_grades_that_the_verifier_asked_for_count_too(bench: Any) -> None:
    def verify(case: Case, room: Room) -> None:
        room.grade(case, "=1")

    it = bench(keep=("select", "attempt"))
    lessons = it.lessons(verify=verify, triage=None, teach=hint_and_retry, check=OWN)
    assert all(c.gold_seen for c in it.cases) and set(by(lessons)) <= {"not: gold seen", "not: no target"}


def test_a_case_that_was_tried_again_is_the_same_case_with_the_new_work(bench: Any) -> None:
    async def compares(case: Case, room: Room) -> None:
        again = await room.aretry(case, context="Look again.")
        assert again == replace(case, attempts=again.attempts, grades=again.grades, verdicts=(), brief="Look again.")
        assert again.attempts[0].context == "Look again." and again.attempts[0].role == "student"
        bare_ = await room.aretry(case.problem)
        assert (bare_.id, bare_.problem, bare_.brief, bare_.right) == (case.problem.id, case.problem, "", False)
        room.note("compared", True)

    it = bench()
    assert it.taught(teach=compares).failed == 0 and it.book.notes(1) == {"compared": True}


# ---- grades leak


@pytest.mark.parametrize(("kind", "leaks_at"), [("number", 3), ("text", 3), ("boolean", 2), ("choice", 2)])
def test_graded_tries_are_counted_until_they_tell_the_answer(kind: Any, leaks_at: int, bench: Any) -> None:
    do = bench().slots()
    answers = {"number": "7", "text": "seven", "boolean": "true", "choice": "B"}
    problems = [Problem(id=i, messages=user("?"), kind=kind) for i in "ab"]
    do.room.gold = {p.id: Gold(problem=p.id, answer=answers[kind]) for p in problems}
    do.room.problems = {p.id: p for p in problems}
    room = do.room.enter("teach", "a", do.room.wave("teach"))
    seen = []
    for _ in range(leaks_at):
        assert not room.grade(problems[1], "no").gold_seen, "each problem is counted for itself"
        seen.append(room.grade(problems[0], "no").gold_seen)
        room.tries["b"] = 0
    assert seen == [False] * (leaks_at - 1) + [True] and room.gold_seen


def test_only_practice_problems_can_be_graded(bench: Any) -> None:
    it = bench()
    do = it.slots()
    room = do.room.enter("teach", "a", do.room.wave("teach"))
    exam = it.course.exam.locked.problems
    problem = next(iter(exam))
    for look in (room.gold, lambda p: room.grade(p, "=1")):
        with pytest.raises(LookupError, match="only practice problems"):
            look(problem)


# ---- gold that was seen travels with what was made of it, from one process to the next

ANSWER = Sound(kinds=("answer",))


def test_gold_seen_by_the_verifier_is_on_the_lesson(bench: Any) -> None:
    def verify(case: Case, room: Room) -> Verdict:
        return Verdict(label="wrong", by="teacher", evidence=room.gold(case).answer)

    it = bench(keep=("select", "attempt"))
    it.slots(verify=verify, triage=None)
    it.again()
    lessons = it.lessons(verify=verify, triage=None, teach=lambda c, r: f"={c.verdicts[0].evidence}", check=ANSWER)
    assert all(c.gold_seen for c in it.cases) and set(by(lessons)) == {"not: gold seen"}


def test_gold_seen_by_the_triage_is_on_every_case(bench: Any) -> None:
    def triage(cases: Any, room: Room) -> list[Case]:
        return [replace(c, brief=room.gold(c).answer) for c in cases]

    it = bench(keep=("select", "attempt", "verify"))
    it.slots(triage=triage)
    it.again()
    lessons = it.lessons(triage=triage, teach=lambda c, r: f"={c.brief}", check=ANSWER)
    assert set(by(lessons)) == {"not: gold seen"}


def test_a_triage_cannot_wipe_the_mark_off(bench: Any) -> None:
    def verify(case: Case, room: Room) -> None:
        room.gold(case)

    it = bench(keep=("select", "attempt"))
    it.slots(verify=verify, triage=lambda cases, room: [replace(c, gold_seen=False) for c in cases])
    assert all(c.gold_seen for c in it.cases)


def test_gold_that_a_policy_remembers_from_another_case_is_seen_gold(bench: Any) -> None:
    memory: dict[str, str] = {}

    def remembers(case: Case, room: Room) -> str:
        if not memory:
            memory.update({c.id: room.gold(c).answer for c in room.cases})
        return f"={memory[case.id]}"

    lessons = bench().lessons(teach=remembers, check=ANSWER)
    assert set(by(lessons)) == {"not: gold seen"}


def test_gold_of_another_problem_is_seen_gold_too(bench: Any) -> None:
    """As an example in a prompt, say: what follows was written in its sight."""

    async def by_example(case: Case, room: Room) -> str:
        example = next(p for p in room.practice if p.id != case.problem.id)
        return await room.teacher.aask(f"{prompt(case)}\n\nLike this:\n{room.gold(example).solution}")

    lessons = bench().lessons(teach=by_example, check=ANSWER)
    assert set(by(lessons)) == {"not: gold seen"}


def test_what_only_the_framework_knows_cannot_be_claimed(bench: Any) -> None:
    def claims(case: Case, room: Room) -> Lesson:
        fine = Verdict(label="right", by="steps")
        return Lesson(target=bare(case, room), id="mine", case="other", verdict=fine, own=True, gold_seen=False)

    it = bench()
    for lesson in it.taught(teach=claims):
        assert (lesson.id, lesson.verdict, lesson.own, lesson.gold_seen) == (f"1/{lesson.case}/0", None, False, True)
    assert {x.case for x in it.taught(teach=claims)} == {c.id for c in it.cases}


# ---- sealed problems


def sealed_problem(it: small.Bench) -> Problem:
    rows = it.course.exam.locked.problems
    return next(p for p in rows if "+" in p.question)


def leaks(problem: Problem) -> Callable[[Case, Room], Lesson]:
    a, b = problem.question.split("+")
    mine = Problem(id="", messages=user(f" {b} + {a}"), domain="arithmetic")
    return lambda case, room: Lesson(act="similar", problem=mine, target=solve(f"{b}+{a}"))


@pytest.mark.parametrize("kinds", [("steps",), ("unchecked",), KINDS])
def test_a_problem_of_the_exam_is_refused_however_it_is_written(kinds: Any, bench: Any) -> None:
    it = bench()
    teach = leaks(sealed_problem(it))
    lessons = it.lessons(teach=teach, check=Sound(kinds=kinds))
    assert by(lessons) == {"not: sealed": len(it.cases)}
    assert {x.verdict.evidence for x in lessons if x.verdict} == {"the problem is in `exam`"}
    assert not it.examples(teach=teach, check=Sound(kinds=kinds))


def test_no_check_of_ones_own_lets_a_sealed_problem_through(bench: Any) -> None:
    it = bench()
    fine = lambda lesson, room: Verdict(label="right", by="me")  # noqa: E731
    assert not it.examples(teach=leaks(sealed_problem(it)), check=fine)


def test_a_selection_that_wrote_a_sealed_problem_gets_no_lesson_on_it_accepted(bench: Any) -> None:
    it = bench(keep=())
    mine = replace(sealed_problem(it), id="mine")
    lessons = it.lessons(
        select=lambda problems, room: [mine],
        attempt=None,
        verify=None,
        triage=None,
        teach=lambda case, room: solve(case.question),
    )
    assert by(lessons) == {"not: sealed": 1}


def test_no_sealed_problem_reaches_the_teacher_or_the_training(recorded: tuple[Path, dict[str, Any]]) -> None:
    root, _ = recorded
    course = small.course(root)
    asked = "\n".join(e.request for e in small.asks(root))
    for pool in course.sealed:
        for problem in pool.locked.problems:
            assert f'"{problem.question}' not in asked and f"\\n{problem.question}\\n" not in asked
    for number in (1, 2):
        for example in small.table(root, f"{number}/curate"):
            assert not course.holds(Problem(id="", messages=example.prompt))


# ---- the curator


def mixed(case: Case, room: Room) -> list[Lesson]:
    """One sound lesson, one that is not."""
    work = solve(case.question)
    return [Lesson(target=work, act="good"), Lesson(target=bare(case, room), act="bad")]


def curators(it: small.Bench) -> dict[str, Callable[[list[Lesson], Room], list[Example]]]:
    exam = sealed_problem(it)

    def example(lesson: str, completion: str, **more: Any) -> Example:
        return Example(id=f"x/{lesson}", lesson=lesson, prompt=user("1+1"), completion=completion, **more)

    def pairs(lessons: list[Lesson]) -> Iterator[tuple[Lesson, Lesson]]:
        return zip((x for x in lessons if x.act == "good"), (x for x in lessons if x.act == "bad"), strict=True)

    return {
        "the unsound lesson": lambda ls, r: [example(b.id, b.target) for g, b in pairs(ls)],
        "its target under a sound lesson's name": lambda ls, r: [example(g.id, b.target) for g, b in pairs(ls)],
        "no lesson at all": lambda ls, r: [example("", g.target) for g, b in pairs(ls)],
        "a lesson that nobody gave": lambda ls, r: [example("1/other/0", g.target) for g, b in pairs(ls)],
        "a sealed problem": lambda ls, r: [
            replace(example(g.id, g.target), prompt=exam.messages) for g, b in pairs(ls)
        ],
        "nothing": lambda ls, r: [example(g.id, "") for g, b in pairs(ls)],
    }


@pytest.mark.parametrize(
    "trick",
    [
        "the unsound lesson",
        "its target under a sound lesson's name",
        "no lesson at all",
        "a lesson that nobody gave",
        "a sealed problem",
        "nothing",
    ],
)
def test_no_curator_can_sneak_in_what_is_unsound(trick: str, bench: Any) -> None:
    it = bench()
    assert by(it.lessons(teach=mixed)) == {"steps": len(it.cases), "not: gold seen": len(it.cases)}
    assert it.examples(teach=mixed, curate=curators(it)[trick]) == []


def test_what_is_unsound_may_be_what_is_rejected(bench: Any) -> None:
    it = bench()

    def curate(lessons: list[Lesson], room: Room) -> list[Example]:
        return [
            Example(id=x.id, lesson=x.id, prompt=room.case(x).problem.messages, completion=x.target, rejected="=0")
            for x in lessons
        ]

    examples = [e for e in it.examples(teach=mixed, curate=curate) if e.origin == "lesson"]
    assert examples and all(e.rejected == "=0" and e.lesson.endswith("/0") for e in examples)


def test_a_curator_asks_nobody(bench: Any) -> None:
    it = bench()
    with pytest.raises(RuntimeError, match="the `curate` slot asks nobody"):
        it.examples(teach=mixed, curate=lambda lessons, room: [room.teacher.ask("May I?")])


# ---- a lesson hangs on what the student wrote, and on nothing that is hidden


def permuted(gold: Mapping[str, Gold]) -> Mapping[str, Gold]:
    """Every answer, solution, skill, twin list and true misconception is another problem's."""
    ids = list(gold)
    others = ids[7:] + ids[:7]
    random.Random(0).shuffle(ids)
    assert sum(gold[a].answer != gold[b].answer for a, b in zip(gold, others, strict=True)) > len(ids) / 2
    return {a: replace(gold[b], problem=a) for a, b in zip(gold, others, strict=True)}


@pytest.mark.parametrize(
    "policy",
    [shapes.plain, shapes.three_at_once, shapes.several, CorrectAndPractise(practice=3)],
    ids=lambda p: getattr(p, "__name__", "CorrectAndPractise"),
)
@pytest.mark.parametrize("number", [1, 2])
def test_with_all_gold_permuted_the_same_lessons_are_taught(policy: Any, number: int, bench: Any) -> None:
    true, false = bench(number=number), bench(number=number, gold=permuted)
    a, b = true.slots(teach=policy), false.slots(teach=policy)
    taught, taught_ = a.teach(true.cases), b.teach(false.cases)
    assert len(taught) > 10 and taught == taught_
    bytes_ = [rows.path(0).read_bytes() for rows in (taught, taught_)]
    assert bytes_[0] == bytes_[1]
    checked = a.check(taught), b.check(taught_)
    assert checked[0].digest == checked[1].digest and all(x.sound or not x.target for x in checked[0])
    assert small.asks(true.root) == small.asks(false.root)


@pytest.mark.parametrize("policy", [bare, hint_and_retry])
def test_where_gold_is_used_a_permutation_shows(policy: Any, bench: Any) -> None:
    """Else the test above would show nothing."""
    assert bench().taught(teach=policy).digest != bench(gold=permuted).taught(teach=policy).digest


def test_a_case_carries_nothing_hidden(recorded: tuple[Path, dict[str, Any]]) -> None:
    root, _ = recorded
    gold = {g.problem: g for g in small.course(root).practice.gold}
    for case in small.table(root, "1/triage"):
        truth = gold[case.problem.id]
        attempts = tuple(replace(a, state="") for a in case.attempts)
        shown = str(replace(case, attempts=attempts, verdicts=(), reason=""))  # the teacher may have named the mistake
        assert truth.skill not in shown and not any(m in shown for m in truth.misconceptions)
        assert truth.answer not in shown.replace(case.work, "").replace(case.question, "").replace(case.id, "")
        assert not set(truth.twins) & set(shown.split("'"))
