"""Whether a lesson may be learnt, and on what evidence. Annotates, never drops: the curator drops.

    steps    every step recomputed by a checker, derived from the problem's own operands; reads no gold
    blind    the teacher's own fresh solution, with neither lesson nor gold in the prompt, has the same answer
    answer   the target's answer is graded right, and gold was not seen while it was written
    own      the learner's own words, graded right, gold not seen
    gold     the data set's own solution, word for word

An answer that matches because the teacher was told it is no evidence: a teacher that glues the gold answer under
nonsense gets nothing accepted. Not covered: whether an explanation explains; only what is learnt is checked.
"""

from dataclasses import dataclass

from ..evals.graders import final_answer
from ..evals.records import Problem, Verdict
from ..evals.steps import check_steps
from .records import Case, Evidence, Lesson
from .room import Room


@dataclass(frozen=True, kw_only=True)
class Sound:
    """Any one of `kinds` suffices; the verdict's `by` names it, or why none was found."""

    kinds: tuple[Evidence, ...]

    async def __call__(self, lesson: Lesson, room: Room) -> Verdict:
        case = room.case(lesson)
        problem = lesson.problem or case.problem
        if not lesson.target:
            return Verdict(label="abstain", by="no target", gold_seen=lesson.gold_seen)
        if pool := room.sealed(problem):
            return Verdict(label="wrong", by="sealed", evidence=f"the problem is in `{pool}`")
        if "unchecked" in self.kinds:
            return Verdict(label="right", by="unchecked", gold_seen=lesson.gold_seen)
        told: list[str] = []
        for kind in self.kinds:
            found = await self._look(kind, lesson, case, problem, room)
            if found is not None and found.right:
                return found
            told += [found.evidence] if found is not None and found.evidence else []
        by = "gold seen" if lesson.gold_seen else "no evidence"
        return Verdict(label="wrong", by=by, evidence="; ".join(told), gold_seen=lesson.gold_seen)

    async def _look(self, kind: Evidence, lesson: Lesson, case: Case, problem: Problem, room: Room) -> Verdict | None:
        """What this kind of evidence says; `None`: it does not apply."""
        new = lesson.problem is not None
        if kind == "steps":
            found = check_steps(problem, lesson.prefix + lesson.target)
            return _verdict(found.sound, "steps", found.why, lesson, found.step) if found else None
        if kind == "gold" and not new:
            return _verdict(lesson.prefix + lesson.target == room.gold(case).solution, "gold", "", lesson)
        if kind == "answer" and not new and not lesson.gold_seen:
            return _verdict(room.grade(case, lesson.prefix + lesson.target).right, "answer", "", lesson)
        if kind == "own" and lesson.own and not lesson.gold_seen:
            return _verdict(True, "own", "", lesson)
        if kind == "blind":
            fresh = final_answer(problem, await room.teacher.aask(problem.messages))
            same = bool(fresh) and fresh == final_answer(problem, lesson.prefix + lesson.target)
            return _verdict(same, "blind", f"the teacher's own answer is {fresh!r}", lesson)
        return None


def _verdict(sound: bool, by: str, why: str, lesson: Lesson, step: int | None = None) -> Verdict:
    return Verdict(
        label="right" if sound else "wrong",
        by=by,
        evidence=why,
        gold_seen=lesson.gold_seen,
        step=None if sound else step,
    )
