"""Teaching by hints: the learner tries again with a hint in view, and learns its own right answer without it.

A hint is told and never learnt: the trained prompt is the problem as it will be asked. Graded tries leak, so there are
never more of them than leave the answer untold (`free_tries`): after that nothing that is said would be evidence.
"""

from dataclasses import dataclass

from .records import Case, Lesson
from .room import Room, free_tries
from .teaching import CORRECT, HINT, Hint, diagnosed


@dataclass(frozen=True, kw_only=True)
class HintThenRetry:
    """The line that is due where the work goes wrong, as a hint; then a hint for the new work, and so on."""

    tries: int = 1
    """At most so many hints a case. The embedded student reads one line, and has no use for a second."""

    @property
    def asks(self) -> int:
        return self.tries

    async def __call__(self, case: Case, room: Room) -> list[Lesson]:
        tried, hints = case, list[str]()
        most = min(self.tries, free_tries(case.problem))
        while len(hints) < most and (hint := await next_line(case, tried.work, room)):
            hints.append(hint)
            tried = await room.aretry(case, context="\n".join(hints))
            if tried.right:
                return [by_itself(case, tried)]
        return [Lesson(act="hint", text="\n".join(hints), about=diagnosed(case))] if hints else []


@dataclass(frozen=True, kw_only=True)
class Socratic:
    """Hints in order of strength, each in place of the weaker one: where to look, then the line that is due there.

    Whoever still errs is told: the whole work, corrected, to be learnt as it is. Where a second try would tell the
    answer, only the stronger hint is given.
    """

    tell: bool = True
    """Whether the correction follows the hints that did not help."""

    @property
    def asks(self) -> int:
        return 1 + self.tell  # the weaker hint costs none

    async def __call__(self, case: Case, room: Room) -> list[Lesson]:
        for find in (where, due)[-free_tries(case.problem) :]:
            if hint := await find(case, room):
                tried = await room.aretry(case, context=hint)
                if tried.right:
                    return [by_itself(case, tried)]
        said = CORRECT.format(question=case.question, work=case.work)
        corrected = await room.teacher.aask(said) if self.tell else ""
        return [told(case, corrected)] if corrected else []


async def where(case: Case, room: Room) -> str:
    """The weakest hint, from what the last verifier found: it costs no ask."""
    step = next((v.step for v in reversed(case.verdicts) if v.by == "teacher"), None)
    return "" if step is None else f"Look again at line {step + 1}."


async def due(case: Case, room: Room) -> str:
    """The strongest hint: the line itself."""
    return await next_line(case, case.work, room)


async def next_line(case: Case, work: str, room: Room) -> str:
    """What the teacher would have this work go on with where it goes wrong first; empty if it has nothing to say."""
    return (await room.teacher.afill(HINT.format(question=case.question, work=work), Hint)).line


def by_itself(case: Case, tried: Case) -> Lesson:
    """The learner's own right answer, to be learnt without the hint, and over what it had answered before."""
    return Lesson(act="hint", text=tried.brief, target=tried.work, rejected=case.work, about=diagnosed(case))


def told(case: Case, corrected: str) -> Lesson:
    return Lesson(act="telling", text=corrected, target=corrected, rejected=case.work, about=diagnosed(case))
