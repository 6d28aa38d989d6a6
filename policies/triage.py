"""Who gets the teacher's time."""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, zip_longest
from random import Random
from typing import TypeVar

from ..evals.rows import where
from .records import Case
from .room import Room
from .teaching import diagnosed

T = TypeVar("T")


def whole(case: Case) -> bool:
    """Whether no attempt was cut off."""
    return not any(g.label == "truncated" for g in case.grades)


def wrong(cases: Sequence[Case], room: Room) -> Sequence[Case]:
    """Every case that is not right; a truncated attempt is no error to teach from."""
    return where(cases, lambda c: not c.right and whole(c))


def unsolved(cases: Sequence[Case], room: Room) -> Sequence[Case]:
    """Every case that is not right, the truncated ones too: for lessons that do not go by the learner's own work."""
    return where(cases, lambda c: not c.right)


def taking_turns(
    rows: Sequence[T], group: Callable[[T], str], rng: Random, *, most: Callable[[str], int | None] = lambda name: None
) -> Iterator[T]:
    """One row of each group, then the next of each, in an order of the group's own; of a group at most `most`.

    >>> "".join(taking_turns("aaaabbc", str, Random(0), most=lambda name: 3))
    'abcaba'
    """
    groups: dict[str, array[int]] = defaultdict(lambda: array("I"))  # where in `rows`: there may be a million
    for at, row in enumerate(rows):
        groups[group(row)].append(at)
    for places in groups.values():
        rng.shuffle(places)
    turns = zip_longest(*(groups[name][: most(name)] for name in sorted(groups)))
    return (rows[at] for at in chain.from_iterable(turns) if at is not None)


@dataclass(frozen=True, kw_only=True)
class Balanced:
    """Wrong cases, the diagnosed mistakes taking turns: a rare mistake is not crowded out by a common one.

    By count alone the rare ones would be the last to be learnt, whatever the setting.
    """

    each: int | None = None
    """At most so many cases for one mistake; `None`: all."""
    undiagnosed: int | None = None
    """The same for the cases whose mistake the teacher could not name, which are many mistakes."""
    limit: int | None = None

    def __call__(self, cases: Sequence[Case], room: Room) -> list[Case]:
        turns = taking_turns(
            wrong(cases, room), diagnosed, room.rng, most=lambda name: self.each if name else self.undiagnosed
        )
        return [replace(c, reason=diagnosed(c) or "undiagnosed") for c in islice(turns, self.limit)]
