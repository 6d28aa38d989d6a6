"""How many asks and transcript rows a second the journal takes, each on disk before the next step may see it.

    python benchmarks/journal.py --out benchmarks/journal.md

Asks come in waves of 64: one durable entry before the wave is made, one after it is answered. Rows are cases of the
embedded world, in shards of 64, each shard a Parquet part and a line of its table's list. The floor is what the disk
alone takes: the same bytes in the same files, with the same number of `fsync` and nothing else.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from machine import machine
from pydantic_core import to_json

from tutorloop.agents.roles import Reply, Request
from tutorloop.evals.arithmetic import profile, shipped, work
from tutorloop.evals.files import sync_folder
from tutorloop.evals.records import Attempt, Problem, Verdict, user
from tutorloop.loops.journal import Journal
from tutorloop.policies.records import Case, Cost
from tutorloop.policies.room import Asked
from tutorloop.policies.teaching import DIAGNOSE

SHARD = 64


@dataclass
class Spent:
    """Seconds on the clock, and of this process's own work."""

    wall: float = 0.0
    cpu: float = 0.0


@contextmanager
def timed() -> Iterator[Spent]:
    spent, wall, cpu = Spent(), time.perf_counter(), time.process_time()
    yield spent
    spent.wall, spent.cpu = time.perf_counter() - wall, time.process_time() - cpu


def cases(n: int) -> list[Case]:
    """What the shipped student's misconceptions make of subtractions, as the `attempt` slot leaves it."""
    bugs, made = profile(shipped()), []
    for i in range(n):
        problem = Problem(id=f"sub-{i:07d}", messages=user(f"{100 + i % 900}-{1 + i * 7 % 99}"), domain="arithmetic")
        attempt = Attempt(problem=problem.id, text=work(problem.question, bugs), finish="stop", state="0" * 64)
        grade = Verdict(label="wrong", by="number", evidence="read 46, wanted 34")
        made.append(Case(id=problem.id, problem=problem, attempts=(attempt,), grades=(grade,)))
    return made


def ask(journal: Journal, some: Sequence[Case]) -> Spent:
    """Journal one diagnosis a case. What is sent is made ready beforehand: a run does that outside the journal."""
    waves = []
    for first in range(0, len(some), SHARD):
        asked, told = {}, {}
        for case in some[first : first + SHARD]:
            prompt = DIAGNOSE.format(question=case.question, work=case.work)
            request = to_json(Request(messages=user(prompt), schema="Diagnosis")).decode()
            key = sha256(f"{case.id} {request}".encode()).hexdigest()[:32]
            asked[key] = Asked("teacher", case.id, request)
            reply = to_json(Reply(text='{"bug":"smaller-from-larger","step":0}', tokens_in=30, tokens_out=2)).decode()
            told[key] = reply, Cost(calls=1, tokens_in=30, tokens_out=2)
        waves.append((asked, told))
    with timed() as spent:
        for asked, told in waves:
            assert all(journal.recall(key) is None for key in asked)
            journal.asking("1/verify", asked)
            journal.answered("1/verify", told)
            assert all(journal.recall(key) for key in asked)
    return spent


def write(journal: Journal, some: Sequence[Case]) -> Spent:
    """Write the cases as a table."""
    with timed() as spent:
        journal.shards("1/attempt", Case, -(-len(some) // SHARD), lambda i: some[i * SHARD : (i + 1) * SHARD])
    return spent


def appended(path: Path, times: int, size: int) -> Spent:
    """The floor: append to one file, each time to the disk."""
    with timed() as spent:
        for _ in range(times):
            with path.open("ab") as f:
                f.write(b"x" * size)
                f.flush()
                os.fsync(f.fileno())
    return spent


def created(folder: Path, times: int, size: int) -> Spent:
    """The floor: new files, each whole and under its name on the disk."""
    with timed() as spent:
        for i in range(times):
            appended(folder / ".part", 1, size)
            (folder / ".part").replace(folder / f"{i}")
            sync_folder(folder)
    return spent


def sizes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def measure(n: int) -> str:
    """The table of figures, as Markdown."""
    some, waves = cases(n), -(-n // SHARD)
    with tempfile.TemporaryDirectory(prefix="tutorloop-") as name:
        root, bare = Path(name) / "run", Path(name) / "bare"
        bare.mkdir()
        write(journal := Journal.open(Path(name) / "warm"), some[: 4 * SHARD])  # imports pyarrow
        journal.release()
        journal = Journal.open(root)
        asks, rows = ask(journal, some), write(journal, some)
        journal.release()
        asked, written = sizes(root / "asks"), sizes(root / "rows")
        ask_floor = appended(bare / "asks", 2 * waves, asked // (2 * waves))
        row_floor = created(bare, waves, written // waves)
        row_floor.wall += appended(bare / "list", waves, 150).wall
    lines = [
        "| what | n | a second | a second of CPU | the disk alone | bytes each |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for what, spent, floor, size in (("asks", asks, ask_floor, asked), ("rows", rows, row_floor, written)):
        each = [n / spent.wall, n / spent.cpu, n / floor.wall, size / n]
        lines.append(f"| {what} | {n:,} | " + " | ".join(f"{x:,.0f}" for x in each) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--n", type=int, default=50_000, help="asks, and rows (50,000)")
    parser.add_argument("--out", type=Path, help="a Markdown file for the figures")
    chosen = parser.parse_args()
    where = machine("pyarrow")
    text = "\n\n".join(["# The journal", where, measure(chosen.n)])
    print(text)
    if chosen.out:
        chosen.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
