"""Column addition and subtraction on paper: the notation, right work, and a checker that needs no gold.

A question is bare text, `502-178`. Work goes from right to left, one line a column, then the answer:

    2-8 take 12 put 4        8 from 2 does not go: take one from the left, 8 from 12, put 4
    0-1-7 take 10 put 2      the 1 is what was taken from this column
    5-1-1 put 3
    =324

and `357+286` is `7+6 put 3 carry 1`, `5+8+1 put 4 carry 1`, `3+2+1 put 6`, `=643`. Where the lower number has no
digit left, the column is `5 put 5` (or `5-1 put 4`, `5+1 put 6`); a carry out of the leftmost column gets a line of
its own, `1 put 1`. So a line shows the column's digits, what came in from the right, and what goes out to the left.

Everything else in this world is built on `next_column`, which derives the next column's situation from the problem and
from the lines *as written*, right or wrong. A line is right when it is what that situation asks for; a mistake is
therefore found where it is made, and what follows it is judged by what follows from it.

Not covered: numbers above 9999, more than two operands, negative results, multiplication, and work in any other
layout. A line that is true but not due (`0+72 put 72`) is wrong here. Of a work of more than 100 lines the first 100
are recomputed, and it is not readable.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Sign = Literal["+", "-"]

_QUESTION = re.compile(r"\s*([0-9]{1,4})\s*([+-])\s*([0-9]{1,4})\s*")
_LINE = re.compile(r"([0-9]{1,2}(?:[+-][0-9]{1,2}){0,9})(?: take ([0-9]{1,2}))? put ([0-9]{1,2})(?: carry ([0-9]))?")
_ANSWER = re.compile(r"=[0-9]+")
_ROWS = 100  # of a work; six can be due


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """A question, read.

    Example:
        Exercise(top=502, sign="-", bottom=178)
    """

    top: int
    """The number with more digits stands on top; a sum may be turned round for that."""
    sign: Sign
    bottom: int


def read(question: str) -> Exercise | None:
    """The exercise that a bare question asks for; `None` if it is none (a difference below zero is none).

    >>> read("502-178")
    Exercise(top=502, sign='-', bottom=178)
    >>> read("62 + 431")
    Exercise(top=431, sign='+', bottom=62)
    >>> read("12-50") is None and read("What is 2+2?") is None
    True
    """
    match = _QUESTION.fullmatch(question)
    if match is None:
        return None
    top, bottom = int(match[1]), int(match[3])
    if match[2] == "+":
        if len(str(top)) < len(str(bottom)):
            top, bottom = bottom, top
        return Exercise(top=top, sign="+", bottom=bottom)
    return Exercise(top=top, sign="-", bottom=bottom) if top >= bottom else None


@dataclass(frozen=True, kw_only=True)
class Line:
    """What is written for one column.

    Example:
        Line(expression="0-1-7", take=10, put=2)
    """

    expression: str
    take: int | None = None
    """What the upper digit became by taking ten from the left; `None`: nothing was taken."""
    put: int
    carry: int = 0
    """What goes to the next column of a sum."""

    @property
    def out(self) -> int:
        """What the next column has to reckon with: the carry, or 1 for a ten that was taken."""
        return self.carry if self.take is None else 1

    def __str__(self) -> str:
        take = "" if self.take is None else f" take {self.take}"
        carry = f" carry {self.carry}" if self.carry else ""
        return f"{self.expression}{take} put {self.put}{carry}"


def parse_line(text: str) -> Line | None:
    """One line of work, read; `None` if it is not in the notation.

    >>> parse_line("0-1-7 take 10 put 2")
    Line(expression='0-1-7', take=10, put=2, carry=0)
    >>> parse_line("0+72=72") is None
    True
    """
    match = _LINE.fullmatch(" ".join(text.split()))
    if match is None:
        return None
    return Line(
        expression=match[1],
        take=None if match[2] is None else int(match[2]),
        put=int(match[3]),
        carry=int(match[4] or 0),
    )


@dataclass(frozen=True, kw_only=True)
class Column:
    """The situation in which the next line is to be written; all that a misconception may look at.

    Example:
        Column(sign="-", index=1, top=0, bottom=7, due=1, last=False, earlier=0, lead=1)   # 502-178, tens
    """

    sign: Sign
    index: int
    """0 is the ones."""
    top: int | None
    """`None`: past the leftmost digit, where only a carry is left."""
    bottom: int | None
    """`None`: the lower number has no digit here."""
    due: int
    """Carried in, or taken away by the column to the right."""
    last: bool
    """Whether it is the leftmost column of digits."""
    earlier: int
    """How many columns to the right of this one had something due."""
    lead: int
    """Leftmost digit of the lower number."""


def next_column(exercise: Exercise, lines: Sequence[Line]) -> Column | None:
    """The column that is due after these lines, taking them as they are; `None` when all are done.

    >>> next_column(Exercise(top=502, sign="-", bottom=178), [Line(expression="2-8", take=12, put=4)])
    Column(sign='-', index=1, top=0, bottom=7, due=1, last=False, earlier=0, lead=1)
    """
    index = len(lines)
    top, bottom = str(exercise.top)[::-1], str(exercise.bottom)[::-1]
    due = lines[-1].out if lines else 0
    past = index >= len(top)
    if past and (exercise.sign == "-" or not due or index > len(top)):
        return None
    return Column(
        sign=exercise.sign,
        index=index,
        top=None if past else int(top[index]),
        bottom=int(bottom[index]) if index < len(bottom) else None,
        due=due,
        last=index == len(top) - 1,
        earlier=sum(1 for line in lines[:-1] if line.out),
        lead=int(bottom[-1]),
    )


def right_line(column: Column) -> Line:
    """What is to be written in this situation.

    >>> str(right_line(Column(sign="-", index=1, top=0, bottom=7, due=1, last=False, earlier=0, lead=1)))
    '0-1-7 take 10 put 2'
    >>> str(right_line(Column(sign="+", index=0, top=7, bottom=6, due=0, last=False, earlier=0, lead=2)))
    '7+6 put 3 carry 1'
    """
    top, bottom = column.top or 0, column.bottom or 0
    if column.sign == "+":
        shown = [n for n in (column.top, column.bottom, column.due or None) if n is not None]
        total = top + bottom + column.due
        return Line(expression="+".join(map(str, shown)), put=total % 10, carry=total // 10)
    shown = [n for n in (column.top, column.due or None, column.bottom) if n is not None]
    rest = top - column.due - bottom
    expression = "-".join(map(str, shown))
    if rest >= 0:
        return Line(expression=expression, put=rest)
    return Line(expression=expression, take=top + 10, put=rest + 10)


def write(exercise: Exercise, choose: Callable[[Column], Line] = right_line) -> tuple[Line, ...]:
    """Work the exercise from right to left; `choose` says what is written for each column."""
    lines: list[Line] = []
    while (column := next_column(exercise, lines)) is not None:
        lines.append(choose(column))
    return tuple(lines)


def answer(lines: Sequence[Line]) -> int:
    """The number that the lines put down, leftmost last; a column that put two digits keeps both.

    >>> answer([Line(expression="7+6", put=13), Line(expression="5+6", put=11)])
    1113
    """
    return int("".join(str(line.put) for line in reversed(lines)) or "0")


def render(lines: Sequence[Line]) -> str:
    """Lines as the student writes them, the answer last."""
    return "\n".join([*map(str, lines), f"={answer(lines)}"])


def solve(question: str) -> str:
    """Full right work.

    >>> print(solve("502-178"))
    2-8 take 12 put 4
    0-1-7 take 10 put 2
    5-1-1 put 3
    =324
    """
    return render(write(read_or_raise(question)))


def read_or_raise(question: str) -> Exercise:
    """As `read`, for callers that have made sure of it."""
    exercise = read(question)
    if exercise is None:
        raise ValueError(f"{question!r} is no exercise of this world; expected such as '502-178' or '357+286'")
    return exercise


@dataclass(frozen=True, kw_only=True)
class WorkCheck:
    """What recomputing a work line by line found. No gold was read.

    Example:
        WorkCheck(readable=True, steps=3, first_wrong=None, derives=(True, True, True), follows=True, finished=True)
    """

    readable: bool
    """Question and every line are in the notation, a hundred lines at most. Otherwise little was learnt about the
    arithmetic."""
    steps: int
    """Column lines that could be recomputed."""
    first_wrong: int | None
    """Index of the first line that is not what was due there, the answer line counted; `None`: every line is right."""
    derives: tuple[bool, ...]
    """For each column line: are its numbers those of the problem and of what the lines before it passed on?"""
    follows: bool
    """The answer is the digits that the lines put down, no column left out."""
    finished: bool
    """There is an answer; work without one was cut off, and is not wrong for that."""
    due: str = ""
    """The right line in place of the first wrong one (or of the missing next one); empty when there is none."""

    @property
    def sound(self) -> bool:
        """Right from the first line to the answer, with at least one step shown."""
        return (
            self.readable
            and self.steps > 0
            and self.first_wrong is None
            and all(self.derives)
            and self.follows
            and self.finished
        )


def check_work(question: str, work: str) -> WorkCheck:
    """Recompute every line of a work from the problem and the lines before it.

    >>> check_work("502-178", "2-8 take 12 put 4\\n9-7 put 2\\n5-1 put 4\\n=424").first_wrong
    1
    >>> check_work("30+42", "0+72 put 72\\n=72").sound       # a right answer under glue
    False
    >>> check_work("30+42", "the answer is 72").readable
    False
    """
    exercise = read(question)
    written = [row for row in work.splitlines() if row.strip()]
    rows = [" ".join(row.split()) for row in written[:_ROWS]]
    if exercise is None:
        return WorkCheck(readable=False, steps=0, first_wrong=None, derives=(), follows=False, finished=False)
    lines: list[Line] = []
    derives: list[bool] = []
    first_wrong: int | None = None
    at_fault = ""
    readable, answered, follows = 0 < len(written) <= _ROWS, False, False
    for index, row in enumerate(rows):
        due = "" if answered else _due(exercise, lines)  # after the answer, nothing is
        if row != due and first_wrong is None:
            first_wrong, at_fault = index, due
        line = parse_line(row)
        if line is not None:
            derives.append(line.expression == due.split(" ")[0])
            lines.append(line)
        elif _ANSWER.fullmatch(row):
            follows = not answered and row == due
            answered = True
        else:
            readable = False
    if first_wrong is None and not answered:
        at_fault = _due(exercise, lines)
    return WorkCheck(
        readable=readable,
        steps=len(lines),
        first_wrong=first_wrong,
        derives=tuple(derives),
        follows=follows,
        finished=answered,
        due=at_fault,
    )


def _due(exercise: Exercise, lines: Sequence[Line]) -> str:
    column = next_column(exercise, lines)
    return f"={answer(lines)}" if column is None else str(right_line(column))
