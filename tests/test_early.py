"""A step that is begun while the one before it is at work comes to what it would come to afterwards."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tutorloop.agents.cast import Cast
from tutorloop.agents.lanes import Lanes, Left
from tutorloop.evals.records import Verdict
from tutorloop.loops.early import Early, NotYet, TooEarly, nobody
from tutorloop.loops.journal import Journal
from tutorloop.loops.launch import Interrupted, launch
from tutorloop.loops.slots import TooManyFailures
from tutorloop.policies.methods import METHODS
from tutorloop.tests.policies_for_tests import small
from tutorloop.tests.provider import Provider
from tutorloop.tests.test_replicas import Interrupts


@pytest.fixture
def told(tmp_path: Path, provider: Provider, no_power_cuts: None) -> dict[str, Any]:
    """Two rounds of `tailored` with a chat teacher, three shards of practice, and no two cases that ask the same."""
    provider.behave()
    return small.experiment(
        tmp_path,
        course__practice=180,
        teacher__engine="chat",
        teacher__url=provider.url,
        teacher__model="m-1",
    )


def works(early: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cast, "apart", property(lambda cast: early, lambda cast, value: None))


def differing(one: Path, other: Path) -> set[str]:
    """What two runs do not have alike, but for their configs and folders."""
    here, there = small.transcript(one), small.transcript(other)
    return {name for name in here | there if here.get(name) != there.get(name)} - {"run.json"}


# ---- the same


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_run_that_works_early_is_the_run_that_does_not(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_power_cuts: None
) -> None:
    """File by file, the asks among them. Here all are in one process, as otherwise nobody could tell them apart."""
    told = small.experiment(tmp_path, course__practice=180, method=name)
    for early in (True, False):
        works(early, monkeypatch)
        launch(told, tmp_path / str(early))
    assert differing(tmp_path / "True", tmp_path / "False") == set()


def test_with_a_chat_teacher_the_tables_and_what_was_paid_are_the_same(
    told: dict[str, Any], provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for how many asks had been answered when a part was written, which is a matter of time."""
    launch(told, tmp_path / "early")
    calls = provider.told().calls
    works(False, monkeypatch)
    launch(told, tmp_path / "late")
    assert provider.told().calls == 2 * calls > 200
    apart = differing(tmp_path / "early", tmp_path / "late")
    assert not [name for name in apart if name.endswith(".parquet")]
    assert "asks" not in apart and "steps/2/gate.json" not in apart


# ---- early


WAITS = """
import asyncio, threading
from dataclasses import replace
from tutorloop.policies.tailored import METHOD as TAILORED
from tutorloop.tests.policies_for_tests.once import METHOD as ONCE

begun = threading.Event()

async def waits():
    for _ in range(3000):
        if begun.is_set():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("nobody begins before all is through")

async def attempt(problem, room):
    if problem.id == room.practice[len(room.practice) - 1].id:
        await waits()
    return await room.learner.aattempt(problem)

async def teach(case, room):
    if case.id == room.cases[len(room.cases) - 1].id:
        await waits()
    return await ONCE.teach(case, room)

def every(cases, room):
    return list(cases)

def begins(slot):
    async def begin(*args):
        begun.set()
        found = slot(*args)
        return await found if asyncio.iscoroutine(found) else found
    return begin
"""


@pytest.mark.parametrize(
    ("slot", "method"),
    [
        ("attempt", "replace(TAILORED, attempt=attempt, verify=begins(TAILORED.verify))"),
        ("attempt", "replace(ONCE, attempt=attempt, teach=begins(ONCE.teach))"),
        ("attempt", "replace(ONCE, attempt=attempt, verify=TAILORED.verify, teach=begins(ONCE.teach))"),
        ("teach", "replace(ONCE, triage=every, teach=teach, check=begins(ONCE.check))"),
    ],
)
def test_the_next_slot_begins_while_the_last_shard_is_being_made(
    slot: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_power_cuts: None
) -> None:
    """Else the last item of the last shard would wait for ever."""
    works(True, monkeypatch)
    name = small.policy(tmp_path, f"{WAITS}\nMETHOD = {method}", "METHOD")
    launch(small.experiment(tmp_path, course__practice=200, method=name, rounds=1), tmp_path / "run")
    table = small.table(tmp_path / "run", f"1/{slot}")
    assert table.parts > 1 and table.failed == 0


# ---- what may come between


ODD = """
from dataclasses import replace
from tutorloop.tests.policies_for_tests.once import METHOD as ONCE
from tutorloop.policies.tailored import METHOD as TAILORED

async def verify(case, room):
    room.note(case.id, "verified")
    if case.id.endswith("7"):
        raise ValueError("a seven")
    return await TAILORED.verify(case, room)

async def teach(case, room):
    said = await ONCE.teach(case, room)
    room.note("last", case.id)
    if case.id.endswith("3"):
        raise ValueError(f"of {len(room.cases)} cases")
    return said

METHOD = replace(ONCE, verify=verify, teach=teach)
"""


def test_failures_notes_and_policies_that_look_at_all_cases_are_as_they_are_one_step_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_power_cuts: None
) -> None:
    """Who looks at all cases too early is called again, and what it had asked is neither asked nor counted again."""
    name = small.policy(tmp_path, ODD, "METHOD")
    for early in (True, False):
        works(early, monkeypatch)
        launch(small.experiment(tmp_path, course__practice=180, method=name, failures=0.5), tmp_path / str(early))
    assert differing(tmp_path / "True", tmp_path / "False") == set()
    failed = {f.error for f in small.table(tmp_path / "True", "1/teach").failures()}
    assert len(failed) == 1 and "of 162 cases" in failed.pop()


@pytest.mark.parametrize("at", ["1/attempt 2/", "1/attempt 3/", "1/verify 1/", "2/teach 1/", "2/check 1/"])
def test_a_run_that_was_interrupted_while_two_steps_were_at_work_is_the_run_that_was_not(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_power_cuts: None
) -> None:
    works(True, monkeypatch)
    name = small.policy(tmp_path, ODD, "METHOD")
    told = small.experiment(tmp_path, course__practice=180, method=name, failures=0.5)
    with pytest.raises(Interrupted):
        launch(told, tmp_path / "run", tick=Interrupts(f"shard {at}"))
    launch(told, tmp_path / "run")
    launch(told, tmp_path / "whole")
    assert differing(tmp_path / "run", tmp_path / "whole") == set()


def test_a_budget_that_is_spent_early_stops_the_run_and_a_larger_one_goes_on(
    told: dict[str, Any], provider: Provider, tmp_path: Path
) -> None:
    report = launch({**told, "budget": {"teacher_tokens": 2000}}, tmp_path / "run")
    assert report.status == "stopped" and "2000 teacher tokens" in report.why
    assert (tmp_path / "run/steps/1/attempt.json").exists() and not (tmp_path / "run/steps/1/verify.json").exists()
    assert launch(told, tmp_path / "run").status == "finished"
    assert {*provider.told().answered.values()} == {1}, "nothing is paid for twice"


def test_too_many_failures_in_an_early_step_end_the_run_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_power_cuts: None
) -> None:
    works(True, monkeypatch)
    name = small.policy(tmp_path, ODD.replace('endswith("7")', 'startswith("")'), "METHOD")
    with pytest.raises(TooManyFailures, match=r"`verify`: .* 64 x ValueError: a seven"):
        launch(small.experiment(tmp_path, course__practice=180, method=name), tmp_path / "run")
    assert (tmp_path / "run/steps/1/attempt.json").exists()


def test_a_step_that_was_begun_early_may_not_fail_more_often_than_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_power_cuts: None
) -> None:
    """Of 180 problems 30 fail in `attempt`; of 150 cases 33 in `verify`: less than a fifth of 180, and not of 150."""
    text = """
from dataclasses import replace
from tutorloop.tests.policies_for_tests.once import METHOD as ONCE

async def attempt(problem, room):
    if [p.id for p in room.practice].index(problem.id) % 6 == 0:
        raise ValueError("a sixth")
    return await room.learner.aattempt(problem)

def verify(case, room):
    if [p.id for p in room.practice].index(case.id) % 6 == 1 or case.id in [room.practice[i].id for i in (2, 8, 14)]:
        raise ValueError("another")

METHOD = replace(ONCE, attempt=attempt, verify=verify)
"""
    name = small.policy(tmp_path, text, "METHOD")
    for early in (True, False):
        works(early, monkeypatch)
        with pytest.raises(TooManyFailures, match=r"`verify`: 3[13] of 150 items failed"):
            launch(small.experiment(tmp_path, course__practice=180, method=name), tmp_path / str(early))


def test_gold_that_a_check_reads_marks_no_lesson_of_the_same_problem_that_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_power_cuts: None
) -> None:
    """The last shard's lessons are of problems of the first, whose gold is read while they are being written."""
    text = f"""{WAITS}
def twice(cases, room):
    return [*cases, *cases[:20]]

def check(lesson, room):
    for _ in range(5):
        room.grade(room.case(lesson), "0")
    begun.set()
    return ONCE.check(lesson, room)

METHOD = replace(ONCE, triage=twice, teach=teach, check=check)
"""
    name = small.policy(tmp_path, text, "METHOD")
    works(True, monkeypatch)
    launch(small.experiment(tmp_path, course__practice=180, method=name, rounds=1), tmp_path / "run")
    lessons = list(small.table(tmp_path / "run", "1/teach"))
    assert len({x.case.partition("#")[0] for x in lessons}) < len(lessons) and not any(x.gold_seen for x in lessons)


# ---- by itself


def begun(add: Callable[[Any], object], make: Callable[[int], Any], lanes: int, shards: int) -> Early:
    return Early(add, make, Lanes(lanes), range(shards), nobody)


def test_no_more_is_in_flight_than_there_are_lanes_however_slow_the_disk_is() -> None:
    made, writes = list[int](), threading.Semaphore(0)
    it = begun(lambda rows: writes.acquire(), made.append, 3, 20)
    for shard in range(20):
        it.there(shard)
    for shard in range(20):
        assert len(made) <= shard + 3
        writes.release()
    assert list(it.parts()) == [*range(1, 21)]
    assert sorted(made) == [*range(20)]


def test_nothing_is_made_of_what_is_not_there_and_nothing_written_once_one_has_left() -> None:
    made, written = list[int](), list[int]()

    def make(shard: int) -> int:
        made.append(shard)
        return shard

    it = begun(written.append, make, 2, 4)
    it.there(0)
    assert next(it.parts()) == 1
    it.leave()
    it.there(3)
    with pytest.raises(Left):
        list(it.parts())
    assert made == written == [0]


def test_what_was_being_made_when_one_left_is_not_written() -> None:
    making, go_on, written = threading.Event(), threading.Event(), list[int]()

    def make(shard: int) -> int:
        making.set()
        go_on.wait()
        return shard

    it = begun(written.append, make, 1, 2)
    it.there(0)
    making.wait()
    it.leave()
    go_on.set()
    assert list(it.parts()) == written == []


def test_when_a_step_fails_what_was_begun_early_goes_no_further(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "run")
    made = list[int]()

    def fails() -> int:
        it.there(0)
        assert next(it.parts()) == 1
        raise KeyboardInterrupt

    it = journal.early("1/verify", Verdict, 3, lambda shard: made.append(shard) or [], Lanes(1), nobody)  # type: ignore[func-returns-value]
    with pytest.raises(KeyboardInterrupt):
        journal.step("1/attempt", fails)
    it.there(2)
    with pytest.raises(Left):
        list(it.parts())
    assert made == [0]
    journal.release()


def test_a_table_that_is_not_all_there_says_so_whatever_one_does_with_it() -> None:
    looks: list[Callable[[Any], object]] = [len, iter, bool, lambda t: t[0], lambda t: "a" in t, lambda t: t.get("a")]
    for look in looks:
        table = NotYet()
        assert not table.asked_for
        with pytest.raises(TooEarly, match="are not all there yet"):
            look(table)
        assert table.asked_for
