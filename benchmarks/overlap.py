"""What it gains that the teacher works while the student does: the same run with and without, in turn.

    python benchmarks/overlap.py --out benchmarks/overlap.md    a few minutes

The student is the shipped one, on one core, and answers 600 problems. The teacher is a provider on this machine that
answers over HTTP after a set latency, and names the first wrong line of each wrong answer (`tailored`'s `verify`). What
counts is the wall time from the first answer to the last diagnosis.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from machine import machine

import tutorloop
from tutorloop.agents.cast import Cast
from tutorloop.loops.journal import Tick
from tutorloop.tests.provider import Provider, running

FLYING = 8
WAYS = {"one after the other": False, "at the same time": True}


class Enough(Exception):
    """What is measured is over."""


class Watch(Tick):
    """From when the first shard may be answered until all is verified."""

    def __init__(self) -> None:
        self.begun = self.wall = 0.0

    def step(self, name: str, seconds: float, replayed: bool) -> None:
        if name == "final/0":
            self.begun = time.perf_counter()
        elif name == "1/verify":
            self.wall = time.perf_counter() - self.begun
            raise Enough


def measured(folder: Path, provider: Provider, latency: float, n: int, early: bool) -> float:
    """Seconds."""
    provider.behave(latency=latency)
    teacher = {"engine": "chat", "url": provider.url, "model": "m-1", "limits": {"concurrency": FLYING}}
    told: dict[str, Any] = {"placement": "local", "rounds": 1, "method": "tailored", "teacher": teacher}
    told["course"] = {"practice": n, "quiz": 20, "exam": 20, "twins": 2, "retention": 20}
    watch, usual = Watch(), Cast.__dict__["apart"]
    Cast.apart = property(lambda cast: early, lambda cast, value: None)  # type: ignore[assignment]
    try:
        tutorloop.launch(told, folder / f"{latency}-{early}-{time.time()}", tick=watch)
    except Enough:
        pass
    finally:
        Cast.apart = usual
    return watch.wall


def lines(found: Mapping[float, Mapping[str, Sequence[float]]]) -> Iterator[str]:
    """A row for each latency.

    >>> print(*lines({0.2: {"one after the other": [9.0, 10.0, 11.0], "at the same time": [6.0, 8.0, 7.0]}}), sep="\\n")
    | seconds to an answer | one after the other, s | at the same time, s | ratio |
    |---:|---:|---:|---:|
    | 0.2 | 10.0 | 7.0 | 0.70 |
    """
    yield f"| seconds to an answer | {', s | '.join(WAYS)}, s | ratio |"
    yield "|---:|---:|---:|---:|"
    for latency, walls in found.items():
        late, early = (median(walls[way]) for way in WAYS)
        yield f"| {latency:g} | {late:.1f} | {early:.1f} | {early / late:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, nargs="+", default=[0.05, 0.2, 0.4], help="seconds (0.05 0.2 0.4)")
    parser.add_argument("--n", type=int, default=600, help="problems (600)")
    parser.add_argument("--turns", type=int, default=3, help="of each, by turns (3)")
    parser.add_argument("--out", type=Path, help="file to write")
    told = parser.parse_args()
    where = machine("torch", "aiohttp")
    found: dict[float, dict[str, list[float]]] = {x: {way: [] for way in WAYS} for x in told.latency}
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, running() as provider:
        for _ in range(told.turns):
            for latency, walls in found.items():
                for way, early in WAYS.items():
                    walls[way].append(measured(Path(folder), provider, latency, told.n, early))
    about = f"{told.n} problems, {FLYING} calls in flight; medians of {told.turns} turns."
    text = "\n".join(["# Working at the same time", "", where, "", about, "", *lines(found), ""])
    print(text)
    if told.out:
        told.out.write_text(text)


if __name__ == "__main__":
    main()
