"""One policy of each shape that a teacher may have."""

import asyncio
from dataclasses import dataclass

from tutorloop.evals.records import Turn, user
from tutorloop.policies.records import Case, Lesson
from tutorloop.policies.room import Room


def prompt(case: Case) -> str:
    return f"Find the first wrong step and correct it from there.\n{case.question}\n{case.work}"


def plain(case: Case, room: Room) -> str:
    return room.teacher.ask(prompt(case))


async def awaiting(case: Case, room: Room) -> str:
    return await room.teacher.aask(prompt(case))


@dataclass(frozen=True)
class Options:
    """With options."""

    act: str = "correction"
    copies: int = 1

    def __call__(self, case: Case, room: Room) -> list[Lesson]:
        text = room.teacher.ask(prompt(case))
        return [Lesson(text=text, target=text, act=self.act)] * self.copies


@dataclass(frozen=True)
class AsyncOptions:
    act: str = "correction"

    async def __call__(self, case: Case, room: Room) -> Lesson:
        text = await room.teacher.aask(prompt(case))
        return Lesson(text=text, target=text, act=self.act)


def several(case: Case, room: Room) -> tuple[str | Lesson, ...]:
    text = room.teacher.ask(prompt(case))
    return text, Lesson(act="hint", text="Look at the ones."), text


def nothing(case: Case, room: Room) -> None:
    return None


def empty(case: Case, room: Room) -> str:
    return ""


def hands_on(case: Case, room: Room) -> object:
    return awaiting(case, room)


def turns(case: Case, room: Room) -> str:
    return room.teacher.ask((Turn(role="system", content="Be kind."), *user(prompt(case))))


async def three_in_a_row(case: Case, room: Room) -> str:
    await room.teacher.aask("First a word about\n" + case.question)
    await room.teacher.aask("Then a thought about\n" + case.question)
    return await room.teacher.aask(prompt(case))


async def three_at_once(case: Case, room: Room) -> str:
    prompts = ["One.\n" + case.question, "Two.\n" + case.question, prompt(case)]
    return (await asyncio.gather(*(room.teacher.aask(p) for p in prompts)))[2]
