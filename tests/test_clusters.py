"""A run on a Ray cluster of several nodes goes as on one machine; who may join, and who sees the run folder, is asked.

The nodes are processes of this machine, their GPUs are none; Ray deals them out as if they were.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tutorloop.agents import cluster, placement
from tutorloop.agents.placement import Actor
from tutorloop.agents.roles import PublishError, RoleDied, RoleSpec
from tutorloop.loops import doctor
from tutorloop.loops.config import ConfigError
from tutorloop.loops.launch import launch
from tutorloop.loops.plan import plan, plan_lines
from tutorloop.tests.policies_for_tests import small
from tutorloop.tests.test_hosts import alive, gone
from tutorloop.tests.test_replicas import Watched, differing, experiment, home, one

__all__ = ["home", "one"]  # fixtures

pytestmark = pytest.mark.usefixtures("no_power_cuts")


class Nodes:
    """A cluster; see `drivers/fake_cluster.py`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.address = self._heard()

    def tell(self, line: str) -> str:
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self._heard()

    def _heard(self) -> str:
        assert self.process.stdout
        heard = self.process.stdout.readline().strip()
        assert heard, "the cluster has ended"
        return heard


@contextmanager
def nodes(place: Path, *gpus: int, token: bool = True) -> Iterator[Nodes]:
    """So many nodes; who joins shows the token that this process would show."""
    told = {**os.environ, "RAY_TMPDIR": str(place), "RAY_AUTH_MODE": "token" if token else "disabled"}
    told["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on the loopback interface
    command = [sys.executable, str(Path(__file__).parent / "drivers" / "fake_cluster.py"), *map(str, gpus)]
    process = subprocess.Popen(command, env=told, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield Nodes(process)
    finally:
        placement.stop()
        process.communicate(timeout=60)


DRIVER = """
import os, sys, time
from pathlib import Path
from tutorloop.agents import placement
from tutorloop.agents.roles import RoleSpec

def factory(spec):
    class Role:
        def pid(self):
            return os.getpid()
    return Role()

placement.start(address=sys.argv[1])
spec = RoleSpec(role="student", engine="scripted", root=Path(sys.argv[2]), gpus=1)
hosts = [placement.Actor(spec, f"student/{i}", factory) for i in range(2)]
print(*(host.call("pid") for host in hosts), flush=True)
time.sleep(600)
"""


# ---- what is said


@pytest.mark.parametrize("address", ["auto", "ray://head:10001", "head", "http://head:6379", "he ad:1"])
def test_a_cluster_is_named_by_host_and_port(address: str, home: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`cluster.address`: .*HOST:PORT is wanted"):
        launch(small.experiment(home, placement="ray", cluster__address=address), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_plan_says_that_roles_go_to_a_cluster(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "experiment.json"
    file.write_text(json.dumps(small.experiment(home, placement="ray", cluster__address="head:6379")))
    assert {role["where"] for role in plan(file).roles} == {"an actor of its own on the cluster at head:6379"}
    local = "\n".join(plan_lines(plan(file, ["placement=local"])))
    assert "this process" in local and "head:6379" not in local


@pytest.mark.parametrize(("opened", "status"), [(True, "fail"), (False, "ok")])
def test_doctor_names_a_cluster_without_authentication(
    opened: bool, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "opens", lambda address, token=False: token or opened)
    found = doctor.cluster("head:6379")
    assert found.status == status
    assert ("is without authentication: who reaches it can run programs as you" in found.found) is (status == "fail")


def test_a_cluster_that_does_not_take_our_token_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "opens", lambda address, token=False: False)
    for insecure in (True, False):
        with pytest.raises(ValueError, match="asks for a token and does not take this process's"):
            cluster.admit("head:6379", insecure=insecure)


def test_where_no_cluster_is_the_run_is_refused_and_nothing_is_written(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at 127.0.0.1:9: "):
        launch(small.experiment(home, placement="ray", cluster__address="127.0.0.1:9"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("parts", "nodes", "refused"),
    [
        ([0.75], [4, 4], True),  # the fifth would be sent to the first node: four quarters are free there
        ([0.75], [8], False),  # on one machine they are counted device by device
        ([0.5, 0.25], [0, 4, 4], False),
        ([0.5, 0.2], [4, 4], True),
        ([0.3], [2, 2], False),  # two tenths are no part
        ([1, 2], [4, 4], False),
    ],
)
def test_parts_of_a_gpu_that_ray_would_wait_for_for_ever_are_refused_on_several_nodes(
    parts: list[float], nodes: list[int], refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"GPU": n} if n else {}} for n in nodes])
    specs = [RoleSpec(role="student", engine="scripted", root=tmp_path, gpus=part) for part in parts]
    if refused:
        with pytest.raises(ValueError, match=r"on several nodes parts of a GPU must fill it \(student"):
            placement._enough_gpus(specs)
    else:
        placement._enough_gpus(specs)


@pytest.mark.parametrize("local", [False, True])
def test_a_role_that_a_cluster_sent_to_a_lost_node_is_sent_once_more(
    local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process was never there, so nothing was lost. Where Ray was started here, no node can be lost."""
    sent: list[str] = []

    class Sent(Actor):
        def _start(self) -> None:
            sent.append("sent")
            self.handle = self._ready = ("start", "build")

        def _wait(self, answer: Any, method: str) -> Any:
            if method == "start" and len(sent) == 1:
                raise RoleDied("its node was lost")
            return ("node", 1) if method == "start" else method

    monkeypatch.setattr(placement, "_servers", {"raylet": 1} if local else {})
    host = object.__new__(Sent)
    host.spec, host.name = RoleSpec(role="student", engine="scripted", root=tmp_path), "student/0"
    host._start()
    if local:
        with pytest.raises(RoleDied):
            host._begin()
    else:
        host._begin()
    assert len(sent) == (1 if local else 2)


# ---- who may join


@pytest.mark.slow
@pytest.mark.ray
def test_an_open_cluster_is_refused_unless_overridden(place: Path, home: Path, tmp_path: Path) -> None:
    placement.start(1)  # it leaves this process asking for tokens, which that cluster has none of
    placement.stop()
    told = small.experiment(home, placement="ray", rounds=0)
    with nodes(place, 0, token=False) as there:
        with pytest.raises(ConfigError, match=f"cluster at {there.address} is without authentication"):
            launch({**told, "cluster": {"address": there.address}}, tmp_path / "run")
        assert not (tmp_path / "run").exists()
        found = launch({**told, "cluster": {"address": there.address, "insecure": True}}, tmp_path / "run")
        assert found.status == "finished"
    assert os.environ["RAY_AUTH_MODE"] == "token"


# ---- many nodes


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """The driver's node has no GPU, two others have four each."""
    placement.start(1)  # Ray makes its token, in this user's home, when it is first started
    placement.stop()
    with (
        tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder,
        nodes(Path(folder), 0, 4, 4) as n,
    ):
        yield n


@pytest.mark.slow
@pytest.mark.ray
def test_a_role_that_does_not_see_the_run_folder_writes_nothing_and_says_where_it_is(
    three: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a node with a disk of its own, where a folder of that name holds something else."""
    monkeypatch.setattr(cluster, "leave_sign", lambda root, name: "what that node never sees")
    told = small.experiment(tmp_path / "home", placement="ray", cluster__address=three.address)
    with pytest.raises(ConfigError, match=r"on .*, where Ray put it, .*/run is not the folder that it is here"):
        launch(told, tmp_path / "run")
    assert not (tmp_path / "run/rows").exists() and not (tmp_path / "run/logs").exists()


@pytest.mark.slow
@pytest.mark.ray
def test_roles_die_with_a_driver_of_a_cluster_that_is_killed(three: Nodes, tmp_path: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, three.address, str(tmp_path)], stdout=-1, text=True)
    assert driver.stdout
    pids = [int(pid) for pid in driver.stdout.readline().split()]
    assert len(pids) == 2 and all(map(alive, pids))
    driver.kill()
    driver.wait()
    assert all(gone(pid) for pid in pids)


def looker() -> Any:
    """A role's factory; local, so that it travels to the actor by value."""

    class Looker:
        def __init__(self, spec: RoleSpec) -> None:
            pass

        def devices(self) -> list[tuple[str, str]]:
            """Each with its node."""
            import ray

            node = ray.get_runtime_context().get_node_id()
            return [(node, n) for n in os.environ.get("CUDA_VISIBLE_DEVICES", "all").split(",") if n]

    return Looker


@pytest.mark.slow
@pytest.mark.ray
def test_roles_land_on_devices_of_their_own_on_both_nodes(three: Nodes, tmp_path: Path) -> None:
    told: list[tuple[Any, int, float]] = [
        ("student", 2, 1),
        ("evaluator", 2, 0.5),
        ("learner", 1, 3),
        ("teacher", 1, 0),
    ]
    specs = [RoleSpec(role=r, engine="scripted", root=tmp_path, replicas=n, gpus=gpus) for r, n, gpus in told]
    placement.start(specs=specs, address=three.address)
    hosts = [Actor(spec, name, looker()) for spec in reversed(specs) for name in spec.names]
    seen = {host.name: host.call("devices") for host in hosts}
    for host in hosts:
        host.close()
    assert seen["teacher/0"] == [] and seen["evaluator/0"] == seen["evaluator/1"]
    assert len(seen["learner/0"]) == 3 and len({node for node, _ in seen["learner/0"]}) == 1
    apart = [pair for name, pairs in seen.items() if name != "evaluator/1" for pair in pairs]
    assert len(apart) == len(set(apart)) == 6 and len({node for node, _ in apart}) == 2
    with pytest.raises(ValueError, match=r"a role asks for 5 GPUs \(student 5\), and no node has more than 4"):
        placement.start(specs=[RoleSpec(role="student", engine="scripted", root=tmp_path, gpus=5)])


@pytest.mark.slow
@pytest.mark.ray
def test_lost_nodes_are_survived(
    three: Nodes, home: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five devices are needed. Of twelve a node takes four with it: its roles come up elsewhere. Of eight again: one
    waits until a node is added. The nodes are killed while a role on them answers.
    """
    three.tell("add 4")
    lost, adding = list[int](), list[threading.Thread]()

    def lose(host: Any, method: str, args: tuple[Any, ...]) -> None:
        if (host.name, method) == ("student/0", "generate") and f"-r000{len(lost)}" in f"{args[0].name}-r0000":
            lost.append(raylet(host.pid))
            os.kill(lost[-1], signal.SIGKILL)
            if len(lost) == 2:
                adding.append(threading.Thread(target=three.tell, args=["add 4"]))
                adding[0].start()

    watched = Watched(lose).on(Actor, monkeypatch)
    told = experiment(home, 1, placement="separate", cluster__address=three.address)
    told["student"] |= {"replicas": 3, "gpus": 1}
    launch({**told, "evaluator": {"gpus": 1}, "learner": {"gpus": 1}}, tmp_path / "run")
    adding[0].join()
    assert len(set(lost)) == 2 and differing(one, tmp_path / "run") == []
    assert len(watched.pids["student/0"]) == 3 and watched.unproven() == []


def raylet(pid: int) -> int:
    """The process that stands for the node on which a role lives."""
    above = psutil.Process(pid).parent()
    assert above is not None and above.name() == "raylet"
    return int(above.pid)


@pytest.mark.slow
@pytest.mark.ray
def test_one_stale_replica_of_eight_blocks_the_round_by_name(
    three: Nodes, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = experiment(home, 1, rounds=1, placement="separate", cluster__address=three.address)
    told["student"] |= {"replicas": 8, "gpus": 1}

    def stale(host: Any, method: str, args: tuple[Any, ...]) -> Any:
        """It holds the base, under the new name."""
        if (host.name, method) == ("student/5", "prove") and "-r0001-" in args[0].state.name:
            return (replace(args[0], state=replace(args[0].state, library="")),)
        return None

    root = tmp_path / "run"
    with monkeypatch.context() as patched:
        watched = Watched(stale).on(Actor, patched)
        with pytest.raises(PublishError, match=r"student/5: student-r0001-.* the base holds another state than was tr"):
            launch(told, root)
    proven = {(name, "-r0001-" in state) for name, how, state in watched.calls if how == "prove"}
    assert {name for name, new in proven if not new} >= {f"student/{i}" for i in range(8)}
    assert ("student/4", True) in proven and ("student/5", True) not in proven
    assert not [call for call in watched.calls if call[1] in ("generate", "sit") and "-r0001-" in call[2]]
    assert launch(told, root, ["placement=local"]).status == "finished"
    launch(experiment(home, rounds=1), tmp_path / "one")
    assert differing(tmp_path / "one", root) == []


DOCS = (Path(__file__).parents[1] / "docs" / "clusters.md").read_text(encoding="utf-8")


def test_the_configurations_of_the_docs_say_what_they_need(home: Path, tmp_path: Path) -> None:
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)]
    told = [block for block in blocks if "kind" not in block]
    gpus = []
    for i, block in enumerate(told):
        (tmp_path / f"{i}.json").write_text(json.dumps(block))
        scripted = ["student.engine=scripted", f"student.model={small.student(tmp_path / 'student')}"]
        gpus.append(plan(tmp_path / f"{i}.json", scripted).gpus)
    assert gpus == [4, 2, 2, 11]
