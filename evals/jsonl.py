r"""Problems from a file of JSON lines, and what every real data set goes through before it is asked.

    {"question": "Tom has 3 boxes of 4 pens.", "answer": 12, "solution": "3*4 = 12", "skill": "times", "id": "pens-1"}

`question` and `answer` are needed; other fields are not looked at. A fault is a `BadData` that names file and line: no
JSON, a missing or empty field, an answer that the grader could not read (then nobody could be right), an id given
twice, a solution that comes to something else than its answer. Nothing is repaired in silence.

A row that asks what an earlier row asks (`content_digest`: `17+25` and `25+17` are one question) is left out, and the
log says how many were, and how many of them gave another answer. What is left is drawn by seed into disjoint pools.

A solution is full work that ends in its answer. One that does not say so at its end gets a last line `#### 12`, as in
GSM8K: a student that learns from it must learn to answer. A solution that is only the answer is none.

Not covered: questions that mean the same in other words; fields of other names (rename them first); several answers to
one question; conversations of more than one turn.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from .graders import grade, plain, read_number, strict_number
from .lookup import Seen
from .pools import Split
from .records import Attempt, Gold, Kind, Problem, halved, user

log = logging.getLogger(__name__)


class BadData(ValueError):
    """A data set cannot be used as it is: where, what is wrong, what to do."""


class Row(NamedTuple):
    """One record of a data set, as it was read.

    Example:
        Row(where="train.jsonl, line 3", number=3, fields={"question": "17+25", "answer": "42"})
    """

    where: str
    number: int
    """From 1; in a file it is the line."""
    fields: Mapping[str, Any]


class Asked(NamedTuple):
    """A problem and, apart from it, its gold."""

    problem: Problem
    gold: Gold
    where: str


def rows_of(path: Path) -> Iterator[Row]:
    """The objects of a file of JSON lines; empty lines are passed over. Numbers stay as they are written.

    Raises:
        BadData: a line is no JSON object, or no UTF-8.
    """
    with path.open("rb") as file:  # bytes: only a newline ends a line, whatever characters the texts hold
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if not text:
                    continue
                found = json.loads(text, parse_int=str, parse_float=str)
            except UnicodeDecodeError as e:
                raise BadData(f"{where}: this is no UTF-8 ({e.reason} at byte {e.start}); convert the file.") from None
            except (ValueError, RecursionError) as e:
                raise BadData(f"{where}: this is no JSON ({e}); each line is one object, {{...}}.") from None
            if not isinstance(found, dict):
                raise BadData(f"{where}: each line is one object, {{...}}, and this is a {type(found).__name__}.")
            yield Row(where, number, found)


def field(row: Row, name: str, *, needed: bool = True) -> str:
    """The text of a field.

    >>> field(Row("a.jsonl, line 1", 1, {"answer": " 42 "}), "answer")
    '42'

    Raises:
        BadData: it is missing, empty, or neither text nor a number.
    """
    value = row.fields.get(name)
    if value is None and not needed:
        return ""
    if value is None:
        has = ", ".join(f"`{key}`" for key in row.fields) or "nothing"
        raise BadData(f"{row.where}: there is no `{name}`; the row has {has}.")
    if not isinstance(value, str | int | float):
        raise BadData(f"{row.where}: `{name}` is a {type(value).__name__}; it must be text or a number.")
    text = str(value).strip()
    if not text and needed:
        raise BadData(f"{row.where}: `{name}` is empty.")
    if halved(text):
        raise BadData(f"{row.where}: `{name}` has half of a character (a lone surrogate); write it whole.")
    return text


def problems_of(rows: Iterable[Row], *, kind: Kind = "number", prefix: str = "row") -> Iterator[Asked]:
    """Rows of this module's own format as problems and gold.

    Args:
        prefix: Of the id of a row that names none: `row-0017` is the one in line 17.

    >>> row = Row("a.jsonl, line 1", 1, {"question": "17+25", "answer": "42", "solution": "7+5 put 2 carry 1"})
    >>> [(problem, gold, _)] = problems_of([row])
    >>> problem.id, gold.answer, gold.solution
    ('row-0001', '42', '7+5 put 2 carry 1\\n#### 42')

    Raises:
        BadData: a row cannot be used, or two have one id.
    """
    ids = Seen()
    for row in rows:
        id = field(row, "id", needed=False) or f"{prefix}-{row.number:04d}"
        if (other := ids.before(id, row.where)) is not None:
            raise BadData(f"{row.where}: the id {id!r} is that of {other} too; ids are unique.")
        problem = Problem(id=id, messages=user(field(row, "question")), kind=kind)
        answer, said = field(row, "answer"), field(row, "solution", needed=False)
        if not _readable(problem, answer):
            raise BadData(
                f"{row.where}: the answer {answer[:80]!r} is no {kind} that a grader can read, so nobody could be "
                "right. Correct it, or set `course.answer` to number, choice, boolean or text."
            )
        solution = _ending(problem, answer, said, row.where)
        gold = Gold(problem=id, answer=answer, solution=solution, skill=field(row, "skill", needed=False))
        yield Asked(problem, gold, row.where)


def distinct(asked: Iterable[Asked], source: str) -> Iterator[Asked]:
    """The first row of every question. What is left out is counted aloud."""
    contents, example, rows, repeated, others = Seen(), "", 0, 0, 0
    for one in asked:
        rows += 1
        known = contents.before(one.problem.digest, json.dumps([one.where, one.gold.answer]))
        if known is None:
            yield one
            continue
        where, answer = json.loads(known)
        example = example or f"{one.where} (as {where})"
        repeated += 1
        others += _label(one.problem, answer, one.gold.answer) != "right"
    if repeated:
        log.warning(
            "%s: %d of %d rows ask what an earlier row asks and are left out, e.g. %s; "
            "%d of them have another answer than the first, which is the one that counts.",
            *(source, repeated, rows, example, others),
        )


def divided(asked: Iterable[Asked], sizes: Mapping[str, int], *, seed: int, source: str) -> dict[str, Split]:
    """Pools of these sizes, drawn by seed.

    The first is taken from the beginning of the drawn order, the others from its end: a larger practice pool leaves
    quiz and exam as they are.

    >>> asked = problems_of(Row("", n, {"question": f"{n}+{n}", "answer": str(2 * n)}) for n in range(1, 9))
    >>> pools = divided(asked, {"practice": 3, "exam": 2}, seed=0, source="sums")
    >>> [len(pool) for pool in pools.values()]
    [3, 2]

    Raises:
        BadData: there are fewer rows than are asked for.
    """
    order, total = list(asked), sum(sizes.values())
    if len(order) < total:
        wanted = " + ".join(f"{n} for `{name}`" for name, n in sizes.items())
        raise BadData(
            f"{source} has {len(order)} different problems; asked for are {wanted}, {total} in all. "
            "Ask for fewer, or give more rows."
        )
    Random(f"{seed}/course").shuffle(order)
    (first, *others), end = sizes, len(order)
    drawn = {first: order[: sizes[first]]}
    for name in reversed(others):
        drawn[name] = order[end - sizes[name] : end]
        end -= sizes[name]
    return {name: split_of(drawn[name]) for name in sizes}


def split_of(asked: Iterable[Asked]) -> Split:
    """Problems, each with its gold."""
    return [(one.problem, one.gold) for one in asked]


def _label(problem: Problem, answer: str, said: str) -> str:
    attempt = Attempt(problem=problem.id, text=said, finish="stop", state="")
    return grade(problem, Gold(problem=problem.id, answer=answer), attempt).label


def _readable(problem: Problem, answer: str) -> bool:
    if problem.kind == "number":
        found = read_number(answer)
        return found is not None and found.value is not None
    try:
        _label(problem, answer, "")
    except ValueError:
        return False
    return True


def _ending(problem: Problem, answer: str, work: str, where: str) -> str:
    r"""Work with its answer at the end.

    >>> _ending(Problem(id="a", messages=()), "12", "She had 3 of 4 each: 3*4 = 12", "")
    'She had 3 of 4 each: 3*4 = 12'
    >>> _ending(Problem(id="a", messages=()), "12", "3*4 = 12, a dozen with 0 left", "")
    '3*4 = 12, a dozen with 0 left\n#### 12'
    """
    last = f"#### {answer}"
    if plain(work) in ("", plain(answer), plain(last)):
        return ""
    if _label(problem, answer, work) == "right":
        return work
    marked = "####" in work
    if problem.kind == "number" and not marked:
        attempt = Attempt(problem=problem.id, text=work, finish="stop", state="")
        gold = Gold(problem=problem.id, answer=answer)
        marked = strict_number(problem, gold, attempt).label == "wrong"
    if marked:
        raise BadData(
            f"{where}: the solution comes to something else than the answer {answer!r}: it ends in {work[-60:]!r}. "
            "Correct the one or the other."
        )
    return f"{work}\n{last}"
