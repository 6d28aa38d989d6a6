"""Runs a user's command, hears where it is (`announcing.py`), and ends whom a test planned at the moment that it planned.

    lab = Lab(folder, told)                    an experiment, undisturbed once: what every other run must come to
    run = lab.run("driver")                    a folder of its own
    run.lost("driver", "teach")                started, and its driver killed while it teaches
    run.finish()                               the same command: same states and transcripts, nothing paid twice, no orphan

Nothing waits for time to pass: an announcer stands still until it is answered. No test by itself.
"""

import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tutorloop.loops.journal import read_status
from tutorloop.tests.policies_for_tests import small

PHASES = {
    "begin": "0",
    "final/0": "final/0",
    **{verb: f"1/{verb}" for verb in ("select", "attempt", "verify", "triage", "teach", "check", "curate")},
    "train sft": "1/train-1-sft",
    "train dpo": "1/train-2-dpo",
    "update": "1/update",
    "publish": "1/publish",
    "quiz": "1/quiz",
    "gate": "1/gate",
    "final": "final/",
}
"""Every step of the cycle, and the first one that is so called. (`update`: when its trainings are on record.)"""
ROLES = ("student", "learner", "teacher", "evaluator")
DAEMONS = {
    "gcs_server": "gcs_server",
    "raylet": "raylet/raylet",
    "dashboard agent": "ray::DashboardAgent",
    "runtime env agent": "ray::RuntimeEnvAgent",
}
"""Ray's own processes below a driver, by what stands in their command line."""
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
    nth: int
    """How many announcements of this start came before it in this step."""
    at: float

    @property
    def phase(self) -> str:
        return phase(self.step)


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

    def __init__(self, command: list[str], environment: Mapping[str, str], plan: Plan, log: Path, run: Path) -> None:
        self.plan, self.log, self.run = plan, log, run
        self.moments: list[Moment] = []
        self.family: dict[int, str] = {}
        """Every process below the driver that was ever seen: its id, and when it was started."""
        self.roles: dict[str, list[Moment]] = {}
        """What each role's present process has announced."""
        self._unanswered: list[socket.socket] = []
        self._steps: list[str] = []
        self._counts: Counter[str] = Counter()
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
                self.ended = time.monotonic()

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
            nth=self._counts[step],
            at=time.monotonic(),
        )
        if kind == "end" and name == step:
            self._steps.pop()
        self._counts[step] += 1
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
        """Whether the role's process has done something that is through: the call that it was started for is."""
        said = self.roles.get(role)
        last = [m.at for m in self.moments if m.who == "driver"][-1:]
        return bool(said and last and said[0].at < last[0])

    def strike(self, victim: str, number: signal.Signals = signal.SIGKILL) -> None:
        pid = self.pid(victim)
        assert pid, f"there is no {victim} to kill in {self.moments[-1]}"
        self.family |= descendants(self.process.pid)
        os.kill(pid, number)
        if number == signal.SIGKILL:
            gone([pid])

    # ---- what came of it

    @property
    def said(self) -> str:
        """On standard error."""
        return self.log.read_text(errors="replace")

    @property
    def paid(self) -> Counter[str]:
        """What the teacher was asked, by its own word."""
        return Counter(ask for m in self.moments if m.who == "teacher" for ask in m.asks)

    def progress(self, since: float) -> float | None:
        """When something new came on record."""
        new = ("sync rows/", "sync steps/", "sync proofs/")
        return next((m.at for m in self.moments if m.at > since and m.event.startswith(new)), None)


When = Callable[["Start", Moment], bool]


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


@dataclass
class Lab:
    """An experiment, and what it comes to when nobody disturbs it."""

    folder: Path
    told: dict[str, Any]
    world: str
    overrides: tuple[str, ...] = ()
    """Of every start; none that changes what a run comes to."""
    rows: Path | None = None
    """A file for what was measured."""
    reference: "Lab | None" = None
    """The same experiment in another world; else it is run here."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "experiment.json").write_text(json.dumps(self.told))
        self.ray = TemporaryDirectory(dir="/tmp", prefix="r-", ignore_cleanup_errors=True)  # a path short for sockets
        if self.reference is None:
            run = self.run("undisturbed")
            self.start = run.start()
            assert self.start.code == 0, self.start.said
            self.left, self.paid = left(run.root), self.start.paid
            run.no_orphans()
        else:
            self.start, self.left, self.paid = self.reference.start, self.reference.left, self.reference.paid

    def run(self, name: str, *overrides: str, fault: str = "", root: Path | None = None) -> "Run":
        return Run(self, root or self.folder / name, (*self.overrides, *overrides), fault)

    def close(self) -> None:
        self.ray.cleanup()

    def tell(self, victim: str, where: str, seconds: float | None) -> None:
        """For the table: what a loss has cost; `None`: nobody missed the victim any more."""
        if self.rows:
            row = {"world": self.world, "victim": victim, "phase": where, "seconds": seconds and round(seconds, 2)}
            with self.rows.open("a") as f:
                f.write(json.dumps(row) + "\n")

    def moment(self, victim: str, where: str) -> When:
        """When to kill a victim in a phase: in a call of its own if it has one there, else in the midst."""
        step = PHASES[where]
        here = [m for m in self.start.moments if phase(m.step) == where and m.step.startswith(step)]
        assert here, f"nobody announced {where}"
        calls = [m for m in here if m.who != "driver"]
        own = [m for m in calls if m.who == victim]
        m = middle(own or (calls if victim in DAEMONS else []) or here)
        return lambda start, now: now.step == m.step and now.nth >= m.nth and (not own or now.who == victim)


def middle(of: list[Moment]) -> Moment:
    return of[len(of) // 2]


@dataclass
class Run:
    """A run folder, and the starts that it takes."""

    lab: Lab
    root: Path
    overrides: tuple[str, ...]
    fault: str = ""
    starts: list[Start] = field(default_factory=list)
    flying: int = 0
    """Asks of the teacher that were on their way when somebody died."""
    owed: list[tuple[str, str]] = field(default_factory=list)
    """Victim and phase of the losses whose cost is not known yet."""

    def start(self, plan: Plan = nothing, *overrides: str) -> Start:
        driver = [sys.executable, "-P", "-m", "tutorloop.tests.chaos.driver"]
        told = ["--run-dir", str(self.root), "--quiet", *self.overrides, *overrides]
        environment = {**os.environ, "RAY_TMPDIR": self.lab.ray.name, "CHAOS_FAULT": self.fault}
        log = self.root.with_name(f"{self.root.name}.{len(self.starts)}.log")
        experiment = str(self.lab.folder / "experiment.json")
        start = Start([*driver, "run", experiment, *told], environment, plan, log, self.root)
        self.starts.append(start)
        if came := start.progress(start.begun):
            while self.owed:
                self.lab.tell(*self.owed.pop(), came - start.begun)
        return start

    def lost(self, victim: str, where: str, number: signal.Signals = signal.SIGKILL) -> Start:
        """One start, in which the victim is lost in this phase, and which that ends."""
        plan = Once(self.lab.moment(victim, where), strike(victim, number))
        start = self.start(plan)
        assert plan.hit, f"nobody came to {where}:\n{start.said}"
        self.ended(start, victim, number)
        self.owed.append((victim, where))
        return start

    def ended(self, start: Start, victim: str, number: signal.Signals = signal.SIGKILL) -> None:
        """That the start ended as it must when this victim was lost."""
        if victim == "driver" and number == signal.SIGKILL:
            assert start.code == -signal.SIGKILL, start.said
        elif victim == "driver":
            assert start.code == 128 + number, start.said
            assert read_status(self.root) == ("paused", f"interrupted by {number.name}; the same command goes on")
        else:
            assert start.code == 1, (start.code, start.said)
            last = start.said.splitlines()[-1]
            assert last.startswith("tutorloop: ") and "the same command goes on" in last, start.said
        self.flying += flying(self.root)

    def finish(self) -> Start:
        """The same command, to the end."""
        start = self.start()
        self.same(start)
        return start

    def same(self, last: Start) -> None:
        """The grid's assertion: all that matters is as if nothing had happened."""
        assert last.code == 0, last.said
        assert read_status(self.root) == ("finished", "")
        found = left(self.root)
        assert found.keys() == self.lab.left.keys()
        assert [name for name in found if found[name] != self.lab.left[name]] == []
        assert not list(self.root.rglob("*.part")), "a killed write has left something behind"
        twice = sum((self.paid() - self.lab.paid).values())
        assert twice <= self.flying, f"{twice} asks were paid again, {self.flying} were in flight"
        self.no_orphans()

    def paid(self) -> Counter[str]:
        return sum((s.paid for s in self.starts), Counter[str]())

    def no_orphans(self) -> None:
        ours = {pid: began for start in self.starts for pid, began in start.family.items()}
        ours |= {pid: born(pid) for pid in everybody() if self.lab.ray.name in running(pid)}
        gone([pid for pid, began in ours.items() if born(pid) == began], seconds=90)
        assert {pid: running(pid) for pid, began in ours.items() if born(pid) == began and alive(pid)} == {}


@dataclass
class EachPhase:
    """Kills a role's process once in every phase of one run; whoever takes its place is not killed in the same call."""

    run: Run
    role: str
    todo: set[str] = field(default_factory=lambda: {*PHASES})
    hits: list[Moment] = field(default_factory=list)

    def __call__(self, start: Start, moment: Moment) -> Reply:
        if moment.phase in self.todo and start.settled(self.role) and start.pid(self.role) and self.ripe(start, moment):
            self.todo.remove(moment.phase)
            self.hits.append(moment)
            self.run.flying += flying(self.run.root)
            start.strike(self.role)
        return {}

    def ripe(self, start: Start, moment: Moment) -> bool:
        """In a call of its own, where it has one in this phase."""
        works = any(m.who == self.role and m.phase == moment.phase for m in self.run.lab.start.moments)
        return moment.who == self.role if works else not moment.event.startswith("end")

    def costs(self, start: Start) -> Iterator[tuple[str, float | None]]:
        """Seconds by phase: from the loss, or from when the run last got on without the role, until it got on again."""
        new = ("sync rows/", "sync steps/", "sync proofs/")
        got_on = [m.at for m in start.moments if m.event.startswith(new)]
        for hit in self.hits:
            heir = next((m.at for m in start.moments if m.who == self.role and m.pid != hit.pid and m.at > hit.at), None)
            after = next((at for at in got_on if heir and at > heir), None)
            waited = max([hit.at, *(at for at in got_on if heir and at < heir)])
            yield hit.phase, after and after - waited


def random_moment(lab: Lab, rng: random.Random) -> When:
    """Any of the announcements of the undisturbed run, or whatever comes in its place."""
    n = rng.randrange(len(lab.start.moments))
    return lambda start, now: len(start.moments) > n


# ---- what a run left


def left(root: Path) -> dict[str, Any]:
    """All that a run came to but times, process ids and places."""
    found = {name: told for name, told in small.transcript(root).items() if not name.startswith("logs/")}
    config = found["run.json"]["config"]
    for key in ("placement", "failures", "policy_seconds"):
        config.pop(key)
    for role in ROLES:
        for key in ("gpus", "deadline", "replicas"):
            config[role].pop(key, None)
    return found


def flying(root: Path) -> int:
    """Asks of the teacher that have an entry before and none after."""
    open_asks = 0
    for path in (root / "asks").glob("*.jsonl"):
        asked: set[str] = set()
        for line in path.read_bytes().splitlines():
            with suppress(ValueError):
                kind, key, *rest = json.loads(line)
                if kind == "ask" and rest[0] == "teacher":
                    asked.add(key)
                elif kind == "reply":
                    asked.discard(key)
        open_asks += len(asked)
    return open_asks


# ---- processes


def everybody() -> list[int]:
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]


def _stat(pid: int) -> list[str]:
    """State, parent, ... of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def alive(pid: int) -> bool:
    return bool(stat := _stat(pid)) and stat[0] != "Z"


def born(pid: int) -> str:
    """When a process was started: ids are used again."""
    return stat[19] if (stat := _stat(pid)) else ""


def running(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""


def descendants(pid: int) -> dict[int, str]:
    stats = {p: stat for p in everybody() if (stat := _stat(p))}
    below, found = [pid], dict[int, str]()
    for parent in below:
        for p, stat in stats.items():
            if int(stat[1]) == parent:
                below.append(p)
                found[p] = stat[19]
    return found


def gone(pids: list[int], seconds: float = 20.0) -> None:
    """Wait until these have ended, so long at most."""
    end = time.monotonic() + seconds
    for pid in pids:
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
            finally:
                os.close(descriptor)
