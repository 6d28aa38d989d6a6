"""Whole runs on real parts: the shipped student, TRL, PEFT and Ray. Kills are kills.

What a run leaves (`left`) is compared byte by byte; only seconds, versions and process ids may differ.
"""

import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tutorloop import Interrupted, Report, fork, launch
from tutorloop.agents.hosts import InProcess
from tutorloop.agents.placement import Actor
from tutorloop.agents.roles import Evidence, Job, PublishError, RoleDied
from tutorloop.agents.seats import Replica
from tutorloop.agents.transformers_server import TransformersServer
from tutorloop.agents.trl_learner import TrlLearner
from tutorloop.agents.weights import ADAPTER_FILE
from tutorloop.evals.records import State
from tutorloop.evals.rows import Table
from tutorloop.loops.config import changed
from tutorloop.loops.documents import run_record
from tutorloop.loops.journal import Tick, read_status
from tutorloop.policies.records import Marked

Experiment = dict[str, Any]

REAL: Experiment = {
    "rounds": 2,
    "course": {"practice": 100, "quiz": 80, "exam": 40, "twins": 1, "retention": 20},
    "schedule": {"rows": 64},
    "placement": "local",
}
SCRIPTED: Experiment = {**REAL, "student": {"engine": "scripted"}}
SMALL: Experiment = {
    **REAL,
    "method": "gold",
    "course": {"practice": 40, "quiz": 20, "exam": 10, "twins": 0, "retention": 0},
    "schedule": {"rows": 16},
}
ROOT = Path(__file__).parents[1]
DRIVER = Path(__file__).parent / "drivers" / "experiment.py"


# ---- what a run left


def left(root: Path) -> dict[str, Any]:
    """Everything in a run folder that another run of the experiment must leave too, by file."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_dir() or name.startswith(("logs/", "lock", "status.json")):
            continue
        if name == "run.json":
            config = json.loads(path.read_bytes())["config"]
            found[name] = changed(config, {})  # what is free is not part of it
        elif name.startswith("steps/"):
            step = json.loads(path.read_bytes())
            found[name] = {key: value for key, value in step.items() if key not in ("seconds", "stamp")}
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def differing(one: Path, other: Path) -> list[str]:
    a, b = left(one), left(other)
    return [name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]


def states(root: Path) -> list[str]:
    """Digests of what each training left, in order."""
    steps = sorted(root.glob("steps/*/train-*.json"))
    return [json.loads(step.read_bytes())["value"]["state"]["digest"] for step in steps]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


LATE = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""When their driver is killed they look for Ray's server, which is gone too, for a minute before they give up."""


def survivors(pids: list[int], seconds: float = 20.0) -> list[str]:
    """Those that are still there after a while, by what they run."""
    end = time.monotonic() + seconds
    while (found := [name for pid in pids if (name := running(pid)) and name not in LATE]) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def running(pid: int) -> str:
    """What a process runs; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip() if alive(pid) else ""
    except OSError:
        return ""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real experiment, in this process, from beginning to end."""
    root = tmp_path_factory.mktemp("undisturbed") / "run"
    assert launch(REAL, root).status == "finished"
    return root


# ---- where the roles live


@pytest.mark.ray
def test_scripted_roles_leave_the_same_in_process_and_on_ray(tmp_path: Path) -> None:
    launch(SCRIPTED, tmp_path / "here")
    launch({**SCRIPTED, "placement": "ray"}, tmp_path / "there")
    assert differing(tmp_path / "here", tmp_path / "there") == []
    assert len(set(states(tmp_path / "here"))) > 1


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("placement", ["separate", "shared"])
def test_real_roles_leave_the_same_in_process_and_on_ray(placement: str, undisturbed: Path, tmp_path: Path) -> None:
    launch({**REAL, "placement": placement}, tmp_path / "there")
    assert differing(undisturbed, tmp_path / "there") == []
    assert len(set(states(undisturbed))) == 4  # SFT and DPO, twice


@pytest.mark.slow
@pytest.mark.ray
def test_real_replicas_leave_the_same_as_one_of_each(undisturbed: Path, tmp_path: Path) -> None:
    many = {"student": {"replicas": 2}, "evaluator": {"replicas": 2}, "placement": "ray"}
    launch({**REAL, **many}, tmp_path / "many")
    assert differing(undisturbed, tmp_path / "many") == []
    names = {"student-0", "student-1", "evaluator-0", "evaluator-1", "teacher-0", "learner-0"}
    assert {p.stem for p in (tmp_path / "many/logs").iterdir()} == names


@pytest.mark.slow
def test_a_fork_of_a_real_run_trains_the_state_of_the_undisturbed_one_where_its_change_cannot_matter(
    undisturbed: Path, tmp_path: Path
) -> None:
    """No round of it is rolled back, so nobody's patience counts; a learning rate does."""
    fork(undisturbed, tmp_path / "same", 1, ["schedule.patience=9"])
    fork(undisturbed, tmp_path / "other", 1, ["update.sft.learning_rate=1e-4"])
    assert states(tmp_path / "same") == states(undisturbed)
    assert states(tmp_path / "other")[:2] == states(undisturbed)[:2]
    assert states(tmp_path / "other")[2:] != states(undisturbed)[2:]
    for name in ("steps/1/teach.json", "steps/1/train-1-sft.json", "steps/1/gate.json"):
        assert (tmp_path / "same" / name).samefile(undisturbed / name)


@pytest.mark.slow
def test_a_checkout_in_a_folder_of_any_name_trains_the_same_states(tmp_path: Path) -> None:
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (tmp_path / "experiment.json").write_text(json.dumps({**SMALL, "rounds": 1, "method": "tailored"}))
    runs = []
    for name in ("some name", "tutorloop-0.1"):
        copy = tmp_path / name / "checkout"
        for file in filter(None, files.split("\0")):
            if (ROOT / file).is_file():
                (copy / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, copy / file)
        path = tmp_path / name / "path"
        path.mkdir()
        (path / "tutorloop").symlink_to(copy)
        run = tmp_path / name / "run"
        done = subprocess.run(
            [sys.executable, "-P", str(copy / "tests/drivers/experiment.py"), str(tmp_path / "experiment.json"), run],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.splitlines()[0]).resolve() == (copy / "__init__.py").resolve()
        runs.append(run)
    assert differing(*runs) == []
    assert len(set(states(runs[0]))) == 2


# ---- kills

POINTS = (
    "asked 1/teach",
    "training student-r0001-2-dpo",
    "after 2/publish",
    "shard sheets/quiz/student-r0002",
    "shard sheets/retention/student-r0002",
)


@pytest.mark.slow
@pytest.mark.ray
def test_a_driver_that_is_killed_again_and_again_ends_where_the_undisturbed_one_does(
    undisturbed: Path, tmp_path: Path
) -> None:
    run, experiment = tmp_path / "run", tmp_path / "experiment.json"
    experiment.write_text(json.dumps({**REAL, "placement": "ray"}))

    def drive(*point: str) -> int:
        with TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as short:  # paths of sockets are short
            environment = {**os.environ, "RAY_TMPDIR": short}
            command = [sys.executable, str(DRIVER), str(experiment), str(run), *point]
            code = subprocess.run(command, cwd=tmp_path, env=environment).returncode
        started = [int(pid) for pid in run.with_name("run.family").read_text().split()]
        assert len(started) >= 4 + 2  # the roles, and Ray's own
        assert survivors(started) == [], point
        return code

    for point in POINTS:
        assert drive(point) == -signal.SIGKILL, point
        assert read_status(run) == ("paused", "its process was killed; the same command goes on")
        unfinished = {"asked 1/teach": "1/teach", "training student-r0001-2-dpo": "1/train-2-dpo"}
        if point in unfinished:
            assert not (run / "steps" / f"{unfinished[point]}.json").exists(), point
    assert drive() == 0
    assert read_status(run)[0] == "finished"
    assert differing(undisturbed, run) == []


class Murderer(Tick):
    """Ends a role's process, once each, when the run has come to a point: `{point: role}`."""

    def __init__(self, moments: Mapping[str, str]) -> None:
        self.moments = dict(moments)
        self.pids: dict[str, list[int]] = defaultdict(list)
        """Of each role, the latest last."""
        self.killed: list[str] = []

    def __call__(self, name: str, done: int, total: int) -> None:
        self.at(f"{name} {done}/{total}")

    def step(self, name: str, seconds: float, replayed: bool) -> None:
        self.at(name)

    def at(self, point: str) -> None:
        role, _, delay = self.moments.pop(point, "").partition(" ")
        if not role:
            return
        self.killed.append(role)
        if delay:
            threading.Timer(float(delay), self.kill, [role]).start()
        else:
            self.kill(role)

    def kill(self, role: str) -> None:
        os.kill(self.pids[role][-1], signal.SIGKILL)


@contextmanager
def watched(tick: Murderer, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int, str, str]]]:
    """Every call that actors answered: role, process, method, the state it names."""
    calls: list[tuple[str, int, str, str]] = []
    call = Actor.call

    def watching(actor: Actor, method: str, *args: Any) -> Any:
        answer = call(actor, method, *args)
        role = actor.name.partition("/")[0]
        if actor.pid not in tick.pids[role]:
            tick.pids[role].append(actor.pid)
        named = [a.state if isinstance(a, Evidence) else a for a in args]
        calls.append((role, actor.pid, method, next((a.name for a in named if isinstance(a, State)), "")))
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Actor, "call", watching)
        yield calls


@pytest.mark.slow
@pytest.mark.ray
def test_roles_that_are_killed_are_reported_and_replaced_and_change_nothing(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    moments = {
        "sheets/retention/student-base 1/2": "evaluator",
        "1/attempt 1/2": "student",
        "1/verify 1/2": "teacher",
        "1/curate": "learner 0.2",  # the SFT has begun
        "2/train-1-sft": "learner 0.05",  # the DPO, of a fifth of a second, has begun
        "2/update": "student",  # before its handshake
        "2/publish": "evaluator",  # after its handshake
    }
    tick = Murderer(moments)
    with watched(tick, monkeypatch) as calls:
        assert launch({**REAL, "placement": "ray"}, tmp_path / "run", tick=tick).status == "finished"
    assert not tick.moments, "nobody came to these points"
    assert differing(undisturbed, tmp_path / "run") == []

    deaths = [r.getMessage() for r in caplog.records if "takes its place" in r.getMessage()]
    methods = ("sit", "generate", "generate", "train", "train", "prove", "sit")
    for death, role, method in zip(deaths, moments.values(), methods, strict=True):
        role = role.partition(" ")[0]
        assert death.startswith(f"{role}/0 (pid "), death
        assert f"died in `{method}`" in death, death
    assert {role: len(pids) for role, pids in tick.pids.items()} == {
        "evaluator": 3,
        "student": 3,
        "teacher": 2,
        "learner": 3,
    }
    assert survivors([pid for pids in tick.pids.values() for pid in pids]) == []

    # Every incarnation has proven a state before it answers in it.
    proven: set[tuple[str, int, str]] = set()
    for role, pid, method, state in calls:
        if method == "prove":
            proven.add((role, pid, state))
        if method in ("generate", "sit"):
            assert (role, pid, state) in proven, (role, pid, method, state)
    replaced = {(role, pids[-1]) for role, pids in tick.pids.items() if role in ("evaluator", "student")}
    assert replaced <= {(role, pid) for role, pid, _ in proven}


@pytest.mark.slow
@pytest.mark.ray
def test_roles_that_die_while_the_run_begins_are_replaced_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each once, as soon as it was greeted."""
    tick, greet = Murderer({}), Replica.greet
    victims = {"learner/0", "student/0", "evaluator/0", "teacher/0"}

    def greeted(replica: Replica) -> Any:
        hello = greet(replica)
        if replica.name in victims:
            victims.remove(replica.name)
            os.kill(hello.pid, signal.SIGKILL)
        return hello

    monkeypatch.setattr(Replica, "greet", greeted)
    with watched(tick, monkeypatch):
        launch({**SCRIPTED, "rounds": 1, "placement": "ray"}, tmp_path / "run", tick=tick)
    monkeypatch.undo()
    reported = {r.getMessage().partition(" ")[0] for r in caplog.records}
    assert reported == {"learner/0", "student/0", "evaluator/0", "teacher/0"}
    assert {role: len(pids) for role, pids in tick.pids.items()} == dict.fromkeys(tick.pids, 2)
    assert survivors([pid for pids in tick.pids.values() for pid in pids]) == []
    launch({**SCRIPTED, "rounds": 1}, tmp_path / "undisturbed")
    assert differing(tmp_path / "undisturbed", tmp_path / "run") == []


@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_run_that_waits_for_an_actor_is_paused_by_a_signal_and_says_by_which(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray turns what a handler raises into an interrupt of its own."""

    class Stuck(Murderer):
        def kill(self, role: str) -> None:
            os.kill(self.pids[role][-1], signal.SIGSTOP)
            threading.Timer(1.0, os.kill, [os.getpid(), number]).start()

    tick = Stuck({"1/attempt 1/2": "student"})
    with watched(tick, monkeypatch), pytest.raises(KeyboardInterrupt) as caught:
        launch({**SCRIPTED, "placement": "ray"}, tmp_path / "run", tick=tick)
    assert isinstance(caught.value, Interrupted)
    assert caught.value.number == number
    assert read_status(tmp_path / "run") == ("paused", f"interrupted by {number.name}; the same command goes on")
    assert survivors([pid for pids in tick.pids.values() for pid in pids]) == []


def test_a_role_that_dies_twice_in_one_call_ends_the_run_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = InProcess.call

    def dying(host: InProcess, method: str, *args: Any) -> Any:
        if method == "train":
            raise RoleDied(f"{host.name} (pid 0) died in `train`.")
        return call(host, method, *args)

    with monkeypatch.context() as patch:
        patch.setattr(InProcess, "call", dying)
        with pytest.raises(RoleDied, match="learner/0"):
            launch(SCRIPTED, tmp_path / "run")
    assert read_status(tmp_path / "run") == ("failed", "RoleDied: learner/0 (pid 0) died in `train`.")
    assert launch(SCRIPTED, tmp_path / "run").status == "finished"


# ---- publishing


class At(Tick):
    """Does something once a step is on record."""

    def __init__(self, step: str, do: Callable[[], None]) -> None:
        self.name, self.do = step, do

    def step(self, name: str, seconds: float, replayed: bool) -> None:
        if name == self.name:
            self.do()


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real run that was interrupted before the training of its second round."""
    root = tmp_path_factory.mktemp("halfway") / "run"

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(SMALL, root, tick=At("2/curate", interrupt))
    assert read_status(root)[0] == "paused"
    assert states(root)
    assert not list(root.glob("steps/2/train-*"))
    return root


@pytest.fixture
def run(halfway: Path, tmp_path: Path) -> Path:
    return shutil.copytree(halfway, tmp_path / "run")


def folder(root: Path, number: int) -> Path:
    """Of the state that a round's trainings came to."""
    step = json.loads((root / f"steps/{number}/update.json").read_bytes())
    return root / str(step["value"]["weights"])


def said(root: Path, number: int) -> list[tuple[str, tuple[float, ...]]]:
    """What the student wrote in a round's quiz, and how sure it was of each token."""
    (sheet,) = root.glob(f"rows/sheets/quiz/student-r{number:04d}-*")
    rows = Table(root, str(sheet.relative_to(root)), Marked, run=run_record(root)["run"]).rows()
    return [(row.attempt.text, row.attempt.logprobs) for row in rows]


def tensors(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        path = folder(root, 2) / ADAPTER_FILE
        save_file(change(load_file(path)), path)

    return plant


def last_rounds(root: Path) -> None:
    shutil.copytree(folder(root, 1), folder(root, 2), dirs_exist_ok=True)


def half_written(root: Path) -> None:
    path = folder(root, 2) / ADAPTER_FILE
    path.write_bytes(path.read_bytes()[:5000])


def gone(root: Path) -> None:
    shutil.rmtree(folder(root, 2))


FAULTS: dict[str, Callable[[Path], None]] = {
    "last round's adapter": last_rounds,
    "the base": tensors(lambda found: {name: t * 0 for name, t in found.items()}),
    "another adapter": tensors(lambda found: {name: t + 0.01 for name, t in found.items()}),
    "a module less": tensors(lambda found: {n: t for n, t in found.items() if "layers.1.mlp.up_proj" not in n}),
    "half a file": half_written,
    "no folder": gone,
}


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_the_trained_state_is_never_examined(fault: str, run: Path) -> None:
    """Planted between training and publishing."""
    kept = run.with_name("kept")

    def plant() -> None:
        shutil.copytree(folder(run, 2), kept)
        FAULTS[fault](run)

    with pytest.raises(PublishError, match="student-r0002") as caught:
        launch(SMALL, run, tick=At("2/update", plant))
    assert not list(run.glob("rows/sheets/*/student-r0002-*"))
    assert not (run / "steps/2/publish.json").exists()
    assert read_status(run) == ("failed", f"PublishError: {caught.value}")

    # Nor by the next command: the trainer does not take it for its own either.
    with pytest.raises((PublishError, ValueError), match="student-r0002"):
        launch(SMALL, run)
    assert not list(run.glob("rows/sheets/*/student-r0002-*"))
    assert read_status(run)[0] == "failed"

    # With the right file in its place again the same command finishes.
    shutil.copytree(kept, folder(run, 2), dirs_exist_ok=True)
    assert launch(SMALL, run).status == "finished"
    assert said(run, 2)


def saves(change: Callable[[Path, Path], None]) -> Callable[[pytest.MonkeyPatch], None]:
    """A trainer whose last training of a round saves something else, under the digest of what it saved."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        save = TrlLearner._save

        def saving(learner: TrlLearner, job: Job, model: Any) -> State:
            pretrained = model.save_pretrained

            def write(part: Path, **options: Any) -> None:
                pretrained(part, **options)
                if job.loss == "dpo":
                    change(Path(part) / ADAPTER_FILE, learner.base.spec.root)

            model.save_pretrained = write
            return save(learner, job, model)

        monkeypatch.setattr(TrlLearner, "_save", saving)

    return patch


def round_again(file: Path, root: Path) -> None:
    shutil.copy(folder(root, 1) / ADAPTER_FILE, file)


def base_again(file: Path, root: Path) -> None:
    save_file({name: t * 0 for name, t in load_file(file).items()}, file)


def module_less(file: Path, root: Path) -> None:
    save_file({n: t for n, t in load_file(file).items() if "layers.1.mlp.up_proj" not in n}, file)


def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that forgets to switch the adapter on."""

    @contextmanager
    def active(server: TransformersServer, state: State) -> Iterator[None]:
        if server.peft is None:
            yield
            return
        with server.peft.disable_adapter():
            yield

    monkeypatch.setattr(TransformersServer, "_active", active)


OTHERWISE = "the server's log-probabilities differ from the trainer's"
BUGS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "saves last round's": (saves(round_again), OTHERWISE),
    "saves the base": (saves(base_again), OTHERWISE),
    "saves a module less": (saves(module_less), "without tensors: model.layers.1.mlp.up_proj"),
    "serves the base": (forgetful, OTHERWISE),
}


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
@pytest.mark.parametrize("bug", BUGS)
def test_a_state_whose_digest_is_right_and_whose_behaviour_is_not_is_never_examined(
    bug: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, why = BUGS[bug]
    with monkeypatch.context() as patch:
        plant(patch)
        with pytest.raises(PublishError, match=why) as caught:
            launch(SMALL, run)
    assert not list(run.glob("rows/sheets/*/student-r0002-*"))
    assert read_status(run) == ("failed", f"PublishError: {caught.value}")


def test_without_the_handshake_the_wrong_student_would_be_examined(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the tests above can fail."""

    def load(server: TransformersServer, evidence: Evidence) -> float:
        if evidence.state.weights and evidence.state.digest not in server.names:
            server.load(evidence.state)
        server.proven[evidence.state.digest] = evidence
        return 0.0

    monkeypatch.setattr(TransformersServer, "prove", load)
    honest = shutil.copytree(run, run.with_name("honest"))
    assert launch(SMALL, honest).status == "finished"
    assert launch(SMALL, run, tick=At("2/update", lambda: last_rounds(run))).status == "finished"
    assert said(run, 2) == said(run, 1) == said(honest, 1) != said(honest, 2)


def test_an_update_that_does_nothing_is_published_and_said_to_do_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nothing = {"learning_rate": 1e-12}
    experiment = {**SMALL, "method": "tailored", "rounds": 1, "update": {"sft": nothing, "dpo": nothing}}
    report = launch(experiment, tmp_path / "run")
    told = report.rounds[1]
    assert told.proof
    assert told.proof.status == "effect below noise"
    assert told.proof.effect <= 1e-4
    assert told.why == "kept, but effect below noise"
    beforehand, dpo, handshake = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "effect below noise" in handshake
    assert "Below 1e-05 a LoRA hardly moves" in beforehand and "this DPO moved nothing" in dpo
    assert said(tmp_path / "run", 1)


# ---- what was trained on


def trained(root: Path) -> dict[str, tuple[int, int]]:
    """Rows and optimizer tokens of each training."""
    found = {}
    for step in sorted(root.glob("steps/*/train-*.json")):
        value = json.loads(step.read_bytes())["value"]
        found[str(step.relative_to(root / "steps"))] = value["notes"]["rows"], value["tokens"]
    return found


@pytest.mark.slow
def test_methods_train_on_as_many_rows_and_say_how_many_tokens(undisturbed: Path, tmp_path: Path) -> None:
    report: Report = launch({**REAL, "method": "gold"}, tmp_path / "gold")
    gold, tailored = trained(tmp_path / "gold"), trained(undisturbed)
    print("gold", gold, "tailored", tailored)
    for number in (1, 2):
        sft = f"{number}/train-1-sft.json"
        assert gold[sft][0] == tailored[sft][0] == 64
        assert gold[sft][1] > 1000
        assert tailored[sft][1] > 1000
        assert tailored[f"{number}/train-2-dpo.json"][1] > 0
    assert [len(r.tables.examples) for r in report.rounds if r.tables] == [64, 64]
