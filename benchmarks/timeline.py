"""Who did what, from when to when, in all processes of a machine; and what is left of a round without the models' work.

Each process writes its spans into a file of its own. They are comparable: `time.monotonic` counts from the start of the
machine on Linux and macOS. Nothing is forced to disk, and a span costs some microseconds.

Not covered: several machines; the CPU time of processes that record nothing (Ray's daemons).
"""

import functools
import json
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

INSIDE = ("generation", "teacher", "construction", "training")
"""The models' work, the same in any way of doing it: answers, the teacher's too, trainers built, and trained."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """One process at one thing."""

    kind: str
    start: float
    """Seconds, as `end`, of `time.monotonic`."""
    end: float
    cpu: float = 0.0
    """Seconds of CPU that its process used meanwhile, in all threads."""
    pid: int = 0


class Recorder:
    """Writes this process's spans to `FOLDER/<pid>.jsonl`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"{os.getpid()}.jsonl").open("a", buffering=1, encoding="utf-8")

    def add(self, span: Span) -> None:
        self._file.write(json.dumps(asdict(span)) + "\n")

    @contextmanager
    def __call__(self, kind: str) -> Iterator[None]:
        start, cpu = time.monotonic(), time.process_time()
        try:
            yield
        finally:
            used = time.process_time() - cpu
            self.add(Span(kind=kind, start=start, end=time.monotonic(), cpu=used, pid=os.getpid()))

    def timed(self, kind: str, do: Callable[P, R]) -> Callable[P, R]:
        """The function, with a span for each call."""

        @functools.wraps(do)
        def watched(*args: P.args, **kwargs: P.kwargs) -> R:
            with self(kind):
                return do(*args, **kwargs)

        return watched


def read_spans(folder: Path) -> list[Span]:
    return [Span(**json.loads(line)) for file in sorted(folder.glob("*.jsonl")) for line in file.open(encoding="utf-8")]


def shares(spans: Iterable[Span], whole: Span) -> dict[str, float]:
    """Each instant of `whole` given to one kind, so that the kinds add up to it.

    Where a model works the instant is inside, whatever else goes on. Else it is the span's that began last, which is
    the innermost of those that are nested, in this process or another.

    >>> nested = [Span(kind="train", start=1, end=9), Span(kind="training", start=3, end=8)]
    >>> shares(nested, Span(kind="round", start=0, end=10))
    {'round': 2, 'train': 3, 'training': 5}
    """
    here = [s for s in (whole, *spans) if s.start < whole.end and s.end > whole.start]
    edges = sorted({min(max(t, whole.start), whole.end) for s in here for t in (s.start, s.end)})
    begins, open_now = deque(sorted(here, key=lambda s: s.start)), list[Span]()
    found: dict[str, float] = defaultdict(int)
    for begin, end in pairwise(edges):
        while begins and begins[0].start <= begin:
            open_now.append(begins.popleft())
        open_now = [s for s in open_now if s.end > begin]
        found[max(open_now, key=lambda s: (s.kind in INSIDE, s is not whole, s.start)).kind] += end - begin
    return dict(found)


def cpu_outside(spans: Iterable[Span], whole: Span) -> float:
    """CPU seconds of all processes without the models' work, of the spans that lie within `whole`."""
    here = [whole, *(s for s in spans if whole.start <= s.start and s.end <= whole.end)]
    return sum(s.cpu for s in _outermost(here)) - sum(s.cpu for s in _outermost(s for s in here if s.kind in INSIDE))


def _outermost(spans: Iterable[Span]) -> Iterator[Span]:
    """The spans that lie in no other one of the same process."""
    by_process: dict[int, list[Span]] = defaultdict(list)
    for span in spans:
        by_process[span.pid].append(span)
    for mine in by_process.values():
        until = float("-inf")
        for span in sorted(mine, key=lambda s: (s.start, -s.end)):
            if span.start >= until:
                yield span
                until = span.end
