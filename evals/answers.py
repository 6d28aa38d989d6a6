r"""Recorded answers: what a student once wrote, by the problem that was put to it. A file of JSON lines.

    {"id": "pens-1", "answers": ["3*4 = 12\n#### 12", "3+4 = 7\n#### 7"]}
    {"question": "Tom has 3 boxes of 4 pens. How many?", "answers": "3*4 = 12"}

A row names its problem by the `id` that it has in the course, by its `question` (the same but for case and white space:
`content_digest`), or by both, which then must agree. `answers` is one text or several: the first is sample 0, which a
plain question gets. Several rows on one problem add up, in the file's order. Texts stay as they are, an empty one too:
nothing written is an answer, and cannot be read. Other fields are not looked at.

Rows on problems that a course does not ask are passed over and counted: one file may serve many courses. A fault is a
`BadData` that names file and line.

Not covered: token ids and log-probabilities; whether a limit cut an answer off (each counts as complete); answers that
do not fit into memory.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .jsonl import BadData, Row, field
from .records import Problem, content_digest, halved, user


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a file has for a course."""

    texts: Mapping[str, Sequence[str]]
    """By content digest of the problem; the i-th is sample i."""
    rows: int
    """Of the file."""
    others: int
    """Of these, on problems that the course does not ask."""


def answers_of(rows: Iterable[Row], problems: Iterable[Problem]) -> Answers:
    """What was recorded for these problems.

    >>> asked = [Problem(id="a", messages=user("17+25")), Problem(id="b", messages=user("2-2"))]
    >>> rows = [{"id": "a", "answers": "42"}, {"question": "25 + 17", "answers": ["32"]}, {"id": "c", "answers": "0"}]
    >>> found = answers_of((Row("", n, row) for n, row in enumerate(rows)), asked)
    >>> list(found.texts.values()), found.rows, found.others
    ([['42', '32']], 3, 1)

    Raises:
        BadData: a row has no answer, or names no problem, or two.
    """
    digests = {problem.id: problem.digest for problem in problems}
    asked = set(digests.values())
    texts: dict[str, list[str]] = {}
    read = others = 0
    for row in rows:
        read += 1
        said = _texts(row)
        if (digest := _named(row, digests)) in asked:
            texts.setdefault(digest, []).extend(said)
        else:
            others += 1
    return Answers(texts=texts, rows=read, others=others)


def _named(row: Row, digests: Mapping[str, str]) -> str:
    """Content digest of the problem that a row is about; empty: its id is none of the course's."""
    id, question = field(row, "id", needed=False), field(row, "question", needed=False)
    if not id and not question:
        has = ", ".join(f"`{key}`" for key in row.fields) or "nothing"
        raise BadData(f"{row.where}: an `id` or a `question` must say which problem was answered; the row has {has}.")
    by_id, by_question = digests.get(id, ""), content_digest(user(question)) if question else ""
    if by_id and by_question and by_id != by_question:
        raise BadData(
            f"{row.where}: the id {id!r} is another problem of this course than the question {question[:60]!r}. "
            "Correct the one or leave out the other: what was answered to one problem is no answer to another."
        )
    return by_question or by_id


def _texts(row: Row) -> list[str]:
    said = row.fields.get("answers")
    texts = said if isinstance(said, list) else [] if said is None else [said]
    if not texts or not all(isinstance(text, str) for text in texts):
        has = ", ".join(f"`{key}`" for key in row.fields) or "nothing"
        what = f"`answers` is {str(said)[:60]!r}" if "answers" in row.fields else f"there is no `answers`, only {has}"
        raise BadData(f"{row.where}: {what}; it must be a text, or a list of at least one.")
    if any(map(halved, texts)):
        raise BadData(f"{row.where}: `answers` has half of a character (a lone surrogate); write it whole.")
    return texts
