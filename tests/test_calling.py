"""Asks of a provider in a run: none is lost, none is paid for twice, and what fails says why."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast, get_args

import pytest
import yaml

from tutorloop import Case, Room
from tutorloop.agents.asking import Ask
from tutorloop.agents.calling import Calls
from tutorloop.agents.faults import FaultKind, Unserved
from tutorloop.agents.lanes import Lanes
from tutorloop.agents.roles import Reply, Request, RoleDied, RoleSpec
from tutorloop.agents.seats import Replica
from tutorloop.evals.records import Failure, State, user
from tutorloop.loops.config import ConfigError
from tutorloop.loops.journal import Journal, read_status
from tutorloop.loops.launch import launch, prepare
from tutorloop.loops.trying import TriedRound
from tutorloop.tests.policies_for_tests import once, small
from tutorloop.tests.provider import Delivered, Provider

ONCE = """
async def policy(case, room):
    return await room.teacher.aask(f"Correct it.\\n{case.question}\\n{case.work}")
"""
PLAIN = ONCE.replace("async ", "").replace("await ", "").replace("aask", "ask")
SOON = 60.0


@pytest.fixture
def told(tmp_path: Path, provider: Provider, no_power_cuts: None) -> dict[str, Any]:
    provider.behave()
    return experiment(tmp_path, provider)


def experiment(folder: Path, provider: Provider, text: str = ONCE, **changes: Any) -> dict[str, Any]:
    """One round in which a policy asks a chat teacher; nobody else asks it."""
    usual = (
        {}
        if "teacher" in changes
        else {
            "teacher__engine": "chat",
            "teacher__url": provider.url,
            "teacher__model": "m-1",
            "teacher__policy": small.policy(folder, text),
        }
    )
    method = {"method": f"{once.__file__}:METHOD", "rounds": 1}
    return small.experiment(folder, **{**method, **usual, **changes})


def failures(root: Path, slot: str = "1/teach") -> list[Failure]:
    return list(small.table(root, slot).failures())


def good(seen: Delivered) -> set[int]:
    """How often requests were answered well."""
    return {*seen.answered.values()}


@pytest.mark.parametrize("text", [ONCE, PLAIN], ids=["async def", "def"])
def test_each_ask_is_called_once_and_is_on_record_with_what_it_took(
    text: str, tmp_path: Path, provider: Provider, told: dict[str, Any]
) -> None:
    launch(experiment(tmp_path, provider, text), tmp_path / "run")
    seen = provider.told()
    paid = small.paid(tmp_path / "run")
    assert len(paid) == seen.calls == len(seen.answered) > 20 and good(seen) == {1}
    assert sum(e.tokens_in for e in paid) == small.report(tmp_path / "run", 1).cost.tokens_in > 0
    lessons = small.table(tmp_path / "run", "1/teach")
    assert len(lessons) > 20 and all(x.cost.calls == 1 for x in lessons)
    assert {e.item for e in paid} == {x.case for x in lessons} and len(paid) == 60


def test_a_run_is_the_same_whoever_waits_for_whom(tmp_path: Path, provider: Provider, told: dict[str, Any]) -> None:
    """But for the address and what hangs on it, as the scripted teacher's own run."""
    launch(told, tmp_path / "run")
    provider.behave(latency=0.02, faults={"500": 0.1})
    launch({**told, "teacher": {**told["teacher"], "limits": {"concurrency": 3}}}, tmp_path / "slower")
    here, there = (
        [(x.case, x.text, x.sound) for x in small.table(tmp_path / name, "1/check")] for name in ("run", "slower")
    )
    assert here == there and sum(sound for *_, sound in here) > 20


def test_with_faults_of_all_kinds_nothing_is_lost_and_nothing_paid_for_twice(
    tmp_path: Path, provider: Provider, told: dict[str, Any]
) -> None:
    faults = {"429": 0.05, "500": 0.02, "malformed": 0.02, "slow": 0.02, "dropped": 0.05, "refused": 0.05}
    provider.behave(faults=faults)
    more = {**told, "failures": 1.0, "course": {**told["course"], "practice": 200}}
    more["teacher"] = {**told["teacher"], "deadline": 0.5}
    launch(more, tmp_path / "run")
    seen, root = provider.told(), tmp_path / "run"
    entries = small.paid(root)
    answers, failed = [e for e in entries if not e.fault], [e for e in entries if e.fault]
    assert good(seen) == {1}
    assert len(answers) == sum(seen.answered.values()) - seen.faults["refused"]
    kinds = {"429": "rate limited", "500": "server error", "malformed": "malformed", "dropped": "dropped"}
    kinds |= {"slow": "timeout", "refused": "refused"}
    assert Counter(e.fault for e in failed) == {kinds[name]: n for name, n in seen.faults.items() if name in kinds}
    assert {(f.kind, f.where) for f in failures(root)} == {("refused", "teach")}
    assert len(answers) + len(failures(root)) == len(seen.deliveries) == 200


@pytest.mark.parametrize(("fault", "kind", "calls"), [("400", "bad request", 1), ("429", "rate limited", 2)])
def test_what_fails_to_the_end_is_a_failure_with_its_kind(
    fault: str, kind: str, calls: int, tmp_path: Path, provider: Provider, told: dict[str, Any]
) -> None:
    provider.behave(faults={fault: 1}, retry_after="0.01")
    teacher = {**told["teacher"], "limits": {"tries": 2}}
    launch({**told, "failures": 1.0, "teacher": teacher}, tmp_path / "run")
    found, seen = failures(tmp_path / "run"), provider.told()
    assert {f.kind for f in found} == {kind} and len(found) > 20
    assert all(f.error.startswith(f"NoAnswer: the teacher could not answer: {kind}") for f in found)
    assert {*seen.deliveries.values()} == {calls}
    entries = small.asks(tmp_path / "run")
    assert {(e.fault, e.number) for e in entries} == {(kind, i + 1) for i in range(calls)}


def test_a_policy_may_catch_that_there_is_no_answer(tmp_path: Path, provider: Provider, told: dict[str, Any]) -> None:
    text = """
from tutorloop.policies.room import NoAnswer

def policy(case, room):
    try:
        return room.teacher.ask(case.question)
    except NoAnswer as e:
        room.note("kind", e.kind)
"""
    provider.behave(faults={"refused": 1})
    launch(experiment(tmp_path, provider, text), tmp_path / "run")
    assert failures(tmp_path / "run") == []
    record = json.loads((tmp_path / "run/steps/1/teach.json").read_bytes())
    assert record["notes"]["kind"] == "refused"


@pytest.mark.parametrize(
    ("manner", "why"),
    [({"faults": {"401": 1}}, "authentication"), ({"faults": {"404": 1}}, "not found: 404")],
)
def test_a_provider_that_will_take_no_call_ends_the_run_in_one_line_and_the_same_command_goes_on(
    manner: dict[str, Any], why: str, tmp_path: Path, provider: Provider, told: dict[str, Any]
) -> None:
    provider.behave(**manner)
    with pytest.raises(Unserved, match=f"{why}.*same command"):
        launch(told, tmp_path / "run")
    assert provider.told().calls <= 64 and {*provider.told().deliveries.values()} == {1}, "nobody insists"
    status, reason = read_status(tmp_path / "run")
    assert status == "stopped" and why in reason
    provider.behave()
    launch(told, tmp_path / "run")
    assert good(provider.told()) == {1}


def test_asks_go_out_at_once_and_wait_for_no_other_case(
    tmp_path: Path, provider: Provider, told: dict[str, Any]
) -> None:
    text = """
import asyncio

first = asyncio.Event()

async def policy(case, room):
    if first.is_set() or getattr(first, "taken", False):
        await first.wait()
    first.taken = True
    said = await room.teacher.aask(f"{case.question}\\n{case.work}")
    first.set()
    return said
"""
    one = experiment(tmp_path, provider, text, policy_seconds=5.0, course__practice=60)
    launch(one, tmp_path / "run")
    assert failures(tmp_path / "run") == []


def test_several_shards_are_in_flight_so_that_the_provider_is_kept_busy_and_never_pressed_harder(
    tmp_path: Path, provider: Provider, told: dict[str, Any]
) -> None:
    provider.behave(latency=0.2)
    big = experiment(tmp_path, provider, course__practice=300, teacher__limits={"concurrency": 100})
    launch(big, tmp_path / "run")
    assert len(small.table(tmp_path / "run", "1/teach")) == 300
    assert provider.told().most == 100


def test_one_question_that_many_cases_ask_is_paid_for_once(
    tmp_path: Path, provider: Provider, told: dict[str, Any]
) -> None:
    text = "async def policy(case, room):\n    return await room.teacher.aask('52-18\\n2-8 put 6')\n"
    provider.behave(latency=0.05)
    launch(experiment(tmp_path, provider, text), tmp_path / "run")
    assert provider.told().calls == 1
    cost = small.report(tmp_path / "run", 1).cost
    assert cost.calls == 1 and cost.reused == len(small.table(tmp_path / "run", "1/teach")) - 1 > 20


def test_several_samples_of_one_question_are_several_calls(
    tmp_path: Path, provider: Provider, told: dict[str, Any]
) -> None:
    text = """
import asyncio

async def policy(case, room):
    said = await asyncio.gather(*(room.teacher.aask("52-18\\n2-8 put 6") for _ in range(3)))
    return said[0]
"""
    launch(experiment(tmp_path, provider, text), tmp_path / "run")
    assert provider.told().calls == 3


def test_a_second_round_pays_for_what_is_new_alone(tmp_path: Path, provider: Provider, told: dict[str, Any]) -> None:
    # Whoever learns nothing makes the same mistakes again; about 30 % of the cases are asked something else.
    text = """
async def policy(case, room):
    new = room.plan.number if case.id[-1] in "147" else 1
    return await room.teacher.aask(f"{new}.\\n{case.question}\\n{case.work}")
"""
    student = {"student__options": {"rows_to_unlearn": 1000}}
    launch(experiment(tmp_path, provider, text, rounds=2, **student), tmp_path / "run")
    first, second = (small.report(tmp_path / "run", n).cost for n in (1, 2))
    new = sum(x.case[-1] in "147" for x in small.table(tmp_path / "run", "2/teach"))
    assert (first.calls, second.calls, second.reused) == (60, new, 60 - new) and 15 < new < 20
    assert good(provider.told()) == {1} and provider.told().calls == 60 + new


def test_an_ask_that_is_not_waited_for_is_on_record_before_its_step_is_over(
    tmp_path: Path, provider: Provider, told: dict[str, Any]
) -> None:
    text = """
import asyncio

async def policy(case, room):
    try:
        await asyncio.wait_for(room.teacher.aask(f"{case.question}\\n{case.work}"), 0.01)
    except TimeoutError:
        return "too late"
"""
    provider.behave(latency=0.3)
    launch(experiment(tmp_path, provider, text), tmp_path / "run")
    assert {x.text for x in small.table(tmp_path / "run", "1/teach")} == {"too late"}
    assert len(small.paid(tmp_path / "run")) == provider.told().calls > 20


def test_a_spent_budget_begins_no_call_more_and_what_was_in_flight_is_on_record(
    tmp_path: Path, provider: Provider, told: dict[str, Any]
) -> None:
    provider.behave(latency=0.02)
    limited = {**told, "budget": {"teacher_tokens": 200}}
    limited["teacher"] = {**told["teacher"], "limits": {"concurrency": 4}}
    launch(limited, tmp_path / "run")
    assert read_status(tmp_path / "run")[0] == "stopped"
    entries = small.paid(tmp_path / "run")
    spent = sum(e.tokens_in + e.tokens_out for e in entries)
    assert len(entries) == provider.told().calls and 200 <= spent < 200 + 5 * 40
    launch({**limited, "budget": {"teacher_tokens": 100_000}}, tmp_path / "run")
    assert good(provider.told()) == {1}


# ---- records


def test_a_record_that_does_not_fit_is_asked_for_again_with_what_was_wrong(
    tmp_path: Path, provider: Provider, told: dict[str, Any]
) -> None:
    text = """
from tutorloop.policies.teaching import Hint

async def policy(case, room):
    prompt = f"Give the line that is due.\\n{case.question}\\n{case.work}"
    return (await room.teacher.afill(prompt, Hint)).line or "nothing"
"""
    provider.behave(faults={"prose": 0.4})
    one = experiment(tmp_path, provider, text, failures=1.0)
    launch(one, tmp_path / "run")
    root, failed = tmp_path / "run", failures(tmp_path / "run")
    asks = Counter(e.item for e in small.paid(root))
    assert {*asks.values()} == {1, 2, 3}
    assert {f.kind for f in failed} == {"unfilled"}
    assert {f.item for f in failed} <= {item for item, n in asks.items() if n == 3}
    assert len(small.table(root, "1/teach")) + len(failed) == len(asks)
    repaired = [json.loads(e.request) for e in small.paid(root) if "form that was asked for" in e.request]
    assert {r["messages"][-2]["role"] for r in repaired} == {"assistant", "user"}, "an empty answer is no turn"
    assert "Invalid JSON" in repaired[0]["messages"][-1]["content"]


# ---- kills


def wait_until(true: Any) -> None:
    end = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("placement", ["local", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])])
def test_a_run_that_was_killed_half_way_repeats_at_most_the_calls_in_flight(
    placement: str, tmp_path: Path, provider: Provider, told: dict[str, Any]
) -> None:
    window = 16
    told = experiment(
        tmp_path, provider, course__practice=200, placement=placement, teacher__limits={"concurrency": window}
    )
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(told))
    command = [sys.executable, "-m", "tutorloop", "run", f"{tmp_path}/mine.yaml", "--run-dir", f"{tmp_path}/run"]
    provider.behave(latency=0.01, burst=70)  # then it answers nobody
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: process.poll() is not None or provider.told().calls >= 70)
        assert process.returncode is None
        os.kill(process.pid, signal.SIGKILL)
    before = provider.told()
    provider.behave()
    assert subprocess.run(command, capture_output=True).returncode == 0
    after = provider.told()
    again = before.deliveries.keys() & after.deliveries.keys()
    assert len(again) <= window and {*after.answered.values()} == {1}
    assert len(small.paid(tmp_path / "run")) == len(before.deliveries.keys() | after.deliveries.keys()) > 100


@pytest.mark.slow
@pytest.mark.ray
def test_a_teachers_process_that_dies_takes_its_calls_along_and_they_are_made_again(
    tmp_path: Path, place: Path, provider: Provider, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    provider.behave(latency=0.5)
    told = experiment(tmp_path, provider, placement="ray", teacher__replicas=2)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(told))
    command = [sys.executable, "-m", "tutorloop", "run", f"{tmp_path}/mine.yaml", "--run-dir", f"{tmp_path}/run"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: process.poll() is not None or provider.told().calls >= 20)
        ends = [c for c in psutil.net_connections("tcp") if c.raddr and c.raddr.port == provider.port]
        os.kill(min(c.pid for c in ends if c.pid not in (None, os.getpid())), signal.SIGKILL)
        _, printed = process.communicate()
    assert process.returncode == 0, printed
    assert "takes its place" in printed
    dropped = [e for e in small.asks(tmp_path / "run") if e.fault]
    assert dropped and {e.fault for e in dropped} == {"dropped"}
    assert len(small.table(tmp_path / "run", "1/teach")) == 60


class Fragile:
    """A host whose role is gone when the first call is handed over; the next incarnation answers."""

    name = "teacher/0"

    def __init__(self) -> None:
        self.incarnation, self.begun = 0, SimpleQueue[int]()

    def call(self, method: str, *args: Any) -> Any:
        if self.incarnation == 0:
            raise RoleDied("teacher/0 is gone")
        if method == "begin":
            for number, _ in args[0]:
                self.begun.put(number)
        return [(self.begun.get(timeout=SOON), Reply(text="yes"))] if method == "ended" else None

    def restart(self) -> None:
        self.incarnation += 1

    def close(self) -> None:
        return None


def test_a_role_that_takes_no_call_is_looked_at_and_replaced(tmp_path: Path) -> None:
    journal, host, proven = Journal.open(tmp_path), Fragile(), list[int]()
    spec = RoleSpec(role="teacher", engine="chat", root=tmp_path, model="m-1")
    calls = Calls(spec, [Replica(cast(Any, host))], lambda replica: proven.append(host.incarnation))
    state = State(member="teacher", name="teacher-base", digest="0")
    ask = Ask(member="teacher", state=state, request=Request(messages=user("?")), key="k", item="i")
    reply, cost = calls.ask(journal, "1/teach", ask).result(SOON)
    calls.close()
    assert (reply.text, cost.calls, proven, host.incarnation) == ("yes", 1, [1], 1)
    assert journal.asks.faults() == {"dropped": 1}
    journal.release()


# ---- what an experiment may say


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"key": "sk-zz81-1234-none"}, "is the NAME of the environment variable"),
        ({"key": "NOT_SET_ANYWHERE"}, "NOT_SET_ANYWHERE, which is not set"),
        ({"url": ""}, "either a `teacher.url`"),
        ({"chat": "langchain_openai:ChatOpenAI"}, "either a `teacher.url`"),
        ({"url": "", "chat": "langchain_openai"}, "module:Class"),
        ({"url": "ftp://x"}, "it is like https"),
        ({"url": "https://me:hunter2hunter2@x/v1"}, "`teacher.url` holds a secret"),
        ({"url": "https://x/v1?api_key=abcdefgh"}, "holds a secret"),
        ({"model": ""}, "`teacher.model` is empty"),
        ({"options": {"stream": True}}, "`teacher.options.stream` is not for an experiment to set"),
        ({"limits": {"concurrency": 0}}, "greater than or equal to 1"),
        ({"limits": {"requests": 3}}, "the nearest is `requests_per_minute`"),
    ],
)
def test_a_teacher_that_is_told_wrong_is_refused_before_anything_is_written(
    changes: dict[str, Any], why: str, tmp_path: Path, provider: Provider, told: dict[str, Any]
) -> None:
    wrong = {**told, "teacher": {**told["teacher"], **changes}}
    with pytest.raises(ConfigError, match=why) as caught:
        launch(wrong, tmp_path / "run")
    assert "1234" not in str(caught.value) and "hunter2" not in str(caught.value)
    assert not (tmp_path / "run").exists() and provider.told().calls == 0


def test_a_chat_teacher_has_room_for_an_answer_and_its_limits_may_change_at_any_time(told: dict[str, Any]) -> None:
    from tutorloop.loops.config import changed

    config = prepare(told).experiment
    assert config.teacher.max_tokens == 1024
    other = prepare({**told, "teacher": {**told["teacher"], "limits": {"concurrency": 2}}}).experiment
    assert changed(config.model_dump(mode="json"), other.model_dump(mode="json")) == {}


def test_a_student_is_no_chat_model(told: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="can teach and not be taught"):
        prepare({**told, "student": {"engine": "chat"}})


def test_local_teachers_are_asked_shard_by_shard_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, init = list[int](), Lanes.__init__

    def begun(self: Lanes, n: int = 1) -> None:
        seen.append(n)
        init(self, n)

    monkeypatch.setattr(Lanes, "__init__", begun)
    launch(small.experiment(tmp_path, rounds=1, teacher__policy=small.policy(tmp_path, PLAIN)), tmp_path / "run")
    assert {*seen} == {1, 2}, "two for those that the student answers"


def mended(case: Case, room: Room) -> str:
    return room.teacher.ask(f"{case.question}\n{case.work}")


def test_a_policy_is_tried_on_a_chat_teacher_and_what_is_known_is_not_asked_again(
    tmp_path: Path, provider: Provider, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    launch(told, tmp_path / "run")
    provider.behave()
    for again in (False, True):
        with TriedRound.open(tmp_path / "run") as round:
            trial = round.trial(mended, round.cases(5))
        assert (trial.asks, trial.reused) == ((0, 5) if again else (5, 0))
        assert all(len(case.asks) == 1 and case.asks[0].reply for case in trial.tried)
    assert provider.told().calls == 5


# ---- what the page on teachers shows

PAGE = (Path(__file__).parent.parent / "docs" / "teachers.md").read_text(encoding="utf-8")
TEACHERS = [block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "engine: chat" in block]


@pytest.mark.parametrize("n", range(3))
def test_the_teachers_of_the_page_teach_and_so_does_its_policy(
    n: int, tmp_path: Path, provider: Provider, no_power_cuts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a provider on this machine: only the address is another."""
    assert len(TEACHERS) == 3
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-nobody")
    provider.behave(key="" if n == 1 else "sk-of-nobody")
    teacher = yaml.safe_load(re.sub(r'https?://[^"\s]*/v1', provider.url, TEACHERS[n]))["teacher"]
    (text,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    here = {"policy": small.policy(tmp_path, text)}
    launch(experiment(tmp_path, provider, teacher={**teacher, **here}), tmp_path / "run")
    assert len(small.table(tmp_path / "run", "1/teach")) == provider.told().calls == 60
    last = provider.told().last
    assert last["model"] == teacher["model"]
    if n == 1:
        assert (last["top_p"], last["seed"], last["chat_template_kwargs"]) == (0.95, 1, {"enable_thinking": False})


def test_the_page_on_teachers_names_every_kind_of_fault() -> None:
    assert {kind for kind in get_args(FaultKind) if f"`{kind}`" not in PAGE} == set()
