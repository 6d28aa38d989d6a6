"""The chaos grid: whoever is killed, stopped or starved, in whatever phase, the same command ends as if nothing had been.

Run by `make test-kill`. What each loss cost is written to the file that `KILL_ROWS` names; `KILL_SEED` seeds the random
part. Not covered: power cuts (what was written survives a kill), several machines, GPUs.
"""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tutorloop.loops.journal import read_status
from tutorloop.tests.chaos.faults import FAULTS
from tutorloop.tests.chaos.grid import DAEMONS, PHASES, ROLES, EachPhase, Lab, Moment, Once, Reply, Run, Start, strike
from tutorloop.tests.policies_for_tests import small

pytestmark = [
    pytest.mark.kill,
    pytest.mark.ray,
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
]

SEED = int(os.environ.get("KILL_SEED", "0"))
ROWS = Path(os.environ["KILL_ROWS"]).absolute() if "KILL_ROWS" in os.environ else None
DAY = 86400.0
DEADLINE = 15
"""Seconds that a role may take in the tests of those that hang; a busy machine starts one in less."""

POLICY = """
from tutorloop import Lesson
from tutorloop.tests.policies_for_tests.shapes import prompt

async def policy(case, room):
    await room.teacher.aask("First a word about\\n" + case.question)
    text = await room.teacher.aask(prompt(case))
    again = await room.aretry(case, context=text.splitlines()[0])
    room.note("last", [case.id, again.right])
    await room.teacher.aask("The same for everybody.")
    return Lesson(text=text, target=text, act="correction", rejected=case.work)
"""


def scripted(folder: Path, **changes: Any) -> dict[str, Any]:
    """Every phase is a step, tables have two parts, a case asks the teacher three times, a round unlearns a little."""
    return small.experiment(
        folder,
        course={"practice": 70, "quiz": 30, "exam": 70, "twins": 1, "retention": 2},
        schedule={"rows": 70, "ask": 66},
        triage="tutorloop.policies.triage:wrong",
        teacher__policy=small.policy(folder, POLICY),
        placement="ray",
        **changes,
    )


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Scripted roles in the driver's process."""
    folder = tmp_path_factory.mktemp("local")
    lab = Lab(folder, scripted(folder), "scripted, one process", ("placement=local",), ROWS)
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def ray(local: Lab) -> Iterator[Lab]:
    """Scripted roles in actors."""
    lab = Lab(local.folder / "ray", local.told, "scripted, Ray", (), ROWS, local)
    yield lab
    lab.close()


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Lab:
    found: Lab = request.getfixturevalue(request.param)
    return found


everywhere = pytest.mark.parametrize("lab", ["local", "ray"], indirect=True)


def test_an_undisturbed_run_comes_through_every_phase(local: Lab) -> None:
    assert {m.phase for m in local.start.moments} >= {*PHASES}
    assert {m.who for m in local.start.moments} == {"driver", *ROLES}
    assert sum(local.paid.values()) > 100


# ---- every victim in every phase


@everywhere
def test_a_driver_is_killed_in_every_phase(lab: Lab) -> None:
    run = lab.run("driver")
    for where in PHASES:
        run.lost("driver", where)
    run.finish()


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_killed_in_every_phase_and_replaced_each_time(role: str, local: Lab, tmp_path: Path) -> None:
    told = scripted(tmp_path, rounds=16, student__options={"rows_to_unlearn": 200})
    here = Lab(tmp_path / "here", told, "", ("placement=local",))
    lab = Lab(tmp_path / "ray", told, "scripted, Ray", (), ROWS, here)
    run = lab.run(role)
    plan = EachPhase(run, role)
    start = run.start(plan)
    run.same(start)
    assert not plan.todo
    for where, seconds in plan.costs(start):
        lab.tell(role, where, seconds)


@pytest.mark.parametrize("daemon", DAEMONS)
def test_a_daemon_of_ray_is_killed_in_every_phase(daemon: str, ray: Lab) -> None:
    run = ray.run(daemon)
    for where in PHASES:
        run.lost(daemon, where)
    run.finish()


# ---- random moments, several kills in a run


@everywhere
def test_anybody_is_killed_at_random_moments(lab: Lab) -> None:
    rng = random.Random(f"{SEED}/{lab.world}")
    victims = ["driver"] if lab.world.endswith("one process") else ["driver", *ROLES, *DAEMONS]
    for n in range(2):
        run = lab.run(f"random-{SEED}-{n}")
        for _ in range(5):
            victim, many = rng.choice(victims), rng.randrange(len(lab.start.moments))
            plan = Once(anybody(victim, many), later(victim, rng.uniform(0, 0.02)))
            start = run.start(plan)
            if start.code == 0:  # it was near its end, or a role was replaced
                break
            assert plan.hit, start.said
            run.ended(start, victim)
            run.owed.append((victim, plan.hit.phase))
        else:
            start = run.start()
        run.same(start)


def anybody(victim: str, many: int) -> Callable[[Start, Moment], bool]:
    """After so many announcements, once there is such a process."""
    return lambda start, _: len(start.moments) > many and bool(start.pid(victim))


def later(victim: str, seconds: float) -> Callable[[Start, Moment], None]:
    """Killed a little after the announcement, wherever everybody is by then."""

    def do(start: Start, _: Moment) -> None:
        pid = start.pid(victim)
        threading.Timer(seconds, os.kill, (pid, signal.SIGKILL)).start()

    return do


# ---- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_pauses_the_run_in_every_phase(number: signal.Signals, local: Lab) -> None:
    run = local.run(number.name)
    for where in PHASES:
        start = run.lost("driver", where, number)
        assert start.said.splitlines()[-1].startswith("  tutorloop run "), "it says how to go on"
    run.finish()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_pauses_a_run_on_ray(number: signal.Signals, ray: Lab) -> None:
    run = ray.run(number.name)
    for where in ("begin", "attempt", "curate", "train dpo"):
        run.lost("driver", where, number)
    run.finish()


def test_ctrl_c_reaches_every_process_of_a_terminal_and_pauses_the_run(ray: Lab) -> None:
    run = ray.run("terminal")
    for where in ("attempt", "teach"):
        plan = Once(ray.moment("driver", where), lambda start, _: os.killpg(start.process.pid, signal.SIGINT))
        run.ended(run.start(plan), "driver", signal.SIGINT)
    run.finish()


# ---- disks and clocks

STARVED = ("attempt", "verify", "teach", "check", "curate", "train sft", "update", "publish", "quiz", "gate", "final")


class Disk:
    """A small disk of its own, on which runs lie; it can be full, and it can be read-only."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ballast = folder, folder / "ballast"
        folder.mkdir()
        self.ready = _mount("-t", "tmpfs", "-o", "size=32m", "none", str(folder))

    def full(self) -> None:
        with self.ballast.open("wb", buffering=0) as f:
            try:
                while f.write(b"0" * 4096):
                    pass
            except OSError as e:
                assert e.errno == errno.ENOSPC

    def read_only(self) -> None:
        """As a disk with a fault becomes, under a process that writes."""
        assert _mount("--bind", str(self.folder), str(self.folder))
        assert _mount("-o", "remount,bind,ro", str(self.folder))

    def mended(self) -> None:
        self.ballast.unlink(missing_ok=True) if os.access(self.folder, os.W_OK) else self.umount()

    def umount(self) -> None:
        subprocess.run(["umount", self.folder], check=True)


def _mount(*args: str) -> bool:
    return subprocess.run(["mount", *args], capture_output=True).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    if not made.ready:
        pytest.skip("may not mount a disk here; the same is tried with errors planted in the driver")
    yield made
    made.umount()


def told_in_one_line(start: Start, words: str, run: Run) -> None:
    assert start.code == 2, (start.code, start.said)
    (line,) = start.said.splitlines()
    assert line.startswith("tutorloop: ") and words in line and str(run.root) in line, line
    assert line.endswith("the same command goes on from here."), line


@pytest.mark.parametrize("how, words", [("full", "No space left on device"), ("read_only", "Read-only file system")])
@everywhere
def test_a_disk_that_cannot_be_written_is_told_in_one_line(
    how: str, words: str, lab: Lab, disk: Disk
) -> None:
    run = lab.run(how, root=disk.folder / "run")
    for where in STARVED:
        plan = Once(lab.moment("disk", where), lambda *_: getattr(disk, how)())
        start = run.start(plan)
        assert plan.hit, where
        told_in_one_line(start, words, run)
        again = run.start()  # nothing was done about it
        told_in_one_line(again, words, run)
        disk.mended()
        run.flying += flying(run.root)
        run.owed.append((f"disk {how.replace('_', ' ')}", where))
    run.finish()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_an_error_of_the_disk_that_shows_only_when_it_is_flushed(number: int, local: Lab) -> None:
    """As network disks and quotas do. Planted in the driver, where it asks the system to flush."""
    run = local.run(errno.errorcode[number])
    for where in PHASES:
        starts = local.moment("disk", where)
        plan = Once(lambda s, m, at=starts: at(s, m) and m.event.startswith("sync"), lambda *_: {"fails": number})
        start = run.start(plan)
        assert plan.hit, where
        told_in_one_line(start, os.strerror(number), run)
        run.flying += flying(run.root)
    run.finish()


def test_a_slow_disk_changes_nothing(local: Lab) -> None:
    """Each flush takes 20 ms longer; and the driver is killed while it waits for one."""

    def slow(start: Start, moment: Moment) -> Reply:
        if moment.event.startswith("sync"):
            time.sleep(0.02)
        return {}

    run = local.run("slow")
    for where in ("attempt", "teach", "train sft", "gate"):
        flushed = local.moment("driver", where)
        kill = Once(lambda s, m, at=flushed: at(s, m) and m.event.startswith("sync"), strike("driver"))
        run.ended(run.start(lambda s, m, kill=kill: kill(s, m) or slow(s, m)), "driver")
    run.same(run.start(slow))


def test_a_clock_that_jumps_by_a_day_changes_nothing(local: Lab) -> None:
    """Planted where the driver and its roles ask for the time of day."""
    run = local.run("clock")
    for where, days in (("attempt", 1), ("teach", -1), ("curate", 1), ("publish", -1)):
        jump = Once(local.moment("clock", where), lambda *_, days=days: {"clock": days * DAY})
        kill = Once(lambda s, m, jump=jump: jump.hit is not None and jump.hit is not m, strike("driver"))
        run.ended(run.start(lambda s, m, jump=jump, kill=kill: kill(s, m) or jump(s, m)), "driver")
    jumps = [Once(local.moment("clock", w), lambda *_, d=d: {"clock": d * DAY}) for w, d in (("quiz", 2), ("final", -2))]
    run.same(run.start(lambda s, m: jumps[0](s, m) or jumps[1](s, m)))


# ---- roles that hang


@pytest.mark.parametrize("role, step", [("student", "attempt"), ("learner", "train sft"), ("evaluator", "quiz")])
@pytest.mark.parametrize("how", ["stopped", "asleep"])
def test_a_role_that_hangs_is_reported_and_replaced_once(how: str, role: str, step: str, ray: Lab) -> None:
    def hang(start: Start, _: Moment) -> Reply:
        if how == "asleep":
            return {"sleeps": 3600}
        start.strike(role, signal.SIGSTOP)
        return {}

    run = ray.run(f"{how}-{role}", f"{role}.deadline={DEADLINE}")
    start = run.start(Once(ray.moment(role, step), hang))
    run.flying += 64
    run.same(start)
    assert start.said.count(f"{role}/0 did not answer") == 1
    assert f"within {DEADLINE} s and was ended" in start.said
    assert start.said.count(f"A new {role}/0 takes its place.") == 1
    assert ("in sleeps_in_a_call" if how == "asleep" else "it was stopped by a signal") in start.said
    assert " in call" in start.said, "its own traceback"


def test_a_second_loss_in_one_call_ends_the_run_and_the_same_command_goes_on(ray: Lab) -> None:
    def strike_each(start: Start, moment: Moment) -> Reply:
        if moment.phase == "attempt" and moment.event == "call generate":
            start.strike("student")
        return {}

    run = ray.run("twice")
    start = run.start(strike_each)
    run.ended(start, "student")
    assert start.said.splitlines()[-1].startswith("tutorloop: RoleDied: student/0 (pid ")
    run.finish()


# ---- what protects, and that the grid sees when it does not


def torn(run: Run) -> None:
    """A driver is killed when half of a step's file is written, five times."""
    for where in ("select", "attempt", "teach", "publish", "gate"):
        plan = Once(lambda s, m, step=PHASES[where]: m.event == f"torn steps/{step}.json", strike("driver"))
        run.ended(run.start(plan), "driver")
        assert plan.hit
    run.finish()


def replaced(run: Run) -> None:
    """A student is killed in the second round: who takes its place begins as the base."""
    run.same(run.start(Once(lambda s, m: m.step == "2/attempt" and m.who == "student", strike("student"))))


def stale(run: Run) -> None:
    """A driver is killed, and on the disk the newest state is another's: nobody may answer with it."""
    run.ended(run.start(Once(lambda s, m: m.event == "begin 2/attempt", strike("driver"))), "driver")
    (newest,) = (run.root / "states").glob("student-r0001-2-dpo-*.json")
    state = newest.read_bytes()
    newest.write_bytes(json.dumps({**json.loads(state), "gone": []}).encode())
    start = run.start()
    assert start.code == 1 and "PublishError" in start.said, start.said
    assert read_status(run.root)[0] == "failed"
    newest.write_bytes(state)
    run.finish()


PROTECTED = {"rename": torn, "incarnation": replaced, "handshake": stale}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_grid_fails_when_a_protection_is_switched_off(fault: str, request: pytest.FixtureRequest) -> None:
    lab: Lab = request.getfixturevalue("ray" if fault == "incarnation" else "local")
    PROTECTED[fault](lab.run(f"with {fault}"))
    with pytest.raises(AssertionError):
        PROTECTED[fault](lab.run(f"without {fault}", fault=fault))
