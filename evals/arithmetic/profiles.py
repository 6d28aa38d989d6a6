"""Which misconceptions a student has: drawn by seed, and read back from what was shipped.

Every drawn student has a gate in each operation (so that nothing is carried or borrowed at first), one to three bugs
behind each gate, and three open bugs, of which two are missing from the scripted teacher's catalogue. The draw never
combines bugs of which one would hide another *behind* a gate: then no problem of the course is wrong for three
reasons.

Not covered: bugs that come and go (VanLehn's tinkering), or that fire only sometimes.
"""

import json
from pathlib import Path
from random import Random

from .bugs import BUGS, TEACHER_LACKS

_SALT = 9
"""Chosen so that the shipped student, seed 0, has the classics: smaller-from-larger over borrow-from-zero."""

_AFTER_BORROW = (
    ("borrow-from-zero", "dont-decrement-zero"),
    ("0-n=n-after-borrow", "0-n=0-after-borrow"),
    ("n-n=1-after-borrow",),
    ("forget-borrow-over-blanks",),
)
"""Places in which something borrowed is dealt with; at most one bug in each."""


def draw_profile(seed: int) -> tuple[str, ...]:
    """The misconceptions of the student with this seed, in the order of the catalogue.

    >>> draw_profile(0) == draw_profile(0), len(draw_profile(0)) >= 8
    (True, True)
    """
    rng = Random(f"{_SALT} {seed}")
    drawn = {
        rng.choice([bug.name for bug in BUGS.values() if bug.reach == "gate" and bug.sign == sign]) for sign in "+-"
    }
    if rng.random() < 0.25:  # this one would hide the others that stand left of a borrow in the ones
        drawn |= {"no-decrement-except-last", "forget-borrow-over-blanks"}
    else:
        drawn |= {rng.choice(place) for place in rng.sample(_AFTER_BORROW, rng.choice((2, 3)))}
    drawn |= rng.choice(
        (
            {"drops-second-carry"},
            {"carries-pile-up"},
            {"drops-second-carry", "carry-lost-over-blank"},
            {"carries-pile-up", "carry-lost-over-blank"},
            {"carry-only-into-last", "carry-lost-over-blank"},
        )
    )
    lacking = rng.sample(sorted(TEACHER_LACKS), 2)
    drawn |= set(lacking)
    drawn.add("n-0=0" if "sub-one-over-blank" in lacking else rng.choice(("n-0=0", "stutter-subtract")))
    return tuple(name for name in BUGS if name in drawn)


def shipped() -> Path:
    """Folder of the student that comes with the package: weights, tokenizer, provenance."""
    return Path(__file__).parent / "student"


def profile(student: Path) -> tuple[str, ...]:
    """The misconceptions that a student was trained to have, from the `provenance.json` beside its weights.

    Raises:
        ValueError: there is none that can be read, or it names one that is unknown.
    """
    path = student / "provenance.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["bugs"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{path} does not say under `bugs` what this student gets wrong ({e}).") from None
    if unknown := sorted(set(found) - set(BUGS)):
        raise ValueError(f"`{student}` names the bug {unknown[0]!r}, which this version does not know")
    return tuple(found)
