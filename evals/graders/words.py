"""Graders of letters, truth values and words."""

import re
from collections.abc import Callable

from ..records import Attempt, Gold, Label, Problem, Verdict
from .places import DENIAL, Place, places
from .spelling import tidy
from .verdicts import compared, verdict

_LETTER = re.compile(
    r"""(?<![A-Za-z'\\])
    (?:\((?P<bracketed>[A-Za-z])\) | (?P<alone>[B-HJ-Z])(?![A-Za-z']) | (?P<lone>[AI])(?![A-Za-z']|\ [a-z]))""",
    re.VERBOSE,
)
_TRUTH = re.compile(r"\b(not )?(yes|true|no|false)\b", re.IGNORECASE)
_TRUTH_AT_END = re.compile(r"\b(not )?(yes|true|no|false)\b(?=[.,;!]|$)", re.IGNORECASE | re.MULTILINE)
_AROUND = " .,;:!?\"'`()[]{}<>*_“”‘’«»"
_ARTICLE = re.compile(r"(?:a|an|the) (?=\S)")


def choice(problem: Problem, gold: Gold, attempt: Attempt) -> Verdict:
    """The letter of an option: the first behind the last mark, else the last in brackets, else the last alone.

    >>> ask, gold = Problem(id="a", messages=(), kind="choice"), Gold(problem="a", answer="(C)")
    >>> choice(ask, gold, Attempt(problem="a", text="A is out. So the answer is (C)", finish="stop", state="")).label
    'right'
    """
    return _grade(gold, attempt, by="choice", want=_gold_letter(gold.answer), read=letter)


def boolean(problem: Problem, gold: Gold, attempt: Attempt) -> Verdict:
    """Yes or true, no or false: behind the last mark, else the last line, the first word, or the end of a clause.

    >>> ask, gold = Problem(id="a", messages=(), kind="boolean"), Gold(problem="a", answer="False")
    >>> boolean(ask, gold, Attempt(problem="a", text="Whales breathe air, so no.", finish="stop", state="")).label
    'right'
    """
    return _grade(gold, attempt, by="boolean", want=_gold_truth(gold.answer), read=truth)


def text(problem: Problem, gold: Gold, attempt: Attempt) -> Verdict:
    """The same words, whatever the case, the white space, and the punctuation and articles around them.

    The whole attempt is compared, then what stands behind the last mark (without one: its last line).

    >>> ask, gold = Problem(id="a", messages=(), kind="text"), Gold(problem="a", answer="Eiffel Tower")
    >>> text(ask, gold, Attempt(problem="a", text="The answer is the  Eiffel tower.", finish="stop", state="")).label
    'right'
    """
    want = plain(tidy(gold.answer))
    return _grade(gold, attempt, by="text", want=want, read=lambda said: _nearest(said, want))


def _grade(gold: Gold, attempt: Attempt, *, by: str, want: str, read: Callable[[str], str]) -> Verdict:
    def judge(tidied: str) -> tuple[Label, str]:
        said = read(tidied)
        return compared(said, said == want) if said else ("unparsed", "")

    return verdict(gold, attempt, by=by, readable=bool(want), judge=judge)


# ---- letters


def _gold_letter(answer: str) -> str:
    found = re.match(r"\W*([A-Za-z])(?![A-Za-z])", answer)
    return found[1].upper() if found else ""


def letter(said: str) -> str:
    """`A` and `I` before a small word are words.

    >>> letter("A train leaves. The answer is for sure D, it can't be A"), letter("(a) no, (b) yes")
    ('D', 'B')
    """
    for place in places(said):
        content = said[place.start : place.sentence]
        bare = content.strip(_AROUND)
        if len(bare) == 1 and bare.isalpha():
            return bare.upper()
        found = _LETTER.match(content) if place.kind == "colon" else _LETTER.search(content)
        if found and DENIAL.search(content, 0, found.start()):
            return _last_option(said[place.sentence :])
        if found or (place.kind == "made" and bare):
            return _option(found)
    return _last_option(said)


def _last_option(said: str) -> str:
    every = list(_LETTER.finditer(said))
    bracketed = [m for m in every if m["bracketed"]]
    return _option(*(bracketed or every)[-1:])


def _option(*found: re.Match[str] | None) -> str:
    return "".join(m["bracketed"] or m["alone"] or m["lone"] for m in found if m).upper()


# ---- truth values


def _gold_truth(answer: str) -> str:
    return {"yes": "yes", "true": "yes", "no": "no", "false": "no"}.get(answer.strip(_AROUND).casefold(), "")


def truth(said: str) -> str:
    """`yes`, `no`, or nothing.

    >>> truth("Fish breathe water.\\nSo, no"), truth("That is not true."), truth("There is no way to know")
    ('no', 'no', '')
    """
    for place in places(said):
        content = said[place.start : place.sentence]
        found = _TRUTH.match(content) if place.kind == "colon" else _TRUTH.search(content)
        if found and DENIAL.search(content, 0, found.start()):
            return _last_truth(said[place.sentence :])
        if found or (place.kind == "made" and content.strip()):
            return _meaning(found)
    last_line = said[said.rfind("\n") + 1 :].strip(_AROUND)
    alone = _TRUTH.fullmatch(last_line) or _TRUTH.match(said)
    return _meaning(alone) if alone else _last_truth(said)


def _last_truth(said: str) -> str:
    ends = list(_TRUTH_AT_END.finditer(said))
    return _meaning(ends[-1] if ends else None)


def _meaning(found: re.Match[str] | None) -> str:
    """`not true` is no.

    >>> _meaning(_TRUTH.match("Not true")), _meaning(None)
    ('no', '')
    """
    if found is None:
        return ""
    return "yes" if (found[2].casefold() in ("yes", "true")) != bool(found[1]) else "no"


# ---- words


def plain(said: str) -> str:
    """Small letters, single blanks, no article in front, no punctuation around; symbols alone stay.

    >>> plain("  The Eiffel\\tTower."), plain("C++"), plain(") } >")
    ('eiffel tower', 'c++', ') } >')
    """
    words = " ".join(said.casefold().split())
    return _ARTICLE.sub("", words.strip(_AROUND), count=1) or words


def final_words(said: str) -> str:
    """The sentence that answers, plainly."""
    return plain(_answering_part(said)[0])


def _nearest(said: str, want: str) -> str:
    """What was answered: as wanted if the whole attempt or its answering part is that, else that part."""
    if plain(said) == want:
        return want
    sentence, line = _answering_part(said)
    return want if plain(sentence) == want else plain(line)


def _answering_part(said: str) -> tuple[str, str]:
    """The sentence and the line behind the last mark; without one, the last line."""
    last_line = Place(start=said.rfind("\n") + 1, end=len(said), sentence=len(said))
    place = next(places(said), last_line)
    return said[place.start : place.sentence], said[place.start : place.end]
