"""A slot at work on a few items: what a run does with each shard, and `try` with the cases that it shows.

What a user's code returns is taken for what it is, and signed with what only the framework knows.
"""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ..agents.room import ItemRoom, RoundRoom
from ..agents.waves import call
from ..evals.records import Failure, Problem, Verdict
from ..evals.redact import redacted
from ..evals.rows import checked
from ..policies.records import Case, Cost, Example, Lesson
from ..policies.slots import Check, Method, Teaching
from ..policies.teaching import as_lesson

A = TypeVar("A")
T = TypeVar("T")


def each(
    room: RoundRoom,
    slot: str,
    items: Sequence[A],
    of: type[T],
    one: Callable[[A, ItemRoom], Coroutine[Any, Any, list[T]]],
    sign: Callable[[T, int, A, ItemRoom], T] = lambda record, i, item, room: record,
    turn: Callable[[], None] = lambda: None,
) -> tuple[list[T | Failure], list[ItemRoom]]:
    """`one` on each item, as one wave; then, when all are through, `sign` on what each came to.

    Args:
        turn: Waits until those before these are through.

    Returns:
        Records and failures in the order of the items, and the rooms of those that did not fail.
    """
    names = [str(getattr(item, "id", "")) for item in items]
    wave, rooms = room.wave(slot, turn), dict[int, ItemRoom]()

    async def start(i: int) -> list[T]:
        rooms[i] = room.enter(slot, names[i], wave, i)
        return [checked(x, of) for x in await one(items[i], rooms[i])]

    results, rows = wave.run(names, start), list[T | Failure]()
    turn()
    for i, made in enumerate(results):
        if isinstance(made, Failure):
            rows.append(made)
            del rooms[i]  # what failed has noted nothing, and a thread may still be at it
        else:
            rows += [sign(record, j, items[i], rooms[i]) for j, record in enumerate(made)]
    return rows, [rooms[i] for i in sorted(rooms)]


async def taught(teach: Teaching | None, case: Case, room: ItemRoom) -> list[Lesson]:
    """What a policy has to say on a case."""
    room.gold_seen = case.gold_seen
    if teach is None:
        return []
    said = await call(teach, case, room)
    told: Sequence[str | Lesson] = several(said, (str, Lesson), "a text, a Lesson, several, or None")
    return [as_lesson(x) for x in told if x != ""]


def signed(lesson: Lesson, i: int, case: Case, room: ItemRoom) -> Lesson:
    """What the framework knows of a lesson and no policy can claim: for whom, in sight of what, at what cost."""
    asked = lesson.problem or case.problem
    id = f"{room.plan.number}/{case.id}/{i}"
    problem = lesson.problem and replace(
        lesson.problem, id=id, parent=case.problem.id, domain=lesson.problem.domain or case.problem.domain
    )
    return replace(
        lesson,
        id=id,
        case=case.id,
        problem=problem,
        gold_seen=lesson.gold_seen or room.gold_seen or case.problem.id in room.round.opened,
        own=(asked.digest, lesson.prefix + lesson.target) in room.own,
        verdict=None,
        cost=room.cost if i == 0 else Cost(),
    )


async def weighed(check: Check, lesson: Lesson, room: ItemRoom) -> list[Lesson]:
    """The lesson with what the check says of it."""
    verdict = await call(check, lesson, room)
    if not isinstance(verdict, Verdict):
        raise TypeError(f"returned {type(verdict).__name__}; a check returns a Verdict")
    return [replace(lesson, verdict=verdict)]


def curated(method: Method, lessons: Sequence[Lesson], room: ItemRoom) -> list[Example]:
    """The method's examples, as far as they may be learnt.

    Whatever a curator returns: no completion of an unsound lesson is ever learnt, and no sealed problem.
    """
    examples = [checked(e, Example) for e in method.curate(lessons, room)]
    sound = {x.id: x.prefix + x.target for x in lessons if x.sound}
    return [
        e
        for e in examples
        if e.lesson in sound and e.completion == sound[e.lesson] and not room.sealed(Problem(id="", messages=e.prompt))
    ]


def several(said: Any, kind: type[T] | tuple[type, ...], what: str) -> Sequence[T]:
    """What a slot returned, as several.

    >>> several(None, str, "a text"), several("a", str, "a text"), several(["a", "b"], str, "a text")
    ([], ['a'], ['a', 'b'])
    """
    if said is None:
        return []
    items: Any = [said] if isinstance(said, kind) else said
    if not isinstance(items, Sequence) or isinstance(items, str) or not all(isinstance(x, kind) for x in items):
        raise TypeError(f"returned {type(said).__name__}: {redacted(str(said))[:80]!r}; this slot returns {what}")
    return items
