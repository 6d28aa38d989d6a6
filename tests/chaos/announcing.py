"""What a process under test says about where it is. It then waits: the test may end, stop or starve somebody meanwhile.

One line of JSON each way over a Unix socket, one connection for each announcement. The driver and the roles announce
alike, so a test hits a moment of a run exactly, with the process id of whoever came to it. No test by itself.
"""

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from tutorloop.agents.build import build
from tutorloop.agents.roles import RoleSpec
from tutorloop.tests.chaos import faults


@dataclass(frozen=True)
class Announcer:
    """Says what happens next, and does what it is told."""

    address: str
    who: str
    """`driver`, or a role."""

    def __call__(self, event: str, **more: Any) -> None:
        told = {"pid": os.getpid(), "who": self.who, "event": event, **more}
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(self.address)
            line.sendall(json.dumps(told).encode() + b"\n")
            obey(**json.loads(line.makefile().readline()))


def obey(fails: int = 0, sleeps: float = 0.0, clock: float = 0.0) -> None:
    """What the test answered: fail as the system would, hang, or find the clock at another time."""
    if clock:
        jump(clock)
    if sleeps:
        sleeps_in_a_call(sleeps)
    if fails:
        raise OSError(fails, os.strerror(fails))


def sleeps_in_a_call(seconds: float) -> None:
    time.sleep(seconds)


def jump(seconds: float) -> None:
    """Whoever asks this process for the time is told another from here on."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)


class Announced:
    """A role that announces what it is called for, and each step of a training."""

    def __init__(self, role: Any, announce: Announcer) -> None:
        self.role, self.announce = role, announce
        if trainer := getattr(role, "trainer", None):
            role.trainer = self._stepwise(trainer)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            asks = [hashlib.sha256(to_json(r)).hexdigest() for r in args[1]] if method == "generate" else []
            self.announce(f"call {method}", asks=asks)
            return getattr(self.role, method)(*args)

        return call

    def _stepwise(self, trainer: Callable[..., Any]) -> Callable[..., Any]:
        from transformers import TrainerCallback

        announce = self.announce

        class Steps(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                announce(f"optimizer step {state.global_step}")

        def made(*args: Any) -> Any:
            found = trainer(*args)
            found.add_callback(Steps())
            return found

        return made


def announced(spec: RoleSpec, *, address: str, fault: str = "") -> Announced:
    """A role as `build` makes it, that announces."""
    faults.plant(fault)
    return Announced(build(spec), Announcer(address, spec.role))
