"""A teacher policy of one's own, in three steps. Copy this file and go on from the step that suits.

    tutorloop run scripted teacher.policy=my_course:first_error --run-dir runs/mine
    tutorloop run scripted teacher.policy=my_course:hint_then_retry --run-dir runs/hints
    tutorloop run scripted teacher.policy=my_course:HintThenTell teacher.policy_options.pairs=false --run-dir runs/told

It gets a case (a question, and the work that went wrong) and a room (whom it may ask). The README tells the same
without types; `first_error.py` has a policy that awaits.
"""

from dataclasses import dataclass, replace

from tutorloop import Case, Lesson, Room
from tutorloop.policies.teaching import Hint


# Step 1. A text is a correction: it is checked, and what is sound is learnt.
def first_error(case: Case, room: Room) -> str:
    return room.teacher.ask(f"Find the first wrong step and correct it from there.\n{case.question}\n{case.work}")


# Step 2. `text` is what was said, `target` what is learnt: the student's own answer, without the hint. No target,
# nothing learnt.
def hint_then_retry(case: Case, room: Room) -> Lesson:
    prompt = f"Give the one line that is due where this work goes wrong first.\n{case.question}\n{case.work}"
    hint = room.teacher.fill(prompt, Hint).line
    again = room.retry(case, context=hint)
    return Lesson(act="hint", text=hint, target=again.work if again.right else "")


# Step 3. With options it is a dataclass. What is `rejected` is what DPO puts below the target.
@dataclass(frozen=True)
class HintThenTell:
    pairs: bool = True

    def __call__(self, case: Case, room: Room) -> Lesson:
        lesson = hint_then_retry(case, room)
        if not lesson.target:
            told = first_error(case, room)
            lesson = Lesson(act="telling", text=told, target=told)
        return replace(lesson, rejected=case.work) if self.pairs else lesson
