"""Pools of problems, and who may open them.

Practice is taught from; the quiz steers (keep, roll back, stop); the exam is only reported. Machine learners call
them train, dev and test. Two more pools are only reported: the probe (twins of practice problems) and retention
(mastered skills on unseen operands). All but practice are `Sealed`, another type: handing one to a teacher or a
trainer does not type-check, and fails at run time.

Not covered: a person, or a policy, that reads the run folder by itself. The seal stops accidents, not burglars.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .records import Gold, Problem
from .rows import Rows, record_name, write_part


class SealedPool(TypeError):
    """Somebody other than the evaluator reached into a sealed pool."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Problems and their gold, apart."""

    name: str
    problems: Rows[Problem]
    gold: Rows[Gold]

    def __len__(self) -> int:
        return len(self.problems)


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """A pool that only the evaluator opens. Carries its name, size and content digests, and no problem."""

    name: str
    digests: tuple[str, ...] = field(repr=False)
    """Content digest of each problem, sorted: what a teacher may not write."""
    locked: Pool = field(repr=False)
    """For `agents/evaluator.py` alone; a test keeps every other module out."""

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def shards(self) -> int:
        """In how many parts it is sat."""
        return len(self.locked.problems.parts)

    if not TYPE_CHECKING:  # a checker says by itself that a sealed pool is no `Pool`

        @property
        def problems(self) -> NoReturn:
            iter(self)

        @property
        def gold(self) -> NoReturn:
            iter(self)

    def holds(self, problem: Problem) -> bool:
        at = bisect_left(self.digests, problem.digest)
        return self.digests[at : at + 1] == (problem.digest,)

    def __iter__(self) -> NoReturn:
        raise SealedPool(
            f"`{self.name}` is sealed: it steers or is reported, and is never taught from. Use the practice pool."
        )

    def __getitem__(self, index: object) -> NoReturn:
        iter(self)
        raise AssertionError

    __contains__ = __getitem__  # else Python says "not iterable" in its own words


@dataclass(frozen=True, kw_only=True)
class Course:
    """Everything that is asked in a run. Disjoint by content, checked by `make_course`."""

    name: str
    practice: Pool
    quiz: Sealed
    exam: Sealed
    probe: Sealed | None = None
    retention: Sealed | None = None

    @property
    def final(self) -> tuple[Sealed, ...]:
        """What is sat before and after the run, and only reported."""
        return tuple(p for p in (self.exam, self.probe, self.retention) if p is not None)

    @property
    def sealed(self) -> tuple[Sealed, ...]:
        return (self.quiz, *self.final)

    def holds(self, problem: Problem) -> str:
        """Name of the sealed pool that has this problem; empty if none."""
        return next((p.name for p in self.sealed if p.holds(problem)), "")


class OverlappingPools(ValueError):
    """Two pools share a problem."""


Split = tuple[Iterable[Problem], Mapping[str, Gold]]
SHARD = 64


def disjoint(name: str, splits: Mapping[str, Split]) -> dict[str, tuple[list[Problem], Mapping[str, Gold]]]:
    """The same pools, checked: no problem or id is in two of them, or twice in one, and each problem has its gold.

    Raises:
        OverlappingPools: two pools share a problem, or an id; one pool holds a problem twice.
        ValueError: a pool is empty, or a problem has no gold.
    """
    owner: dict[str, tuple[str, Problem]] = {}
    ids: dict[str, str] = {}
    checked: dict[str, tuple[list[Problem], Mapping[str, Gold]]] = {}
    for pool, (given, gold) in splits.items():
        problems = list(given)
        if not problems:
            raise ValueError(f"the pool `{pool}` of course {name!r} is empty; give it at least one problem.")
        for problem in problems:
            if problem.id in ids:
                raise OverlappingPools(f"id {problem.id!r} is in `{ids[problem.id]}` and in `{pool}`; ids are unique.")
            if problem.digest in owner:
                other, same = owner[problem.digest]
                raise OverlappingPools(
                    f"`{other}` and `{pool}` share a problem, e.g. {same.question[:60]!r} ({same.id}) is "
                    f"{problem.question[:60]!r} ({problem.id}): a score on it would measure memory. Split by content "
                    "first."
                )
            if problem.id not in gold:
                raise ValueError(f"problem {problem.id!r} of `{pool}` has no gold; every problem needs its answer.")
            ids[problem.id], owner[problem.digest] = pool, (pool, problem)
        checked[pool] = problems, gold
    return checked


def make_course(name: str, root: Path, splits: Mapping[str, Split]) -> Course:
    """Write the pools below `root`, checked by `disjoint`.

    Args:
        splits: `practice`, `quiz` and `exam`, and if there are any `probe` and `retention`.
    """
    written: dict[str, Any] = {}
    for pool, (problems, gold) in disjoint(name, splits).items():
        rows = _write(root, f"course/{pool}/problems", problems, Problem)
        truth = _write(root, f"course/{pool}/gold", [gold[p.id] for p in problems], Gold)
        whole = Pool(name=pool, problems=rows, gold=truth)
        sealed = Sealed(name=pool, digests=tuple(sorted(p.digest for p in problems)), locked=whole)
        written[pool] = whole if pool == "practice" else sealed
    return Course(name=name, **written)


def _write(root: Path, folder: str, records: list[Any], of: type[Any]) -> Rows[Any]:
    parts = tuple(
        write_part(root, f"{folder}/part-{i // SHARD:05d}.parquet", records[i : i + SHARD], of)
        for i in range(0, len(records), SHARD)
    )
    return Rows(of=record_name(of), parts=parts, root=root)
