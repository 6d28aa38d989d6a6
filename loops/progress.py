"""How far a run is: live on a terminal, with rate and time left for each phase; plain lines in a log.

The journal tells a `Tick` of every shard and every step. A phase without shards (a training, a handshake) is guessed
from what came before it, and its time left from what it took in the round before.

Not covered: time left for the whole run; how many rounds there will be is known only at their end.
"""

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .journal import Tick

VERBS = ("select", "attempt", "verify", "triage", "teach", "check", "curate", "update", "publish", "quiz", "gate")
EVERY = 10.0
"""Seconds between two lines about one phase, in a log."""
AT_ONCE = ("select", "triage", "curate", "train")
"""Tables that are only written down: their shards are no progress worth showing."""


def phase(step: str) -> str:
    """The name of a step or a table, in words.

    >>> phase("3/attempt"), phase("sheets/exam/student-r0003-1f0c2a9b"), phase("final/3")
    ('round 3, attempt', 'exam', 'final after round 3')
    """
    head, _, rest = step.partition("/")
    if head == "sheets":
        return rest.partition("/")[0]
    if head == "final":
        return f"final after round {rest}"
    return f"round {head}, {rest}" if rest else {"0": "round 0, first quiz"}.get(head, head)


def following(step: str) -> str:
    """The step that most likely comes next; empty where nobody knows.

    >>> following("3/curate"), following("3/train-1-sft"), following("course")
    ('3/update', '3/update', '0')
    """
    number, _, verb = step.partition("/")
    if verb.startswith("train-"):
        return f"{number}/update"
    if verb in VERBS[:-1]:
        return f"{number}/{VERBS[VERBS.index(verb) + 1]}"
    return {"course": "0", "0": "final/0", "final/0": "1/attempt"}.get(step, "")


def spent(seconds: float) -> str:
    """
    >>> spent(0.31), spent(41.2), spent(3700)
    ('0.3 s', '41 s', '1:01:40')
    """
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02} min"


@dataclass
class Pace:
    """How fast a phase goes, by its last shards: those that a resumed run finds on disk are soon forgotten."""

    seen: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=16))

    def at(self, done: int) -> None:
        self.seen.append((time.monotonic(), done))

    @property
    def rate(self) -> float:
        """Shards a second; 0 until two were seen."""
        (start, first), (now, last) = self.seen[0], self.seen[-1]
        return (last - first) / (now - start) if now > start else 0.0

    def words(self, total: int) -> str:
        done = self.seen[-1][1]
        if not self.rate:
            return f"{done}/{total} shards"
        return f"{done}/{total} shards, {self.rate:.1f}/s, {spent((total - done) / self.rate)} left"


@dataclass
class Lines(Tick):
    """For a log: a line for each finished step, and one now and then within a long one."""

    replayed: int = 0
    _phase: str = ""
    _pace: Pace = field(default_factory=Pace)
    _told: float = field(default_factory=time.monotonic)

    def __call__(self, name: str, done: int, total: int) -> None:
        if name.rpartition("/")[2].startswith(AT_ONCE):
            return
        if name != self._phase:
            self._phase, self._pace = name, Pace()
        self._pace.at(done)
        if time.monotonic() - self._told > EVERY:
            self.say(f"{phase(name)}: {self._pace.words(total)}")

    def step(self, name: str, seconds: float, replayed: bool) -> None:
        self.replayed += replayed
        if replayed:
            return
        if self.replayed:
            self.say(f"going on after {self.replayed} finished steps")
            self.replayed = 0
        self.say(f"{phase(name)}: done in {spent(seconds)}")

    def say(self, line: str) -> None:
        self._told = time.monotonic()
        print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


class Live(Tick):
    """For a terminal: one moving line for what is going on, and above it a line for each round."""

    def __init__(self, bars: Any) -> None:
        self.bars = bars
        self.took: dict[str, float] = {}
        """Seconds, by verb, of the last time."""
        self.round: dict[str, float] = {}
        self._phase, self._pace = "", Pace()
        self._task = bars.add_task("starting", total=None, told="")

    def __call__(self, name: str, done: int, total: int) -> None:
        if name.rpartition("/")[2].startswith(AT_ONCE):
            return
        if name != self._phase:
            self._show(name, total)
        self._pace.at(done)
        self.bars.update(self._task, completed=done, told=self._pace.words(total))

    def step(self, name: str, seconds: float, replayed: bool) -> None:
        head, _, verb = name.partition("/")
        if not replayed:
            self.took[verb] = self.round[verb] = seconds
        if verb == "gate" and self.round:
            parts = {v: s for v, s in self.round.items() if not v.startswith("train-")}
            longest = sorted(parts, key=lambda v: -parts[v])[:4]
            told = ", ".join(f"{v} {spent(parts[v])}" for v in longest)
            self._say(f"round {head} done in {spent(sum(parts.values()))}: {told}")
        elif verb not in VERBS and not verb.startswith("train-") and not replayed:
            self._say(f"{phase(name)}: done in {spent(seconds)}")
        if verb not in VERBS or verb == "gate":
            self.round = {}
        self._show(following(name), None)

    def _say(self, line: str) -> None:
        self.bars.console.print(line, style="dim", markup=False, highlight=False)

    def _show(self, name: str, total: int | None) -> None:
        self._phase, self._pace = name, Pace()
        took = self.took.get(name.partition("/")[2])
        told = f"took {spent(took)} in the round before" if took else ""
        self.bars.reset(self._task, total=total, description=phase(name) if name else "", told=told)


@contextmanager
def progress(quiet: bool = False) -> Iterator[Tick]:
    """The tick that suits where standard error goes."""
    if quiet:
        yield Tick()
        return
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    plain = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[told]}", markup=False)
    console = Console(stderr=True)
    with Progress(
        SpinnerColumn(), plain[0], BarColumn(24), TimeElapsedColumn(), plain[1], console=console, transient=True
    ) as bars:
        yield Live(bars)
