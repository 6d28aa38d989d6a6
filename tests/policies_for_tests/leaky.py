"""A method that lets every secret of the environment out, in every way that a user's code has. No test by itself.

Its first `update` crashes with the secrets in the message; where there is a file `mended` in the working directory, it
does not.
"""

import logging
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

from tutorloop.evals.records import Problem, State, Verdict, user
from tutorloop.policies.records import Case, Example, Lesson
from tutorloop.policies.room import Room, Trainer
from tutorloop.policies.tailored import METHOD as tailored

NAMES = ("A_TEST_KEY", "A_TEST_PASSWORD", "DATABASE_URL", "HF_TOKEN")
WAYS = 12


def spill() -> str:
    return " ".join(f"<{os.environ[name]}>" for name in NAMES)


class Named:
    """Nothing that a slot may return."""

    def __repr__(self) -> str:
        return spill()


def tell_everybody() -> None:
    print(spill())
    print(spill(), file=sys.stderr)
    logging.getLogger("some.library").error("the key is %s", spill())
    warnings.warn(spill(), stacklevel=1)
    thread = threading.Thread(target=lambda: (_ for _ in ()).throw(ValueError(spill())))
    thread.start()
    thread.join()


def select(practice: Sequence[Problem], room: Room) -> list[Problem]:
    return [*practice, Problem(id=f"written-{spill()}", messages=user(f"What is {spill()}?"), domain=spill())]


def teach(case: Case, room: Room) -> Any:
    way = crc32(case.id.encode()) % WAYS
    room.note(f"{case.id} {spill()}", {spill(): [spill()]})
    if way == 0:
        raise RuntimeError(spill())
    if way == 1:
        raise SystemExit(spill())
    if way == 2:
        return Named()
    if way == 3:
        return Lesson(text=3, target=spill())  # type: ignore[arg-type]
    if way == 4:
        room.teacher.ask(f"{spill()}\n{case.question}\n{case.work}", prefix=spill())
    if way == 5:
        room.teacher.fill(spill(), type(spill(), (), {}))
    if way == 6:
        room.retry(case, context=spill())
    if way == 7:
        tell_everybody()
    if way == 8:
        raise ExceptionGroup(spill(), [KeyError(spill())])
    problem = Problem(id="", messages=user(f"{case.question} {spill()}"))
    own = room.teacher.ask(f"Correct this.\n{case.question}\n{case.work}")
    told = Lesson(text=spill(), target=spill(), act=spill(), about=spill(), rejected=spill(), problem=problem)
    return [told, own]


async def check(lesson: Lesson, room: Room) -> Verdict:
    sound: Verdict = await tailored.check(lesson, room)  # type: ignore[misc]
    return replace(sound, evidence=f"{sound.evidence} {spill()}", scores={spill(): 1.0})


def update(examples: Sequence[Example], room: Trainer) -> State:
    room.note("update", spill())
    if not Path("mended").exists():
        try:
            raise KeyError(spill())
        except KeyError:
            raise AssertionError(f"a crash: {spill()}") from ValueError(spill())
    return tailored.update(examples, room)


METHOD = replace(tailored, name="leaky", select=select, teach=teach, check=check, update=update)
