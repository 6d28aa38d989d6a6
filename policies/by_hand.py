"""A round whose teacher is a person: one correction of one problem, a few new problems like it, and rehearsal.

for the one problem, and some others drawn from practice:
    the learner answers; what it gets right is there to be rehearsed
    the person's correction takes the place of its work on the one problem
    learn the correction and new problems for the same mistake, filled with its own right answers and earlier lessons

Others are rehearsed because a training on one mistake alone undoes what was mastered (`curating.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ..evals.arithmetic import again, fresh, solve
from ..evals.records import Problem
from ..evals.steps import check_steps
from .attempting import answer
from .checking import Sound
from .curating import corrections
from .records import Case, Lesson
from .room import Room
from .rounds import Rounds
from .slots import Method
from .teaching import Task, practice_lesson
from .updating import sft


@dataclass(frozen=True, kw_only=True)
class WithOthers:
    """The `select` slot: one problem, and others to be rehearsed where they are answered right."""

    problem: str
    others: int = 127

    def __call__(self, practice: Sequence[Problem], room: Room) -> list[Problem]:
        chosen = [p for p in practice if p.id == self.problem]
        if not chosen:
            raise ValueError("this run is taught by hand: tutorloop teach RUN PROBLEM")
        places = room.rng.sample(range(len(practice)), min(len(practice), self.others + 1))
        return [*chosen, *(practice[i] for i in places if practice[i].id != self.problem)][: self.others + 1]


@dataclass(frozen=True, kw_only=True)
class Correction:
    """The `teach` slot: what the person wrote, and where the package can write them, new problems like it."""

    work: str
    similar: int = 7
    """New problems, at most. With thirty-one of them mastered skills were lost (docs/workbench.md)."""
    asks: ClassVar[int] = 0

    def __call__(self, case: Case, room: Room) -> list[Lesson]:
        found = check_steps(case.problem, case.work)
        about = next(iter(found.causes), "") if found else ""
        lessons = [Lesson(text=self.work, target=self.work, rejected=case.work, about=about)]
        if found is None or case.problem.domain != "arithmetic":
            return lessons
        if about:
            questions = fresh(about, rng=room.rng, n=self.similar)
        else:  # no documented mistake: the step itself, once more
            questions = again(found.due, rng=room.rng, n=self.similar)
        return [*lessons, *(practice_lesson(case, Task(question=q, work=solve(q)), about) for q in questions)]


@dataclass(frozen=True, kw_only=True)
class Only:
    """The `triage` slot: one problem, whatever else was asked."""

    problem: str

    def __call__(self, cases: Sequence[Case], room: Room) -> list[Case]:
        return [replace(case, reason="by hand") for case in cases if case.problem.id == self.problem]


def by_hand(problem: str, work: str) -> Method:
    """A round on one practice problem.

    Args:
        problem: Its id.
        work: The whole work, as the learner should have written it.
    """
    return Method(
        name="by hand",
        summary="one correction by a person, new problems for the same mistake, and rehearsal, by SFT",
        select=WithOthers(problem=problem),
        attempt=answer,
        triage=Only(problem=problem),
        teach=Correction(work=work),
        check=Sound(kinds=("steps", "answer")),
        curate=corrections,
        update=sft,
        rounds=Rounds(times=1, rows=192, new=0.5, fill={"earlier": 0.3, "own": 0.7}, gate=None),
    )


METHOD = by_hand("", "")
"""As a run's config names it; who teaches puts the problem and the work in."""
