"""A run folder: what finished in it is never done, or paid for, again, whatever the process that died left behind."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from tutorloop.agents.lanes import Left
from tutorloop.evals.records import Failure, Verdict
from tutorloop.evals.rows import Rows
from tutorloop.loops.asks import read_asks
from tutorloop.loops.journal import Journal, JournalError, Tick, locked, read_status
from tutorloop.policies.records import Cost
from tutorloop.policies.room import Asked, Tried


class Counted:
    """Adds, and counts how often it was made to."""

    def __init__(self) -> None:
        self.calls = 0

    def add(self, a: int, b: int = 1) -> int:
        self.calls += 1
        return a + b


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    opened = Journal.open(tmp_path / "run")
    yield opened
    opened.release()


def again(journal: Journal) -> Journal:
    """The same folder in a process that came later."""
    journal.release()
    return Journal.open(journal.root)


# ---- steps


def test_a_step_runs_once_and_is_replayed_ever_after(journal: Journal) -> None:
    counted = Counted()
    assert journal.step("1/add", counted.add, 2, b=3) == 5
    assert again(journal).step("1/add", counted.add, 2, b=3) == 5
    assert counted.calls == 1 and journal.done("1/add") and not journal.done("1/other")


def test_what_is_taken_back_leaves_what_earlier_steps_have_left_too(journal: Journal) -> None:
    def leaves(*names: str) -> int:
        for name in names:
            (journal.root / name).write_text(name)
            journal.vouch(journal.root / name)
        return len(names)

    (journal.root / "rows").mkdir()
    for step, names in (("1/one", ("a", "b")), ("1/two", ("b", "c")), ("1/three", ("d",))):
        journal.step(step, leaves, *names)
    journal.take_back("1/one")
    assert [journal.done(f"1/{name}") for name in ("one", "two", "three")] == [True, False, False]
    assert sorted(p.name for p in journal.root.glob("?")) == ["a", "b"]
    journal.check()
    assert journal.step("1/two", leaves, "b", "c") == 2, "it can be done again"


@pytest.mark.parametrize("changed", [((3,), {"b": 3}), ((2,), {}), ((2,), {"b": 4})])
def test_a_step_with_other_inputs_is_refused_by_name(journal: Journal, changed: tuple[Any, Any]) -> None:
    counted = Counted()
    journal.step("1/add", counted.add, 2, b=3)
    args, named = changed
    with pytest.raises(JournalError, match=r"step '1/add'.*other inputs.*--run-dir"):
        journal.step("1/add", counted.add, *args, **named)
    assert counted.calls == 1


def test_a_step_that_fails_leaves_no_record(journal: Journal) -> None:
    def fails() -> int:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        journal.step("1/fails", fails)
    assert not journal.done("1/fails") and not list(journal.root.rglob("*.part"))


def test_a_value_that_does_not_survive_the_trip_fails_on_the_first_day(journal: Journal) -> None:
    def half() -> Verdict:
        return Verdict(label=json.loads('"fine"'), by="me")

    with pytest.raises(ValidationError):
        journal.step("1/half", half)


def test_the_first_run_gets_the_decoded_value_too(journal: Journal) -> None:
    given = [1, 2]

    def same() -> list[int]:
        return given

    assert journal.step("1/same", same) == given and journal.step("1/same", same) is not given


def test_a_damaged_step_is_named(journal: Journal) -> None:
    journal.step("1/add", Counted().add, 1)
    (journal.root / "steps/1/add.json").write_bytes(b'{"step": "1/a')
    with pytest.raises(JournalError, match=r"steps/1/add\.json is damaged"):
        journal.step("1/add", Counted().add, 1)


def test_a_run_that_was_moved_is_the_same_run(journal: Journal, tmp_path: Path) -> None:
    def count(rows: Rows[Verdict]) -> int:
        return len(list(rows))

    def made() -> Rows[Verdict]:
        return journal.table("1/made", Verdict, [Verdict(label="right", by="me")])

    assert journal.step("1/count", count, journal.step("1/made", made)) == 1
    journal.release()
    journal.root.rename(tmp_path / "moved")
    moved = Journal.open(tmp_path / "moved")
    rows = moved.step("1/made", made)
    assert next(iter(rows)).by == "me"
    assert moved.step("1/count", count, rows) == 1
    moved.release()


def test_ticks_tell_what_is_done_and_what_was_replayed(tmp_path: Path) -> None:
    told: list[tuple[Any, ...]] = []

    class Told(Tick):
        def __call__(self, name: str, done: int, total: int) -> None:
            told.append((name, done, total))

        def step(self, name: str, seconds: float, replayed: bool) -> None:
            told.append((name, replayed))

    journal = Journal.open(tmp_path, tick=Told())
    journal.step("a", Counted().add, 1)
    journal.step("a", Counted().add, 1)
    journal.shards("t", Failure, 2, lambda shard: [])
    journal.release()
    assert told == [("a", False), ("a", True), ("t", 1, 2), ("t", 2, 2)]


# ---- tables


def failing(i: int) -> Failure:
    return Failure(item=str(i), where="w", error="e")


@dataclass
class Makes:
    """Makes shards of two verdicts and a failure; dies at one of them."""

    dies_at: int = -1
    made: list[int] | None = None

    def __call__(self, shard: int) -> Sequence[Verdict | Failure]:
        self.made = [*(self.made or []), shard]
        if shard == self.dies_at:
            raise KeyboardInterrupt
        return [Verdict(label="right", by=f"{shard}-0"), failing(shard), Verdict(label="wrong", by=f"{shard}-1")]


def test_finished_shards_are_kept_and_the_rest_is_made(journal: Journal) -> None:
    first, second = Makes(dies_at=2), Makes()
    with pytest.raises(KeyboardInterrupt):
        journal.shards("1/t", Verdict, 4, first)
    rows = again(journal).shards("1/t", Verdict, 4, second)
    assert first.made == [0, 1, 2] and second.made == [2, 3]
    assert [v.by for v in rows] == [f"{s}-{i}" for s in range(4) for i in range(2)]
    assert [f.item for f in rows.failures()] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("lost", [1, 60])
def test_a_shard_without_its_whole_line_was_not_finished(journal: Journal, lost: int) -> None:
    """Killed between the part and its line, or within it."""
    rows = journal.shards("1/t", Verdict, 2, Makes())
    whole = (journal.root / "rows/1/t/parts.jsonl").read_bytes()
    (journal.root / "rows/1/t/parts.jsonl").write_bytes(whole[: len(whole) - lost])
    makes = Makes()
    assert journal.shards("1/t", Verdict, 2, makes) == rows and makes.made == [1]


def test_what_there_is_of_a_table_can_be_looked_at(journal: Journal) -> None:
    assert len(journal.begun("1/t", Verdict)) == 0
    with pytest.raises(KeyboardInterrupt):
        journal.shards("1/t", Verdict, 4, Makes(dies_at=2))
    begun = journal.begun("1/t", Verdict)
    assert len(begun) == 4 and begun.failed == 2


def test_records_at_hand_make_one_table_not_a_mixture_of_two_attempts(journal: Journal) -> None:
    """A slot that draws anew on each start must not get half of each draw."""

    def rows(by: str) -> list[Verdict]:
        return [Verdict(label="right", by=f"{by}{i}") for i in range(6)]

    journal.table("1/t", Verdict, rows("old"))
    table = journal.table("1/t", Verdict, rows("new")[:3])
    assert [v.by for v in table] == ["new0", "new1", "new2"]
    assert len(journal.begun("1/t", Verdict)) == 3


# ---- asks


def asked(*keys: str, item: str = "i", member: str = "teacher") -> Mapping[str, Asked]:
    return {key: Asked(member, item, f"request {key}") for key in keys}


def told(*keys: str, tokens: int = 10) -> dict[str, tuple[str, Cost]]:
    return {key: (f"reply {key}", Cost(calls=1, tokens_in=tokens, tokens_out=1)) for key in keys}


def test_an_answered_ask_is_recalled_by_a_later_process(journal: Journal) -> None:
    journal.record("1/teach", asking=asked("a", "b"))
    journal.record("1/teach", replies=told("a", "b"))
    later = again(journal)
    found = later.recall("a")
    assert found is not None and (found.reply, found.step, found.item) == ("reply a", "1/teach", "i")
    assert later.spent() == Cost(calls=2, tokens_in=20, tokens_out=2)


def test_an_ask_in_flight_at_a_kill_is_asked_again(journal: Journal) -> None:
    journal.record("1/teach", asking=asked("a", "b"))
    later = again(journal)
    assert later.recall("a") is None and later.spent() == Cost()
    later.record("1/teach", asking=asked("a", "b"))
    later.record("1/teach", replies=told("a", "b"))
    assert again(later).spent().calls == 2


def test_an_entry_stands_on_disk_before_the_ask_is_made_and_before_its_answer_is_used(journal: Journal) -> None:
    path = journal.root / "asks/1-teach.jsonl"
    journal.record("1/teach", asking=asked("a"))
    assert b'["ask","1/teach","a"' in path.read_bytes()
    journal.record("1/teach", replies=told("a"))
    assert b'["reply","1/teach","a"' in path.read_bytes()


def lines(journal: Journal) -> bytes:
    return (journal.root / "asks/1-teach.jsonl").read_bytes()


def test_wherever_a_kill_tears_the_file_nothing_is_lost_but_the_torn_line(journal: Journal) -> None:
    for key in "ab":
        journal.record("1/teach", asking=asked(key))
        journal.record("1/teach", replies=told(key))
    whole = lines(journal)
    ends = {key: whole.index(b"\n", whole.index(b'"%s","reply' % key.encode())) + 1 for key in "ab"}
    for cut in range(len(whole) + 1):
        (journal.root / "asks/1-teach.jsonl").write_bytes(whole[:cut])
        journal = again(journal)
        kept = [key for key in "ab" if journal.recall(key)]
        assert kept == [key for key, end in ends.items() if end <= cut]
        missing = [key for key in "ab" if key not in kept]
        journal.record("1/teach", asking=asked(*missing))
        journal.record("1/teach", replies=told(*missing))
        journal = again(journal)
        assert journal.spent("1/teach") == Cost(calls=2, tokens_in=20, tokens_out=2), f"torn after {cut} bytes"
        assert {e.step for e in read_asks(journal.root / "asks/1-teach.jsonl")} == {"1/teach"}


def test_a_finished_step_keeps_its_asks_in_one_file_for_other_programs(journal: Journal) -> None:
    def teach() -> int:
        journal.record("1/teach", asking=asked("b", "a"))
        journal.record("1/teach", replies=told("a", "b"))
        return 0

    journal.step("1/teach", teach)
    assert os.listdir(journal.root / "asks") == ["1-teach.parquet"]
    assert [e.key for e in read_asks(journal.root / "asks/1-teach.parquet")] == ["a", "b"]
    assert again(journal).spent().calls == 2


def test_calls_without_an_answer_are_counted_apart_and_answer_nothing(journal: Journal) -> None:
    nothing: dict[str, Any] = {"asking": {}, "tried": [], "replies": {}, "reused": []}
    limited, cut = Tried("rate limited", "429: slow down", 0, 0), Tried("malformed", "no text", 10, 3)
    for key, why in (("a", limited), ("a", cut), ("b", limited)):
        journal.record("1/teach", **{**nothing, "asking": asked(key)})
        journal.record("1/teach", **{**nothing, "tried": [(key, why)]})
    assert lines(journal).count(b'"ask"') == 2 and lines(journal).count(b'"again"') == 1
    for _ in range(2):
        assert journal.recall("a") is None is journal.recall("b")
        assert journal.spent() == Cost(tokens_in=10, tokens_out=3), "paid for, and no answer"
        assert journal.asks.faults("1/") == {"rate limited": 2, "malformed": 1}
        assert journal.asks.faults("2/") == {}
        journal = again(journal)
    replies = {"a": ("yes", Cost(calls=1, unmetered=1))}
    journal.record("1/teach", **{**nothing, "asking": asked("a")})
    journal.record("1/teach", **{**nothing, "replies": replies})
    journal.asks.compact("1/teach")
    found = [(e.key, e.number, e.fault, e.reply, e.unmetered) for e in read_asks(journal.root / "asks/1-teach.parquet")]
    assert found == [
        ("a", 0, "", "yes", True),
        ("a", 1, "rate limited", "429: slow down", False),
        ("a", 2, "malformed", "no text", False),
        ("b", 1, "rate limited", "429: slow down", False),
    ]
    assert again(journal).spent() == Cost(calls=1, tokens_in=10, tokens_out=3, unmetered=1)


def test_a_kill_between_compacting_and_unlinking_counts_nothing_twice(journal: Journal) -> None:
    journal.record("1/teach", asking=asked("a"))
    journal.record("1/teach", replies=told("a"))
    journal.record("1/teach", reused=[("z", "teacher", "i")])
    both = lines(journal)
    journal.asks.compact("1/teach")
    (journal.root / "asks/1-teach.jsonl").write_bytes(both)
    later = again(journal)
    assert later.spent() == Cost(calls=1, tokens_in=10, tokens_out=1, reused=1)
    later.record("1/teach", asking=asked("b"))
    later.record("1/teach", replies=told("b"))
    later.asks.compact("1/teach")
    later = again(later)
    later.record("1/teach", asking=asked("c"))  # the kill came before the step itself was committed
    later.record("1/teach", replies=told("c"))
    later.asks.compact("1/teach")
    assert again(later).spent() == Cost(calls=3, tokens_in=30, tokens_out=3, reused=1)


def test_costs_are_kept_by_step_and_by_member(journal: Journal) -> None:
    for step, member, key in (("1/teach", "teacher", "a"), ("1/teach", "student", "b"), ("11/teach", "teacher", "c")):
        journal.record(step, asking=asked(key, member=member))
        journal.record(step, replies=told(key))
    for ledger in (journal, again(journal)):
        assert ledger.spent().calls == 2, "the student's own tries cost the teacher nothing"
        assert ledger.spent("1/").calls == 1 and ledger.spent("11/").calls == 1 and ledger.spent("2/") == Cost()
        assert ledger.spent("1/", member="student").calls == 1


def test_what_was_reused_is_counted_apart_and_once(journal: Journal) -> None:
    for _ in range(2):  # a resumed shard asks its journal the same again
        journal.record("2/teach", reused=[("a", "teacher", "i"), ("a", "teacher", "j"), ("a", "teacher", "i")])
        journal = again(journal)
    assert journal.spent("2/") == Cost(reused=2)
    assert journal.recall("a") is None
    assert (journal.root / "asks/2-teach.jsonl").read_text().count('"reuse"') == 2


def test_a_folder_that_was_let_go_is_not_written_to_by_who_is_late(journal: Journal) -> None:
    """A thread that was busy when the run was paused; another process may be at work there by now."""
    journal.record("1/teach", asking=asked("a"))
    before = (journal.root / "asks/1-teach.jsonl").read_bytes()
    journal.release()
    for late in ({"replies": told("a")}, {"asking": asked("b")}):
        with pytest.raises(Left):
            journal.record("1/teach", **late)
    assert (journal.root / "asks/1-teach.jsonl").read_bytes() == before


# ---- notes


def noting(journal: Journal, step: str, *told: Mapping[str, Any]) -> None:
    """A step that notes, and nothing else."""

    def note() -> int:
        for one in told:
            journal.note(step, one)
        return 0

    journal.step(step, note)


def test_the_last_word_on_each_note_counts_and_each_round_has_its_own(journal: Journal) -> None:
    noting(journal, "1/verify", {"a": 1, "b": {"deep": [None]}})
    noting(journal, "1/check", {"a": 0}, {"a": 2})
    noting(journal, "11/teach", {"a": 3})
    assert again(journal).notes(1) == {"a": 2, "b": {"deep": [None]}} and journal.notes(11) == {"a": 3}
    assert journal.notes(2) == {}


def test_notes_are_kept_with_the_shard_in_which_they_were_noted(journal: Journal) -> None:
    """And with no other: a shard that is not finished is made again, and noted again."""
    dies_at = 2

    def teach() -> Rows[Verdict]:
        def make(shard: int) -> list[Verdict]:
            journal.note("1/teach", {"last": shard, f"shard {shard}": dies_at})
            if shard == dies_at:
                raise KeyboardInterrupt
            return [Verdict(label="right", by="me")]

        journal.note("1/teach", {"first": dies_at})
        return journal.shards("1/teach", Verdict, 4, make)

    with pytest.raises(KeyboardInterrupt):
        journal.step("1/teach", teach)
    journal, dies_at = again(journal), 9
    journal.step("1/teach", teach)
    assert journal.notes(1) == {"first": 9, "shard 0": 2, "shard 1": 2, "shard 2": 9, "shard 3": 9, "last": 3}


def test_what_is_noted_in_a_step_within_a_step_is_told_once(journal: Journal) -> None:
    def outer() -> int:
        journal.note("1/update", {"outer": 1})
        noting(journal, "1/train", {"inner": 2})
        return 0

    journal.step("1/update", outer)
    told = {name: journal.documents.step(name)["notes"] for name in journal.documents.steps()}
    assert told == {"1/train": {"inner": 2}, "1/update": {"outer": 1}}


# ---- the folder


def test_a_second_process_is_refused_as_long_as_the_first_one_lives(journal: Journal) -> None:
    code = "import sys, pathlib, tutorloop.loops.journal as j; j.Journal.open(pathlib.Path(sys.argv[1]))"

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, journal.root], capture_output=True, text=True)

    refused = run()
    assert refused.returncode == 1 and "in use by another process" in refused.stderr
    assert locked(journal.root)
    journal.release()
    assert run().returncode == 0 and not locked(journal.root)


def test_the_status_says_what_became_of_a_run(journal: Journal, tmp_path: Path) -> None:
    assert read_status(tmp_path / "nothing") == ("paused", "killed before it began")
    journal.settle("running")
    assert read_status(journal.root) == ("running", "")
    journal.release()
    assert read_status(journal.root) == ("paused", "its process was killed; the same command goes on")
    journal.settle("stopped", "why")
    assert read_status(journal.root) == ("stopped", "why")


def test_seconds_are_added_up_by_step(journal: Journal) -> None:
    for name in ("1/a", "1/b", "2/a"):
        journal.step(name, Counted().add, 1)
    recorded = [json.loads(p.read_bytes())["seconds"] for p in (journal.root / "steps/1").glob("*.json")]
    assert journal.seconds("1") == pytest.approx(sum(recorded)) and len(recorded) == 2


def test_the_codec_of_a_step_is_its_return_annotation(journal: Journal) -> None:
    def made() -> dict[str, Verdict]:
        return {"a": Verdict(label="right", by="x")}

    first: Callable[[], dict[str, Verdict]] = made
    assert journal.step("1/made", first) == {"a": Verdict(label="right", by="x")}
    stored = json.loads((journal.root / "steps/1/made.json").read_bytes())
    assert TypeAdapter(dict[str, Verdict]).validate_python(stored["value"]) == made()
