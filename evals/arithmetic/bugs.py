"""Misconceptions as procedures: what a student with a bug writes, line by line.

A bug looks at one column's situation and says which wrong line it writes there, or that it has nothing to say. Work
then goes on from that line as it stands. So one cause gives wrong work of many shapes, which is what made Brown and
Burton's diagnosis by procedure better than a list of wrong answers.

Why bugs mask one another here. The first thing that can pass from one column to the next does so in a column where
nothing has come in yet. The *gates* are bugs that never let anything pass there (`Bug.reach` is "gate"): while a gate
is active nothing is ever carried or borrowed, so the bugs *behind* it, all of which are about what to do with
something carried in or borrowed from, cannot show in any problem whatever. Cure the gate and they come to light. The
*open* bugs touch columns in which nothing is carried or borrowed; they show at once.

Sources, by the names used below:
    Brown & Burton 1978    Diagnostic models for procedural bugs in basic mathematical skills. Cognitive Science 2
    Burton 1982            Diagnosing bugs in a simple procedural skill. In Intelligent Tutoring Systems
    VanLehn 1982           Bugs are not enough. Journal of Mathematical Behavior 3
    VanLehn 1990           Mind Bugs: the origins of procedural misconceptions. MIT Press
    Cox 1975               Systematic errors in the four vertical algorithms. Journal for Research in Mathematics Ed. 6
    Ashlock 1976           Error Patterns in Computation. Merrill
The bugs of subtraction have their names there, most of them from the bug lists in Burton 1982 and VanLehn 1990; those
of addition are described there but not named, and the names are ours. All are told in our words and for our notation,
in which some finer distinctions of the lists cannot be drawn; they are attributed from memory of those lists.

Not covered: slips (unsystematic errors), facts misremembered, bugs in the choice of operation, and bugs that leave a
column out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from .columns import Column, Line, right_line

Procedure = Callable[[Column], Line | None]


@dataclass(frozen=True, kw_only=True)
class Bug:
    """One misconception.

    Example:
        BUGS["smaller-from-larger"]
    """

    name: str
    sign: Literal["+", "-"]
    reach: Literal["gate", "behind", "open"]
    """`behind`: can show only where no gate of the same sign is active."""
    says: str
    """What the student believes."""
    source: str
    writes: Procedure
    """The wrong line for a situation; `None`: the bug has nothing to say about it."""


_CATALOGUE: list[Bug] = []


def _bug(
    name: str, sign: Literal["+", "-"], reach: Literal["gate", "behind", "open"], *, says: str, source: str
) -> Callable[[Procedure], Procedure]:
    """Enter a procedure in the catalogue.

    The order matters: where two active bugs have something to say, the one entered first writes, so a narrower bug
    stands before a wider one that would cover it.
    """

    def enter(writes: Procedure) -> Procedure:
        _CATALOGUE.append(Bug(name=name, sign=sign, reach=reach, says=says, source=source, writes=writes))
        return writes

    return enter


def _sum_with(c: Column, carry: int) -> Line:
    """The column added up as though `carry` had come in."""
    return right_line(Column(**{**vars(c), "due": carry}))


@_bug(
    "drops-second-carry",
    "+",
    "behind",
    says="Only the first carry of a sum is added; later ones are forgotten.",
    source="Cox 1975, among the errors with more than one carry",
)
def _drops_second_carry(c: Column) -> Line | None:
    return _sum_with(c, 0) if c.due and c.earlier and c.bottom is not None else None


@_bug(
    "carries-pile-up",
    "+",
    "behind",
    says="The carry is kept and not reset, so that the second carry counts twice.",
    source="Brown & Burton 1978, the carry register that is not set back to zero",
)
def _carries_pile_up(c: Column) -> Line | None:
    return _sum_with(c, c.due + c.earlier) if c.due and c.earlier and c.bottom is not None else None


@_bug(
    "carry-lost-over-blank",
    "+",
    "behind",
    says="A carry is not added where the lower number has no digit left.",
    source="Cox 1975; the addition counterpart of Forget-Borrow-Over-Blanks in VanLehn 1990",
)
def _carry_lost_over_blank(c: Column) -> Line | None:
    return _sum_with(c, 0) if c.due and c.top is not None and c.bottom is None else None


@_bug(
    "carry-only-into-last",
    "+",
    "behind",
    says="A carry is added only in the leftmost column.",
    source="Ashlock 1976, carries that are written and not added; narrowed as in Borrow-No-Decrement-Except-Last",
)
def _carry_only_into_last(c: Column) -> Line | None:
    return _sum_with(c, 0) if c.due and c.top is not None and not c.last else None


def _fresh_ten(c: Column) -> bool:
    """A sum of ten or more in a column into which nothing was carried."""
    return c.due == 0 and c.top is not None and c.bottom is not None and c.top + c.bottom >= 10


@_bug(
    "forgets-carry",
    "+",
    "gate",
    says="Of a sum of ten or more the unit is put and the ten is forgotten.",
    source="Cox 1975; Ashlock 1976",
)
def _forgets_carry(c: Column) -> Line | None:
    return Line(expression=f"{c.top}+{c.bottom}", put=((c.top or 0) + (c.bottom or 0)) % 10) if _fresh_ten(c) else None


@_bug(
    "writes-both-digits",
    "+",
    "gate",
    says="The whole sum of a column is put under it, even when it has two digits.",
    source="Ashlock 1976; Cox 1975",
)
def _writes_both_digits(c: Column) -> Line | None:
    return Line(expression=f"{c.top}+{c.bottom}", put=(c.top or 0) + (c.bottom or 0)) if _fresh_ten(c) else None


@_bug(
    "puts-ten-drops-unit",
    "+",
    "gate",
    says="Of a sum of ten or more the ten is put and the unit is dropped.",
    source="Ashlock 1976, the digits of a column sum exchanged; here without the carry",
)
def _puts_ten_drops_unit(c: Column) -> Line | None:
    return Line(expression=f"{c.top}+{c.bottom}", put=1) if _fresh_ten(c) else None


@_bug("n+0=0", "+", "open", says="Adding nought makes nought.", source="Cox 1975, errors with zero")
def _n_plus_0_is_0(c: Column) -> Line | None:
    if c.due or c.bottom is None or c.top is None or (c.top == 0) == (c.bottom == 0):
        return None
    return Line(expression=f"{c.top}+{c.bottom}", put=0)


@_bug(
    "stutter-add",
    "+",
    "open",
    says="When the lower number has run out of digits, its leftmost digit is added again.",
    source="Ashlock 1976, a short addend added to every column; cf. Stutter-Subtract in VanLehn 1990",
)
def _stutter_add(c: Column) -> Line | None:
    if c.due or c.top is None or c.bottom is not None or c.top + c.lead > 9:
        return None
    return Line(expression=f"{c.top}+{c.lead}", put=c.top + c.lead)


@_bug(
    "borrow-from-zero",
    "-",
    "behind",
    says="Taking from a nought makes it nine, and nothing is taken further left.",
    source="Brown & Burton 1978 (Borrow-From-Zero)",
)
def _borrow_from_zero(c: Column) -> Line | None:
    if not c.due or c.top != 0 or c.bottom is None:
        return None
    return Line(expression=f"9-{c.bottom}", put=9 - c.bottom)


def _unpaid(c: Column) -> Line:
    """The column worked as though nothing had been taken from it."""
    return right_line(Column(**{**vars(c), "due": 0}))


@_bug(
    "dont-decrement-zero",
    "-",
    "behind",
    says="A nought stays a nought when one is taken from it.",
    source="VanLehn 1982, 1990 (Don't-Decrement-Zero, Stops-Borrow-At-Zero)",
)
def _dont_decrement_zero(c: Column) -> Line | None:
    return _unpaid(c) if c.due and c.top == 0 and c.bottom is not None else None


def _zero_after_borrow(c: Column) -> bool:
    """The upper digit was a 1 before it was taken, so that 0 is left to subtract from."""
    return bool(c.due and c.top == 1 and c.bottom is not None and c.bottom > 1)


@_bug(
    "0-n=n-after-borrow",
    "-",
    "behind",
    says="Nought is left after taking from a one; nought less a digit is that digit.",
    source="Burton 1982, VanLehn 1990 (0-N=N-After-Borrow)",
)
def _0_n_is_n_after_borrow(c: Column) -> Line | None:
    return Line(expression=f"1-1-{c.bottom}", put=c.bottom or 0) if _zero_after_borrow(c) else None


@_bug(
    "0-n=0-after-borrow",
    "-",
    "behind",
    says="Nought is left after taking from a one; nought less a digit is nought.",
    source="VanLehn 1990 (0-N=0-After-Borrow)",
)
def _0_n_is_0_after_borrow(c: Column) -> Line | None:
    return Line(expression=f"1-1-{c.bottom}", put=0) if _zero_after_borrow(c) else None


@_bug(
    "n-n=1-after-borrow",
    "-",
    "behind",
    says="Equal digits, one of them taken from, differ by one.",
    source="VanLehn 1982, 1990 (N-N=1-After-Borrow)",
)
def _n_n_is_1_after_borrow(c: Column) -> Line | None:
    return Line(expression=f"{c.top}-1-{c.bottom}", put=1) if c.due and c.top and c.top == c.bottom else None


@_bug(
    "forget-borrow-over-blanks",
    "-",
    "behind",
    says="A digit with a blank below it is copied, although one was taken from it.",
    source="VanLehn 1990 (Forget-Borrow-Over-Blanks)",
)
def _forget_borrow_over_blanks(c: Column) -> Line | None:
    return _unpaid(c) if c.due and c.bottom is None else None


@_bug(
    "no-decrement-except-last",
    "-",
    "behind",
    says="What was taken is paid only in the leftmost column.",
    source="VanLehn 1982, 1990 (Borrow-No-Decrement-Except-Last)",
)
def _no_decrement_except_last(c: Column) -> Line | None:
    return _unpaid(c) if c.due and c.bottom is not None and not c.last else None


def _instead_of_borrow(c: Column, put: int) -> Line | None:
    """The gates of subtraction: the lower digit is larger, nothing was taken from this column, and nothing is taken."""
    if c.top is None or c.bottom is None or c.due or c.top >= c.bottom:
        return None
    return Line(expression=f"{c.top}-{c.bottom}", put=put)


@_bug(
    "smaller-from-larger",
    "-",
    "gate",
    says="The smaller digit is subtracted from the larger one, whichever is on top.",
    source="Brown & Burton 1978 (Smaller-From-Larger)",
)
def _smaller_from_larger(c: Column) -> Line | None:
    return _instead_of_borrow(c, (c.bottom or 0) - (c.top or 0))


@_bug(
    "zero-instead-of-borrow",
    "-",
    "gate",
    says="Where the lower digit is larger, nought is put.",
    source="Brown & Burton 1978, VanLehn 1990 (Zero-Instead-Of-Borrow)",
)
def _zero_instead_of_borrow(c: Column) -> Line | None:
    return _instead_of_borrow(c, 0)


@_bug(
    "top-instead-of-borrow",
    "-",
    "gate",
    says="Where the lower digit is larger, the upper one is put.",
    source="VanLehn 1990 (Top-Instead-Of-Borrow)",
)
def _top_instead_of_borrow(c: Column) -> Line | None:
    return _instead_of_borrow(c, c.top or 0)


@_bug("n-n=n", "-", "open", says="A digit less itself is that digit.", source="Burton 1982, VanLehn 1990 (Diff-N-N=N)")
def _n_n_is_n(c: Column) -> Line | None:
    if c.due or not c.top or c.top != c.bottom:
        return None
    return Line(expression=f"{c.top}-{c.bottom}", put=c.top)


@_bug(
    "n-0=0", "-", "open", says="A digit less nought is nought.", source="Brown & Burton 1978, VanLehn 1990 (Diff-N-0=0)"
)
def _n_0_is_0(c: Column) -> Line | None:
    return Line(expression=f"{c.top}-0", put=0) if not c.due and c.top and c.bottom == 0 else None


@_bug(
    "stutter-subtract",
    "-",
    "open",
    says="When the lower number has run out of digits, its leftmost digit is subtracted again.",
    source="VanLehn 1982, 1990 (Stutter-Subtract)",
)
def _stutter_subtract(c: Column) -> Line | None:
    if c.due or c.top is None or c.bottom is not None or c.top < c.lead:
        return None
    return Line(expression=f"{c.top}-{c.lead}", put=c.top - c.lead)


@_bug(
    "sub-one-over-blank",
    "-",
    "open",
    says="Over a blank one is subtracted, although nothing was taken.",
    source="Burton 1982, VanLehn 1990 (Sub-One-Over-Blank)",
)
def _sub_one_over_blank(c: Column) -> Line | None:
    return Line(expression=f"{c.top}-1", put=c.top - 1) if not c.due and c.top and c.bottom is None else None


BUGS: Mapping[str, Bug] = {bug.name: bug for bug in _CATALOGUE}
"""In order of precedence."""

TEACHER_LACKS = frozenset({"n+0=0", "stutter-add", "n-n=n", "sub-one-over-blank"})
"""Missing from the scripted teacher's catalogue: it can correct them line by line, and does not know what they are."""
TEACHER_KNOWS = frozenset(BUGS) - TEACHER_LACKS
