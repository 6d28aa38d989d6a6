"""Disks that are full, read-only or slow, and clocks that jump."""

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from tutorloop.tests.chaos.grid import Lab, Run, flying
from tutorloop.tests.chaos.start import PHASES, Moment, Once, Plan, Reply, Start, When, first, strike, syncing

pytestmark = pytest.mark.kill

DAY = 86400.0


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

    def mend(self) -> None:
        if os.access(self.folder, os.W_OK):
            self.ballast.unlink(missing_ok=True)
        else:
            self.umount()

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


def replying(**reply: Any) -> Plan:
    return lambda *_: reply


def told_in_one_line(start: Start, words: str, run: Run) -> None:
    assert start.code == 2, (start.code, start.said)
    (line,) = start.said.splitlines()
    assert line.startswith("tutorloop: ") and words in line and str(run.root) in line, line
    assert line.endswith("the same command goes on from here."), line


@pytest.mark.parametrize("how, words", [("full", "No space left on device"), ("read_only", "Read-only file system")])
@pytest.mark.parametrize("lab, phases", [("local", PHASES), ("ray", ("teach", "train sft"))], indirect=["lab"])
def test_a_disk_that_cannot_be_written_is_told_in_one_line(
    how: str, words: str, lab: Lab, phases: tuple[str, ...], disk: Disk
) -> None:
    run = lab.run(how, root=disk.folder / "run")

    def ended(start: Start) -> None:
        told_in_one_line(start, words, run)
        if len(run.starts) == 1:  # the same command, and nothing was done about it
            told_in_one_line(run.start(), words, run)
        disk.mend()

    def fail(start: Start, moment: Moment) -> Reply:
        getattr(disk, how)()
        return {}

    run.each_phase(f"disk {how.replace('_', '-')}", fail, ended, phases)
    run.finish()


def test_an_error_of_the_disk_that_shows_only_when_it_is_flushed(local: Lab) -> None:
    """As network disks and quotas do. Planted in the driver, where it asks the system to flush."""
    run = local.run("flushed")
    for where, number in zip(PHASES, cycle([errno.ENOSPC, errno.EDQUOT, errno.EROFS]), strict=False):
        fail = Once(syncing(where), replying(fails=number))
        told_in_one_line(run.start(fail), os.strerror(number), run)
        run.flying.append(flying(run.root))
        assert fail.hit, where
    run.finish()


def test_a_slow_disk_changes_nothing(local: Lab) -> None:
    """Each flush takes 20 ms longer; and the driver is killed while it waits for one."""

    def slow(start: Start, moment: Moment) -> Reply:
        if moment.event.startswith("sync"):
            time.sleep(0.02)
        return {}

    run = local.run("slow")
    for where in ("attempt", "teach", "train sft", "gate"):
        run.cut(first(Once(syncing(where), strike("driver")), slow), run.killed("driver"))
    run.same(run.start(slow))


def jumping(where: str, days: float) -> Once:
    return Once(lambda _, moment: moment.phase == where, replying(clock=days * DAY))


def after(other: Once) -> When:
    return lambda start, moment: other.hit not in (None, moment)


def test_a_clock_that_jumps_by_a_day_changes_nothing(local: Lab) -> None:
    """Planted where the driver and its roles ask for the time of day; the driver is killed between the jumps."""
    run = local.run("clock")
    for where, days in (("attempt", 1), ("teach", -1), ("curate", 1), ("publish", -1)):
        jump = jumping(where, days)
        run.cut(first(jump, Once(after(jump), strike("driver"))), run.killed("driver"))
    run.same(run.start(first(jumping("quiz", 2), jumping("final", -2))))
