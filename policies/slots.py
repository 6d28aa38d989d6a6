"""The eight slots of a round, all of one shape: what the slot works on, and the room. A method fills them.

Public, for users: `teach`, `verify`, `triage`, `update`. The other four have defaults that most never touch.
A slot is a function, or a frozen dataclass with `__call__` when it has options; `def` or `async def`. One that needs
more than text has an attribute `requires`, as a `Method` has. A `teach` slot may have an attribute `asks`: how often it
asks the teacher for one case, at most. For one that has none, `plan` counts once.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from ..evals.records import Attempt, Problem, State, Verdict
from .records import Case, Example, Lesson
from .room import Room, Trainer
from .rounds import Rounds

T = TypeVar("T")
Maybe: TypeAlias = T | Awaitable[T]

# One item at a time; may ask models. The framework maps, overlaps, journals and isolates failures.
Attempting = Callable[[Problem, Room], Maybe[Attempt | Sequence[Attempt]]]
Verifier = Callable[[Case, Room], Maybe[Verdict | Sequence[Verdict] | None]]
Teaching = Callable[[Case, Room], Maybe[str | Lesson | Sequence[str | Lesson] | None]]
Check = Callable[[Lesson, Room], Maybe[Verdict]]
"""Annotates, never drops."""

# The whole round at once.
Selector = Callable[[Sequence[Problem], Room], Maybe[Sequence[Problem]]]
"""May write new problems."""
Triage = Callable[[Sequence[Case], Room], Maybe[Sequence[Case]]]
"""Keeps, orders, merges, repeats."""
Curator = Callable[[Sequence[Lesson], Room], Sequence[Example]]
"""Asks nobody."""
Recipe = Callable[[Sequence[Example], Trainer], State]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One stage of tutoring: slots, who learns, and the schedule. Several in a tuple are run one after another."""

    name: str
    summary: str
    """One line, for `tutorloop methods`."""
    citation: str = ""
    requires: tuple[str, ...] = ()
    """What it needs beyond text: `schema` (a teacher that fills records), `gold` (a data set with its own work), or
    `logprobs`, which no model of the room gives so far."""
    deviations: str = ""
    """Where it departs from the cited paper on purpose."""
    select: Selector | None = None
    """`None`: the plan's window of the practice pool."""
    attempt: Attempting | None = None
    """`None`: nobody is asked; the cases are bare problems."""
    verify: Verifier | None = None
    triage: Triage | None = None
    """`None`: every case goes to the teacher."""
    teach: Teaching | None = None
    """`None`: nothing is said, and nothing learnt from lessons."""
    check: Check
    curate: Curator
    update: Recipe
    learner: str = "student"
    rounds: Rounds = field(default_factory=Rounds)


Stages = tuple[Method, ...]
