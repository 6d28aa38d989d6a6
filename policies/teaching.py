"""What a teacher does with a case: policies to use, and the records that a teacher fills."""

from dataclasses import dataclass, replace

from ..evals.records import Problem, Verdict, user
from .records import Case, Lesson
from .room import Room

CORRECT = (
    "Find the first wrong line of this work and write the whole work anew, right from there on.\n{question}\n{work}"
)
DIAGNOSE = (
    "Say which mistake shows first in this work, and in which line. If you do not know it, say so.\n{question}\n{work}"
)
PRACTISE = (
    "Write {count} new problems, worked, which train just the step that goes wrong first here.\n{question}\n{work}"
)
HINT = "Give the one line that is due where this work goes wrong first, and nothing else.\n{question}\n{work}"


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What a teacher thinks is wrong.

    Example:
        Diagnosis(bug="smaller-from-larger", step=0)
    """

    bug: str = ""
    """Name of the misconception; empty: the teacher does not know."""
    step: int | None = None
    """Index of the first wrong line, from 0; `None`: it found none."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A new problem with full work."""

    question: str
    work: str


@dataclass(frozen=True, kw_only=True)
class Practice:
    """Problems that a teacher wrote for one mistake; none if it has none to offer."""

    tasks: tuple[Task, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Hint:
    """The line that is due where a work goes wrong first."""

    line: str = ""
    """Empty: the teacher has none."""


async def first_error(case: Case, room: Room) -> str:
    """Correct the learner's own work from its first wrong step."""
    return await room.teacher.aask(CORRECT.format(question=case.question, work=case.work))


async def diagnose(case: Case, room: Room) -> Verdict:
    """The `verify` slot: the teacher names the mistake that shows first, or says that it does not know."""
    if case.right:
        return Verdict(label="right", by="grader")
    found = await room.teacher.afill(DIAGNOSE.format(question=case.question, work=case.work), Diagnosis)
    return Verdict(label="wrong" if found.bug else "abstain", by="teacher", step=found.step, evidence=found.bug)


@dataclass(frozen=True, kw_only=True)
class CorrectAndPractise:
    """A correction of the learner's own work, and targeted practice for the mistake that shows first."""

    practice: int = 3
    """New problems a case."""

    @property
    def asks(self) -> int:
        return 1 + bool(self.practice)

    async def __call__(self, case: Case, room: Room) -> list[Lesson]:
        about = diagnosed(case)
        said = dict(question=case.question, work=case.work)
        corrected = await room.teacher.aask(CORRECT.format(**said))
        lessons = [Lesson(text=corrected, target=corrected, rejected=case.work, about=about)] if corrected else []
        if self.practice:
            written = await room.teacher.afill(PRACTISE.format(count=self.practice, **said), Practice)
            lessons += [practice_lesson(case, task, about) for task in written.tasks]
        return lessons


def practice_lesson(case: Case, task: Task, about: str = "") -> Lesson:
    """A new problem with its work, as a lesson."""
    problem = Problem(
        id="", messages=user(task.question), kind=case.problem.kind, domain=case.problem.domain, parent=case.problem.id
    )
    return Lesson(act="similar", text=task.work, target=task.work, problem=problem, about=about)


def diagnosed(case: Case) -> str:
    """The mistake that the last verifier named; empty if none did."""
    return next((v.evidence for v in reversed(case.verdicts) if v.by == "teacher"), "")


def as_lesson(said: str | Lesson) -> Lesson:
    """What a policy returned, as a lesson: a text is a correction, to be said and to be learnt.

    >>> as_lesson("2-8 take 12 put 4").target
    '2-8 take 12 put 4'
    """
    if isinstance(said, Lesson):
        return said
    return replace(Lesson(), text=said, target=said)
