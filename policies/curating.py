"""From lessons to training examples, and up to the size of the round.

A round has a fixed size. As errors get fewer, rounds that shrink with them do damage (a skill taught in round 1 falls
again), and training on mistakes alone destroys what was mastered: so a round is filled with rehearsal, earlier lessons
and the learner's own right answers.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from random import Random

from .records import Case, Example, Lesson
from .room import Room
from .triage import taking_turns


def corrections(lessons: Sequence[Lesson], room: Room) -> list[Example]:
    """One example for each sound lesson, paired with what it corrects.

    An unsound lesson yields no completion. What is rejected may be anything: it is not learnt.
    """
    return [
        Example(
            id=lesson.id,
            prompt=(lesson.problem or room.case(lesson).problem).messages,
            completion=lesson.prefix + lesson.target,
            rejected=lesson.rejected if lesson.rejected != lesson.prefix + lesson.target else "",
            origin="gold" if lesson.verdict and lesson.verdict.by == "gold" else "lesson",
            lesson=lesson.id,
            problem=room.case(lesson).problem.id,
            task=lesson.about,
        )
        for lesson in lessons
        if lesson.sound and lesson.target
    ]


def fill(
    new: Sequence[Example],
    earlier: Sequence[Example],
    own: Sequence[Case],
    *,
    rows: int,
    share: float,
    by: Mapping[str, float],
    rng: Random,
) -> list[Example]:
    """Exactly `rows` examples: new ones (at most this `share`), the rest rehearsal, `earlier` and `own` in shares `by`.

    The new ones take turns by what they are about when there are too many. A source with too few rows repeats them;
    an empty one leaves its share to the others. Nothing new gives nothing at all.

    >>> one = Example(id="a", prompt=(), completion="=1")
    >>> [e.id for e in fill([one], [], [], rows=3, share=0.5, by={}, rng=Random(0))]
    ['a', 'a', 'a']
    """
    if not new:
        return []
    kept = list(islice(taking_turns(new, lambda e: e.task, rng), max(1, int(rows * share))))
    sources: dict[str, tuple[int, Callable[[int], Example]]] = {
        "earlier": (len(earlier), lambda i: replace(earlier[i], origin="earlier")),
        "own": (len(own), lambda i: own_answer(own[i])),
    }
    shares = {name: by.get(name, 0.0) for name, (found, _) in sources.items() if found}
    total, left = sum(shares.values()), rows - len(kept)
    rehearsal: list[Example] = []
    for name, part in shares.items():
        found, example = sources[name]
        order = array("I", range(found))  # there may be a million, of which a few are drawn
        rng.shuffle(order)
        rehearsal += map(example, islice(cycle(order), round(left * part / total) if total else 0))
    filled = kept + rehearsal[:left]
    filled += islice(cycle(kept), rows - len(filled))
    rng.shuffle(filled)
    return filled


def own_answer(case: Case) -> Example:
    """A right answer of the learner's own, to be rehearsed."""
    attempt = case.attempts[0]
    return Example(
        id=f"own/{case.id}",
        prompt=case.problem.messages,
        completion=attempt.text,
        origin="own",
        problem=case.problem.id,
    )
