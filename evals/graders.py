r"""Graders: is this answer right? Plain functions `(Problem, Gold, Attempt) -> Verdict`; nothing is executed.

An answer is read in two steps. First *where*: a mark says "this is my answer", and the last one with something readable
behind it counts, so that showing many guesses is worth one. Then *what*: a number, a letter, yes or no, some words.

- Marks: `=324` alone on the last line (how the embedded world ends its work), `#### 42`, `\boxed{42}`,
  `<answer>42</answer>`, "the answer is 42", "Answer: 42". What stands before `</think>` is not looked at.
- `number` is flexible: without a mark it takes a bare number on the last line, else what the last clause that has a
  number comes to: the number behind its last `=` or "total of", else its last number. `strict_number` wants a mark.
  Side by side they show how much of an accuracy is reading and how much is arithmetic.
- Numbers are compared exactly, as fractions: 0.5 is 1/2 is 50 %, and 0.33 is not 1/3. No tolerance, no rounding, with
  one exception: a decimal of 15 or more digits is a float that some program printed, and 12 of its digits count
  (0.30000000000000004 is 0.3). A unit is ignored, so "50%" also answers a gold of 50.
- A sum that was left undone is no answer: `0+72` does not answer "0+72", though its last number is right. Nor is a
  fraction right that is not in lowest terms and was copied from the question (`84/12`); others count by value.

Labels. `truncated`: the token limit cut the attempt off, and this goes before everything else. Even a complete marked
answer does not rescue it: what would have followed could have replaced it, and a student that never stops has not
answered. `unparsed`: nothing to read, the engine failed, or the number is too long to be meant. `wrong`: it was read,
and it is not the gold. A gold that the grader itself cannot read is the data set's fault and raises: `read_number`
finds such rows beforehand.

Hostile text is bounded, not trusted: the last 20,000 characters are read, at most 50 marks are tried, and a number of
more than 400 characters or with a power of ten beyond 400 is never converted.

Not covered: numbers in words ("four"), decimal commas (0,30), digits grouped by blanks or apostrophes, clock times and
ratios, roots, pi, intervals, sets and algebra (that is mathematical equality, another grader), units that need
converting, an option named by its text instead of its letter, a negation other than "not true". A text answer must be
the gold's words: no synonyms. Programs and dialogues have no grader here.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Literal

from .records import Attempt, Finish, Gold, Kind, Label, Problem, Verdict

Grader = Callable[[Problem, Gold, Attempt], Verdict]
"""A plain function, or a frozen dataclass with `__call__` when it has options."""

_READ = 20_000  # characters of an attempt, from its end: answers come last
_MARKS = 50
_LONGEST = 400  # characters of one number; well below the 4,300 digits at which `int` refuses
_POWER = 400  # of ten


def number(problem: Problem, gold: Gold, attempt: Attempt) -> Verdict:
    """Flexible: the marked number, else the one that the text comes to.

    >>> ask, gold = Problem(id="a", messages=()), Gold(problem="a", answer="1250")
    >>> number(ask, gold, Attempt(problem="a", text="That makes $1,250.00 in all.", finish="stop", state="")).label
    'right'
    """
    return _grade_number(problem, gold, attempt, by="number", strict=False)


def strict_number(problem: Problem, gold: Gold, attempt: Attempt) -> Verdict:
    """Only a marked number counts; a right number without a mark is `unparsed`.

    >>> ask, gold = Problem(id="a", messages=()), Gold(problem="a", answer="1250")
    >>> strict_number(ask, gold, Attempt(problem="a", text="That makes $1,250.", finish="stop", state="")).label
    'unparsed'
    """
    return _grade_number(problem, gold, attempt, by="strict_number", strict=True)


def choice(problem: Problem, gold: Gold, attempt: Attempt) -> Verdict:
    """The letter of an option: the first behind the last mark, else the last in brackets, else the last alone.

    >>> ask, gold = Problem(id="a", messages=(), kind="choice"), Gold(problem="a", answer="(C)")
    >>> choice(ask, gold, Attempt(problem="a", text="A is out. So the answer is (C)", finish="stop", state="")).label
    'right'
    """
    return _grade_word(gold, attempt, by="choice", want=_gold_letter(gold.answer), read=_letter)


def boolean(problem: Problem, gold: Gold, attempt: Attempt) -> Verdict:
    """Yes or true, no or false: behind the last mark, else the last line, the first word, or the end of a clause.

    >>> ask, gold = Problem(id="a", messages=(), kind="boolean"), Gold(problem="a", answer="False")
    >>> boolean(ask, gold, Attempt(problem="a", text="Whales breathe air, so no.", finish="stop", state="")).label
    'right'
    """
    return _grade_word(gold, attempt, by="boolean", want=_gold_truth(gold.answer), read=_truth)


def text(problem: Problem, gold: Gold, attempt: Attempt) -> Verdict:
    """The same words, whatever the case, the white space, and the punctuation and articles around them.

    The whole attempt is compared, then what stands behind the last mark (without one: its last line).

    >>> ask, gold = Problem(id="a", messages=(), kind="text"), Gold(problem="a", answer="Eiffel Tower")
    >>> text(ask, gold, Attempt(problem="a", text="The answer is the  Eiffel tower.", finish="stop", state="")).label
    'right'
    """
    want = plain(_tidy(gold.answer))
    return _grade_word(gold, attempt, by="text", want=want, read=lambda said: _nearest(said, want))


GRADERS: Mapping[Kind, Grader] = MappingProxyType(
    {"number": number, "choice": choice, "boolean": boolean, "text": text}
)
"""One per kind that can be graded without running or asking anything."""


def grade(problem: Problem, gold: Gold, attempt: Attempt) -> Verdict:
    r"""The grader of this kind of problem, applied.

    >>> problem, gold = Problem(id="a", messages=()), Gold(problem="a", answer="324")
    >>> grade(problem, gold, Attempt(problem="a", text="ones: 12-8=4\n=324", finish="stop", state="")).label
    'right'
    """
    if not problem.id == gold.problem == attempt.problem:
        raise ValueError(
            f"an attempt at {attempt.problem!r} met the question {problem.id!r} and the gold of {gold.problem!r}; "
            "a verdict on them would be about nothing. Look all three up by one id."
        )
    return GRADERS[_gradable(problem)](problem, gold, attempt)


def final_answer(problem: Problem, said: str) -> str:
    r"""What these words give as the answer, fit to stand as a gold; empty if nothing can be read.

    >>> problem = Problem(id="a", messages=())
    >>> final_answer(problem, "ones: 12-8=4\n=324"), final_answer(problem, "no idea")
    ('324', '')
    """
    kind, said = _gradable(problem), _tidy(said)
    if kind == "choice":
        return _letter(said)
    if kind == "boolean":
        return _truth(said)
    if kind == "text":
        return plain(_answering_part(said)[0])
    reading = _final_number(said, strict=False)
    if reading is None or reading.value is None or _copied(reading, problem.question):
        return ""
    return reading.text


def _gradable(problem: Problem) -> Kind:
    if problem.kind in GRADERS:
        return problem.kind
    raise ValueError(
        f"problem {problem.id!r} is of kind {problem.kind!r}, and there is no grader for that yet "
        f"(only for {', '.join(GRADERS)}); give the problem set a grader of its own."
    )


# ---- what the graders share

_UNREAD: Mapping[Finish, Label] = MappingProxyType({"length": "truncated", "error": "unparsed"})


def _unreadable(gold: Gold, by: str) -> ValueError:
    return ValueError(
        f"the gold answer {gold.answer[:80]!r} of problem {gold.problem!r} cannot be read by the grader `{by}`, "
        "so nobody could be right. Correct the answer, or the problem's `kind`."
    )


def _grade_word(gold: Gold, attempt: Attempt, *, by: str, want: str, read: Callable[[str], str]) -> Verdict:
    if not want:
        raise _unreadable(gold, by)
    if attempt.finish in _UNREAD:
        return Verdict(label=_UNREAD[attempt.finish], by=by)
    said = read(_tidy(attempt.text))
    if not said:
        return Verdict(label="unparsed", by=by)
    return Verdict(label="right" if said == want else "wrong", by=by, evidence=f"read {said[:40]!r}")


def _grade_number(problem: Problem, gold: Gold, attempt: Attempt, *, by: str, strict: bool) -> Verdict:
    want = read_number(gold.answer)
    if want is None or want.value is None:
        raise _unreadable(gold, by)
    if attempt.finish in _UNREAD:
        return Verdict(label=_UNREAD[attempt.finish], by=by)
    said = _final_number(_tidy(attempt.text), strict=strict)
    if said is None:
        return Verdict(label="unparsed", by=by)
    if said.value is None:
        return Verdict(label="unparsed", by=by, evidence="a number too long to be meant")
    right = said.equals(want) and not _copied(said, problem.question)
    return Verdict(label="right" if right else "wrong", by=by, evidence=f"read {said.text[:40]!r}")


# ---- one way of writing

_BEFORE_VULGAR = re.compile(r"(?<=[0-9])(?=[¼-¾⅐-⅞])")
_RAISED = re.compile(r"[⁰¹²³⁴-⁹⁺⁻]+")
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf)\s*\{([^{}]*)\}")
_FRAC = re.compile(
    r"(?P<digit>[0-9]?)\\[dtc]?frac\s*(?:\{\s*(-?[0-9.]+)\s*\}|([0-9]))\s*(?:\{\s*([0-9.]+)\s*\}|([0-9]))"
)
_BOLD = re.compile(r"(?<!\S)\*\*(?=\S)|(?<=\S)\*\*(?!\S)|(?<=[^\d\s)])\*\*(?=\S)|(?<=\S)\*\*(?=[^\d\s(])")
_SPELLINGS = (
    ("\u2212", "-"),  # minus
    ("\u2013", "-"),  # en dash
    ("\u2044", "/"),  # fraction slash
    ("×", "*"),
    ("÷", "/"),
    ("\\times", "*"),
    ("\\cdot", "*"),
    ("\\div", "/"),
    ("{,}", ","),
    ("\\%", "%"),
    ("\\$", "$"),
    ("^{\\circ}", " degrees"),
    ("^\\circ", " degrees"),
    ("\\left", ""),
    ("\\right", ""),
    ("\\,", ""),
    ("\\!", ""),
    ("\\;", " "),
    ("\\(", " "),
    ("\\)", " "),
    ("\\[", " "),
    ("\\]", " "),
)


def _ending(said: str) -> str:
    """The last characters, from the first white space on: half a number would be another number."""
    if len(said) <= _READ:
        return said
    said = said[-_READ:]
    space = re.search(r"\s", said)
    return said[space.end() :] if space else ""


def _tidy(said: str) -> str:
    r"""What was said, in the one spelling that the readers know.

    >>> _tidy("<think>3?</think>The  **answer** is 2½, i.e. $1{,}000 \\times \\frac{1}{400}$")
    'The answer is 2 1/2, i.e. $1,000 * 1/400$'
    """
    said = _ending(said)
    thought = said.rpartition("</think>")[2]
    said = thought if thought.strip() else said
    said = _RAISED.sub(lambda m: "^" + unicodedata.normalize("NFKC", m[0]), _BEFORE_VULGAR.sub(" ", said))
    said = _BOLD.sub("", _ending(unicodedata.normalize("NFKC", said)))
    for seen, known in _SPELLINGS:
        said = said.replace(seen, known)
    said = _FRAC.sub(_slashed, _WRAPPER.sub(r"\1", said))
    return "\n".join(" ".join(line.split()) for line in said.splitlines() if line.strip())


def _slashed(frac: re.Match[str]) -> str:
    r"""`9\frac{1}{2}` is nine and a half: `9 1/2`."""
    digit, *parts = frac.groups(default="")
    over, under = parts[0] or parts[1], parts[2] or parts[3]
    return f"{digit} {over}/{under}" if digit else f"{over}/{under}"


# ---- where the answer is

_MARK = re.compile(
    r"""(?P<hashes>\#{4}) | (?P<box>\\(?:boxed|fbox)\ ?\{) | (?P<tag><answer>)
    | \banswers?\b(?:\ \([^()\n]{0,40}\))?(?:\ (?:to|of|for)\ [^.\n?!]{1,60}?)?
      \ ?(?:(?:is|are|was|(?:would|should|will|must)\ be)\b|[=:])(?:\ ?:)?""",
    re.IGNORECASE | re.VERBOSE,
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where an answer may stand: characters of the tidied text."""

    start: int
    end: int
    kind: Literal["made", "phrase", "colon"] = "made"
    """`made` for answers: if it holds nothing readable, there is no answer. A `phrase` ("the answer is") may be about
    something else, and behind "Answer:" a whole solution may follow."""


def _places(said: str) -> Iterator[_Place]:
    """Marked places, the last first."""
    for mark in reversed(list(_MARK.finditer(said))[-_MARKS:]):
        if mark["hashes"]:
            yield _Place(start=mark.end(), end=_find(said, "\n", mark.end()))
        elif mark["tag"]:
            yield _Place(start=mark.end(), end=_find(said, "</answer", mark.end()))
        elif mark["box"]:
            close = _closing_brace(said, mark.end())
            if close is not None:
                yield _Place(start=mark.end(), end=close)
        else:
            start = mark.end() + (1 if said[mark.end() : mark.end() + 1].isspace() else 0)
            yield _Place(start=start, end=_find(said, "\n", start), kind="colon" if mark[0].endswith(":") else "phrase")


def _find(said: str, what: str, start: int) -> int:
    at = said.find(what, start)
    return len(said) if at < 0 else at


def _closing_brace(said: str, start: int) -> int | None:
    depth = 1
    for at in range(start, min(len(said), start + 2 * _LONGEST)):
        depth += {"{": 1, "}": -1}.get(said[at], 0)
        if depth == 0:
            return at
    return None


def _sentence(said: str, place: _Place) -> int:
    """Where the sentence ends that a place begins with; a mark made for answers may hold more than one."""
    end = None if place.kind == "made" else _SENTENCE_END.search(said, place.start, place.end)
    return end.start() if end else place.end


# ---- numbers

_ATOM = re.compile(
    r"""(?P<minus>-\ ?)?(?P<money>[$€£¥₹]\ ?)?(?P<inner>-)?
    (?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![A-Za-z0-9.])\.[0-9]+)
    (?:[eE](?P<e>[+-]?[0-9]+)(?![A-Za-z0-9])|\ ?[*x]\ ?10\ ?\^\ ?\{?(?P<ten>[+-]?[0-9]+)\}?)?""",
    re.VERBOSE,
)
_JOIN = re.compile(r"[ )\]}$€£%]*(?:\*\*|[-+*/^·]|(?<= )x(?= ))[ (\[{$€£-]*|[:._x]")
"""Between two operands."""
_UNARY = re.compile(r"(?:[=(<>:,]|\bis)\ ?\Z")
"""Before a minus sign that stands apart from its number (elsewhere it is a dash, or the dot of a list)."""
_PART_OF_WORK = re.compile(
    r"[A-Za-z_]-?\Z"  # m2, COVID-19
    r"|(?:\b[A-Za-z]|[)\]}])\ ?[-+*/^]\ [(\[{$]*\Z|[A-Za-z)\]}][-+*/^][(\[{$]*\Z"  # x - 5, n/4, m^2
    r"|\\(?!boxed|fbox)[A-Za-z]+\ ?[(\[{]\Z|[}\]]\{\Z|√\(?\Z"  # \sqrt{2}, \sqrt[3]{8}
)
_COEFFICIENT = re.compile(r"\ ?(?:\\(?:sqrt|pi|log|ln|sin|cos|tan|binom|infty)\b|[π√])|(?:st|nd|rd|th)\b")
_UNIT = re.compile(r"[ $}]{0,3}(?:(?P<percent>%|(?:percent|percentage|pct)\b)|(?P<scale>thousand|million|billion)\b)")
_SCALES = {"thousand": Fraction(10**3), "million": Fraction(10**6), "billion": Fraction(10**9)}
_RESULT = re.compile(r"(?:=|\btotal of) ?[$€£]?[( ]*\Z", re.IGNORECASE)
_DIGIT = re.compile(r"[0-9]")
_WORD = re.compile(r"[A-Za-z]{2,}")
_DENIAL = re.compile(r"\b(?:not|wrong|incorrect)\b|n't\b", re.IGNORECASE)
_CLAUSE_END = re.compile(r"[.!?,;:](?=\s)|\n|\b(?:and|so|then|which|leaving|because|since)\b")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A number that was found in a text.

    Example:
        Reading(text="33.5%", start=8, end=13, value=Fraction(67, 2), factor=Fraction(1, 100))
    """

    text: str
    start: int
    end: int
    value: Fraction | None
    """`None`: too long to be converted."""
    factor: Fraction = Fraction(1)
    """What the word behind it multiplies by: 1/100 for percent, 10**6 for million. It may be meant as a mere unit."""

    @property
    def printed(self) -> bool:
        """A decimal of 15 or more digits: a program's float, whose last digits mean nothing."""
        return "." in self.text and "/" not in self.text and len(_DIGIT.findall(self.text)) >= 15

    def equals(self, other: "Reading") -> bool:
        """Exactly; a factor that only one of the two has may be read either way.

        >>> read_number("28%").equals(read_number("0.28")), read_number("28%").equals(read_number("28"))
        (True, True)
        >>> read_number("0.28%").equals(read_number("28%"))
        False
        """
        if self.value is None or other.value is None:
            return False
        printed = self.printed or other.printed
        if self.factor == other.factor:
            return _same(self.value, other.value, printed=printed)
        if 1 in (self.factor, other.factor) and _same(self.value, other.value, printed=printed):
            return True
        return _same(self.value * self.factor, other.value * other.factor, printed=printed)


def _same(one: Fraction, other: Fraction, *, printed: bool) -> bool:
    """Exactly; but a third that a program printed is a third."""
    return one == other or (printed and abs(one - other) * 10**12 <= abs(other))


def read_number(said: str) -> Reading | None:
    """The one number that this text has, with or without a unit; `None` if it has none, or several.

    Use it to find the rows of a data set whose gold cannot be graded.

    >>> str(read_number("-$1,250.50").value), str(read_number("2 1/2 hours").value), str(read_number("1.5e3").value)
    ('-2501/2', '5/2', '1500')
    >>> read_number("2, 3") is read_number("3 + 4") is None
    True
    """
    said = _tidy(said)
    found = _readings(said)
    if len(found) != 1 or any(not found[0].start <= a.start("digits") < found[0].end for a in _ATOM.finditer(said)):
        return None
    return found[0]


def _final_number(said: str, *, strict: bool) -> Reading | None:
    found = _readings(said)
    alone = _alone_on_last_line(said, found, sign="=" if strict else "")
    if alone is not None:
        return alone
    for place in _places(said):
        marked = _number_at(said, place, found)
        if marked is not None or (place.kind == "made" and said[place.start : place.end].strip()):
            return marked
    return None if strict else _comes_to(said, found)


def _number_at(said: str, place: _Place, found: Sequence[Reading]) -> Reading | None:
    """The first number of the place, or what the solution behind an "Answer:" comes to.

    >>> said = "Answer: He has 3 boxes of 4 each. That makes 12."
    >>> _number_at(said, next(_places(said)), _readings(said)).text
    '12'
    """
    end = _sentence(said, place)
    digit = _DIGIT.search(said, place.start, end)
    lead = said[place.start : digit.start() if digit else end]
    words = len(_WORD.findall(lead))
    if place.kind == "made" or (words <= (0 if place.kind == "colon" else 4) and not _DENIAL.search(lead)):
        return _first_clause(said, [r for r in found if place.start <= r.start < end])
    return _comes_to(said, [r for r in found if r.start >= place.start]) if place.kind == "colon" else None


def _first_clause(said: str, inside: Sequence[Reading]) -> Reading | None:
    """The first number of a place, or what the sum that it begins comes to.

    >>> for said in ("2 eggs and 1 marble", "15 boxes * 8 pens = 120 pens, not 23"):
    ...     _first_clause(said, _readings(said)).text
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
    >>> _comes_to(said, _readings(said)).text
    '135'
    """
    if not found:
        return None
    start = max((m.end() for m in _CLAUSE_END.finditer(said, 0, found[-1].start)), default=0)
    clause = [r for r in found if r.start >= start]
    results = [r for r in clause if _follows_result(said, r)]
    return (results or clause)[-1]


def _readings(said: str) -> list[Reading]:
    """Every number that stands for itself, in order. Operands of a sum do not.

    >>> [r.text for r in _readings("3 boxes: 3 * 12 = 36 and 1/2, or 2 1/2, of x - 5")]
    ['3', '36', '1/2', '2 1/2']
    """
    found: list[Reading] = []
    for run in _runs(said):
        reading = _reading(said, run)
        if reading is None:
            continue
        if found and _is_mixed(said, found[-1], reading, run):
            reading = _mixed(said, found.pop(), reading)
        found.append(reading)
    return found


def _runs(said: str) -> Iterator[list[re.Match[str]]]:
    """Numbers that operators join."""
    run: list[re.Match[str]] = []
    for atom in _ATOM.finditer(said):
        if run and not _joined(said, run[-1].end(), atom.start("digits")):
            yield run
            run = []
        run.append(atom)
    if run:
        yield run


def _joined(said: str, end: int, start: int) -> bool:
    return start - end <= 20 and _JOIN.fullmatch(said, end, start) is not None


def _reading(said: str, run: Sequence[re.Match[str]]) -> Reading | None:
    first, last = run[0], run[-1]
    signed = _is_minus(said, first)
    start = first.start() if signed or not first["minus"] else first.start() + len(first["minus"])
    # A dash that is no sign stays in front: `x - 5` and `COVID-19` are told by it.
    before = said[max(0, start - 16) : start]
    after = _COEFFICIENT.match(said, last.end())
    if after is not None or (not first["money"] and _PART_OF_WORK.search(before)):
        return None
    value = _value(first)
    if len(run) == 2 and said[first.end() : last.start()].strip() == "/":
        under = _value(last)
        if under == 0:
            return None
        value = None if value is None or under is None else value / under
    elif len(run) > 1:
        return None
    unit = _UNIT.match(said, last.end())
    end = unit.end() if unit else last.end()
    return Reading(
        text=re.sub(r"^- ", "-", said[start:end]),
        start=start,
        end=end,
        value=-value if signed and value is not None else value,
        factor=Fraction(1) if unit is None else Fraction(1, 100) if unit["percent"] else _SCALES[unit["scale"]],
    )


def _is_minus(said: str, atom: re.Match[str]) -> bool:
    """Whether the number is negative: the minus is neither a dash nor between two operands."""
    if atom["inner"]:
        return True
    if not atom["minus"]:
        return False
    before = said[max(0, atom.start() - 4) : atom.start()]
    if atom["minus"] == "- ":
        return _UNARY.search(before) is not None
    return not re.search(r"[A-Za-z]\Z|[0-9)\]}%]\ ?\Z", before)


def _value(atom: re.Match[str]) -> Fraction | None:
    """Without its sign."""
    power = atom["e"] or atom["ten"] or "0"
    if len(atom[0]) > _LONGEST or len(power) > 5 or abs(int(power)) > _POWER:
        return None
    return Fraction(atom["digits"].replace(",", "")) * Fraction(10) ** int(power)


def _is_mixed(said: str, whole: Reading, part: Reading, run: Sequence[re.Match[str]]) -> bool:
    between = said[whole.end : part.start]
    proper = len(run) == 2 and part.value is not None and 0 < part.value < 1
    return proper and between in ("", " ") and whole.value is not None and whole.text.lstrip("-$€£¥₹ ").isdigit()


def _mixed(said: str, whole: Reading, part: Reading) -> Reading:
    assert whole.value is not None and part.value is not None
    value = whole.value - part.value if whole.text.startswith("-") else whole.value + part.value
    return Reading(text=said[whole.start : part.end], start=whole.start, end=part.end, value=value, factor=part.factor)


def _copied(said: Reading, question: str) -> bool:
    """Whether the answer is a fraction of the question, not in lowest terms: the work is still to be done."""
    written = said.text.replace(" ", "")
    if said.value is None or "/" not in written or written == str(said.value):
        return False
    return written in _tidy(question).replace(" ", "")


# ---- letters, truth values, words

_LETTER = re.compile(
    r"""(?<![A-Za-z'\\])
    (?:\((?P<bracketed>[A-Za-z])\) | (?P<alone>[B-HJ-Z])(?![A-Za-z']) | (?P<lone>[AI])(?![A-Za-z']|\ [a-z]))""",
    re.VERBOSE,
)
_TRUTH = re.compile(r"\b(not )?(yes|true|no|false)\b", re.IGNORECASE)
_TRUTH_AT_END = re.compile(r"\b(not )?(yes|true|no|false)\b(?=[.,;!]|$)", re.IGNORECASE | re.MULTILINE)
_AROUND = " .,;:!?\"'`()[]{}<>*_“”‘’«»"
_ARTICLE = re.compile(r"(?:a|an|the) (?=\S)")


def _gold_letter(answer: str) -> str:
    letter = re.match(r"\W*([A-Za-z])(?![A-Za-z])", answer)
    return letter[1].upper() if letter else ""


def _letter(said: str) -> str:
    """`A` and `I` before a small word are words.

    >>> _letter("A train leaves. The answer is for sure D, it can't be A"), _letter("(a) no, (b) yes")
    ('D', 'B')
    """
    for place in _places(said):
        content = said[place.start : _sentence(said, place)]
        bare = content.strip(_AROUND)
        if len(bare) == 1 and bare.isalpha():
            return bare.upper()
        letter = _LETTER.match(content) if place.kind == "colon" else _LETTER.search(content)
        if letter or (place.kind == "made" and bare):
            return _letters(letter)
    found = list(_LETTER.finditer(said))
    bracketed = [m for m in found if m["bracketed"]]
    return _letters(*(bracketed or found)[-1:])


def _letters(*found: re.Match[str] | None) -> str:
    return "".join(m["bracketed"] or m["alone"] or m["lone"] for m in found if m).upper()


def _gold_truth(answer: str) -> str:
    return {"yes": "yes", "true": "yes", "no": "no", "false": "no"}.get(answer.strip(_AROUND).casefold(), "")


def _truth(said: str) -> str:
    for place in _places(said):
        content = said[place.start : _sentence(said, place)]
        found = _TRUTH.match(content) if place.kind == "colon" else _TRUTH.search(content)
        if found or (place.kind == "made" and content.strip()):
            return _meaning(found)
    last_line = said[said.rfind("\n") + 1 :].strip(_AROUND)
    ends = list(_TRUTH_AT_END.finditer(said))
    return _meaning(_TRUTH.fullmatch(last_line) or _TRUTH.match(said) or (ends[-1] if ends else None))


def _meaning(found: re.Match[str] | None) -> str:
    """`not true` is no.

    >>> _meaning(_TRUTH.match("Not true")), _meaning(None)
    ('no', '')
    """
    if found is None:
        return ""
    return "yes" if (found[2].casefold() in ("yes", "true")) != bool(found[1]) else "no"


def plain(said: str) -> str:
    """Small letters, single blanks, no article in front, no punctuation around; symbols alone stay.

    >>> plain("  The Eiffel\\tTower."), plain("C++"), plain(") } >")
    ('eiffel tower', 'c++', ') } >')
    """
    words = " ".join(said.casefold().split())
    return _ARTICLE.sub("", words.strip(_AROUND), count=1) or words


def _nearest(said: str, want: str) -> str:
    """What was answered: as wanted if the whole attempt or its answering part is that, else that part."""
    if plain(said) == want:
        return want
    sentence, line = _answering_part(said)
    return want if plain(sentence) == want else plain(line)


def _answering_part(said: str) -> tuple[str, str]:
    """The sentence and the line behind the last mark; without one, the last line."""
    place = next(_places(said), _Place(start=said.rfind("\n") + 1, end=len(said)))
    return said[place.start : _sentence(said, place)], said[place.start : place.end]
