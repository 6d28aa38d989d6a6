"""Whether a round of a million problems needs more memory than one of ten thousand, or more than its share of time.

    python benchmarks/scale.py --out benchmarks/scale.md        an hour on two cores
    python benchmarks/scale.py --sizes 1000 10000 20000         minutes

One round of `tailored` on scripted roles, by `tutorloop run` in a process of its own for each size; the practice pool
is a file of sums and differences. Each problem is attempted, each error is diagnosed by the teacher (one durable ask),
triage lets at most some hundreds through to be taught, and right answers are drawn from all of them for rehearsal. Peak
memory is what the kernel says of the process when it has ended.

Time is judged by what a further problem takes, so that imports and the first round's beginnings are in no figure.

Not covered: real models; macOS, whose kernel tells the peak in other units.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from machine import machine

MEMORY, TIME = 1.1, 1.2
"""The largest size may take so many times the memory of the smallest; and so many times the time a problem."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run."""

    problems: int
    asks: int
    wall: float
    """Seconds, as `cpu`, which is of user and system."""
    cpu: float
    peak: float
    """MiB."""


def questions(n: int) -> Iterator[tuple[str, int]]:
    """So many different sums and differences of a number of four digits and one of three, with their answers.

    >>> list(questions(3))
    [('1000-101', 899), ('1001+101', 1102), ('1002-101', 901)]
    """
    for i in range(n):
        a, b = 1000 + i % 8999, 101 + i // 8999
        yield (f"{a}+{b}", a + b) if i % 2 else (f"{a}-{b}", a - b)


def experiment(folder: Path, practice: int) -> Path:
    """The experiment's file, and its pools beside it. The sealed ones are sums of three digits: not practised."""
    sealed = [(f"{a}+{a + 7}", 2 * a + 7) for a in range(200, 800)]
    for name, rows in (("practice", questions(practice)), ("quiz", sealed[:300]), ("exam", sealed[300:])):
        with (folder / f"{name}.jsonl").open("w") as f:
            f.writelines(json.dumps({"question": question, "answer": answer}) + "\n" for question, answer in rows)
    course = {"kind": "jsonl", **{pool: f"{pool}.jsonl" for pool in ("practice", "quiz", "exam")}}
    roles = {"student": {"engine": "scripted"}, "teacher": {"engine": "scripted"}, "placement": "local"}
    file = folder / "scale.yaml"
    file.write_text(json.dumps({"course": course, "method": "tailored", "check": ["answer"], "rounds": 1, **roles}))
    return file


def measure(practice: int) -> Measured:
    with tempfile.TemporaryDirectory(prefix="tutorloop-") as name:
        folder = Path(name)
        command = [sys.executable, "-m", "tutorloop", "run", str(experiment(folder, practice))]
        with (folder / "told.json").open("w") as out:
            began = time.perf_counter()
            # A child's peak begins at its parent's, so nothing large is imported here.
            child = subprocess.Popen([*command, "--run-dir", str(folder / "run"), "--quiet", "--json"], stdout=out)
            _, status, used = os.wait4(child.pid, 0)
            wall = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"the run of {practice} problems ended with {child.returncode}")
        _, taught = json.loads((folder / "told.json").read_text())["rounds"]
    return Measured(
        problems=taught["asked"],
        asks=taught["teacher_calls"],
        wall=wall,
        cpu=used.ru_utime + used.ru_stime,
        peak=used.ru_maxrss / 1024,
    )


def table(found: Sequence[Measured]) -> Iterator[str]:
    yield "| problems | asks | s | s of CPU | peak MiB |"
    yield "|---:|---:|---:|---:|---:|"
    for m in found:
        yield f"| {m.problems:,} | {m.asks:,} | {m.wall:,.1f} | {m.cpu:,.1f} | {m.peak:.0f} |"


def verdicts(found: Sequence[Measured]) -> Iterator[str]:
    """Of the largest size against the smallest. Time takes three sizes: what a further problem took at either end."""
    if len(found) > 1:
        first, last = found[0], found[-1]
        what = f"peak memory at {last.problems:,} problems"
        yield _verdict(what, last.peak / first.peak, f"at {first.problems:,}", MEMORY)
    if len(found) > 2:
        for kind, unit in (("wall", "seconds"), ("cpu", "seconds of CPU")):
            early, late = (_a_thousand_more(kind, *two) for two in (found[:2], found[-2:]))
            what = f"{unit} for a thousand further problems at the end ({late:.2f})"
            yield _verdict(what, late / early, f"at the beginning ({early:.2f})", TIME)


def _a_thousand_more(kind: str, smaller: Measured, larger: Measured) -> float:
    took = getattr(larger, kind) - getattr(smaller, kind)
    return float(took / (larger.problems - smaller.problems) * 1000)


def _verdict(what: str, ratio: float, of: str, limit: float) -> str:
    told = "within" if ratio <= limit else "OVER"
    return f"- {what}: {ratio:.2f} times that {of}, {told} the limit of {limit:g}."


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there as well")
    chosen = parser.parse_args()
    where, found = machine(), list[Measured]()
    for size in sorted(chosen.sizes):
        found.append(measure(size))
        print(list(table(found))[-1], file=sys.stderr, flush=True)
    text = "\n".join(["# A round of many problems", "", where, "", *table(found), "", *verdicts(found)])
    print(text)
    if chosen.out:
        chosen.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
