"""One start of a user's command, watched from announcement to announcement (`announcing.py`), and what ends it.

Nothing waits for time to pass: an announcer stands still until it is answered, so whoever is killed at an announcement
is killed there. No test by itself.
"""

import json
import os
import select
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tutorloop.tests.chaos.processes import alive, descendants, gone, running

PHASES = (
    *("begin", "final/0", "select", "attempt", "verify", "triage", "teach", "check", "curate"),
    *("train sft", "train dpo", "update", "publish", "quiz", "gate", "final"),
)
"""Every step of the cycle. (`update`: what surrounds its trainings.)"""
ROLES = ("student", "learner", "teacher", "evaluator")
DAEMONS = {
    "gcs_server": "gcs_server",
    "raylet": "raylet/raylet",
    "dashboard agent": "ray::DashboardAgent",
    "runtime env agent": "ray::RuntimeEnvAgent",
}
"""Ray's own processes below a driver, by what stands in their command line."""
SERVERS = ("gcs_server", "raylet")
"""Those that everything hangs by; when one of its agents has died, a raylet ends itself."""
HANGS = 240.0
"""Seconds without a word after which a run hangs. Nothing but that is measured by it."""

Reply = dict[str, Any] | None
"""What an announcer is to do (`announcing.obey`); `None`: it never hears an answer."""


@dataclass(frozen=True)
class Moment:
    """Somebody's announcement, while it stands still."""

    who: str
    pid: int
    event: str
    asks: list[str]
    step: str
    """The innermost that has begun and is not on record; empty before the first."""
    at: float

    @property
    def phase(self) -> str:
        return phase(self.step)

    @property
    def durable(self) -> bool:
        """Whether something new is about to be on record."""
        return self.event.startswith(("sync rows/", "sync steps/", "sync proofs/"))


def phase(step: str) -> str:
    """
    >>> [phase(step) for step in ("0", "final/0", "final/3", "2/train-2-dpo", "2/teach")]
    ['begin', 'final/0', 'final', 'train dpo', 'teach']
    """
    number, _, verb = step.rpartition("/")
    if number == "final":
        return step if verb == "0" else number
    if verb.startswith("train-"):
        return f"train {verb.rpartition('-')[2]}"
    return "begin" if step == "0" else verb


Plan = Callable[["Start", Moment], Reply]


def nothing(start: "Start", moment: Moment) -> Reply:
    return {}


class Start:
    """One start of the command, watched to its end."""

    def __init__(self, command: list[str], environment: Mapping[str, str], plan: Plan, log: Path) -> None:
        self.plan, self.log = plan, log
        self.moments: list[Moment] = []
        self.family: dict[int, str] = {}
        """Every process below the driver that was ever seen: its id, and when it was started."""
        self.roles: dict[str, list[Moment]] = {}
        """What each role's present process has announced."""
        self._unanswered: list[socket.socket] = []
        self._steps: list[str] = []
        with TemporaryDirectory(dir="/tmp", prefix="c-") as folder, socket.socket(socket.AF_UNIX) as line:
            line.bind(f"{folder}/socket")
            line.listen(64)
            said = log.open("wb")
            self.begun = time.monotonic()
            self.process = subprocess.Popen(
                command,
                env={**environment, "CHAOS_SOCKET": f"{folder}/socket"},
                stdout=subprocess.DEVNULL,
                stderr=said,
                cwd=folder,
                start_new_session=True,
            )
            try:
                self._listen(line)
            finally:
                said.close()
                with suppress(ProcessLookupError):
                    self.process.kill()
                self.code = self.process.wait()

    def _listen(self, line: socket.socket) -> None:
        end = os.pidfd_open(self.process.pid)
        poll = select.poll()
        for descriptor in (line.fileno(), end):
            poll.register(descriptor, select.POLLIN)
        try:
            while True:
                heard = {descriptor for descriptor, _ in poll.poll(HANGS * 1000)}
                assert heard, f"it hangs after {self.moments[-1:]}\n{self.said}"
                if line.fileno() in heard:
                    self._answer(line.accept()[0])
                elif end in heard:
                    return
        finally:
            os.close(end)

    def _answer(self, announcer: socket.socket) -> None:
        told = json.loads(announcer.makefile().readline() or "null")
        reply = self.plan(self, self._moment(told)) if told else {}
        if reply is None:
            self._unanswered.append(announcer)
            return
        with announcer, suppress(ConnectionError):  # whoever announced this may be dead by now
            announcer.sendall(json.dumps(reply).encode() + b"\n")

    def _moment(self, told: dict[str, Any]) -> Moment:
        kind, _, name = told["event"].partition(" ")
        if kind == "begin":
            self._steps.append(name)
        if kind in ("begin", "end"):
            self.family |= descendants(self.process.pid)
        step = self._steps[-1] if self._steps else ""
        moment = Moment(
            who=told["who"],
            pid=told["pid"],
            event=told["event"],
            asks=told.get("asks", []),
            step=step,
            at=time.monotonic(),
        )
        if kind == "end" and name == step:
            self._steps.pop()
        self.moments.append(moment)
        if moment.who != "driver":
            here = self.roles.setdefault(moment.who, [])
            if here and here[-1].pid != moment.pid:
                here.clear()
            here.append(moment)
        return moment

    # ---- what a plan may do

    def pid(self, victim: str) -> int:
        """Of a victim that lives; 0: there is none."""
        if victim == "driver":
            return self.process.pid
        if victim in ROLES:
            said = self.roles.get(victim)
            return said[-1].pid if said and alive(said[-1].pid) else 0
        self.family |= descendants(self.process.pid)
        return next((p for p in self.family if alive(p) and DAEMONS[victim] in running(p)), 0)

    def settled(self, role: str) -> bool:
        """Whether the call that the role's process was started for is through: since then somebody else had a word."""
        said, calls = self.roles.get(role, []), [m for m in self.moments if m.who == role]
        return calls == said or any(m.at > said[0].at and m.pid != said[0].pid for m in reversed(self.moments))

    def strike(self, victim: str, number: signal.Signals = signal.SIGKILL) -> None:
        pid = self.pid(victim)
        assert pid, f"there is no {victim} to kill in {self.moments[-1]}"
        self.family |= descendants(self.process.pid)
        os.kill(pid, number)
        if number == signal.SIGKILL:
            gone([pid])

    def signal(self, number: signal.Signals, whole: bool) -> Reply:
        """To the driver, or to its whole process group."""
        (os.killpg if whole else os.kill)(self.process.pid, number)
        return {}

    # ---- what came of it

    @property
    def said(self) -> str:
        """On standard error."""
        return self.log.read_text(errors="replace")

    @property
    def paid(self) -> Counter[str]:
        """What the teacher was asked, by its own word."""
        return Counter(ask for m in self.moments if m.who == "teacher" for ask in m.asks)

    @property
    def progress(self) -> list[float]:
        """When something new came on record, each time."""
        return [m.at for m in self.moments if m.durable]


When = Callable[[Start, Moment], bool]


@dataclass
class Once:
    """Does something at a moment, once."""

    when: When
    do: Plan
    hit: Moment | None = None

    def __call__(self, start: Start, moment: Moment) -> Reply:
        if self.hit is not None or not self.when(start, moment):
            return {}
        self.hit = moment
        return self.do(start, moment)


def strike(victim: str, number: signal.Signals = signal.SIGKILL) -> Plan:
    def do(start: Start, moment: Moment) -> Reply:
        start.strike(victim, number)
        return {}

    return do


def on(step: str, event: str) -> When:
    """In a step, when an announcement begins so."""
    return lambda _, moment: moment.step == step and moment.event.startswith(event)


def syncing(where: str) -> When:
    """In a phase, when something is made durable."""
    return lambda _, moment: moment.phase == where and moment.event.startswith("sync")


def first(*plans: Plan) -> Plan:
    """The first of these that has something to do, does it."""

    def do(start: Start, moment: Moment) -> Reply:
        replies = (plan(start, moment) for plan in plans)
        return next((reply for reply in replies if reply != {}), {})

    return do
