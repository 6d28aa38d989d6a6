"""Who gets the teacher's time."""

from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest

from ..evals.rows import where
from .records import Case
from .room import Room
from .teaching import diagnosed


def wrong(cases: Sequence[Case], room: Room) -> Sequence[Case]:
    """Every case that is not right; a truncated attempt is no error to teach from."""
    return where(cases, lambda c: not c.right and not any(g.label == "truncated" for g in c.grades))


def unsolved(cases: Sequence[Case], room: Room) -> Sequence[Case]:
    """Every case that is not right, the truncated ones too: for lessons that do not go by the learner's own work."""
    return where(cases, lambda c: not c.right)


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
        errors = wrong(cases, room)
        groups: dict[str, array[int]] = defaultdict(lambda: array("Q"))  # where in `errors`: there may be a million
        for at, case in enumerate(errors):
            groups[diagnosed(case)].append(at)
        for group in groups.values():
            room.rng.shuffle(group)
        turns = zip_longest(*(groups[name][: self.each if name else self.undiagnosed] for name in sorted(groups)))
        picked = [errors[at] for at in chain.from_iterable(turns) if at is not None]
        return [replace(c, reason=diagnosed(c) or "undiagnosed") for c in picked[: self.limit]]
