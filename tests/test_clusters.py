"""A run on a Ray cluster of several nodes goes as on one machine; who may join, and who sees the run folder, is asked.

The nodes are processes of this machine, their GPUs are none; Ray deals them out as if they were.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tutorloop.agents import cluster, placement
from tutorloop.loops import doctor
from tutorloop.loops.config import ConfigError
from tutorloop.loops.launch import launch
from tutorloop.loops.plan import plan, plan_lines
from tutorloop.tests.policies_for_tests import small
from tutorloop.tests.test_hosts import alive, gone

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


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


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


@pytest.mark.ray
def test_where_no_cluster_is_the_run_is_refused_and_nothing_is_written(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 5.0)  # Ray itself would wait for half a minute
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at 127.0.0.1:9: "):
        launch(small.experiment(home, placement="ray", cluster__address="127.0.0.1:9"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- who may join


@pytest.mark.ray
def test_an_open_cluster_is_refused_unless_overridden(place: Path, home: Path, tmp_path: Path) -> None:
    told = small.experiment(home, placement="ray", rounds=0)
    with nodes(place, 0, token=False) as there:
        with pytest.raises(ConfigError, match=f"cluster at {there.address} is without authentication"):
            launch({**told, "cluster": {"address": there.address}}, tmp_path / "run")
        assert not (tmp_path / "run").exists()
        found = launch({**told, "cluster": {"address": there.address, "insecure": True}}, tmp_path / "run")
        assert found.status == "finished"


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


@pytest.mark.ray
def test_roles_die_with_a_driver_of_a_cluster_that_is_killed(three: Nodes, tmp_path: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, three.address, str(tmp_path)], stdout=-1, text=True)
    assert driver.stdout
    pids = [int(pid) for pid in driver.stdout.readline().split()]
    assert len(pids) == 2 and all(map(alive, pids))
    driver.kill()
    driver.wait()
    assert all(gone(pid) for pid in pids)
