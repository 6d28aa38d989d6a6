"""A teacher policy of any shape runs; one that errs fails its own case and nothing else; asks are paid once."""

import asyncio
import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tutorloop.agents.purse import BudgetSpent
from tutorloop.agents.roles import RoleDied
from tutorloop.evals.pools import SealedPool
from tutorloop.evals.records import Failure, Problem, user
from tutorloop.evals.rows import Rows
from tutorloop.loops.config import ConfigError
from tutorloop.loops.launch import launch
from tutorloop.loops.slots import TooManyFailures
from tutorloop.policies.checking import Sound
from tutorloop.policies.records import Case, Cost, Lesson
from tutorloop.policies.room import Room
from tutorloop.policies.teaching import Diagnosis
from tutorloop.tests.policies_for_tests import shapes, small
from tutorloop.tests.policies_for_tests.shapes import prompt

pytestmark = pytest.mark.usefixtures("no_power_cuts")

SHAPES = Path(shapes.__file__)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished run of one round whose triage has two shards of cases."""
    folder = tmp_path_factory.mktemp("recorded")
    told = small.experiment(
        folder, rounds=1, course__practice=140, triage="tutorloop.policies.triage:wrong", failures=0.5
    )
    launch(told, folder / "run")
    return folder / "run", told


@pytest.fixture
def bench(recorded: tuple[Path, dict[str, Any]], tmp_path: Path) -> Iterator[Callable[..., small.Bench]]:
    """`bench()`: that round up to its triage, to be taught otherwise. Changes of free fields as of an experiment."""
    made: list[small.Bench] = []

    def make(keep: Any = ("select", "attempt", "verify", "triage"), **changes: Any) -> small.Bench:
        folder, told = recorded
        made.append(small.Bench(folder, tmp_path / f"bench-{len(made)}", {**told, **changes}, keep=keep))
        return made[-1]

    yield make
    for one in made:
        one.close()


def first_id(it: small.Bench) -> str:
    it.slots()
    return str(next(iter(it.cases)).id)


def failures(rows: Rows[Any]) -> list[Failure]:
    return list(rows.failures())


# ---- shapes


def test_the_two_line_policy_of_the_readme_teaches_a_student(tmp_path: Path) -> None:
    text = """
def first_error(case, room):
    return room.teacher.ask(f"Find the first wrong step and correct it from there.\\n{case.question}\\n{case.work}")
"""
    named = small.policy(tmp_path, text, "first_error")
    report = launch(small.experiment(tmp_path, rounds=1, teacher__policy=named), tmp_path / "run")
    last = report.rounds[-1]
    assert report.status == "finished" and last.accepted > 20 and not last.rejected
    assert last.quiz.right > report.rounds[0].quiz.right
    lesson = next(iter(small.table(tmp_path / "run", "1/teach")))
    assert lesson.act == "correction" and lesson.text == lesson.target and lesson.cost.calls == 1


@pytest.mark.parametrize("shape", ["plain", "awaiting", "Options", "AsyncOptions", "hands_on", "turns"])
def test_every_shape_gives_the_same_lessons(shape: str, bench: Any) -> None:
    policy = getattr(shapes, shape)
    one, two = bench(), bench()
    lessons = one.taught(teach=policy() if isinstance(policy, type) else policy)
    assert lessons.digest == two.taught(teach=shapes.awaiting).digest
    assert len(lessons) == len(one.cases) > 64 and not lessons.failed


def test_options_of_a_dataclass_are_set_by_name(tmp_path: Path) -> None:
    told = small.experiment(tmp_path, rounds=1, teacher__policy=f"{SHAPES}:Options")
    told["teacher"]["policy_options"] = {"act": "telling", "copies": 2}
    launch(told, tmp_path / "run")
    lessons = list(small.table(tmp_path / "run", "1/check"))
    assert {x.act for x in lessons} == {"telling"} and set(Counter(x.case for x in lessons).values()) == {2}
    assert len({x.id for x in lessons}) == len(lessons), "every lesson has an id of its own"


def test_several_lessons_share_one_cost_and_a_hint_is_never_learnt(bench: Any) -> None:
    it = bench()
    examples = it.examples(teach=shapes.several)
    lessons = list(it.book.begun("1/check", Lesson))
    assert len(lessons) == 3 * len(it.cases)
    assert sum((x.cost for x in lessons), Cost()).calls == len(it.cases)
    hints = {x.id: x.verdict.by for x in lessons if x.act == "hint"}
    assert set(hints.values()) == {"no target"}
    assert examples and not {e.lesson for e in examples} & hints.keys()
    assert not any("Look at the ones" in e.completion for e in examples)


@pytest.mark.parametrize("shape", ["nothing", "empty"])
def test_a_policy_may_have_nothing_to_say(shape: str, bench: Any) -> None:
    lessons = bench().taught(teach=getattr(shapes, shape))
    assert len(lessons) == 0 and lessons.failed == 0


def test_a_whole_run_with_nothing_to_say_ends_as_it_began(tmp_path: Path) -> None:
    told = small.experiment(tmp_path, rounds=3, teacher__policy=f"{SHAPES}:nothing")
    report = launch(told, tmp_path / "run")
    asked_nobody, said = (r.why for r in report.rounds)
    assert asked_nobody == "before teaching"
    assert re.fullmatch(r"nothing to learn: .* unchanged; the teacher had nothing to say on any of \d+ cases", said)
    assert report.after is not None and report.after["exam"].state == report.before["exam"].state


def test_a_file_that_would_replace_a_module_of_pythons_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("def policy(case, room):\n    return None\n")
    before = sys.modules.get("random")
    with pytest.raises(ConfigError, match=r"random\.py does not import: .*Rename the file"):
        launch(small.experiment(tmp_path, teacher__policy=f"{tmp_path}/random.py:policy"), tmp_path / "run")
    assert sys.modules.get("random") is before and not (tmp_path / "run").exists()


# ---- errors


def raises(case: Case, room: Room) -> str:
    raise KeyError("no such key")


async def raises_late(case: Case, room: Room) -> str:
    await room.teacher.aask(prompt(case))
    raise ValueError("after it was paid")


def exits(case: Case, room: Room) -> str:
    raise SystemExit(3)


async def exits_on_the_loop(case: Case, room: Room) -> str:
    raise SystemExit(3)


def returns(value: Any) -> Callable[[Case, Room], Any]:
    return lambda case, room: value


def stops_early(case: Case, room: Room) -> Iterator[str]:
    yield prompt(case)


def halves(case: Case, room: Room) -> Any:
    """Words of a sentence that was cut inside an emoji, as some APIs send it."""
    return "put \ud83d"


class Speechless(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def is_speechless(case: Case, room: Room) -> str:
    raise Speechless


async def cancels_itself(case: Case, room: Room) -> str:
    raise asyncio.CancelledError


BAD: list[tuple[Any, str]] = [
    (is_speechless, "Speechless (test_policies.py:"),
    (cancels_itself, "CancelledError: it cancelled itself"),
    (raises, "KeyError: 'no such key' (test_policies.py:"),
    (raises_late, "ValueError: after it was paid (test_policies.py:"),
    (exits, "SystemExit: 3"),
    (exits_on_the_loop, "SystemExit: 3"),
    (stops_early, "TypeError: returned generator"),
    (halves, "TypeError: Lesson: "),
    (returns(5), "TypeError: returned int: '5'; this slot returns a text, a Lesson, several, or None"),
    (returns(b"4"), "TypeError: returned bytes"),
    (returns({"text": "4"}), "TypeError: returned dict"),
    (returns(["4", 4]), "TypeError: returned list"),
    (returns(Diagnosis()), "TypeError: returned Diagnosis"),
    (returns(Lesson(text=None)), "TypeError: `Lesson.text`: Input should be a valid string, got None"),  # type: ignore[arg-type]
    (returns(Lesson(claimed=4)), "TypeError: `Lesson.claimed`: Input should be a valid string, got 4"),  # type: ignore[arg-type]
    (returns([Lesson(problem="17+25")]), "TypeError: `Lesson.problem`: "),  # type: ignore[arg-type]
    (lambda case, room: room.teacher.ask(None), "TypeError: "),
    (lambda case, room: room.teacher.ask(case), "TypeError: "),
    (lambda case, room: room.teacher.ask(()), "ValueError: a prompt needs a turn of the user's"),
    (lambda case, room: room.teacher.ask([{"role": "boss", "content": ""}]), "TypeError: `Request.messages.0.role`: "),
    (lambda case, room: room.teacher.ask("x", prefix=3), "TypeError: `Request.prefix`: "),
    (lambda case, room: room.teacher.ask("x", sample="2nd"), "TypeError: `Request.sample`: "),
    (lambda case, room: room.teacher.ask("\ud83d"), "TypeError: Request: "),
    (lambda case, room: room.teacher.fill(prompt(case), Lesson), "the scripted teacher fills Diagnosis, Practice"),
    (lambda case, room: room.note("key", object()), "PydanticSerializationError: "),
    (lambda case, room: room.note("\ud83d", 1), "surrogates not allowed"),
    (lambda case, room: room.retry(Problem(id="half", messages=user("\ud83d"))), "TypeError: Request: "),
    (returns(Lesson(problem=Problem(id="half", messages=user("\ud83d")))), "TypeError: Lesson: "),
    (lambda case, room: room.train([], "sft", start=room.plan.start), "RuntimeError: only the `update` slot can train"),
    (lambda case, room: room.retry(case, who="nobody"), "KeyError: 'nobody'"),
]


@pytest.mark.parametrize(("policy", "told"), BAD, ids=lambda x: str(x)[:40])
def test_an_error_is_a_failure_of_its_case_and_of_no_other(policy: Any, told: str, bench: Any) -> None:
    it = bench()
    first = first_id(it)

    def mostly_fine(case: Case, room: Room) -> Any:
        return policy(case, room) if case.id == first else shapes.awaiting(case, room)

    async def on_the_loop(case: Case, room: Room) -> Any:
        return await (policy(case, room) if case.id == first else shapes.awaiting(case, room))

    teach = on_the_loop if asyncio.iscoroutinefunction(policy) else mostly_fine
    lessons = it.taught(teach=teach)
    (failure,) = failures(lessons)
    assert (failure.item, failure.where) == (first, "teach") and told in failure.error
    assert len(lessons) == len(it.cases) - 1
    assert len(list(lessons)) == len(lessons), "what is on disk can be read"


def test_messages_may_be_written_as_the_apis_have_them(bench: Any) -> None:
    as_dicts = lambda case, room: room.teacher.ask([{"role": "user", "content": prompt(case)}])  # noqa: E731
    assert bench().taught(teach=as_dicts).digest == bench().taught(teach=shapes.plain).digest


def hangs(case: Case, room: Room) -> str:
    time.sleep(3)
    return "too late"


async def hangs_on_the_loop(case: Case, room: Room) -> str:
    await asyncio.sleep(30)
    return "too late"


async def hangs_on_to_life(case: Case, room: Room) -> str:
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(30)
    return "too late"


async def spins(case: Case, room: Room) -> str:
    while True:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("policy", [hangs, hangs_on_the_loop, hangs_on_to_life, spins])
def test_a_policy_that_hangs_is_given_up_while_the_others_go_on(policy: Any, bench: Any) -> None:
    it = bench(policy_seconds=0.5)
    first = first_id(it)
    lessons = it.taught(teach=lambda case, room: (policy if case.id == first else shapes.awaiting)(case, room))
    (failure,) = failures(lessons)
    assert failure.item == first and failure.error == "gave no answer within 0.5 s"
    assert len(lessons) == len(it.cases) - 1


def test_who_was_given_up_can_neither_ask_nor_note_any_more(bench: Any) -> None:
    it = bench(policy_seconds=0.5)
    first, told, over = first_id(it), list[str](), threading.Event()

    def late(case: Case, room: Room) -> str:
        if case.id != first:
            for i in range(8):  # the shard is still under way when the late one wakes up
                room.teacher.ask(f"{i}\n{prompt(case)}")
                time.sleep(0.1)
            return shapes.plain(case, room)
        time.sleep(0.9)
        room.note("late", True)
        try:
            return room.teacher.ask("Is anybody there?")
        except RuntimeError as e:
            told.append(str(e))
            raise
        finally:
            over.set()

    lessons = it.taught(teach=late)
    assert over.wait(5) and told == ["this item was given up: it had not answered in time"]
    assert not any("anybody" in e.request for e in small.asks(it.root)) and it.book.notes(1) == {}
    assert [f.item for f in failures(lessons)] == [first]


def test_the_run_stops_above_the_stated_share_and_names_the_commonest_error(bench: Any) -> None:
    it = bench(failures=0.5)
    it.slots()
    n = len(it.cases)
    ill = {c.id for c in list(it.cases)[: n // 2 + 1]}

    def often(case: Case, room: Room) -> str:
        if case.id in ill:
            raise OSError("rate limit" if case.id != min(ill) else "something else")
        return "fine"

    with pytest.raises(TooManyFailures) as told:
        it.taught(teach=often)
    assert str(told.value).startswith(f"`teach`: {n // 2 + 1} of {n} items failed, more than `failures` allows. ")
    assert f"{n // 2} x OSError: rate limit" in str(told.value)
    ill.pop()
    assert it.taught(teach=often).failed == n // 2, "as many as are allowed"


def test_a_run_that_is_resumed_may_not_fail_more_often_than_one_that_is_not(bench: Any) -> None:
    """The failures of the first shard are on disk; they count with those of the second."""
    it = bench(failures=0.5)
    it.slots()
    cases = list(it.cases)
    first = {c.id for c in cases[:64]}
    sick = {c.id for c in cases[:44]} | {c.id for c in cases[64:68]}
    assert len(sick) > len(cases) / 2 > 44

    def killed(case: Case, room: Room) -> str:
        if case.id not in first:
            raise KeyboardInterrupt
        return ill(case, room)

    def ill(case: Case, room: Room) -> str:
        if case.id in sick:
            raise OSError("overloaded")
        return "fine"

    with pytest.raises(KeyboardInterrupt):
        it.taught(teach=killed)
    it.close()
    it.open()
    with pytest.raises(TooManyFailures, match=f"{len(sick)} of {len(cases)}"):
        it.taught(teach=ill)


def test_too_many_failures_stop_a_run_and_a_larger_share_goes_on(tmp_path: Path) -> None:
    named = small.policy(tmp_path, "def policy(case, room):\n    raise OSError('rate limit')\n")
    told = small.experiment(tmp_path, rounds=1, teacher__policy=named)
    with pytest.raises(TooManyFailures, match=r"OSError: rate limit \(my_policies.py:2\)"):
        launch(told, tmp_path / "run")
    assert '"stopped"' in (tmp_path / "run/status.json").read_text()
    report = launch({**told, "failures": 1.0}, tmp_path / "run")
    assert report.status == "finished" and small.table(tmp_path / "run", "1/teach").failed > 20


# ---- asking


def test_blocking_on_the_event_loop_says_what_to_await(bench: Any) -> None:
    async def blocks(case: Case, room: Room) -> str:
        return room.teacher.ask(prompt(case))

    it = bench(failures=1.0)
    told = failures(it.taught(teach=blocks))
    assert len(told) == len(it.cases) and "inside `async def`, await `aask`" in told[0].error


def test_a_loop_of_ones_own_says_what_to_call(bench: Any) -> None:
    def runs(case: Case, room: Room) -> str:
        return asyncio.run(shapes.awaiting(case, room))

    told = failures(bench(failures=1.0).taught(teach=runs))
    assert "in a plain `def`, call the blocking `ask`" in told[0].error


@pytest.mark.parametrize(("shape", "waves"), [("three_in_a_row", 3), ("three_at_once", 1)])
def test_three_asks_a_case_travel_in_waves_and_are_paid_once(shape: str, waves: int, bench: Any) -> None:
    it = bench()
    lessons = it.taught(teach=getattr(shapes, shape))
    assert {x.cost.calls for x in lessons} == {3}
    assert len(small.paid(it.root)) - _verified(it) == 3 * len(it.cases)
    sent = [n for method, n in it.hosts["teacher"].calls if method == "generate"]
    first, second = (len(shard) for shard in it.cases.shards())
    batch = 64  # of an engine
    expected = [n for shard in (first, second) for n in _batches(3 * shard // waves, batch) * waves]
    assert sent == expected, "one call for a shard's asks, whatever their timing"


def _batches(n: int, batch: int) -> list[int]:
    return [batch] * (n // batch) + ([n % batch] if n % batch else [])


def _verified(it: small.Bench) -> int:
    return sum(e.step == "1/verify" for e in small.paid(it.root))


def test_the_order_of_asks_does_not_hang_on_timing(bench: Any) -> None:
    def sleepy(case: Case, room: Room) -> str:
        time.sleep(hash(case.id) % 7 / 100)
        return room.teacher.ask(prompt(case))

    def lines(it: small.Bench) -> list[str]:
        text = (it.root / "asks/1-teach.jsonl").read_text()
        return [line for line in text.splitlines() if line.startswith('["ask"')]

    one, two = bench(), bench()
    do = one.slots(teach=sleepy)
    do._teach(one.cases, None)
    do = two.slots(teach=shapes.awaiting)
    do._teach(two.cases, None)
    assert lines(one) == lines(two) and len(lines(one)) == len(one.cases)


def test_four_equal_asks_are_four_samples(bench: Any) -> None:
    async def four(case: Case, room: Room) -> None:
        await asyncio.gather(*(room.teacher.aask(prompt(case)) for _ in range(3)))
        await room.teacher.aask(prompt(case))
        await room.teacher.aask("another prompt\n" + case.question)

    it = bench()
    it.taught(teach=four)
    case = next(iter(it.cases))
    mine = [e for e in small.paid(it.root) if e.item == case.id and e.step == "1/teach"]
    samples = Counter(json.loads(e.request)["sample"] for e in mine)
    assert samples == {0: 2, 1: 1, 2: 1, 3: 1}, "each prompt is counted for itself"


def test_the_same_sample_is_the_same_answer_and_paid_once(bench: Any) -> None:
    async def twice(case: Case, room: Room) -> Lesson:
        a = await room.teacher.aask(prompt(case), sample=7)
        b = await room.teacher.aask(prompt(case), sample=7)
        assert a == b
        return Lesson(text=a)

    it = bench()
    assert {x.cost.calls for x in it.taught(teach=twice)} == {1}
    assert len(small.paid(it.root)) - _verified(it) == len(it.cases)


def test_fresh_asks_anew_what_another_round_has_answered(bench: Any) -> None:
    async def asks(case: Case, room: Room, fresh: bool) -> None:
        await room.teacher.aask("What is a carry?\n" + case.question, fresh=fresh)

    it = bench()
    do = it.slots(teach=lambda case, room: asks(case, room, False))
    do._teach(it.cases, None)
    n = len(it.cases)
    other = replace(it.plan, number=2)
    for fresh, paid, sent in ((False, 0, 0), (True, n, n), (True, n, 0)):
        it.plan = other
        it.hosts["teacher"].calls.clear()
        room = it.slots(teach=lambda case, room, fresh=fresh: asks(case, room, fresh))
        room._teach(it.cases, None)
        assert it.book.spent("2/teach").calls == paid, "asked once, whatever is asked again by the same case"
        assert sum(requests for _, requests in it.hosts["teacher"].calls) == sent
        for path in (it.root / "rows/2/teach").iterdir():
            path.unlink()


def test_the_same_ask_in_a_later_round_is_reused_and_counted_apart(tmp_path: Path) -> None:
    text = """
from tutorloop.tests.policies_for_tests.shapes import prompt
async def policy(case, room):
    await room.teacher.aask("The same for everybody.")
    return await room.teacher.aask(prompt(case))
"""
    told = small.experiment(tmp_path, rounds=2, teacher__policy=small.policy(tmp_path, text), schedule__new=0.1)
    report = launch(told, tmp_path / "run")
    first, second = report.rounds[1], report.rounds[2]
    taught = [len(small.table(tmp_path / "run", f"{n}/teach")) for n in (1, 2)]
    assert first.cost.reused == taught[0] - 1, "one of them paid"
    again = [e for e in small.asks(tmp_path / "run") if e.step == "2/teach" and e.reused]
    assert second.cost.reused >= taught[1] and len(again) >= taught[1]
    lessons = list(small.table(tmp_path / "run", "2/teach"))
    assert all(x.cost.reused >= 1 and x.cost.calls + x.cost.reused == 2 for x in lessons)
    assert second.cost.calls == sum(e.step.startswith("2/") for e in small.paid(tmp_path / "run"))


def test_a_check_never_reuses_the_answer_that_it_vouches_for(bench: Any) -> None:
    async def copies(case: Case, room: Room) -> str:
        return await room.teacher.aask(case.problem.messages) + "=1"

    it = bench()
    lessons = it.lessons(teach=copies, check=Sound(kinds=("blind",)))
    paid = Counter(e.step for e in small.paid(it.root))
    assert len(lessons) == len(it.cases) == paid["1/teach"] == paid["1/check"] > 20


def test_a_record_is_filled_or_the_case_fails(bench: Any) -> None:
    async def fills(case: Case, room: Room) -> Lesson:
        found = await room.teacher.afill(prompt(case), Diagnosis)
        return Lesson(text=found.bug)

    @dataclass(frozen=True)
    class Practice:  # the scripted teacher fills another of this name
        tasks: int = 0

    it = bench(failures=1.0)
    assert sum(bool(x.text) for x in it.taught(teach=fills)) > 50
    other = bench(failures=1.0)
    lessons = other.taught(teach=lambda case, room: room.teacher.fill(prompt(case), Practice))
    assert lessons.failed == len(other.cases) and "ValidationError" in failures(lessons)[0].error


# ---- what goes wrong with the run never passes through a policy's hands


def swallows(case: Case, room: Room) -> str | None:
    try:
        return room.teacher.ask(prompt(case))
    except BaseException:
        return None


def test_a_spent_budget_stops_the_run_whatever_a_policy_catches(bench: Any) -> None:
    it = bench(budget={"teacher_tokens": 1})
    with pytest.raises(BudgetSpent, match="budget of 1 teacher tokens is spent"):
        it.taught(teach=swallows)


def test_a_lost_role_stops_the_run_whatever_a_policy_catches(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    it = bench()

    def lost(method: str, *args: Any) -> Any:
        raise RoleDied("teacher/0 is gone")

    monkeypatch.setattr(it.hosts["teacher"], "call", lost)
    with pytest.raises(RoleDied, match="teacher/0 is gone"):
        it.taught(teach=swallows)


def test_the_students_own_tries_cost_no_teacher_tokens(bench: Any) -> None:
    async def retries(case: Case, room: Room) -> str | None:
        again = await room.aretry(case, context="Look again.")
        return again.work

    it = bench(budget={"teacher_tokens": 1})
    before = it.book.spent()
    lessons = it.taught(teach=retries)
    assert len(lessons) == len(it.cases) and it.book.spent() == before
    assert {x.cost for x in lessons} == {Cost()}
    assert it.book.spent("1/teach", member="student").calls == len(it.cases)


# ---- what else a policy finds in its room


def test_notes_are_read_in_later_rounds_the_last_word_counting(tmp_path: Path) -> None:
    text = """
import time
from tutorloop.tests.policies_for_tests.shapes import prompt
def policy(case, room):
    time.sleep(hash(case.id) % 5 / 200)
    room.note("last", case.id)
    room.note("before", [r.notes.get("last") for r in room.history])
    return room.teacher.ask(prompt(case))
"""
    told = small.experiment(tmp_path, teacher__policy=small.policy(tmp_path, text))
    reports = launch(told, tmp_path / "run").rounds
    last = [list(small.table(tmp_path / "run", f"{n}/triage"))[-1].id for n in (1, 2)]
    assert [r.notes["last"] for r in reports[1:]] == last, "in the order of the cases, whichever thread came last"
    assert [r.notes["before"] for r in reports[1:]] == [[None], [None, last[0]]]


def test_chance_is_the_items_own_and_the_same_on_every_start(bench: Any) -> None:
    def draws(case: Case, room: Room) -> str:
        return str(room.rng.random())

    def backwards(case: Case, room: Room) -> str:
        time.sleep(hash(case.id) % 5 / 200)
        return str(room.rng.random())

    one, two = list(bench().taught(teach=draws)), list(bench().taught(teach=backwards))
    assert one == two and len({x.text for x in one}) == len(one)


def test_a_room_shows_practice_the_whole_round_and_the_plan(bench: Any) -> None:
    seen: list[Any] = []

    async def looks(case: Case, room: Room) -> None:
        seen.append((len(room.practice), len(room.cases), room.plan.number, sorted(room.cast), room.learner.state.name))

    it = bench()
    it.taught(teach=looks)
    assert set(map(str, seen)) == {str((140, 140, 1, ["student", "teacher"], "student-base"))}


def test_an_exam_that_is_handed_to_the_teacher_or_the_learner_stays_shut(bench: Any) -> None:
    it = bench(failures=1.0)
    exam = it.course.exam
    with pytest.raises(SealedPool, match="`exam` is sealed"):
        it.slots().select(exam)
    for reach in (lambda case, room: room.teacher.ask(exam), lambda case, room: [str(p) for p in exam]):
        told = failures(bench(failures=1.0).taught(teach=reach))
        assert told[0].error.startswith("SealedPool: `exam` is sealed")


def test_a_run_may_be_started_where_a_loop_runs_already(tmp_path: Path) -> None:
    """As in a notebook."""

    async def cell() -> str:
        return launch(small.experiment(tmp_path, rounds=1), tmp_path / "run").status

    assert asyncio.run(cell()) == "finished"


# ---- the slots of a whole round


def test_a_triage_that_fails_stops_the_run_with_its_own_error(bench: Any) -> None:
    it = bench(keep=("select", "attempt", "verify"))
    with pytest.raises(TooManyFailures, match=r"the `triage` slot failed: ZeroDivisionError"):
        it.slots(triage=lambda cases, room: 1 // 0)


def test_a_triage_may_keep_order_and_repeat(bench: Any) -> None:
    it = bench(keep=("select", "attempt", "verify"))
    it.slots(triage=lambda cases, room: [cases[3], cases[1], cases[3]])
    ids = [c.id for c in it.cases]
    assert ids == [ids[0], ids[1], f"{ids[0]}#2"]


def test_a_selector_may_choose_and_write_but_an_id_means_one_problem(bench: Any) -> None:
    it = bench(keep=())
    mine = replace(next(iter(it.course.practice.problems)), id="mine", messages=user("7+8"), parent="sub-0000")
    it.slots(select=lambda problems, room: [problems[5], mine], triage=None)
    chosen, written = it.cases
    assert chosen.problem == list(it.course.practice.problems)[5] and chosen.grades[0].label in ("right", "wrong")
    assert (written.id, written.grades[0].label, written.grades[0].by) == ("mine", "abstain", "no gold")


@pytest.mark.parametrize(
    ("select", "told"),
    [
        (lambda problems, room: [problems[0], problems[0]], "2 times"),
        (lambda problems, room: [replace(problems[0], messages=user("1+1"))], "an id of its own"),
        (lambda problems, room: ["1+1"], "this slot returns problems"),
        (
            lambda problems, room: [
                replace(problems[0], id="mine", messages=user(f"=? {room.gold(problems[0]).answer}"))
            ],
            "in sight of gold",
        ),
    ],
)
def test_a_selection_that_cannot_be_graded_or_trusted_is_refused(select: Any, told: str, bench: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=told):
        bench(keep=()).slots(select=select)
