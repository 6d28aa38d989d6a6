"""A user's command, disturbed and given again until it ends, and what it must come to.

    lab = Lab(folder, told, "scripted, Ray")  an experiment, undisturbed once: what every other run must come to
    run = lab.run("driver")                   a folder of its own
    run.each_phase("driver")                  the same command again and again, its driver killed in every phase
    run.finish()                              and to its end: same states and transcripts, nothing paid twice, no orphan

No test by itself.
"""

import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from typing import Any

from tutorloop.loops.config import changed
from tutorloop.loops.journal import read_status
from tutorloop.tests.chaos.processes import alive, born, everybody, gone, running
from tutorloop.tests.chaos.start import DAEMONS, PHASES, ROLES, Moment, Once, Plan, Reply, Start, nothing, strike
from tutorloop.tests.policies_for_tests import small

WINDOW = 64
"""Asks in one wave: what may be in flight when somebody dies."""
LATE = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Agents of a raylet that was killed: they try for a minute to tell Ray's server of it, dead or not, and then end."""
MISSED = (0.0, 0.05)
"""Seconds after an announcement at which a random kill falls."""


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
    runs: "list[Run]" = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "experiment.json").write_text(json.dumps(self.told))
        self.ray = TemporaryDirectory(dir="/tmp", prefix="r-", ignore_cleanup_errors=True)  # a path short for sockets
        if self.reference is None:
            run = self.run("undisturbed")
            self.start = run.start()
            assert self.start.code == 0, self.start.said
            self.left, self.paid = left(run.root), self.start.paid
        else:
            self.start, self.left, self.paid = self.reference.start, self.reference.left, self.reference.paid

    def run(self, name: str, *overrides: str, fault: str = "", root: Path | None = None) -> "Run":
        self.runs.append(Run(self, name, root or self.folder / name, (*self.overrides, *overrides), fault))
        return self.runs[-1]

    def close(self) -> None:
        """When nobody is left."""
        for run in self.runs:
            run.no_orphans(seconds=90)
        self.ray.cleanup()

    def tell(self, **measured: Any) -> None:
        """A row for the tables of `docs/chaos.md`."""
        if self.rows:
            with self.rows.open("a") as f:
                f.write(json.dumps({"world": self.world, **measured}) + "\n")

    def ripe(self, victim: str, moment: Moment) -> bool:
        """Half way through a phase's calls (its own, if the victim is a role); else when half of a file is written."""
        hurt = (victim,) if victim in ROLES else ROLES
        calls = [m.event for m in self.start.moments if m.phase == moment.phase and m.who in hurt]
        if calls:
            return moment.who in hurt and moment.event == calls[len(calls) // 2]
        return moment.event.startswith("torn")


@dataclass
class Run:
    """A run folder, and the starts that it takes."""

    lab: Lab
    name: str
    root: Path
    overrides: tuple[str, ...]
    fault: str = ""
    starts: list[Start] = field(default_factory=list)
    flying: list[int] = field(default_factory=list)
    """Asks of the teacher that were on their way, each time that somebody died."""
    owed: list[tuple[str, Moment]] = field(default_factory=list)
    """Losses whose cost is not known yet: the victim, and when."""

    def start(self, plan: Plan = nothing) -> Start:
        driver = [sys.executable, "-P", "-m", "tutorloop.tests.chaos.driver"]
        told = ["--run-dir", str(self.root), "--quiet", *self.overrides]
        environment = {**os.environ, "RAY_TMPDIR": self.lab.ray.name, "CHAOS_FAULT": self.fault}
        log = self.lab.folder / f"{self.name}.{len(self.starts)}.log"
        experiment = str(self.lab.folder / "experiment.json")
        start = Start([*driver, "run", experiment, *told], environment, plan, log)
        self.starts.append(start)
        for victim, hit in self.owed:
            again = (m.at for m in start.moments if (m.step, m.event) == (hit.step, hit.event))
            there = next(again, start.moments[-1].at)  # a driver that outlives Ray may have done with it
            self.lab.tell(victim=victim, phase=hit.phase, seconds=round(there - start.begun, 2))
        self.owed.clear()
        return start

    def cut(self, plan: Plan, ended: Callable[[Start], None]) -> Start:
        """A start that a plan puts an end to; what the teacher was being asked then may be asked again."""
        start = self.start(plan)
        ended(start)
        self.flying.append(flying(self.root))
        return start

    def each_phase(
        self,
        victim: str,
        do: Plan | None = None,
        ended: Callable[[Start], None] | None = None,
        phases: Iterable[str] = PHASES,
    ) -> None:
        """As many starts as there are phases; in each something is done to the victim (it is killed), which ends it."""
        todo = {*phases}
        while todo:
            plan = Once(
                lambda start, moment: moment.phase in todo and self.hurts(start, victim, moment), do or strike(victim)
            )
            self.cut(plan, ended or self.killed(victim))
            assert plan.hit, f"nobody came to {todo}"
            todo.remove(plan.hit.phase)
            self.owed.append((victim, plan.hit))

    def hurts(self, start: Start, victim: str, moment: Moment) -> bool:
        there = start.pid(victim) if victim in (*ROLES, *DAEMONS) else True
        return bool(there) and self.lab.ripe(victim, moment)

    def killed(self, victim: str) -> Callable[[Start], None]:
        """That the start ended as it must when this victim was killed."""

        def ended(start: Start) -> None:
            if victim == "driver":
                assert start.code == -signal.SIGKILL, start.said
            else:
                assert start.code == 1, (start.code, start.said)
                last = start.said.splitlines()[-1]
                assert last.startswith("tutorloop: ") and "the same command goes on" in last, start.said

        return ended

    def paused(self, number: signal.Signals) -> Callable[[Start], None]:
        """That the start ended as it must when it was sent this signal."""

        def ended(start: Start) -> None:
            assert start.code == 128 + number, (start.code, start.said)
            assert read_status(self.root) == ("paused", f"interrupted by {number.name}; the same command goes on")
            assert start.said.splitlines()[-1].startswith("  tutorloop run "), "it says how to go on"

        return ended

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
        differing = {name for name in found.keys() | self.lab.left.keys() if found.get(name) != self.lab.left.get(name)}
        assert not differing, f"these differ from the undisturbed run's: {sorted(differing)}"
        assert not list(self.root.rglob("*.part")), "a killed write has left something behind"
        twice = sum((self.paid() - self.lab.paid).values())
        assert twice <= sum(self.flying), f"{twice} asks were paid again, {self.flying} were in flight"
        assert max(self.flying, default=0) <= WINDOW, f"{self.flying} asks were in flight"
        self.no_orphans(but=LATE)

    def paid(self) -> Counter[str]:
        return sum((s.paid for s in self.starts), Counter[str]())

    def no_orphans(self, seconds: float = 20.0, but: Sequence[str] = ()) -> None:
        ours = {pid: began for start in self.starts for pid, began in start.family.items()}
        ours |= {pid: born(pid) for pid in everybody() if self.lab.ray.name in running(pid)}
        ours = {pid: began for pid, began in ours.items() if born(pid) == began and running(pid) not in but}
        gone(ours, seconds)
        orphans = [running(pid) for pid, began in ours.items() if born(pid) == began and alive(pid)]
        assert not orphans, f"these are still there: {orphans}"


@dataclass
class Replacing:
    """Kills roles in one start, which goes on without them; who takes a place is not killed in the same call."""

    run: Run
    todo: dict[str, str]
    """Who is to be killed in which phase."""
    hits: list[tuple[str, Moment]] = field(default_factory=list)

    def __call__(self, start: Start, moment: Moment) -> Reply:
        role = self.todo.get(moment.phase)
        if role and start.settled(role) and self.run.hurts(start, role, moment):
            del self.todo[moment.phase]
            start.strike(role)
            self.hits.append((role, moment))
            self.run.flying.append(flying(self.run.root))
        return {}

    def tell(self, start: Start) -> None:
        """Seconds: from the loss, or from when the run last got on without the role, until it got on again."""
        for role, hit in self.hits:
            heir = next((m.at for m in start.moments if m.who == role and m.pid != hit.pid and m.at > hit.at), None)
            after = next((at for at in start.progress if heir and at > heir), None)
            waited = max([hit.at, *(at for at in start.progress if heir and at < heir)])
            self.run.lab.tell(victim=role, phase=hit.phase, seconds=after and round(after - waited, 2))


@dataclass
class Dice:
    """Kills whoever the dice say, a little after an announcement that they say, so many times in a run."""

    run: Run
    rng: random.Random
    victims: Sequence[str]
    kills: int
    hits: list[tuple[str, str]] = field(default_factory=list)
    """Victim and step."""

    def __post_init__(self) -> None:
        self.throw()

    def throw(self) -> None:
        self.victim = self.rng.choice(self.victims)
        self.wait = self.rng.randrange(2 * len(self.run.lab.start.moments) // self.kills)
        self.late = self.rng.uniform(*MISSED)

    def __call__(self, start: Start, moment: Moment) -> Reply:
        self.wait -= 1
        if self.wait < 0 and len(self.hits) < self.kills and (pid := start.pid(self.victim)):
            Timer(self.late, self.strike, [self.victim, pid]).start()
            self.hits.append((self.victim, moment.step))
            self.throw()
        return {}

    def strike(self, victim: str, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if victim == "teacher":  # all others take no answer of it with them but the driver, which is counted at its end
            self.run.flying.append(flying(self.run.root))

    def ended(self, start: Start) -> None:
        """As it must when one of these was killed; or it was not missed any more."""
        if start.code != 0:
            self.run.killed("driver" if start.code == -signal.SIGKILL else "ray")(start)


# ---- what a run left


def left(root: Path) -> dict[str, Any]:
    """All that a run came to but times, process ids and places."""
    found = {name: told for name, told in small.transcript(root).items() if not name.startswith("logs/")}
    found["run.json"]["config"] = changed(found["run.json"]["config"], {})  # what is free is not part of it
    return found


def flying(root: Path) -> int:
    """Asks of the teacher that have an entry before and none after."""
    open_asks = 0
    for path in (root / "asks").glob("*.jsonl"):
        asked: set[str] = set()
        for kind, _, key, *rest in _entries(path):
            if kind == "ask" and rest[0] == "teacher":
                asked.add(key)
            elif kind == "reply":
                asked.discard(key)
        open_asks += len(asked)
    return open_asks


def _entries(path: Path) -> Iterator[Sequence[Any]]:
    with suppress(FileNotFoundError):  # its step is done by now
        for line in path.read_bytes().splitlines():
            with suppress(ValueError):  # torn
                yield json.loads(line)
