"""Skills, what they rest on, and a generator of problems for each.

A skill is a row of column *kinds*, ones first: `sub-borrow-zero` is `short zero pays`, a column that must borrow, a
nought that must lend and borrow in its turn, a column that pays and has enough left. So the only unusual thing about
a problem is what its skill is about, which keeps the reasons for an error apart.

Three facts about a question are fixed by its content alone, and the same everywhere:
    `unseen`  half of all operand pairs (by digest) never occur in pre-training; every pool is drawn from that half;
    `side`    practice (the digits of both numbers add up to an even number) or exam (odd). Every single column occurs
              on both sides, no combination of columns does: what was learnt must be the skill, not the row;
    `clean`   for given bugs: the reasons for the error, one or two, show one by one (see there).

Not covered: skills outside these layouts (sums past 999, borrowing in two neighbouring columns). The student meets
such problems in pre-training; the course does not ask them.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import prod
from random import Random
from typing import Literal

from ..records import content_digest, user
from .columns import solve
from .working import slips, why_wrong

Side = Literal["practice", "exam"]
Pair = tuple[int, int | None]

_D = range(1, 10)
_KINDS: Mapping[str, tuple[Pair, ...]] = {
    # addition
    "sum": tuple((a, b) for a in _D for b in _D if a + b <= 9),
    "nought+": tuple((a, 0) for a in _D) + tuple((0, b) for b in _D),
    "ten": tuple((a, b) for a in _D for b in _D if a + b >= 10),
    "kept": tuple((a, b) for a in _D for b in _D if a + b <= 8),  # has room for a carry
    "nine": tuple((a, 9 - a) for a in range(1, 9)),  # a carry makes it ten
    "alone+": tuple((a, None) for a in range(1, 9)),
    # subtraction
    "less": tuple((a, b) for a in _D for b in _D if a > b),
    "equal": tuple((a, a) for a in _D),
    "nought-": tuple((a, 0) for a in _D),
    "alone-": tuple((a, None) for a in range(2, 10)),
    "short": tuple((a, b) for a in range(10) for b in _D if a < b),
    "pays": tuple((a, b) for a in _D for b in _D if a - 1 > b),
    "zero": tuple((0, b) for b in _D),
    "one": tuple((1, b) for b in range(2, 10)),
    "same": tuple((a, a) for a in range(2, 10)),
}


@dataclass(frozen=True, kw_only=True)
class Skill:
    """A kind of problem.

    Example:
        SKILLS["sub-borrow-zero"]
    """

    name: str
    sign: Literal["+", "-"]
    layouts: tuple[tuple[str, ...], ...]
    """Column kinds, ones first; one of the layouts is drawn."""
    needs: tuple[str, ...] = ()
    """Skills that it rests on."""


def _skill(name: str, *layouts: str, needs: str = "") -> Skill:
    sign: Literal["+", "-"] = "+" if name.startswith("add") else "-"
    return Skill(name=name, sign=sign, layouts=tuple(tuple(x.split()) for x in layouts), needs=tuple(needs.split()))


SKILLS: Mapping[str, Skill] = {
    skill.name: skill
    for skill in (
        _skill("add-plain", "sum sum sum"),
        _skill("add-zero", "nought+ sum sum", "sum nought+ sum", needs="add-plain"),
        _skill("add-short", "sum sum alone+", needs="add-plain"),
        _skill("add-carry-two", "ten kept", needs="add-plain"),
        _skill("add-carry-last", "sum ten kept", needs="add-plain add-carry-two"),
        _skill("add-carry", "ten kept sum", needs="add-plain add-carry-two"),
        _skill("add-carry-short", "sum ten alone+", needs="add-short add-carry-last"),
        _skill("add-carry-twice", "ten nine kept", needs="add-carry add-carry-last"),
        _skill("sub-plain", "less less less"),
        _skill("sub-equal", "equal less less", "less equal less", needs="sub-plain"),
        _skill("sub-zero", "nought- less less", "less nought- less", needs="sub-plain"),
        _skill("sub-short", "less less alone-", needs="sub-plain"),
        _skill("sub-borrow-two", "short pays", needs="sub-plain"),
        _skill("sub-borrow-last", "less short pays", needs="sub-plain sub-borrow-two"),
        _skill("sub-borrow", "short pays less", needs="sub-plain sub-borrow-two"),
        _skill("sub-borrow-short", "less short alone-", needs="sub-short sub-borrow-last"),
        _skill("sub-borrow-equal", "short same pays", needs="sub-equal sub-borrow sub-borrow-last"),
        _skill("sub-borrow-one", "short one pays", needs="sub-borrow sub-borrow-last"),
        _skill("sub-borrow-zero", "short zero pays", needs="sub-borrow-one"),
    )
}

_EXERCISED_BY: Mapping[str, str] = {
    "forgets-carry": "add-carry-two add-carry-last",
    "writes-both-digits": "add-carry-two add-carry-last",
    "puts-ten-drops-unit": "add-carry-two add-carry-last",
    "drops-second-carry": "add-carry-twice",
    "carries-pile-up": "add-carry-twice",
    "carry-lost-over-blank": "add-carry-short",
    "carry-only-into-last": "add-carry",
    "n+0=0": "add-zero",
    "stutter-add": "add-short",
    "smaller-from-larger": "sub-borrow-two sub-borrow-last",
    "zero-instead-of-borrow": "sub-borrow-two sub-borrow-last",
    "top-instead-of-borrow": "sub-borrow-two sub-borrow-last",
    "borrow-from-zero": "sub-borrow-zero",
    "dont-decrement-zero": "sub-borrow-zero",
    "0-n=n-after-borrow": "sub-borrow-one",
    "0-n=0-after-borrow": "sub-borrow-one",
    "n-n=1-after-borrow": "sub-borrow-equal",
    "forget-borrow-over-blanks": "sub-borrow-short",
    "no-decrement-except-last": "sub-borrow",
    "n-n=n": "sub-equal",
    "n-0=0": "sub-zero",
    "stutter-subtract": "sub-short",
    "sub-one-over-blank": "sub-short",
}


def exercised_by(bug: str) -> tuple[str, ...]:
    """The skills that exercise what this bug gets wrong, and as little else as can be.

    Those of a gate are the ones behind which no other bug hides: they teach the first step and not the second.

    >>> exercised_by("smaller-from-larger")
    ('sub-borrow-two', 'sub-borrow-last')
    """
    return tuple(_EXERCISED_BY[bug].split())


def digest(question: str) -> str:
    """`Problem.digest` of a bare question."""
    return content_digest(user(question))


def unseen(question: str) -> bool:
    """Whether this operand pair is kept out of every student's pre-training. It does not depend on the order.

    >>> unseen("17+25") == unseen("25+17")
    True
    """
    return hashlib.sha256(digest(question).encode()).digest()[0] % 2 == 0


def side(question: str) -> Side:
    """Which half of the digit patterns a question belongs to.

    >>> side("52-18"), side("52-19")
    ('practice', 'exam')
    """
    return "exam" if sum(int(c) for c in question if c.isdigit()) % 2 else "practice"


def draw(skill: str, rng: Random) -> str:
    """Any question of that skill.

    >>> draw("sub-borrow-zero", Random(0))
    '603-316'
    """
    layout = rng.choice(SKILLS[skill].layouts)
    pairs = [rng.choice(_KINDS[kind]) for kind in layout]
    top = "".join(str(t) for t, _ in reversed(pairs))
    bottom = "".join(str(b) for _, b in reversed(pairs) if b is not None)
    return f"{top}{SKILLS[skill].sign}{bottom}"


def most(skill: str) -> int:
    """How many questions a skill has; a pool can have about a quarter of them (`side`, `unseen`).

    >>> most("add-carry-two")
    1260
    """
    return sum(prod(len(_KINDS[kind]) for kind in layout) for layout in SKILLS[skill].layouts)


def fresh(
    what: str,
    *,
    rng: Random,
    n: int,
    avoid: Collection[str] = (),
    where: Side = "practice",
    accept: Callable[[str], bool] = lambda question: True,
) -> tuple[str, ...]:
    """New questions for a skill, or that exercise what a bug gets wrong; none twice, none whose digest is in `avoid`.

    Fewer than `n` when the skill has no more (the two-digit ones have some two hundred on each side).

    >>> fresh("smaller-from-larger", rng=Random(1), n=3)
    ('93-37', '919-476', '62-28')
    """
    names = (what,) if what in SKILLS else exercised_by(what)
    taken, found, tries = set(avoid), list[str](), 0
    while len(found) < n and tries < 200 * (n + 10):
        question = draw(names[(len(found) + tries // 100) % len(names)], rng)
        tries += 1
        if side(question) == where and unseen(question) and digest(question) not in taken and accept(question):
            taken.add(digest(question))
            found.append(question)
    return tuple(found)


def anything(rng: Random, where: Side | None = None) -> str:
    """One question of a skill drawn evenly, unseen in pre-training: for measuring.

    >>> anything(Random(3))
    '487+315'
    """
    skill = rng.choice(list(SKILLS))
    while True:
        question = draw(skill, rng)
        if unseen(question) and where in (None, side(question)):
            return question


def again(line: str, *, rng: Random, n: int, accept: Callable[[str], bool] = lambda question: True) -> tuple[str, ...]:
    """New practice questions in whose right work this line comes up; fewer than `n` when it is a rare one.

    >>> again("2-8 take 12 put 4", rng=Random(1), n=2)
    ('682-558', '452-258')
    """
    found: dict[str, None] = {}
    for _ in range(2000 * n):
        question = anything(rng, "practice")
        if line in solve(question).splitlines() and accept(question):
            found[question] = None
        if len(found) == n:
            break
    return tuple(found)


def clean(question: str, bugs: Collection[str]) -> bool:
    """Whether the reasons for this error come to light one by one, whichever way they are removed.

    One reason: its bug writes exactly one line. Two: the second bug writes no line until the first is gone. In both
    cases one right line as a hint uncovers the next reason, just as a cure would. The course asks only such problems.

    >>> clean("502-178", ["smaller-from-larger", "borrow-from-zero"])
    True
    >>> clean("511-178", ["smaller-from-larger"])      # fires in two columns
    False
    """
    reasons, right, told = why_wrong(question, bugs), solve(question).splitlines(), list[str]()
    at_first = slips(question, bugs)
    if len(reasons) > 2 or (len(reasons) == 1 and len(at_first) > 1):
        return False
    if len(reasons) == 2 and any(slip.bug == reasons[1] for slip in at_first):
        return False
    for reason in reasons:
        found = slips(question, bugs, hint="\n".join(told))
        if not found or found[0].bug != reason:
            return False
        told.append(right[found[0].step])
    return not slips(question, bugs, hint="\n".join(told))
