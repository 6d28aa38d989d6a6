"""How far a run is: live on a terminal, with rate and time left for each phase; plain lines in a log.

The journal tells a `Tick` of every shard and every step. A phase without shards (a training, a handshake) is guessed
from what came before it, and its time left from what it took in the round before.

Not covered: time left for the whole run; how many rounds there will be is known only at their end.
"""

import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic_core import from_json

from ..evals.statistics import wilson
from ..evals.terminal import bare, inert, safe
from .journal import Tick

VERBS = ("select", "attempt", "verify", "triage", "teach", "check", "curate", "update", "publish", "quiz", "gate")
EVERY = 10.0
"""Seconds between two lines about one phase, in a log."""
AT_ONCE = ("select", "triage", "curate", "train")
"""Tables that are only written down: their shards are no progress worth showing."""


def phase(step: str) -> str:
    """The name of a step or a table, in words.

    >>> phase("3/attempt"), phase("3/gate"), phase("sheets/exam/student-r0003-1f0c2a9b"), phase("final/3")
    ('round 3, attempt', 'round 3', 'sitting exam', 'exam after round 3')
    """
    head, _, rest = step.partition("/")
    if head == "sheets":
        return f"sitting {rest.partition('/')[0]}"
    if head == "fork":
        return f"taken over after round {rest}"
    if head == "final":
        return f"exam after round {rest}"
    if rest == "gate" or head == "0":
        return f"round {head}"
    return f"round {head}, {rest}" if rest else head


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
    if verb == "gate":
        return f"{int(number) + 1}/attempt"
    return {"course": "0", "0": "final/0", "final/0": "1/attempt"}.get(step, "")


def outcome(root: Path, step: str) -> str:
    """What a step that examined the student came to; empty for the others."""
    kind = step.partition("/")[0] == "final" or step.rpartition("/")[2] in ("0", "gate")
    path = root / "steps" / f"{step}.json"
    if not kind or not path.exists():
        return ""
    value = from_json(path.read_bytes())["value"]
    sheets = value if step.startswith("final/") else {"quiz": value["quiz"]}
    told = ", ".join(f"{pool} {accuracy(**sheet)}" for pool, sheet in sheets.items())
    return f"{told}; {value['why']}" if value.get("why") and step != "0" else told


def accuracy(
    right: int, n: int, truncated: int, unparsed: int, scores: Mapping[str, float] = MappingProxyType({}), **_: object
) -> str:
    """
    >>> accuracy(right=270, n=300, truncated=0, unparsed=3)
    '0.900 (0.861-0.929, n 300, unread 1.0%)'
    >>> accuracy(right=4, n=10, truncated=0, unparsed=0, scores={"strict": 2, "flexible": 3})
    '0.400 (0.168-0.687, n 10, unread 0.0%; strict 0.200, flexible 0.300)'
    """
    low, high = wilson(right, n)
    unread = f"unread {(truncated + unparsed) / max(1, n):.1%}"
    others = ", ".join(f"{name} {score / max(1, n):.3f}" for name, score in scores.items())
    return f"{right / max(1, n):.3f} ({low:.3f}-{high:.3f}, n {n}, {unread}{others and f'; {others}'})"


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

    root: Path
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
        came = outcome(self.root, name)
        self.say(f"{phase(name)}: {came}" if came else f"{phase(name)}: done in {spent(seconds)}")

    def say(self, line: str) -> None:
        self._told = time.monotonic()
        print(f"{time.strftime('%H:%M:%S')} {safe(line)}", file=sys.stderr, flush=True)


class Live(Tick):
    """For a terminal: one moving line for what is going on, and above it a line for each round."""

    def __init__(self, root: Path, bars: Any) -> None:
        self.root, self.bars = root, bars
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
        verb = name.partition("/")[2]
        if not replayed:
            self.took[verb] = self.round[verb] = seconds
        part = verb in VERBS[:-1] or verb.startswith("train-")  # of a round: told at its end
        if not part and not replayed:
            parts = {v: s for v, s in self.round.items() if not v.startswith("train-")}
            longest = sorted(parts, key=lambda v: -parts[v])[:4] if verb == "gate" else []
            took = ", ".join(f"{v} {spent(parts[v])}" for v in longest)
            came = outcome(self.root, name)
            self._say(f"{phase(name)}: {came or 'done'} in {spent(sum(parts.values()))}{took and f' ({took})'}")
        if not part:
            self.round = {}
        self._show(following(name), None)

    def _say(self, line: str) -> None:
        self.bars.console.print(safe(line), style="dim", markup=False, highlight=False, emoji=False)

    def _show(self, name: str, total: int | None) -> None:
        self._phase, self._pace = name, Pace()
        verb = name.partition("/")[2]
        took = self.took.get(verb) if verb in VERBS else None
        told = f"took {spent(took)} in the round before" if took else ""
        self.bars.reset(self._task, total=total, description=safe(phase(name)) if name else "", told=told)


@contextmanager
def progress(root: Path, quiet: bool = False) -> Iterator[Tick]:
    """The tick that suits where standard error goes. `root`: the run's folder, for what its rounds came to."""
    if quiet:
        yield Tick()
        return
    terminal = bare(sys.stderr)
    if not terminal.isatty():
        yield Lines(root)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    plain = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[told]}", markup=False)
    columns = SpinnerColumn(), plain[0], BarColumn(24), TimeElapsedColumn(), plain[1]
    bars = Progress(*columns, console=Console(file=terminal), transient=True)
    # `bars` first: it puts streams of its own in place.
    with bars, redirect_stdout(inert(sys.stdout)), redirect_stderr(inert(sys.stderr)):
        yield Live(root, bars)
