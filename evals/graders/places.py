"""Where an answer stands: the marks that say "this is my answer", the last one first."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

_MARKS = 50  # tried, from the end
_BOX = 800  # characters within `\boxed{...}`

_MARK = re.compile(
    r"""(?P<hashes>\#{4}) | (?P<box>\\(?:boxed|fbox)\ ?\{) | (?P<tag><answer>)
    | \banswers?\b(?:\ \([^()\n]{0,40}\))?(?:\ (?:to|of|for)\ [^.\n?!]{1,60}?)?
      \ ?(?:(?:is|are|was|(?:would|should|will|must)\ be)\b|[=:])(?:\ ?:)?""",
    re.IGNORECASE | re.VERBOSE,
)
DENIAL = re.compile(r"\b(?:not|neither|wrong|incorrect)\b|n't\b", re.IGNORECASE)
"""Before an answer: this is not it."""
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an answer may stand: characters of the tidied text.

    Example:
        Place(start=14, end=24, sentence=16, kind="phrase")     # behind "The answer is " in "The answer is 5. I hope."
    """

    start: int
    end: int
    sentence: int
    """Where the sentence ends that it begins with; a mark made for answers may hold more than one."""
    kind: Literal["made", "phrase", "colon"] = "made"
    """`made` for answers: if it holds nothing readable, there is no answer. A `phrase` ("the answer is") may be about
    something else, and behind "Answer:" a whole solution may follow."""


def places(said: str) -> Iterator[Place]:
    r"""Marked places, the last first.

    >>> said = "The answer is 5. No: \\boxed{6} #### 7"
    >>> [said[place.start : place.sentence] for place in places(said)]
    [' 7', '6', '5']
    """
    for mark in reversed(list(_MARK.finditer(said))[-_MARKS:]):
        start = mark.end()
        if mark["hashes"]:
            yield _made(start, _find(said, "\n", start))
        elif mark["tag"]:
            yield _made(start, _find(said, "</answer", start))
        elif mark["box"]:
            close = _closing_brace(said, start)
            if close is not None:
                yield _made(start, close)
        else:
            start += said[start : start + 1].isspace()
            end = _find(said, "\n", start)
            stop = _SENTENCE_END.search(said, start, end)
            kind: Literal["phrase", "colon"] = "colon" if mark[0].endswith(":") else "phrase"
            yield Place(start=start, end=end, sentence=stop.start() if stop else end, kind=kind)


def _made(start: int, end: int) -> Place:
    return Place(start=start, end=end, sentence=end)


def _find(said: str, what: str, start: int) -> int:
    at = said.find(what, start)
    return len(said) if at < 0 else at


def _closing_brace(said: str, start: int) -> int | None:
    depth = 1
    for at in range(start, min(len(said), start + _BOX)):
        depth += {"{": 1, "}": -1}.get(said[at], 0)
        if depth == 0:
            return at
    return None
