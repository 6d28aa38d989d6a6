"""A killed run, started again, is the run that was never killed: same states, same transcripts, nothing paid twice.

Real processes and real SIGKILLs (`policies_for_tests/driver.py`). Not covered here: power cuts, kills of actors (see
`test_hosts.py`), and engines with weights (see `test_publish_real.py`).
"""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tutorloop.loops.journal import JournalError, read_status
from tutorloop.loops.launch import launch
from tutorloop.tests.policies_for_tests import small

DRIVER = Path(small.__file__).with_name("driver.py")
WAVE = 64
VERBS = ["attempt", "verify", "triage", "teach", "check", "curate", "train-1-sft", "update", "publish", "quiz", "gate"]

POLICY = """
from tutorloop.tests.policies_for_tests.shapes import prompt

async def policy(case, room):
    await room.teacher.aask("First a word about\\n" + case.question)
    text = await room.teacher.aask(prompt(case))
    again = await room.aretry(case, context=text.splitlines()[0])
    room.note("last", [case.id, again.right])
    await room.teacher.aask("The same for everybody.")
    return text
"""


class Killed:
    """An experiment, undisturbed in `whole`, and killed at will in folders of other names."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "experiment.json"
        self.told = small.experiment(
            folder,
            course={"practice": 70, "quiz": 30, "exam": 30, "twins": 1, "retention": 5},
            schedule__rows=70,
            triage="tutorloop.policies.triage:wrong",
            teacher__policy=small.policy(folder, POLICY),
        )
        self.file.write_text(json.dumps(self.told))
        assert self.starts("in whole", "finish") == ["finish: finished"]
        log = json.loads((folder / "whole.log").read_text())
        self.lines: list[str] = log["lines"]
        self.syncs: int = log["syncs"]
        """How often it made something durable: twice for a file, once for lines of asks or notes."""
        self.seconds: float = log["seconds"]
        """How long it took."""
        self.whole = small.transcript(folder / "whole")
        self.paid = self.payments()

    def starts(self, *how: str, timeout: float = 900) -> list[str]:
        self.payments_file.unlink(missing_ok=True)
        command = [sys.executable, DRIVER, self.file, self.folder, self.payments_file, *how]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    @property
    def payments_file(self) -> Path:
        return self.folder / "payments"

    def payments(self) -> Counter[str]:
        return Counter(self.payments_file.read_text().splitlines())

    def same(self, name: str) -> None:
        """The run in this folder came to what the undisturbed one did."""
        found = small.transcript(self.folder / name)
        assert found.keys() == self.whole.keys()
        assert [key for key in found if found[key] != self.whole[key]] == []
        assert not list((self.folder / name).rglob("*.part")), "a killed write has left nothing behind"

    def twice(self) -> int:
        """How many asks were paid more often than in as many undisturbed runs."""
        return sum((self.payments() - self.paid).values())


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    return Killed(tmp_path_factory.mktemp("killed"))


def test_the_undisturbed_run_has_something_to_lose(killed: Killed) -> None:
    """Two rounds, tables of two shards, three asks a case, notes, reused asks, a state a round."""
    steps = [line.removeprefix("step ") for line in killed.lines if line.startswith("step ")]
    for number in (1, 2):
        assert {f"{number}/{verb}" for verb in VERBS} <= {*steps}
    assert {"course", "0", "final/0", "final/2"} <= {*steps} and "shard 1/attempt 2/2" in killed.lines
    root = killed.folder / "whole"
    assert len(set(small.states(root).values())) == 2 and any(e.reused for e in small.asks(root))
    assert sum(killed.paid.values()) == len([e for e in small.paid(root) if e.member == "teacher"])
    assert killed.whole["steps/1/teach.json"]["notes"]


def test_killed_in_every_phase(killed: Killed) -> None:
    """One run, and a kill at the end of each step of a round, and between the shards of a table."""
    _at_lines(killed, [x for x in killed.lines if "step 2/" not in x and ("step" in x or "1/2" in x)][:-1], "phases")


@pytest.mark.slow
def test_killed_after_each_shard_and_each_step(killed: Killed) -> None:
    _at_lines(killed, killed.lines[:-1], "lines")


def _at_lines(killed: Killed, lines: Sequence[str], name: str) -> None:
    kills = [f"line {line}" for line in lines]
    told = killed.starts(f"in {name}", *kills, "finish")
    assert told == [*(f"{kill}: killed by 9" for kill in kills), "finish: finished"]
    killed.same(name)
    assert killed.twice() == 0


def _at_syncs(killed: Killed, spots: Sequence[int], name: str) -> None:
    words = [w for spot in spots for w in (f"in {name}-{spot}", f"sync {spot}", "finish")]
    told = killed.starts(*words)
    for spot in spots:
        assert f"sync {spot}: killed by 9" in told
        killed.same(f"{name}-{spot}")
    # What was in flight at a kill is asked again: one wave at most.
    extra = killed.payments()
    for request, n in killed.paid.items():
        extra[request] -= n * len(spots)
    assert sum(v for v in extra.values() if v > 0) <= WAVE * len(spots)


def test_killed_at_any_of_the_moments_when_something_becomes_durable(killed: Killed) -> None:
    """Before a rename, between a rename and what follows from it, and after a line of the asks."""
    assert killed.syncs > 200
    _at_syncs(killed, [1, 3, *range(20, killed.syncs, killed.syncs // 9)], "sync")


@pytest.mark.slow
def test_killed_at_each_of_the_moments_when_something_becomes_durable(killed: Killed) -> None:
    for first in range(1, killed.syncs + 1, 20):
        _at_syncs(killed, range(first, min(first + 20, killed.syncs + 1)), "each")


@pytest.mark.parametrize("asks", [[1], [2, 2, 2], [60, 7], [150], [170, 1, 1]])
def test_a_policy_of_three_asks_killed_between_them_repays_none(asks: list[int], killed: Killed) -> None:
    name = f"asks-{'-'.join(map(str, asks))}"
    told = killed.starts(f"in {name}", *(f"ask {n}" for n in asks), "finish")
    assert [line.rpartition(": ")[2] for line in told] == ["killed by 9"] * len(asks) + ["finished"]
    killed.same(name)
    assert killed.twice() == 0


def test_killed_at_random_moments(killed: Killed) -> None:
    rng = random.Random(0)
    moments = [f"after {killed.seconds * rng.uniform(0.03, 0.3):.3f}" for _ in range(8)]
    told = killed.starts("in random", *moments, "finish")
    assert sum("killed by 9" in line for line in told) >= 3 and told[-1] == "finish: finished"
    killed.same("random")
    assert killed.twice() <= WAVE * len(moments)


WAITS = """
import os, time
from pathlib import Path
from tutorloop.tests.policies_for_tests.shapes import prompt

def policy(case, room):
    text = room.teacher.ask(prompt(case))
    Path(os.environ["HERE"], "waiting").touch()
    while not Path(os.environ["HERE"], "go").exists():
        time.sleep(0.02)
    return text
"""


def test_a_running_run_is_in_use_until_it_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = small.experiment(tmp_path, rounds=1, teacher__policy=small.policy(tmp_path, WAITS))
    root = tmp_path / "run"
    monkeypatch.setenv("HERE", str(tmp_path))
    code = "import json, sys; from tutorloop.loops.launch import launch; launch(json.loads(sys.argv[1]), sys.argv[2])"
    running = subprocess.Popen([sys.executable, "-c", code, json.dumps(told), root])
    try:
        _until((tmp_path / "waiting").exists)
        assert read_status(root) == ("running", "")
        before = small.tree(root)
        with pytest.raises(JournalError, match="in use by another process"):
            launch(told, root)
        with pytest.raises(JournalError, match="in use by another process"):
            launch({**told, "seed": 1}, root)
        assert small.tree(root) == before and running.poll() is None
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert read_status(root) == ("paused", "its process was killed; the same command goes on")
    paid = len(small.paid(root))
    (tmp_path / "go").touch()
    assert launch(told, root).status == "finished"
    assert len(small.paid(root)) == paid, "what it had asked when it was killed is not asked again"


def _until(there: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def _children(pid: int) -> list[int]:
    found = (p for p in Path("/proc").iterdir() if p.name.isdigit())
    return [int(p.name) for p in found if _parent(p) == pid]


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@pytest.mark.ray
@pytest.mark.skipif(sys.platform != "linux", reason="looks for orphans in /proc")
def test_a_killed_driver_takes_its_actors_along_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = small.experiment(
        tmp_path, rounds=1, teacher__policy=small.policy(tmp_path, WAITS), placement="ray"
    )
    monkeypatch.setenv("HERE", str(tmp_path))
    code = "import json, sys; from tutorloop.loops.launch import launch; launch(json.loads(sys.argv[1]), sys.argv[2])"
    running = subprocess.Popen([sys.executable, "-c", code, json.dumps(told), tmp_path / "run"])
    try:
        _until((tmp_path / "waiting").exists)
        below = [running.pid]
        for pid in below:
            below += _children(pid)
        actors = [pid for pid in below if b"Holder" in (Path("/proc") / str(pid) / "cmdline").read_bytes()]
        assert len(actors) == 4
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    _until(lambda: not any(_alive(pid) for pid in actors))  # two agents of Ray's own take a minute
    (tmp_path / "go").touch()
    assert launch({**told, "placement": "local"}, tmp_path / "run").status == "finished"
    assert launch({**told, "placement": "local"}, tmp_path / "other").status == "finished"
    one, other = small.transcript(tmp_path / "run"), small.transcript(tmp_path / "other")
    one = {name: value for name, value in one.items() if not name.startswith("logs/")}
    assert one == other, "begun in actors, killed, finished in this process: the same run"


def _alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
