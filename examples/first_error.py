"""A teacher policy of one's own: the whole of it.

    tutorloop run examples/scripted.yaml teacher.policy=first_error:first_error --run-dir runs/mine

It gets a case (a question, and the work that went wrong) and a room (whom it may ask). What it returns is a
correction: it is checked, and what is sound is learnt. `None` means: nothing to say.
"""

import asyncio

from tutorloop import Case, Lesson, Room


def first_error(case: Case, room: Room) -> str:
    return room.teacher.ask(f"Find the first wrong step and correct it from there.\n{case.question}\n{case.work}")


async def two_opinions(case: Case, room: Room) -> Lesson | None:
    """The same, awaited: two answers at once, and a lesson only where they agree."""
    prompt = f"Find the first wrong step and correct it from there.\n{case.question}\n{case.work}"
    first, second = await asyncio.gather(*(room.teacher.aask(prompt, sample=i) for i in range(2)))
    return Lesson(text=first, target=first, rejected=case.work) if first and first == second else None
