"""Pools of problems, and who may open them.

Practice is taught from; the quiz steers (keep, roll back, stop); the exam is only reported. Machine learners call
them train, dev and test. Two more pools are only reported: the probe (twins of practice problems) and retention
(mastered skills on unseen operands). All but practice are `Sealed`, another type: handing one to a teacher or a
trainer does not type-check, and fails at run time.

Not covered: a person, or a policy, that reads the run folder by itself. The seal stops accidents, not burglars.
"""

import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .lookup import Seen
from .records import Gold, Problem
from .rows import Rows, Table


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
        return self.locked.problems.parts

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


Split = Iterable[tuple[Problem, Gold | None]]
"""A pool before it is written: its problems, each with its gold. Iterated more than once."""
SHARD = 64
"""Problems in a part of a pool, and so items in a shard of what is made of them, or fewer."""


def disjoint(name: str, splits: Mapping[str, Split]) -> Iterator[tuple[str, list[tuple[Problem, Gold]]]]:
    """The same pools a shard at a time, checked on the way: no problem or id twice, and each problem has its gold.

    Raises:
        OverlappingPools: two pools share a problem, or an id; one pool holds a problem twice.
        ValueError: a pool is empty, or a problem has no gold.
    """
    ids, contents = Seen(), Seen()
    for pool, split in splits.items():
        rest, found = iter(split), False
        while some := list(islice(rest, SHARD)):
            found = True
            checked = [(problem, _apart(pool, problem, gold, ids, contents)) for problem, gold in some]
            yield pool, checked
        if not found:
            raise ValueError(f"the pool `{pool}` of course {name!r} is empty; give it at least one problem.")


def _apart(pool: str, problem: Problem, gold: Gold | None, ids: Seen, contents: Seen) -> Gold:
    if (other := ids.before(problem.id, pool)) is not None:
        raise OverlappingPools(f"id {problem.id!r} is in `{other}` and in `{pool}`; ids are unique.")
    me = pool, problem.id, problem.question[:60]
    if (known := contents.before(problem.digest, json.dumps(me))) is not None:
        other, id, question = json.loads(known)
        raise OverlappingPools(
            f"`{other}` and `{pool}` share a problem, e.g. {question!r} ({id}) is {problem.question[:60]!r} "
            f"({problem.id}): a score on it would measure memory. Split by content first."
        )
    if gold is None:
        raise ValueError(f"problem {problem.id!r} of `{pool}` has no gold; every problem needs its answer.")
    return gold


def make_course(name: str, root: Path, splits: Mapping[str, Split], *, run: str = "") -> Course:
    """Write the pools below `root`, checked by `disjoint`.

    Args:
        splits: `practice`, `quiz` and `exam`, and if there are any `probe` and `retention`.
        run: Identity of the run.
    """
    tables = {
        pool: (
            Table(root, f"course/{pool}/problems", Problem, run=run, anew=True),
            Table(root, f"course/{pool}/gold", Gold, run=run, anew=True),
        )
        for pool in splits
    }
    digests: dict[str, list[str]] = {pool: [] for pool in splits}
    for pool, shard in disjoint(name, splits):
        problems, gold = tables[pool]
        problems.add([problem for problem, _ in shard])
        gold.add([truth for _, truth in shard])
        if pool != "practice":
            digests[pool] += [problem.digest for problem, _ in shard]
    pools = {pool: Pool(name=pool, problems=p.rows(), gold=g.rows()) for pool, (p, g) in tables.items()}
    sealed: dict[str, Any] = {
        pool: Sealed(name=pool, digests=tuple(sorted(digests[pool])), locked=whole)
        for pool, whole in pools.items()
        if pool != "practice"
    }
    return Course(name=name, practice=pools["practice"], **sealed)
