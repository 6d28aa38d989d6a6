r"""GSM8K: grade-school word problems with worked solutions (Cobbe et al. 2021, arXiv:2110.14168).

    {"question": "... How much did she earn?", "answer": "She earned 0.2*50 = $<<0.2*50=10>>10.\n#### 10"}

The gold answer stands behind the last `####`. The gold solution is the data set's own, as a person would write it: the
notes for a calculator, `<<0.2*50=10>>`, are taken out, and the last line stays `#### 10`. Problems are called after
their row, counted from 1: `gsm8k-0417` is line 417 of the file.

Why there is no step checker here: recomputing `48+24=72` shows that the sum is right, not that it answers the
question. Whoever was told the answer finds operands in the question that lead to it, and half the honest solutions
need numbers that the question only implies (half, a dozen, days of a week). So `steps` is no evidence for these
problems; `answer`, `own`, `blind` and `gold` are: `check: [answer, own]`.

Not covered: telling a hard problem from an easy one; faults of the data set itself (some golds are wrong).
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pydantic_core import to_json

from .graders import read_number
from .jsonl import Asked, BadData, Row, field
from .records import Gold, Problem, user

DOMAIN = "gsm8k"
_NOTE = re.compile(r"<<([^<>]*)>>([-$€£]*\.?[0-9])?")


def problems_of(rows: Iterable[Row], *, prefix: str = DOMAIN, put: Callable[[str], str] = str) -> Iterator[Asked]:
    """Rows in GSM8K's format as problems and gold.

    Args:
        put: From a question to the text of the user's turn.

    Raises:
        BadData: a row has no question, no answer, or no number behind `####`.
    """
    for row in rows:
        said = field(row, "answer")
        work, mark, answer = said.rpartition("####")
        answer = answer.strip()
        number = read_number(answer)
        if not mark or number is None or number.value is None:
            raise BadData(
                f"{row.where}: `answer` must end in a line `#### 72` with one number; it ends in "
                f"{said[-60:]!r}. Files with a bare answer are of `kind: jsonl`."
            )
        problem = Problem(id=f"{prefix}-{row.number:04d}", messages=user(put(field(row, "question"))), domain=DOMAIN)
        solution = f"{readable(work)}\n#### {answer}" if work.strip() else ""
        yield Asked(problem, Gold(problem=problem.id, answer=answer, solution=solution), row.where)


def shots_of(rows: Iterable[Row]) -> tuple[tuple[str, str], ...]:
    """Rows to be shown solved: each question, and its answer as the data set has it, notes and all."""
    return tuple((field(row, "question"), field(row, "answer")) for row in rows)


def readable(work: str) -> str:
    """Work without the calculator's notes; a result that stood only in the note is written out.

    >>> readable("48/2 = <<48/2=24>>24 clips in May. ")
    '48/2 = 24 clips in May.'
    >>> readable("Half of it is $<<48/2=24>>.")
    'Half of it is $24.'
    """
    plainly = _NOTE.sub(lambda note: note[2] or note[1].rpartition("=")[2], work)
    return "\n".join(line.rstrip() for line in plainly.strip().split("\n"))


def from_hub(name: str, *, split: str = "train", revision: str = "") -> list[Row]:
    """Rows from the Hugging Face hub, or from its cache on this machine.

    Raises:
        BadData: they cannot be had, or are in another format; names the way out.
    """
    try:
        from datasets import disable_progress_bars, load_dataset

        disable_progress_bars()  # they would draw into our lines
        table: Any = load_dataset(name, "main", split=split, revision=revision or None)
    except Exception as e:  # network, hub, cache, format: each has exceptions of its own
        said = next(iter(str(e).splitlines()), "")[:200].rstrip(".")
        raise BadData(
            f"`course.hub` {name!r} cannot be loaded: {type(e).__name__}: {said}. Without a network, or to pin what is "
            "read, give the rows as a file of JSON lines: course.path=train.jsonl"
        ) from None
    return [Row(f"{name}, row {number}", number, fields) for number, fields in enumerate(table, 1)]


def digest(rows: Iterable[Row]) -> str:
    """sha256 over the rows' fields: whether a hub has given the same data again."""
    total = hashlib.sha256()
    for row in rows:
        total.update(to_json(row.fields) + b"\n")
    return total.hexdigest()
