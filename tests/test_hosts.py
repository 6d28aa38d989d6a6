"""A role in an actor answers, dies, hangs and starts again so that the loop can tell what happened, and to whom."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest

from tutorloop.agents import placement
from tutorloop.agents.hosts import InProcess
from tutorloop.agents.placement import Actor
from tutorloop.agents.roles import Canary, Evidence, Hello, Job, Request, RoleDied, RoleHung, RoleSpec, Unproven
from tutorloop.evals.files import DamagedFile
from tutorloop.evals.pools import make_course
from tutorloop.evals.records import Gold, Problem, user

Spec = Callable[..., RoleSpec]
REQUESTS = [Request(messages=user(f"{i}+{i + 3}")) for i in range(6)]


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("A_TEST_KEY", "sk-1234-5678")
        placement.start(1)  # fewer cores than roles
    yield
    placement.stop()


@pytest.fixture
def actor(ray: None, spec: Spec) -> Iterator[Callable[..., Actor]]:
    made: list[Actor] = []

    def make(factory: Any = None, name: str = "", role: str = "student", **changes: Any) -> Actor:
        plain = spec(role, **changes)
        made.append(Actor(plain, name, factory) if factory else Actor(plain, name))
        return made[-1]

    yield make
    for host in made:
        host.close()


def small() -> Any:
    """A role's factory. Its class is local, so that it travels to the actor by value."""

    class Small:
        def __init__(self, spec: RoleSpec) -> None:
            self.calls = 0

        def count(self) -> int:
            self.calls += 1
            return self.calls

        def pid(self) -> int:
            return os.getpid()

        def sleep_in_a_place_of_its_own(self, seconds: float) -> None:
            time.sleep(seconds)

        def fail(self) -> None:
            raise Unproven("nobody proved it")

        def told(self, name: str) -> str | None:
            print(f"{name} is {os.environ.get(name)}", flush=True)
            return os.environ.get(name)

        def blame(self, name: str) -> None:
            raise ValueError(f"{name} {os.environ[name]} is not valid")

        def crash(self) -> None:
            print("what I said before I died", flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)

    return Small


def broken(spec: RoleSpec) -> None:
    raise ValueError("no such model on this machine")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pid)


def prove(host: Any, canaries: tuple[Canary, ...]) -> Evidence:
    """Let a host prove its base, and return it as evidence."""
    base = host.call("hello").base
    readings = host.call("read", base, canaries)
    evidence = Evidence(state=base, canaries=canaries, before=readings, after=readings, noise=0.0)
    host.call("prove", evidence)
    return evidence


def test_what_a_role_raises_in_process_is_its_own(spec: Spec) -> None:
    host = InProcess(spec("student"), factory=small())
    with pytest.raises(Unproven, match="nobody proved it"):
        host.call("fail")


def test_a_role_in_process_is_built_at_the_first_call_and_anew_after_a_restart(spec: Spec) -> None:
    with pytest.raises(ValueError, match="no such model"):
        InProcess(spec("student"), factory=broken).call("count")
    host = InProcess(spec("student"), factory=small())
    assert [host.call("count"), host.call("count")] == [1, 2]
    host.restart()
    assert host.call("count") == 1


@pytest.mark.slow
@pytest.mark.ray
def test_a_learner_in_an_actor_trains_the_same_bytes(
    actor: Callable[..., Actor], spec: Spec, lessons: Callable[..., Any], rows: Callable[..., Any], tmp_path: Path
) -> None:
    here, there = InProcess(spec("learner")), actor(role="learner", root=tmp_path / "there")
    job = Job(
        loss="sft",
        start=here.call("hello").base,
        reference=None,
        examples=rows(tmp_path, lessons()),
        name="student-r0001-sft",
    )
    assert there.call("train", job) == here.call("train", job)


def test_two_threads_never_use_a_role_at_once(spec: Spec) -> None:
    """Else one would switch the adapter while the other generates with it."""

    class Alone:
        busy = 0

        def work(self) -> int:
            self.busy += 1
            time.sleep(0.01)
            seen = self.busy
            self.busy -= 1
            return seen

    host = InProcess(spec("student"), factory=lambda _: Alone())
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: host.call("work"), range(16))) == {1}


@pytest.mark.ray
def test_an_actor_answers_as_a_role_in_process_does_and_after_a_restart_must_prove_itself_again(
    actor: Callable[..., Actor], spec: Spec, canaries: tuple[Canary, ...]
) -> None:
    here, there = InProcess(spec("student")), actor()
    evidence = prove(here, canaries)
    replies = here.call("generate", evidence.state, REQUESTS)
    seen: list[Hello] = []
    for _ in range(2):
        with pytest.raises(Unproven):
            there.call("generate", evidence.state, REQUESTS)
        assert there.call("read", evidence.state, canaries) == evidence.after
        there.call("prove", evidence)
        assert there.call("generate", evidence.state, REQUESTS) == replies
        seen.append(there.call("hello"))
        os.kill(seen[-1].pid, signal.SIGKILL)
        with pytest.raises(RoleDied):
            there.call("generate", evidence.state, REQUESTS)
        there.restart()
    assert seen[0].base == seen[1].base == evidence.state
    assert seen[0].incarnation != seen[1].incarnation
    assert len({os.getpid(), seen[0].pid, seen[1].pid}) == 3


@pytest.mark.ray
def test_an_actor_that_is_killed_is_reported_by_its_role_and_cause(actor: Callable[..., Actor]) -> None:
    host = actor(small(), "student/1")
    pid = host.call("pid")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RoleDied, match=rf"student/1 \(pid {pid}\) died in `count`. Ray says: .*exit") as caught:
        host.call("count")
    assert "student-1.log" in str(caught.value)
    with pytest.raises(RoleDied, match="`restart` it before `count`"):
        host.call("count")
    host.restart()
    assert host.call("count") == 1


@pytest.mark.ray
def test_an_actor_that_crashes_leaves_its_last_words_and_its_traceback(actor: Callable[..., Actor]) -> None:
    host = actor(small(), "teacher/0")
    with pytest.raises(RoleDied) as caught:
        host.call("crash")
    said = str(caught.value)
    assert "teacher/0" in said
    assert "what I said before I died" in said
    assert "Segmentation fault" in said
    assert " in crash" in said


@pytest.mark.slow
@pytest.mark.ray
def test_an_actor_that_hangs_is_ended_at_the_deadline_and_says_where_it_hung(actor: Callable[..., Actor]) -> None:
    host = actor(small(), "learner/0", deadline=12.0)  # which its start has to keep too, on a busy machine
    pid = host.call("pid")
    with pytest.raises(RoleHung, match="learner/0 did not answer `sleep_in_a_place_of_its_own` within 12 s") as caught:
        host.call("sleep_in_a_place_of_its_own", 3600.0)
    assert " in sleep_in_a_place_of_its_own" in str(caught.value)
    assert gone(pid)
    host.restart()
    assert host.call("count") == 1


@pytest.mark.slow
@pytest.mark.ray
def test_an_actor_that_is_stopped_by_a_signal_is_ended_too(actor: Callable[..., Actor]) -> None:
    host = actor(small(), deadline=12.0)
    pid = host.call("pid")
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(RoleHung):
        host.call("count")
    assert gone(pid)


@pytest.mark.ray
def test_what_a_role_raises_in_an_actor_keeps_its_type_and_its_traceback(actor: Callable[..., Actor]) -> None:
    host = actor(small(), "student/2")
    with pytest.raises(Unproven, match="nobody proved it") as caught:
        host.call("fail")
    assert type(caught.value) is Unproven
    (note,) = caught.value.__notes__
    assert "In student/2 (pid " in note
    assert " in fail" in note
    assert host.call("count") == 1


@pytest.mark.ray
def test_what_a_constructor_raises_comes_out_of_the_first_call(actor: Callable[..., Actor]) -> None:
    host = actor(broken)
    for _ in range(2):
        with pytest.raises(ValueError, match="no such model on this machine"):
            host.call("hello")


@pytest.mark.ray
def test_gpus_that_are_not_there_are_refused_before_anybody_waits(actor: Callable[..., Actor], spec: Spec) -> None:
    with pytest.raises(ValueError, match=r"the roles ask for 64 GPUs \(student 64\) and Ray has"):
        actor(gpus=64)


@pytest.mark.ray
def test_a_closed_actor_leaves_no_process(actor: Callable[..., Actor]) -> None:
    host = actor(small())
    pid = host.call("pid")
    host.close()
    assert gone(pid)


@pytest.mark.ray
@pytest.mark.parametrize(("model", "seen"), [("somebody/gated-model", "hf_1234abcd"), (".", None)])
def test_a_role_is_told_no_secret_but_the_hubs_where_its_model_lies_there_and_that_is_in_no_log(
    actor: Callable[..., Actor], monkeypatch: pytest.MonkeyPatch, model: str, seen: str | None
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_1234abcd")
    host = actor(small(), "student/3", model=model)
    assert host.call("told", "HF_TOKEN") == seen
    assert host.call("told", "A_TEST_KEY") is None
    with pytest.raises(ValueError if seen else KeyError, match="HF_TOKEN"):
        host.call("blame", "HF_TOKEN")
    assert host.log.read_text() == f"HF_TOKEN is {'$HF_TOKEN' if seen else None}\nA_TEST_KEY is None\n"
    rays = [path.read_bytes() for path in placement._claims[-1].folder.rglob("*") if path.is_file()]
    assert any(b"Holder" in content for content in rays), "else Ray logs in another place"
    assert not any(b"hf_1234abcd" in content for content in rays)


@pytest.mark.ray
def test_what_a_role_prints_is_letters_in_its_log(actor: Callable[..., Actor]) -> None:
    host = actor(small(), "student/4")
    host.call("told", "\x1b[2J\r\n\u202e")
    assert host.log.read_text() == "\\u001b[2J\\r\n\\u202e is None\n"


@pytest.mark.ray
def test_ray_listens_to_this_machine_only(ray: None) -> None:
    """Every socket that a process of this session listens on is on the loopback interface."""
    import ray as library

    ours = str(placement._claims[-1].folder)
    listening = {}
    for line in [
        *Path("/proc/net/tcp").read_text().splitlines()[1:],
        *Path("/proc/net/tcp6").read_text().splitlines()[1:],
    ]:
        fields = line.split()
        if fields[3] == "0A":
            listening[fields[9]] = fields[1].partition(":")[0]
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode()
            if ours in command or command.startswith("ray::"):
                links = [os.readlink(fd) for fd in (process / "fd").iterdir()]
                found |= {listening[k[8:-1]] for k in links if k[8:-1] in listening}
        except OSError:
            continue
    assert library.util.get_node_ip_address() == "127.0.0.1"
    assert found
    assert found <= {"0100007F", "0000000000000000FFFF00000100007F"}


@pytest.mark.ray
def test_ray_serves_no_dashboard(ray: None) -> None:
    """Its process is there, since Ray counts usage in it, with the pages turned off; nobody is on the pages' ports."""
    from ray._private.worker import get_dashboard_url

    commands, listening = list[str](), set[int]()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a worker that was idle for long
            sockets = process.net_connections(kind="inet")
            listening |= {s.laddr.port for s in sockets if s.status == psutil.CONN_LISTEN}
            commands.append(" ".join(process.cmdline()))
    (dashboard,) = (told for told in commands if "/dashboard/dashboard.py" in told)
    assert "--disable-frontend" in dashboard
    assert get_dashboard_url() == ""
    assert listening and not listening & {*range(8265, 8265 + 51)}, "where it would be: it takes the next that is free"
    assert not [told for told in commands if told.startswith("ray-dashboard-")]


DRIVER = """
import os, sys, time
from pathlib import Path
from tutorloop.agents import placement
from tutorloop.agents.roles import RoleSpec

def factory(spec):
    class Role:
        def pid(self):
            return os.getpid()
        def sleep(self):
            time.sleep(600)
    return Role()

placement.start(1)
spec = RoleSpec(role="student", engine="transformers", root=Path(sys.argv[1]))
hosts = [placement.Actor(spec, f"student/{i}", factory) for i in range(2)]
print(*(host.call("pid") for host in hosts), flush=True)
hosts[0].handle.call.remote("sleep", ())
time.sleep(600)
"""


@pytest.mark.ray
def test_roles_die_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    args = [sys.executable, "-c", DRIVER, str(tmp_path)]
    with TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as left:  # a path short enough for sockets
        driver = subprocess.Popen(args, stdout=subprocess.PIPE, text=True, env={**os.environ, "RAY_TMPDIR": left})
        assert driver.stdout
        pids = [int(pid) for pid in driver.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(alive, pids))
        driver.kill()
        driver.wait()
        assert all(gone(pid) for pid in pids)


def test_the_evaluator_opens_one_shard_of_a_sealed_pool_and_grades_it(
    spec: Spec, canaries: tuple[Canary, ...], tmp_path: Path
) -> None:
    def split(name: str, numbers: range) -> Any:
        problems = [Problem(id=f"{name}{i}", messages=user(f"{i}+{i}")) for i in numbers]
        return [(p, Gold(problem=p.id, answer=str(2 * i), skill="add")) for i, p in zip(numbers, problems, strict=True)]

    splits = {"practice": split("p", range(3)), "quiz": split("q", range(10, 13)), "exam": split("e", range(100, 170))}
    exam = pickle.loads(pickle.dumps(make_course("sums", tmp_path, splits).exam))  # as it reaches an actor
    host = InProcess(spec("evaluator"))
    with pytest.raises(Unproven):
        host.call("sit", exam, 0, host.call("hello").base)
    state = prove(host, canaries).state
    exam.locked.problems.path(1).rename(tmp_path / "elsewhere")
    sheet = host.call("sit", exam, 0, state)
    assert [m.problem.id for m in sheet] == [f"e{100 + i}" for i in range(64)]
    assert {(m.skill, m.attempt.state) for m in sheet} == {("add", state.digest)}
    assert all(m.attempt.problem == m.problem.id and m.verdict.label for m in sheet)
    with pytest.raises(DamagedFile, match="is missing"):
        host.call("sit", exam, 1, state)
    with pytest.raises(ValueError, match="`exam` has 2 shards; there is no shard 2"):
        host.call("sit", exam, 2, state)
