"""What a student with given bugs writes, and why it is wrong.

`work` is the exact student: the tiny model is trained to reproduce it, and tests and scripted students use it as it is.

Two notions of "the next reason" agree on every problem of the course (`skills.clean` sees to it): the bug that shows
when the one before it is *cured*, and the one that shows when the line before it is merely *done right*, as with a
hint. On arbitrary problems they may differ: a bug that fires in two columns needs two hints and one cure.
"""

from collections.abc import Collection
from dataclasses import dataclass

from .bugs import BUGS
from .columns import Column, Line, check_work, next_column, parse_line, read_or_raise, render, right_line, write


@dataclass(frozen=True, kw_only=True)
class Slip:
    """A place where a bug wrote the line.

    Example:
        Slip(step=0, bug="smaller-from-larger")
    """

    step: int
    bug: str


def _play(question: str, bugs: Collection[str], hint: str) -> tuple[tuple[Line, ...], tuple[Slip, ...]]:
    if unknown := sorted(set(bugs) - set(BUGS)):
        raise ValueError(f"unknown bug {unknown[0]!r}; the catalogue has {', '.join(BUGS)}")
    active = [bug for bug in BUGS.values() if bug.name in bugs]
    told = {" ".join(row.split()) for row in hint.splitlines()}
    slips: list[Slip] = []

    def choose(column: Column) -> Line:
        right = right_line(column)
        for bug in active if column.top is not None else ():
            line = bug.writes(column)
            if bug.sign == column.sign and line is not None and line != right:
                if str(right) in told:
                    return right
                slips.append(Slip(step=column.index, bug=bug.name))
                return line
        return right

    lines = write(read_or_raise(question), choose)
    return lines, tuple(slips)


def work(question: str, bugs: Collection[str] = (), hint: str = "") -> str:
    """What a student with these bugs writes, hint in view.

    A line of the hint that is the right one at a point where its own would be wrong is taken over; others do nothing.

    >>> print(work("502-178", ["smaller-from-larger", "borrow-from-zero"]))
    2-8 put 6
    0-7 put 7
    5-1 put 4
    =476
    >>> print(work("502-178", ["smaller-from-larger", "borrow-from-zero"], hint="2-8 take 12 put 4"))
    2-8 take 12 put 4
    9-7 put 2
    5-1 put 4
    =424
    """
    return render(_play(question, bugs, hint)[0])


def slips(question: str, bugs: Collection[str], hint: str = "") -> tuple[Slip, ...]:
    """Where in that work which bug wrote the line.

    >>> slips("52-18", ["smaller-from-larger"])
    (Slip(step=0, bug='smaller-from-larger'),)
    """
    return _play(question, bugs, hint)[1]


def why_wrong(question: str, bugs: Collection[str]) -> tuple[str, ...]:
    """The bugs that stand between this student and right work, as they come to light when each is cured in turn.

    >>> why_wrong("502-178", ["borrow-from-zero", "smaller-from-larger", "n-n=n"])
    ('smaller-from-larger', 'borrow-from-zero')
    >>> why_wrong("588-178", ["borrow-from-zero", "smaller-from-larger"])
    ()
    """
    left, reasons = set(bugs), []
    while found := slips(question, left):
        reasons.append(found[0].bug)
        left.discard(found[0].bug)
    return tuple(reasons)


def explained_by(question: str, work: str) -> tuple[str, ...]:
    """The misconceptions whose procedure writes just the first wrong line of this work, where that line stands.

    None if the work is right, cannot be read up to there, or goes wrong as no documented misconception does.

    >>> explained_by("52-18", "2-8 put 6\\n5-1 put 4\\n=46")
    ('smaller-from-larger',)
    """
    check, rows = check_work(question, work), [" ".join(row.split()) for row in work.splitlines() if row.strip()]
    if check.first_wrong is None:
        return ()
    before = [parse_line(row) for row in rows[: check.first_wrong]]
    column = next_column(read_or_raise(question), [line for line in before if line])
    if column is None or column.top is None or None in before:
        return ()
    wrote = ((bug.name, bug.writes(column)) for bug in BUGS.values() if bug.sign == column.sign)
    return tuple(name for name, line in wrote if line is not None and str(line) == rows[check.first_wrong])
