"""Explain, then similar problems: what went wrong is put in words, and practised on new problems of its kind.

for each round:
    attempt the practice pool; the teacher diagnoses each wrong work
    mistakes take turns: the teacher explains one, then writes problems for what it has explained
    only the new problems are learnt, filled with rehearsal: SFT
"""

from dataclasses import dataclass
from typing import ClassVar

from .attempting import answer
from .checking import Sound
from .curating import corrections
from .records import Case, Lesson
from .room import Room
from .rounds import Rounds
from .slots import Method
from .teaching import PRACTISE, Practice, diagnose, diagnosed, practice_lesson
from .triage import Balanced
from .updating import sft

EXPLAIN = "Explain what goes wrong first in this work, and how it is done right.\n{question}\n{work}"


@dataclass(frozen=True, kw_only=True)
class ExplainThenPractise:
    """An explanation, which is said and not learnt, and problems that the teacher writes with it in view."""

    practice: int = 4
    """New problems a case."""
    asks: ClassVar[int] = 2

    async def __call__(self, case: Case, room: Room) -> list[Lesson]:
        about, said = diagnosed(case), dict(question=case.question, work=case.work)
        explained = await room.teacher.aask(EXPLAIN.format(**said))
        if not explained:
            return []
        prompt = f"{PRACTISE.format(count=self.practice, **said)}\nYou have explained it so:\n{explained}"
        written = await room.teacher.afill(prompt, Practice)
        explanation = Lesson(act="explanation", text=explained, about=about)
        return [explanation, *(practice_lesson(case, task, about) for task in written.tasks)]


METHOD = Method(
    name="explain",
    summary="the mistake explained, then similar problems, by SFT; the problem that was wrong is not itself learnt",
    citation="LLM2LLM: Boosting LLMs with Novel Iterative Data Enhancement (Findings of ACL 2024)",
    requires=("schema",),
    deviations=(
        "the teacher sees the wrong work, which the released code leaves out, and explains it first; practice is "
        "checked before it is learnt; training goes on from the last state; rounds have a fixed size, filled with "
        "rehearsal, where the paper adds to its data"
    ),
    attempt=answer,
    verify=diagnose,
    triage=Balanced(each=16, undiagnosed=48),
    teach=ExplainThenPractise(),
    check=Sound(kinds=("steps",)),
    curate=corrections,
    update=sft,
    rounds=Rounds(times=5, rows=500, decay=0.8),
)
