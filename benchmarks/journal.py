"""How many asks and transcript rows a second the journal takes, each on disk before the next step may see it.

    python benchmarks/journal.py --out benchmarks/journal.md

Asks come in waves of 64: one durable entry before the wave is made, one after it is answered. Rows are cases of the
embedded world, each shard of them a Parquet part and a line of its table's list: 64 in a part, as models answer, and
4,096, as tables of what is at hand are written. The floors are what the disk alone takes (the same bytes in the same
files, with the same number of `fsync` and nothing else), and what Arrow alone takes to make Parquet of ready columns.
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

import pyarrow as pa
import pyarrow.parquet as pq
from machine import machine
from pydantic_core import to_json

from tutorloop.agents.roles import Reply, Request
from tutorloop.evals.arithmetic import profile, shipped, work
from tutorloop.evals.files import sync
from tutorloop.evals.records import Attempt, Problem, Verdict, user
from tutorloop.evals.rows import PARQUET
from tutorloop.loops.journal import Journal
from tutorloop.policies.records import Case, Cost
from tutorloop.policies.room import Asked
from tutorloop.policies.teaching import DIAGNOSE

WAVE, AT_HAND = 64, 4096
"""Rows in a part: of a table that is made shard by shard, and of one that is written at once."""
ASKS, ROWS = 2_000, 50_000
"""What the journal should take in a second."""


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
    for first in range(0, len(some), WAVE):
        asked, told = {}, {}
        for case in some[first : first + WAVE]:
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
            journal.record("1/verify", asking=asked)
            journal.record("1/verify", replies=told)
            assert all(journal.recall(key) for key in asked)
    return spent


def write(journal: Journal, some: Sequence[Case], shard: int) -> Spent:
    """Write the cases as a table."""
    with timed() as spent:
        journal.shards(f"1/{shard}", Case, -(-len(some) // shard), lambda i: some[i * shard : (i + 1) * shard])
    return spent


def parquet(folder: Path) -> Spent:
    """The floor: the parts of a table, made again in memory by Arrow from columns that are ready."""
    tables = [pq.ParquetFile(path).read(use_threads=False) for path in sorted(folder.glob("*.parquet"))]
    with timed() as spent:
        for table in tables:
            pq.write_table(table, pa.BufferOutputStream(), **PARQUET)
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
            sync(folder)
    return spent


def sizes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the journal took for one kind of thing."""

    what: str
    n: int
    size: int
    """Things in one durable write, or in two of an ask."""
    spent: Spent
    disk: Spent
    arrow: Spent
    stored: int
    """Bytes."""
    wanted: int
    """A second."""


def measure(n: int) -> list[Measured]:
    some, found = cases(n), list[Measured]()
    with tempfile.TemporaryDirectory(prefix="tutorloop-") as name:
        root, bare = Path(name) / "run", Path(name) / "bare"
        bare.mkdir()
        write(journal := Journal.open(Path(name) / "warm"), some[: 4 * WAVE], WAVE)  # imports what it needs
        journal.release()
        journal = Journal.open(root)
        spent, waves = ask(journal, some), -(-n // WAVE)
        stored = sizes(root / "asks")
        disk = appended(bare / "asks", 2 * waves, stored // (2 * waves))
        found.append(
            Measured(what="asks", n=n, size=WAVE, spent=spent, disk=disk, arrow=Spent(), stored=stored, wanted=ASKS)
        )
        for shard in (WAVE, AT_HAND):
            spent, parts, table = write(journal, some, shard), -(-n // shard), root / f"rows/1/{shard}"
            stored, of = sizes(table), f"rows, {shard:,} in a part"
            (bare / f"{shard}").mkdir()
            disk = created(bare / f"{shard}", parts, stored // parts)
            disk.wall += appended(bare / f"list-{shard}", parts, 150).wall
            arrow = parquet(table)
            found.append(
                Measured(what=of, n=n, size=shard, spent=spent, disk=disk, arrow=arrow, stored=stored, wanted=ROWS)
            )
        journal.release()
    return found


def table(found: Sequence[Measured]) -> Iterator[str]:
    yield "| what | n | a second | a second of CPU | the disk alone | Arrow alone | bytes each |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for m in found:
        arrow = f"{m.n / m.arrow.wall:,.0f}" if m.arrow.wall else ""
        rates = f"{m.n / m.spent.wall:,.0f} | {m.n / m.spent.cpu:,.0f} | {m.n / m.disk.wall:,.0f} | {arrow}"
        yield f"| {m.what} | {m.n:,} | {rates} | {m.stored / m.n:,.0f} |"


def verdicts(found: Sequence[Measured]) -> Iterator[str]:
    for m in found:
        rate = m.n / m.spent.wall
        told = f"- {m.what}: {rate:,.0f} a second, {'within' if rate >= m.wanted else 'BELOW'} the wanted {m.wanted:,}."
        if rate < m.wanted:
            writes = -(-m.n // m.size)
            took, disk, arrow = (1000 * s.wall / writes for s in (m.spent, m.disk, m.arrow))
            told += (
                f" What stands in the way: each {m.size:,} take {took:.2f} ms, of which {disk:.2f} ms are the disk's "
                f"alone and {arrow:.2f} ms Arrow's; JSON, digests and redaction are the rest."
            )
        yield told


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--n", type=int, default=50_000, help="asks, and rows (50,000)")
    parser.add_argument("--out", type=Path, help="a Markdown file for the figures")
    chosen = parser.parse_args()
    where, found = machine("pyarrow"), measure(chosen.n)
    text = "\n".join(["# The journal", "", where, "", *table(found), "", *verdicts(found)])
    print(text)
    if chosen.out:
        chosen.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
