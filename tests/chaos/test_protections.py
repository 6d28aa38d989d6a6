"""What protects a run, switched off, one at a time: then the grid fails, so it can."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tutorloop.loops.journal import read_status
from tutorloop.tests.chaos.faults import FAULTS
from tutorloop.tests.chaos.grid import Lab, Run
from tutorloop.tests.chaos.start import Once, Reply, on, strike

pytestmark = pytest.mark.kill


def torn(run: Run) -> None:
    """A driver is killed when half of a step's file is written, five times."""
    for step in ("1/select", "1/attempt", "1/teach", "1/publish", "1/gate"):
        run.cut(Once(on(step, "torn steps"), strike("driver")), run.killed("driver"))
    run.finish()


def replaced(run: Run) -> None:
    """A student is killed in the second round: who takes its place begins as the base."""
    run.same(run.start(Once(on("2/attempt", "call generate"), strike("student"))))


def stale(run: Run) -> None:
    """Between training and publishing the newest state becomes another one on disk: nobody may answer with it."""

    trained: dict[Path, bytes] = {}

    def exchange(*_: Any) -> Reply:
        (newest,) = (run.root / "states").glob("student-r0002-2-dpo-*.json")
        trained[newest] = newest.read_bytes()
        newest.write_bytes(json.dumps({**json.loads(trained[newest]), "gone": []}).encode())
        return {}

    start = run.start(Once(on("2/publish", "begin"), exchange))
    assert "PublishError" in start.said, f"nobody saw a stale state: exit code {start.code}"
    assert (start.code, read_status(run.root)[0]) == (1, "failed")
    for path, content in trained.items():
        path.write_bytes(content)
    run.finish()


PROTECTED: dict[str, tuple[str, Callable[[Run], None], str]] = {
    "rename": ("local", torn, r"1/select\.json is damaged"),
    "incarnation": ("ray", replaced, "these differ from the undisturbed run's: .*rows/2/attempt"),
    "handshake": ("local", stale, "nobody saw a stale state: exit code 0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_grid_fails_when_a_protection_is_switched_off(fault: str, request: pytest.FixtureRequest) -> None:
    world, part, seen = PROTECTED[fault]
    lab: Lab = request.getfixturevalue(world)
    part(lab.run(f"with {fault}"))
    with pytest.raises(AssertionError, match=seen):
        part(lab.run(f"without {fault}", fault=fault))
