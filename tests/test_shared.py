"""Where all share the devices they have them in turn, never at once; each proves again, and the run is the same.

Scripted roles, in this process and in actors on GPUs that are none. No test needs a GPU; what CUDA says is made up.
"""

import gc
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tutorloop.agents import devices, placement
from tutorloop.agents.hosts import InProcess
from tutorloop.agents.placement import Actor
from tutorloop.agents.roles import Evidence, RoleDied, RoleSpec
from tutorloop.evals.records import State
from tutorloop.loops.company import Company
from tutorloop.loops.config import ConfigError, changed, load, resolve
from tutorloop.loops.documents import run_record
from tutorloop.loops.launch import Interrupted, launch, prepare, role_specs
from tutorloop.loops.plan import plan, plan_lines
from tutorloop.tests.test_replicas import Interrupts, Watched, differing, experiment, gone, home, one, ray

__all__ = ["home", "one", "ray"]  # fixtures

pytestmark = pytest.mark.usefixtures("no_power_cuts")


@dataclass
class Desk:
    """Hosts in this process that say who is there: what an actor's process is, is here a role that has been built."""

    there: set[str] = field(default_factory=set)
    said: list[tuple[str, str, str]] = field(default_factory=list)
    """Replica, what it did, in which state."""
    doubled: list[set[str]] = field(default_factory=list)
    """Who was there at once and may not be."""
    dies: str = ""
    """Who dies in its next call that begins so."""

    def on(self, patched: pytest.MonkeyPatch) -> "Desk":
        desk = self

        class Here(InProcess):
            def __init__(self, *args: Any, in_turn: bool = False) -> None:
                assert in_turn
                super().__init__(*args)

            def call(self, method: str, *args: Any) -> Any:
                if self.role is None:
                    desk.there.add(self.name)
                    desk.said.append((self.name, "comes", ""))
                if "learner/0" in desk.there and len(desk.there) > 1:
                    desk.doubled.append({*desk.there})
                if desk.dies and f"{self.name} {method}".startswith(desk.dies):
                    desk.dies = ""
                    raise RoleDied(f"{self.name} died")
                about = next((a for a in args if isinstance(a, State | Evidence)), None)
                state = about.state if isinstance(about, Evidence) else about
                said = super().call(method, *args)
                desk.said.append((self.name, method, state.name if state else ""))
                return said

            def restart(self) -> None:
                super().restart()
                desk.there.discard(self.name)

            def close(self) -> None:
                super().close()
                desk.there.discard(self.name)

        patched.setattr(Company, "_actor", lambda company: Here)
        return self

    def unproven(self) -> list[tuple[str, str, str]]:
        """Answers of who had not proven that state since it came."""
        proven, found = set[tuple[str, str]](), list[tuple[str, str, str]]()
        for name, what, state in self.said:
            if what == "comes":
                proven = {who for who in proven if who[0] != name}
            elif what == "prove":
                proven.add((name, state))
            elif what in ("generate", "sit") and (name, state) not in proven:
                found.append((name, what, state))
        return found

    def came(self, name: str) -> int:
        return [line[:2] for line in self.said].count((name, "comes"))


def shared(home: Path, replicas: int = 2, **changes: Any) -> dict[str, Any]:
    return experiment(home, replicas, placement="shared", **changes)


def test_the_learner_is_never_there_with_the_others_and_each_proves_again_before_it_answers(
    home: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk().on(monkeypatch)
    assert launch(shared(home), tmp_path / "run").status == "finished"
    assert differing(one, tmp_path / "run") == []
    assert desk.doubled == [] and desk.unproven() == [] and desk.there == set()
    rounds = 2
    assert desk.came("learner/0") == rounds + 1, "for the base, and for each round"
    for name in ("student/0", "student/1", "evaluator/0", "evaluator/1"):
        assert desk.came(name) == rounds + 1
    last = max(i for i, line in enumerate(desk.said) if line[0] == "learner/0")
    left = desk.said[last + 1 :]
    assert {name for name, what, _ in left if what == "comes"} == {name for name, what, _ in left if what == "prove"}


def test_who_dies_in_its_turn_is_replaced_in_its_turn(
    home: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for dies in ("learner/0 train", "learner/0 read", "student/1 prove", "evaluator/0 sit"):
        with monkeypatch.context() as patched:
            desk = Desk(dies=dies).on(patched)
            assert launch(shared(home), tmp_path / dies.replace("/", "-")).status == "finished"
        assert not desk.dies and desk.doubled == [] and desk.unproven() == []
        assert differing(one, tmp_path / dies.replace("/", "-")) == []


@pytest.mark.parametrize("at", ["step 1/train-1", "step 1/publish", "shard 2/attempt 2/"])
def test_a_run_that_is_paused_goes_on_with_whose_turn_it_is_and_by_turns_or_not(
    at: str, home: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk().on(monkeypatch)
    with pytest.raises(Interrupted):
        launch(shared(home), tmp_path / "run", tick=Stops(at))
    assert launch(shared(home) if "train" in at else experiment(home), tmp_path / "run").status == "finished"
    assert desk.doubled == [] and desk.unproven() == [] and differing(one, tmp_path / "run") == []


class Stops(Interrupts):
    """At a step too."""

    def step(self, name: str, seconds: float, replayed: bool) -> None:
        if self.at and f"step {name}".startswith(self.at):
            self.at, number = "", self.number
            raise Interrupted(number)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("ray", [2], indirect=True)
def test_two_gpus_are_enough_in_turn_for_what_needs_four_at_once(
    ray: None, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus: dict[str, Any] = {"student__gpus": 1, "evaluator__gpus": 1, "learner__gpus": 2}
    launch(experiment(home, rounds=1), tmp_path / "local")
    watched = Watched(lambda *_: None).on(Actor, monkeypatch)
    told = shared(home, 1, rounds=1, **gpus)
    assert launch(told, tmp_path / "run").status == "finished"
    assert differing(tmp_path / "local", tmp_path / "run") == []
    assert watched.unproven() == [] and all(gone(pid) for pids in watched.pids.values() for pid in pids)
    assert {len(watched.pids[name]) for name in ("student/0", "evaluator/0", "learner/0")} == {2}
    assert devices.devices([*role_specs(prepare(told), tmp_path).values()]) == 4


# ---- whether a device is free


@dataclass
class Cuda:
    """What CUDA says of a device of 80 GB, each time that it is asked; the last for good."""

    free: list[float]

    def on(self, patched: pytest.MonkeyPatch) -> None:
        patched.setattr("torch.cuda.device_count", lambda: 1)
        patched.setattr("torch.cuda.mem_get_info", self.told)
        patched.setattr(time, "sleep", lambda _: None)
        patched.setattr(devices, "PATIENCE", 0.05)

    def told(self, device: int) -> tuple[int, int]:
        free = self.free.pop(0) if len(self.free) > 1 else self.free[0]
        return int(free * 2**30), 80 * 2**30


def test_a_device_is_waited_for_until_its_memory_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda([20.0, 50.0, 79.0])
    monkeypatch.setattr(devices, "PATIENCE", 600.0)
    cuda.on(monkeypatch)
    devices.await_memory(1.0)
    assert cuda.free == [79.0]


@pytest.mark.parametrize(
    ("gpus", "free", "enough"), [(1.0, 60, False), (0.5, 40, True), (0.5, 20, False), (0.0, 0, True)]
)
def test_memory_that_somebody_keeps_is_told_of_with_how_much(
    gpus: float, free: float, enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cuda([free]).on(monkeypatch)
    if enough:
        devices.await_memory(gpus)
    else:
        with pytest.raises(ValueError, match=rf"of GPU 0 {free}\.0 of 80\.0 GB are free, and {gpus:g} of it was to be"):
            devices.await_memory(gpus)


def test_a_role_that_has_its_devices_in_turn_is_built_when_they_are_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(placement, "await_memory", lambda gpus: done.append(f"waits for {gpus:g}"))
    holder = object.__new__(placement.Holder)  # without the actor's process, log and all
    holder.spec = RoleSpec(role="learner", engine="scripted", root=tmp_path, gpus=2)
    with (tmp_path / "log").open("ab", buffering=0) as log:
        holder.log = log
        for in_turn in (True, False):
            holder.build(lambda spec: done.append("builds"), in_turn)
    gc.unfreeze()
    assert done == ["waits for 2", "builds", "builds"]


# ---- what is said


def test_the_first_name_of_separate_is_still_read_in_a_file_and_in_an_older_run(one: Path, tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("placement: ray\n")
    assert load(tmp_path / "old.yaml").placement == "separate" == resolve({}).placement
    told = {**run_record(one)["config"], "placement": "ray"}
    assert resolve(told).placement == "separate"  # as a run's folder is read
    assert changed(told, run_record(one)["config"]) == {}


def test_a_word_that_is_no_placement_is_refused_with_those_that_are(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`placement`: .*'separate', 'shared' or 'local', got 'colocated'"):
        launch(experiment(home, placement="colocated"), tmp_path / "run")


def test_the_plan_counts_the_larger_group_and_says_that_it_goes_in_turn(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "experiment.json"
    file.write_text(
        json.dumps(shared(home, student__gpus=1, evaluator__gpus=0.5, learner__gpus=2, teacher__replicas=1))
    )
    told = plan(file)
    assert told.gpus == 3 and plan(file, ["placement=separate"]).gpus == 5
    assert "3 GPUs in all: " in (lines := "\n".join(plan_lines(told))) and "in turn with the others" in lines
