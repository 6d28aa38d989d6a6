"""Graders of numbers: which of the numbers of a text is the answer, and is it the gold?"""

import re
from collections.abc import Sequence
from typing import Literal

from ..records import Attempt, Gold, Label, Problem, Verdict
from .numbers import Reading, read_number, readings
from .places import DENIAL, Place, places
from .spelling import tidy
from .verdicts import compared, verdict

_RESULT = re.compile(r"(?:=|\btotal of) ?[$€£]?[( ]*\Z", re.IGNORECASE)
_DIGIT = re.compile(r"[0-9]")
_WORD = re.compile(r"[A-Za-z]{2,}")
_IN_WORDS = re.compile(
    r"\W*(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
    r"|(?:thir|four|fif|six|seven|eigh|nine)teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty)\b",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[.!?,;:](?=\s)|\n|\b(?:and|so|then|which|leaving|because|since)\b")


def number(problem: Problem, gold: Gold, attempt: Attempt) -> Verdict:
    """Flexible: the marked number, else the one that the text comes to.

    >>> ask, gold = Problem(id="a", messages=()), Gold(problem="a", answer="1250")
    >>> number(ask, gold, Attempt(problem="a", text="That makes $1,250.00 in all.", finish="stop", state="")).label
    'right'
    """
    return _grade(problem, gold, attempt, by="number", strict=False)


def strict_number(problem: Problem, gold: Gold, attempt: Attempt) -> Verdict:
    """Only a marked number counts; a right number without a mark is `unparsed`.

    >>> ask, gold = Problem(id="a", messages=()), Gold(problem="a", answer="1250")
    >>> strict_number(ask, gold, Attempt(problem="a", text="That makes $1,250.", finish="stop", state="")).label
    'unparsed'
    """
    return _grade(problem, gold, attempt, by="strict_number", strict=True)


def _grade(problem: Problem, gold: Gold, attempt: Attempt, *, by: str, strict: bool) -> Verdict:
    want = read_number(gold.answer)

    def judge(text: str) -> tuple[Label, str]:
        said = _final_number(text, strict=strict)
        if said is None:
            return "unparsed", ""
        if said.value is None:
            return "unparsed", "a number too long to be meant"
        right = want is not None and said.equals(want) and not _copied(said, problem.question)
        return compared(said.text, right)

    return verdict(gold, attempt, by=by, readable=want is not None and want.value is not None, judge=judge)


def final_number(said: str, question: str) -> str:
    """The number that this text gives as its answer, as it is written there; empty if there is none.

    >>> final_number("So it needs 180 - 45 = 135 minutes.", ""), final_number("=84/12", "84 ÷ 12")
    ('135', '')
    """
    reading = _final_number(said, strict=False)
    return "" if reading is None or reading.value is None or _copied(reading, question) else reading.text


def _final_number(said: str, *, strict: bool) -> Reading | None:
    found = readings(said)
    alone = _alone_on_last_line(said, found, sign="=" if strict else "")
    if alone is not None:
        return alone
    for place in places(said):
        what = _what(said, place)
        if what == "answer":
            return _first_clause(said, [r for r in found if place.start <= r.start < place.sentence])
        if what == "denial":
            return None if strict else _comes_to(said, [r for r in found if r.start >= place.sentence])
        behind = [r for r in found if r.start >= place.start] if place.kind == "colon" else []
        if behind:  # a solution
            return _comes_to(said, behind)
        if _IN_WORDS.match(said, place.start):
            return None
    return None if strict else _comes_to(said, found)


def _what(said: str, place: Place) -> Literal["answer", "denial", "other"]:
    """What the sentence of a place gives. What it gives as the answer counts, or nothing: no other number stands in.

    >>> for said in ("Answer: 3 * 4", "The answer is not 5.", "Answer: He has 3 boxes of 4. So 12."):
    ...     _what(said, next(places(said)))
    'answer'
    'denial'
    'other'
    """
    digit = _DIGIT.search(said, place.start, place.sentence)
    lead = said[place.start : digit.start() if digit else place.sentence]
    if digit and DENIAL.search(lead):
        return "denial"
    if place.kind == "made":
        return "answer" if lead.strip() or digit else "other"
    few = 0 if place.kind == "colon" else 4
    return "answer" if digit and len(_WORD.findall(lead)) <= few and not _IN_WORDS.match(lead) else "other"


def _first_clause(said: str, inside: Sequence[Reading]) -> Reading | None:
    """The first number of a place, or what the sum that it begins comes to.

    >>> for said in ("2 eggs and 1 marble", "15 boxes * 8 pens = 120 pens, not 23"):
    ...     _first_clause(said, readings(said)).text
    '2'
    '120'
    """
    if not inside:
        return None
    stop = _CLAUSE_END.search(said, inside[0].end)
    clause = [r for r in inside if stop is None or r.end <= stop.start()]
    results = [r for r in clause if _follows_result(said, r)]
    return (results[-1:] or inside[:1])[0]


def _follows_result(said: str, reading: Reading) -> bool:
    return _RESULT.search(said[max(0, reading.start - 16) : reading.start]) is not None


def _alone_on_last_line(said: str, found: Sequence[Reading], *, sign: str) -> Reading | None:
    start = said.rfind("\n") + 1
    last = [r for r in found if r.start >= start]
    if len(last) != 1:
        return None
    before, after = said[start : last[0].start].strip(), said[last[0].end :].strip(" .$%")
    return last[0] if not after and before.rstrip("$ ") in {sign, "="} else None


def _comes_to(said: str, found: Sequence[Reading]) -> Reading | None:
    """What the last clause that has a number comes to.

    >>> said = "I took 4 away. So it needs 180 - 45 = 135 minutes to reach 100%."
    >>> _comes_to(said, readings(said)).text
    '135'
    """
    if not found:
        return None
    start = max((m.end() for m in _CLAUSE_END.finditer(said, 0, found[-1].start)), default=0)
    clause = [r for r in found if r.start >= start]
    results = [r for r in clause if _follows_result(said, r)]
    return (results or clause)[-1]


def _copied(said: Reading, question: str) -> bool:
    """Whether the answer is a fraction of the question, not in lowest terms: the work is still to be done."""
    written = said.text.replace(" ", "")
    if said.value is None or "/" not in written or written == str(said.value):
        return False
    if said.text.endswith(f" {abs(said.value) % 1}"):  # 2 1/2
        return False
    return written in tidy(question).replace(" ", "")
