"""The control without a teacher: the data set's own work for the same wrong cases, topped up with fresh practice.

Same rounds, rows, rehearsal and recipe as `tailored`; what is missing is whatever tailoring adds. Fresh practice is
written where the package can write problems; elsewhere it is taken from the practice problems that nobody was asked
this round, so there is some only if `ask` leaves some over.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..evals.arithmetic import anything, solve
from .attempting import answer
from .checking import Sound
from .curating import corrections
from .records import Case, Lesson
from .room import Room
from .rounds import Rounds
from .slots import Method
from .teaching import Task, practice_lesson
from .triage import wrong
from .updating import sft_then_dpo


@dataclass(frozen=True, kw_only=True)
class GoldWork:
    """The gold solution of the case, and fresh practice with its gold work: not for this mistake, but of any kind."""

    practice: int = 4
    """Fresh problems a case, in domains where the package can write them."""
    asks: ClassVar[int] = 0

    def __call__(self, case: Case, room: Room) -> list[Lesson]:
        work = room.gold(case).solution
        lessons = [Lesson(act="gold", text=work, target=work, rejected="" if case.right else case.work)]
        if case.problem.domain == "arithmetic":
            fresh = (anything(room.rng, "practice") for _ in range(self.practice))
            lessons += [practice_lesson(case, Task(question=q, work=solve(q))) for q in fresh]
        return lessons


@dataclass(frozen=True, kw_only=True)
class WrongAndFresh:
    """Wrong cases, and with them practice problems that were not asked this round, as cases without an attempt."""

    practice: int = 4
    """Problems a wrong case, in domains where the package cannot write them."""

    def __call__(self, cases: Sequence[Case], room: Room) -> list[Case]:
        picked, asked = wrong(cases, room), {c.problem.id for c in cases}
        rest = [p for p in room.practice if p.id not in asked and p.domain != "arithmetic"]
        fresh = room.rng.sample(rest, min(len(rest), self.practice * len(picked)))
        return [*picked, *(Case(id=p.id, problem=p, reason="fresh practice") for p in fresh)]


METHOD = Method(
    name="gold",
    summary="control: gold work for the same cases and fresh untargeted practice, by SFT, then DPO over the mistake",
    requires=("gold",),
    attempt=answer,
    triage=WrongAndFresh(),
    teach=GoldWork(),
    check=Sound(kinds=("gold", "steps")),
    curate=corrections,
    update=sft_then_dpo,
    rounds=Rounds(times=5, rows=500, decay=0.8),
)
