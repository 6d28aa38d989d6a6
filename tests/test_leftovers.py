"""What a killed run leaves on the machine is found and removed; a living run's is not touched."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tutorloop.agents import leftovers, placement
from tutorloop.agents.leftovers import OWNER, Claim, Leftover

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

placement.start(1)
actor = placement.Actor(RoleSpec(role="student", engine="scripted", root=Path(sys.argv[1])), factory=factory)
actor.call("pid")
print(placement._claims[-1].folder, flush=True)
for line in sys.stdin:
    print(actor.call("pid"), flush=True)
"""


@pytest.fixture
def driver(place: Path, tmp_path: Path) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    """`driver()`: a process with a Ray and an actor of its own."""
    started: list[subprocess.Popen[str]] = []

    def start() -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", DRIVER, str(tmp_path)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
    leftovers.sweep()


def users(folder: Path) -> list[str]:
    """Every process that names the folder or has a file of it open, whatever it is; the file may be removed already."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_text().replace("\0", " ").strip()
            if str(folder) in command or any(str(folder) in os.readlink(fd) for fd in (process / "fd").iterdir()):
                found.append(command)
    return found


@pytest.mark.ray
def test_a_driver_that_was_killed_leaves_nothing_after_the_sweep_and_a_living_one_is_not_touched(
    driver: Callable[[], "subprocess.Popen[str]"],
) -> None:
    dead, living = driver(), driver()
    assert dead.stdout and living.stdout and living.stdin
    folder, other = Path(dead.stdout.readline().strip()), Path(living.stdout.readline().strip())
    dead.kill()
    dead.wait()
    end = time.monotonic() + 20
    while any("ray::" not in name for name in users(folder)) and time.monotonic() < end:
        time.sleep(0.1)  # until only those are left whose names say nothing of the folder
    assert users(folder), "else there is nothing to end"
    found = leftovers.find()
    assert [left.folder for left in found] == [folder]
    assert [left.folder for left in leftovers.sweep()] == [folder]
    assert not folder.exists()
    assert users(folder) == []
    assert leftovers.find() == []
    before = sorted(users(other))
    living.stdin.write("\n")
    living.stdin.flush()
    assert int(living.stdout.readline()) > 0
    assert before and sorted(users(other)) == before


def test_a_start_tidies_up_and_a_stop_leaves_nothing(place: Path, dead: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Path] = []
    monkeypatch.setattr("ray.init", lambda _temp_dir, **_: started.append(Path(_temp_dir)))
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(placement, "_enough_gpus", lambda *_: None)
    placement.start(1)
    assert not dead.exists()
    assert [started[0].parent] == list(place.iterdir())
    placement.stop()
    assert list(place.iterdir()) == []


def test_a_claim_is_not_swept_while_its_process_lives_and_is_gone_once_released(place: Path) -> None:
    claim = Claim()
    claim.room.mkdir()
    assert leftovers.sweep() == []
    assert claim.room.exists()
    claim.release()
    assert list(place.iterdir()) == []


def test_what_nobody_of_ours_claimed_is_left_alone(place: Path) -> None:
    (place / "ray-of-somebody").mkdir()
    (place / "ray-link").symlink_to(place / "ray-of-somebody")
    (place / "ray-file").write_text("")
    assert leftovers.sweep() == []
    assert len(list(place.iterdir())) == 3


def test_who_only_looks_at_a_dead_runs_log_is_not_ended(dead: Path) -> None:
    log = dead / "r" / "raylet.out"
    log.write_text("the last words\n")
    reader = subprocess.Popen(["tail", "-f", str(log)], stdout=subprocess.PIPE, text=True)
    try:
        assert reader.stdout and reader.stdout.readline() == "the last words\n"
        assert leftovers.find() == [Leftover(folder=dead, processes=())]
        leftovers.sweep()
        assert not dead.exists()
        assert reader.poll() is None
    finally:
        reader.kill()
        reader.communicate()


def test_what_cannot_be_removed_yet_still_says_whose_it_was(
    place: Path, dead: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove: Callable[..., object] = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda path, **how: path.name != "r" and remove(path, **how))
    leftovers.sweep()
    assert (dead / OWNER).exists()
    monkeypatch.undo()
    monkeypatch.setenv("RAY_TMPDIR", str(place))
    assert [left.folder for left in leftovers.sweep()] == [dead]
    assert list(place.iterdir()) == []
