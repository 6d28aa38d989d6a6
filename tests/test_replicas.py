"""How many replicas a role has changes how long a run takes, and nothing else; each proves its state before it answers.

Scripted roles, in this process and in actors; kills are kills. Real engines: once here, else `test_real_run.py`.
"""

import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tutorloop.agents import placement
from tutorloop.agents.hosts import InProcess
from tutorloop.agents.placement import Actor
from tutorloop.agents.roles import Evidence, PublishError, RoleDied, RoleSpec
from tutorloop.agents.transformers_server import TransformersServer
from tutorloop.evals.records import State
from tutorloop.evals.rows import Table
from tutorloop.loops.config import ConfigError, changed
from tutorloop.loops.journal import read_status
from tutorloop.loops.launch import Interrupted, launch
from tutorloop.loops.plan import plan, plan_lines
from tutorloop.loops.slots import TooManyFailures
from tutorloop.tests.policies_for_tests import small
from tutorloop.tests.test_cli import Shell

pytestmark = pytest.mark.usefixtures("no_power_cuts")

SOON = 30.0
"""Seconds after which a test that waits has failed."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def experiment(home: Path, replicas: int = 1, **changes: Any) -> dict[str, Any]:
    """Four shards of practice, three of the quiz, two of the exam; so many students and evaluators, and teachers."""
    many = {f"{role}__replicas": replicas for role in ("student", "evaluator", "teacher")}
    pools = {"practice": 200, "quiz": 130, "exam": 70, "twins": 1, "retention": 10}
    return small.experiment(home, **{"course": pools, **many, **changes})


@pytest.fixture(scope="module")
def one(home: Path) -> Path:
    """The run with one replica each. Not to be changed."""
    assert launch(experiment(home), home / "one").status == "finished"
    return home / "one"


def test_one_replica_answers_the_next_shard_while_the_last_is_written(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sat, waited = threading.Semaphore(0), list[bool]()

    def before(host: Any, method: str, args: tuple[Any, ...]) -> None:
        if method == "sit":
            sat.release()

    Watched(before).on(InProcess, monkeypatch)
    add = Table.add

    def slow(table: Table[Any], *told: Any) -> None:
        if table.folder.startswith("rows/sheets/quiz/") and not waited:
            waited.append(sat.acquire(timeout=SOON) and sat.acquire(timeout=SOON))
        add(table, *told)

    monkeypatch.setattr(Table, "add", slow)
    launch(experiment(home, rounds=0), tmp_path / "run")
    assert waited == [True]


def differing(one: Path, other: Path) -> list[str]:
    """What two runs differ in, but for where the roles live: that is on record, and each has a log."""
    a, b = small.transcript(one), small.transcript(other)
    for found in (a, b):
        config = found["run.json"]["config"]
        found["run.json"] = changed(config, {}), config["rounds"]
    return [k for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k) and not k.startswith("logs/")]


@dataclass
class Watched:
    """Every call of a host, with something done before it: `before(host, method, arguments)`."""

    before: Callable[[Any, str, tuple[Any, ...]], Any]
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    """Replica, method, name of the state that it is about; in the order of the answers."""
    pids: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Of each replica's processes, the latest last."""
    busy: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    """Of each replica: calls at once."""

    def on(self, kind: type[Any], patched: pytest.MonkeyPatch) -> "Watched":
        answer, watched = kind.call, self

        def call(host: Any, method: str, *args: Any) -> Any:
            watched.busy[host.name] += 1
            watched.most[host.name] = max(watched.most[host.name], watched.busy[host.name])
            try:
                said = answer(host, method, *(watched.before(host, method, args) or args))
            finally:
                watched.busy[host.name] -= 1
            about = next((a for a in args if isinstance(a, State | Evidence)), None)
            state = about.state if isinstance(about, Evidence) else about
            if (pid := getattr(host, "pid", 0)) not in watched.pids[host.name]:
                watched.pids[host.name].append(pid)
                watched.calls.append((host.name, "born", ""))
            watched.calls.append((host.name, method, state.name if state else ""))
            return said

        patched.setattr(kind, "call", call)
        return self

    def answered(self) -> dict[str, int]:
        """How often each replica of student and evaluator gave answers."""
        return Counter(name for name, method, _ in self.calls if method in ("generate", "sit"))

    def unproven(self) -> list[tuple[str, str, str]]:
        """Answers before that replica's proof."""
        proven, found = set[tuple[str, str]](), list[tuple[str, str, str]]()
        for name, method, state in self.calls:
            if method == "born":
                proven = {who for who in proven if who[0] != name}
            elif method == "prove":
                proven.add((name, state))
            elif method in ("generate", "sit") and (name, state) not in proven:
                found.append((name, method, state))
        return found


def even_ones_are_slow(host: Any, method: str, args: tuple[Any, ...]) -> None:
    if method in ("generate", "sit") and host.name in ("student/0", "evaluator/0", "student/2"):
        time.sleep(0.03)


# ---- the same run


@pytest.mark.parametrize("replicas", [2, 3])
def test_the_number_of_replicas_changes_nothing(
    replicas: int, home: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(even_ones_are_slow).on(InProcess, monkeypatch)
    launch(experiment(home, replicas), tmp_path / "run")
    assert differing(one, tmp_path / "run") == []
    assert small.states(one) == small.states(tmp_path / "run") and len(set(small.states(one).values())) > 1
    answered = watched.answered()
    assert all(answered[f"{role}/{i}"] for role in ("student", "evaluator") for i in range(replicas))
    assert watched.unproven() == [] and set(watched.most.values()) == {1}


def test_replicas_answer_at_once(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    all_there = {"generate": threading.Barrier(3, timeout=SOON), "sit": threading.Barrier(3, timeout=SOON)}
    first = Counter[str]()

    def together(host: Any, method: str, args: tuple[Any, ...]) -> None:
        if method in all_there and not host.name.startswith("teacher"):
            first[method] += 1
            if first[method] <= 3:
                all_there[method].wait()

    Watched(together).on(InProcess, monkeypatch)
    assert launch(experiment(home, 3, rounds=1), tmp_path / "run").status == "finished"


METHOD = """
import hashlib, time
from dataclasses import replace
from tutorloop.policies.attempting import answer
from tutorloop.policies.tailored import METHOD as TAILORED

def late(problem):
    "Some problems keep their shard waiting."
    return 0.005 * (int(hashlib.sha256(problem.question.encode()).hexdigest(), 16) % 4 == 0)

async def asking(problem, room):
    attempt = await answer(problem, room)
    time.sleep(late(problem))
    await room.teacher.aask("The same for everybody.")
    await room.teacher.aask(f"One for each: {problem.question}")
    room.note("last", problem.id)
    return attempt

async def failing(problem, room):
    attempt = await answer(problem, room)
    time.sleep(late(problem))
    if "7" in problem.question:
        raise ValueError("no sevens")
    return attempt

ASKING = replace(TAILORED, attempt=asking)
FAILING = replace(TAILORED, attempt=failing)
"""


@pytest.mark.parametrize("budget", [None, 500])
def test_who_pays_for_an_ask_and_has_the_last_word_does_not_depend_on_who_is_ready_first(
    budget: int | None, tmp_path: Path
) -> None:
    """Attempts that ask the teacher: shared answers are paid by the first shard, and the budget is spent in order."""
    method = small.policy(tmp_path, METHOD, "ASKING")
    runs = [tmp_path / "1", tmp_path / "3"]
    for replicas, root in zip((1, 3), runs, strict=True):
        told = experiment(tmp_path, replicas, rounds=1, method=method, budget__teacher_tokens=budget)
        assert launch(told, root).status == ("stopped" if budget else "finished")
    assert differing(*runs) == []
    found = [e for e in small.asks(runs[0]) if e.step == "1/attempt"]
    assert any(e.reused for e in found) and len({e.item for e in found}) > 1
    assert not budget or len(list(runs[1].glob("rows/1/attempt/*.parquet"))) < 4


def test_too_many_failures_stop_a_run_at_the_same_shard(tmp_path: Path) -> None:
    method = small.policy(tmp_path, METHOD, "FAILING")
    said, runs = list[str](), [tmp_path / "1", tmp_path / "3"]
    for replicas, root in zip((1, 3), runs, strict=True):
        with pytest.raises(TooManyFailures) as caught:
            launch(experiment(tmp_path, replicas, method=method), root)
        said.append(str(caught.value))
    assert said[0] == said[1] and "no sevens" in said[0]
    assert differing(*runs) == []
    assert 0 < len(list(runs[1].glob("rows/1/attempt/*.parquet"))) < 4


def test_the_number_may_change_from_start_to_start(home: Path, one: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    for replicas, at in ((1, "shard sheets/quiz"), (3, "shard 1/attempt 2/"), (2, "shard 2/attempt 1/"), (3, "")):
        told = experiment(home, replicas)
        if at:
            with pytest.raises(Interrupted):
                launch(told, root, tick=Interrupts(at))
        else:
            assert launch(told, root).status == "finished"
    assert differing(one, root) == []


class Interrupts(small.Log):
    """Sends this process a signal at the first line that begins so."""

    def __init__(self, at: str, number: int = signal.SIGTERM) -> None:
        super().__init__()
        self.at, self.number = at, number
        self.then: Callable[[], None] = lambda: None

    def __call__(self, name: str, done: int, total: int) -> None:
        super().__call__(name, done, total)
        if self.at and self.lines[-1].startswith(self.at):
            self.at = ""
            self.then()
            os.kill(os.getpid(), self.number)


TWICE = """
import asyncio
from tutorloop.tests.policies_for_tests.shapes import prompt

async def policy(case, room):
    asks = (room.teacher.aask(f"{word}.\\n{prompt(case)}") for word in ("First", "Second"))
    first, second = await asyncio.gather(*asks)
    return first
"""


def test_a_wave_of_several_batches_is_answered_by_several_teachers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = small.policy(tmp_path, TWICE)
    told: dict[str, Any] = {"rounds": 1, "triage": "tutorloop.policies.triage:wrong", "teacher__policy": policy}
    launch(experiment(tmp_path, **told), tmp_path / "1")
    both, first = threading.Barrier(2, timeout=SOON), Counter[str]()

    def together(host: Any, method: str, args: tuple[Any, ...]) -> None:
        if host.spec.role == "teacher" and method == "generate" and args[1][0].messages[0].content.startswith("First"):
            first[host.name] += 1
            if first[host.name] == 1:
                both.wait()  # two batches of one wave: 64 cases, two asks each

    with monkeypatch.context() as patched:
        watched = Watched(together).on(InProcess, patched)
        launch(experiment(tmp_path, 2, **told), tmp_path / "2")
    assert first["teacher/0"] and first["teacher/1"] and watched.unproven() == []
    assert differing(tmp_path / "1", tmp_path / "2") == []


# ---- a stale one


@dataclass
class Stale:
    """One replica that holds what the state `held` says, whatever it is asked to prove from round 2 on."""

    name: str
    root: Path

    def __call__(self, host: Any, method: str, args: tuple[Any, ...]) -> Any:
        if host.name != self.name or method != "prove" or "-r0002-" not in args[0].state.name:
            return None
        held = next(iter(sorted((self.root / "states").glob("student-r0001-2-*.json"))))
        return (replace(args[0], state=replace(args[0].state, library=str(held.relative_to(self.root)))),)


@pytest.mark.parametrize("name", ["student/2", "evaluator/1"])
def test_one_stale_replica_of_three_blocks_the_round(
    name: str, home: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    with monkeypatch.context() as patched:
        watched = Watched(Stale(name, root.resolve())).on(InProcess, patched)
        with pytest.raises(PublishError, match=f"{name}: student-r0002-2-dpo.* holds another state than was trained"):
            launch(experiment(home, 3), root)
    assert read_status(root)[0] == "failed"
    assert not [call for call in watched.calls if call[1] in ("generate", "sit") and "-r0002-" in call[2]]
    assert not (root / "steps/2/publish.json").exists() and not list(root.glob("rows/sheets/*/student-r0002*"))
    assert launch(experiment(home, 3), root).status == "finished"
    assert differing(one, root) == []


@pytest.mark.ray
def test_a_stale_replica_in_an_actor_blocks_the_round_and_the_command_ends_with_1(
    home: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell, root = Shell(tmp_path), tmp_path / "run"
    told = experiment(home, 2, placement="ray", teacher__replicas=1)
    (tmp_path / "two.yaml").write_text(yaml.dump(told))
    with monkeypatch.context() as patched:
        watched = Watched(Stale("student/1", root.resolve())).on(Actor, patched)
        done = shell("run", "two.yaml", "--run-dir", "run", "-q")
    assert done.code == 1 and done.err.count("\n") == 1
    assert "PublishError: student/1: student-r0002-2-dpo" in done.err and "holds another state than was" in done.err
    proven = {name for name, how, state in watched.calls if how == "prove" and "-r0002-" in state}
    assert "student/1" not in proven and ("student/1", "prove") in {call[:2] for call in watched.calls}
    assert not [call for call in watched.calls if call[1] in ("generate", "sit") and "-r0002-" in call[2]]
    assert all(gone(pid) for pids in watched.pids.values() for pid in pids)
    assert shell("run", "two.yaml", "--run-dir", "run", "-q", "placement=local").code == 0
    assert differing(one, root) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["student/1", "evaluator/0"])
def test_one_real_replica_of_two_that_serves_last_rounds_adapter_blocks_the_round(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shipped student, a model for each replica; the stale one takes the new name for the old weights."""
    told = {
        "rounds": 2,
        "method": "gold",
        "placement": "local",
        "course": {"practice": 40, "quiz": 20, "exam": 10, "twins": 0, "retention": 0},
        "schedule": {"rows": 16},
        "student": {"replicas": 2},
        "evaluator": {"replicas": 2},
    }
    root, activate = tmp_path / "run", TransformersServer._active
    stale, last = list[Any](), list[State]()

    def remember(host: Any, method: str, args: tuple[Any, ...]) -> None:
        if host.name == name and method == "prove":
            stale[:] = [host.role.server if name.startswith("evaluator") else host.role]

    def active(server: TransformersServer, state: State) -> Any:
        if stale and server is stale[0] and "-r0001-2-" in state.name:
            last[:] = [state]
        forgets = stale and server is stale[0] and "-r0002-" in state.name
        return activate(server, last[0] if forgets else state)

    with monkeypatch.context() as patched:
        watched = Watched(remember).on(InProcess, patched)
        patched.setattr(TransformersServer, "_active", active)
        with pytest.raises(PublishError, match=f"{name}: student-r0002-.* differ from the trainer's") as caught:
            launch(told, root)
    assert last and read_status(root) == ("failed", f"PublishError: {caught.value}")
    assert not [call for call in watched.calls if call[1] in ("generate", "sit") and "-r0002-" in call[2]]
    assert not (root / "steps/2/publish.json").exists() and not list(root.glob("rows/sheets/*/student-r0002*"))
    assert launch(told, root).status == "finished"


@pytest.mark.parametrize("name", ["student/2", "evaluator/1", "teacher/1"])
def test_one_replica_of_another_base_blocks_the_run(
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = _another_base(name, tmp_path, monkeypatch)
    with pytest.raises(PublishError, match=f"{name} holds another base .* than .*/0 "):
        launch(experiment(home, 3), tmp_path / "run")
    assert other and not (tmp_path / "run/rows/sheets").exists()


@pytest.mark.parametrize("apart", [0.01, 0.2])
def test_the_noise_is_that_of_the_replica_that_is_farthest_off(
    apart: float, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = InProcess.call

    def off(host: InProcess, method: str, *args: Any) -> Any:
        said = answer(host, method, *args)
        return tuple((x - apart,) for (x,) in said) if (host.name, method) == ("evaluator/1", "read") else said

    monkeypatch.setattr(InProcess, "call", off)
    if apart > 0.1:
        with pytest.raises(PublishError, match=r"trainer and evaluator/1 differ by 0\.2 nats on the untouched base"):
            launch(experiment(home, 3), tmp_path / "run")
        assert not (tmp_path / "run/rows/sheets").exists()
    else:
        launch(experiment(home, 3, rounds=0), tmp_path / "run")
        evidence = json.loads((tmp_path / "run/proofs/student-base.json").read_bytes())
        assert evidence["noise"] == pytest.approx(apart)


@pytest.mark.parametrize("name", ["student/2", "teacher/1"])
def test_a_resumed_table_gets_no_row_while_one_replica_cannot_prove_its_state(
    name: str, home: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, at = tmp_path / "run", {"student": "shard 1/attempt 1/", "teacher": "shard 1/verify 1/"}
    with pytest.raises(Interrupted):
        launch(experiment(home, 3), root, tick=Interrupts(at[name.partition("/")[0]]))
    rows = sorted(root.rglob("part-*.parquet"))
    with monkeypatch.context() as patched:
        _another_base(name, tmp_path, patched)
        watched = Watched(lambda *_: None).on(InProcess, patched)
        with pytest.raises(PublishError, match=f"{name}: "):
            launch(experiment(home, 3), root)
        assert not watched.answered()
    assert sorted(root.rglob("part-*.parquet")) == rows
    assert launch(experiment(home, 3), root).status == "finished"
    assert differing(one, root) == []


def _another_base(name: str, folder: Path, patched: pytest.MonkeyPatch) -> str:
    """One replica is built from other files."""
    other = small.student(folder / "other")
    (folder / "other" / "provenance.json").write_text(json.dumps({"bugs": small.BUGS[1:]}))
    built = InProcess.__init__

    def build(self: InProcess, spec: RoleSpec, told: str = "", *args: Any) -> None:
        changed = replace(spec, seed=1) if spec.role == "teacher" else replace(spec, model=other)
        built(self, changed if told == name else spec, told, *args)

    patched.setattr(InProcess, "__init__", build)
    return other


# ---- lost ones, pauses


@pytest.mark.parametrize(("role", "method"), [("student", "generate"), ("evaluator", "sit"), ("teacher", "generate")])
def test_a_lost_replica_is_replaced_and_proves_again_while_the_others_go_on(
    role: str, method: str, home: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, others = Counter[str](), threading.Event()

    def lost(host: Any, name: str, args: tuple[Any, ...]) -> None:
        calls[f"{host.name} {name}"] += name == method
        if host.name == f"{role}/0" and calls[f"{role}/0 {method}"] == 1 and name == method:
            raise RoleDied(f"{host.name} died")
        if host.name == f"{role}/0" and calls[f"{role}/0 {method}"] == 1 and name == "prove" and role != "teacher":
            assert others.wait(SOON), "the other one has answered meanwhile"
        if host.name == f"{role}/1" and calls[f"{role}/0 {method}"] == 1 and name == method:
            others.set()

    watched = Watched(lost).on(InProcess, monkeypatch)
    launch(experiment(home, 2), tmp_path / "run")
    assert differing(one, tmp_path / "run") == []
    proofs = Counter(name for name, how, state in watched.calls if how == "prove" and name.startswith(role))
    assert proofs[f"{role}/0"] == proofs[f"{role}/1"] + 1


def test_a_replica_that_is_lost_twice_ends_the_start_but_not_the_run(
    home: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(host: Any, method: str, args: tuple[Any, ...]) -> None:
        if (host.name, method) == ("student/1", "generate"):
            raise RoleDied(f"{host.name} died")

    with monkeypatch.context() as patched:
        Watched(lost).on(InProcess, patched)
        with pytest.raises(RoleDied, match="student/1 died"):
            launch(experiment(home, 2), tmp_path / "run")
    assert read_status(tmp_path / "run") == ("failed", "RoleDied: student/1 died")
    assert launch(experiment(home, 2), tmp_path / "run").status == "finished"
    assert differing(one, tmp_path / "run") == []


def test_a_pause_waits_for_what_is_under_way_and_leaves_nothing_behind(
    home: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick, paused = Interrupts("shard sheets/quiz/student-base 1/", signal.SIGINT), threading.Event()
    tick.then = paused.set

    def slow(host: Any, method: str, args: tuple[Any, ...]) -> None:
        if method == "sit" and args[1] > 0:  # the shards after the one at which it is paused
            assert paused.wait(SOON)
            time.sleep(0.3)

    with monkeypatch.context() as patched:
        watched = Watched(slow).on(InProcess, patched)
        with pytest.raises(Interrupted):
            launch(experiment(home, 3), tmp_path / "run", tick=tick)
        assert not +watched.busy, "no role is at work any more"
    assert read_status(tmp_path / "run")[0] == "paused"
    assert len(list((tmp_path / "run/rows/sheets/quiz/student-base").glob("*.parquet"))) == 1
    assert launch(experiment(home, 3), tmp_path / "run").status == "finished"
    assert differing(one, tmp_path / "run") == []


# ---- in actors


@pytest.fixture
def ray(request: pytest.FixtureRequest) -> Iterator[None]:
    """With as many GPUs as the test says; they are none, but Ray deals them out."""
    import ray as library

    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    gpus = getattr(request, "param", 0)
    library.init(num_cpus=1, num_gpus=gpus, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    yield
    placement.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.ray
@pytest.mark.parametrize("ray", [1], indirect=True)
def test_replicas_in_actors_that_share_a_gpu_change_nothing_either(
    ray: None, home: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(even_ones_are_slow).on(Actor, monkeypatch)
    told = experiment(home, 3, placement="ray", student__gpus=0.2, evaluator__gpus=0.1, teacher__replicas=1)
    launch(told, tmp_path / "run")
    assert differing(one, tmp_path / "run") == []
    assert watched.unproven() == [] and set(watched.most.values()) == {1}
    names = {f"{role}-{i}" for role in ("student", "evaluator") for i in range(3)} | {"teacher-0", "learner-0"}
    assert {p.stem for p in (tmp_path / "run/logs").iterdir()} == names
    assert len({pid for pids in watched.pids.values() for pid in pids}) == len(names)


@pytest.mark.slow
@pytest.mark.ray
def test_a_replica_that_is_killed_in_mid_table_is_replaced_and_proves_itself_before_its_first_row(
    home: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    victims = {("student/1", "generate"): 2, ("evaluator/0", "sit"): 2}

    def kill(host: Any, method: str, args: tuple[Any, ...]) -> None:
        if (host.name, method) in victims:
            victims[host.name, method] -= 1
            if not victims[host.name, method]:
                del victims[host.name, method]
                os.kill(host.pid, signal.SIGKILL)

    watched = Watched(kill).on(Actor, monkeypatch)
    launch(experiment(home, 2, placement="ray", teacher__replicas=1), tmp_path / "run")
    assert not victims and differing(one, tmp_path / "run") == []
    lost = [r.getMessage() for r in caplog.records if "takes its place" in r.getMessage()]
    assert sorted(m.partition(" (pid")[0] for m in lost) == ["evaluator/0", "student/1"]
    twice = {name for name, pids in watched.pids.items() if len(pids) == 2}
    assert twice == {"student/1", "evaluator/0"} and watched.unproven() == []
    assert all(gone(pid) for pids in watched.pids.values() for pid in pids)


@pytest.mark.slow
@pytest.mark.ray
def test_a_pause_while_a_replica_is_stuck_leaves_no_process(
    home: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stopped = list[int]()

    def stop(host: Any, method: str, args: tuple[Any, ...]) -> None:
        if (host.name, method) == ("student/1", "generate") and not stopped:
            stopped.append(host.pid)
            os.kill(host.pid, signal.SIGSTOP)
            threading.Timer(1.0, os.kill, [os.getpid(), signal.SIGINT]).start()

    with monkeypatch.context() as patched:
        watched = Watched(stop).on(Actor, patched)
        with pytest.raises(Interrupted):
            launch(experiment(home, 2, placement="ray"), tmp_path / "run")
    assert read_status(tmp_path / "run") == ("paused", "interrupted by SIGINT; the same command goes on")
    assert stopped and all(gone(pid) for pids in watched.pids.values() for pid in pids)
    assert not caplog.records, "nobody takes the place of who was ended on purpose"
    assert launch(experiment(home), tmp_path / "run").status == "finished"
    assert differing(one, tmp_path / "run") == []


def gone(pid: int) -> bool:
    end = time.monotonic() + SOON
    while (there := _alive(pid)) and time.monotonic() < end:
        time.sleep(0.05)
    return not there


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---- devices


def looker() -> Any:
    """A role's factory; local, so that it travels to the actor by value."""

    class Looker:
        def __init__(self, spec: RoleSpec) -> None:
            pass

        def devices(self) -> str:
            return os.environ.get("CUDA_VISIBLE_DEVICES", "all")

    return Looker


@pytest.mark.ray
@pytest.mark.parametrize("ray", [2], indirect=True)
def test_each_replica_sees_the_devices_that_were_asked_for(ray: None, tmp_path: Path) -> None:
    def seen(**roles: tuple[int, float]) -> dict[str, str]:
        specs = [
            RoleSpec(role=role, engine="scripted", root=tmp_path, replicas=n, gpus=gpus)  # type: ignore[arg-type]
            for role, (n, gpus) in roles.items()
        ]
        placement.start(specs=specs)
        hosts = [Actor(spec, name, looker()) for spec in specs for name in spec.names]
        found = {host.name: host.call("devices") for host in hosts}
        for host in hosts:
            host.close()
        return found

    shared = seen(student=(2, 0.5), learner=(1, 1.0), teacher=(1, 0.0))
    assert shared["student/0"] == shared["student/1"] != shared["learner/0"] and shared["teacher/0"] == ""
    assert {shared["student/0"], shared["learner/0"]} == {"0", "1"}
    apart = seen(student=(2, 1.0))
    assert sorted(apart.values()) == ["0", "1"]
    assert seen(learner=(1, 2.0)) == {"learner/0": "0,1"}


@pytest.mark.ray
@pytest.mark.parametrize("ray", [2], indirect=True)
def test_gpus_for_all_replicas_are_counted_before_anybody_waits(ray: None, home: Path, tmp_path: Path) -> None:
    told = experiment(home, 3, placement="ray", student__gpus=0.6, student__deadline=20)
    with pytest.raises(ConfigError, match=r"the roles ask for 3 GPUs \(student 3 x 0.6\) and Ray has 2\. "):
        launch(told, tmp_path / "run")
    assert not (tmp_path / "run/rows").exists() and not (tmp_path / "run/logs").exists()


def test_more_than_one_gpu_is_asked_for_in_whole_ones(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`student.gpus`: .*whole GPUs, or a part of one, got 1.5"):
        launch(experiment(home, student__gpus=1.5), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_plan_says_who_lives_where(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "experiment.json"
    file.write_text(json.dumps(experiment(home, 2, placement="ray", student__gpus=0.5, teacher__replicas=1)))
    made = plan(file)
    lines = "\n".join(plan_lines(made))
    assert made.gpus == 1 and {role["role"]: role["replicas"] for role in made.roles}["student"] == 2
    assert "2 x student" in lines and "actors student/0 student/1" in lines and "an actor of its own" in lines
    assert "1 GPU in all: 0.5 for each student; parts share one where they fit" in lines
    local = "\n".join(plan_lines(plan(file, ["placement=local"])))
    assert "this process" in local and "actors" not in local and "GPU in all" not in local
