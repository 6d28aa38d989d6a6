"""The numbers of a text: what stands for itself, exactly and as a fraction, and what is only a part of work."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from .spelling import tidy

_LONGEST = 400  # characters of one number; well below the 4,300 digits at which `int` refuses
_POWER = 400  # of ten

_ATOM = re.compile(
    r"""(?P<minus>-\ ?)?(?P<money>[$€£¥₹]\ ?)?(?P<inner>-)?
    (?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![A-Za-z0-9.])\.[0-9]+)
    (?:[eE](?P<e>[+-]?[0-9]+)(?![A-Za-z0-9])|\ ?[*x]\ ?10\ ?\^\ ?\{?(?P<ten>[+-]?[0-9]+)\}?)?""",
    re.VERBOSE,
)
_JOIN = re.compile(
    r"[ )\]}$€£%]*(?:\*\*|[-+*/^·]|(?<= )(?:x|plus|times|divided by|mod)(?= ))[ (\[{$€£-]*"  # between two operands
    r"|[:._x,'’]"  # within 12:30, 1.2.3, 1,5 and 12'500
)
_UNARY = re.compile(r"(?:[=(<>:,]|\bis)\ ?\Z")
"""Before a minus sign that stands apart from its number (elsewhere it is a dash, or the dot of a list)."""
_PART_OF_WORK = re.compile(
    r"[A-Za-z_]-?\Z"  # m2, COVID-19
    r"|(?:\b[A-Za-z]|[)\]}])\ ?[-+*/^]\ [(\[{$]*\Z|[A-Za-z)\]}][-+*/^][(\[{$]*\Z"  # x - 5, n/4, m^2
    r"|\\(?!boxed|fbox)[A-Za-z]+\ ?[(\[{]\Z|[}\]]\{\Z|√\(?\Z"  # \sqrt{2}, \sqrt[3]{8}
    r"|[A-Za-z]\(\Z|\b(?:sqrt|log|ln|sin|cos|tan) \Z"  # f(5), log 5
    r"|(?:\A|\s)[<>]=?\ ?\Z|[≤≥≠±]\ ?\Z|\\(?:[gl]eq?|[gl]t|neq?|pm)\ ?\Z"  # > 5, ±5
)
_COEFFICIENT = re.compile(
    r"\ ?(?:\\(?:sqrt|pi|log|ln|sin|cos|tan|binom|infty)\b|[π√])|(?:st|nd|rd|th)\b"
    r"| and (?:a|one)[ -](?:half|third|quarter)\b"
)
_SCALES = {
    "hundred": Fraction(100),
    "thousand": Fraction(10**3),
    "million": Fraction(10**6),
    "billion": Fraction(10**9),
    "trillion": Fraction(10**12),
}
_UNIT = re.compile(rf"[ $}}]{{0,3}}(?:(?P<percent>%|(?:percent|percentage|pct)\b)|(?P<scale>{'|'.join(_SCALES)})\b)")
_DIGIT = re.compile(r"[0-9]")
_LONG_DECIMAL = re.compile(r"[^.]*\.[0-9]{9,}[1-9]")


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
        """Of 15 or more digits, ten of them behind the point: a program's float, whose last digits mean nothing."""
        number = _LONG_DECIMAL.match(self.text)
        return number is not None and "/" not in self.text and len(_DIGIT.findall(number[0])) >= 15

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
    said = tidy(said)
    found = readings(said)
    if len(found) != 1 or any(not found[0].start <= a.start("digits") < found[0].end for a in _ATOM.finditer(said)):
        return None
    return found[0]


def readings(said: str) -> list[Reading]:
    """Every number that stands for itself, in order. Operands of a sum do not, nor pieces of something longer.

    >>> [r.text for r in readings("3 boxes: 3 * 12 = 36 and 1/2, or 2 1/2, of x - 5, at 12:30 for 1 000")]
    ['3', '36 and 1/2', '2 1/2']
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
    """Numbers that operators join, or that are glued together."""
    run: list[re.Match[str]] = []
    for atom in _ATOM.finditer(said):
        if run and not _joined(said, run[-1], atom):
            yield run
            run = []
        run.append(atom)
    if run:
        yield run


def _joined(said: str, one: re.Match[str], other: re.Match[str]) -> bool:
    between = said[one.end() : other.start("digits")]
    if between == " ":  # 12 500 may be one number or two; 12 200-page books are two
        group = len(other["digits"]) == 3 and other["digits"].isdigit() and not said.startswith("-", other.end())
        return group and len(one["digits"]) <= 3
    return len(between) <= 20 and _JOIN.fullmatch(between) is not None


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
    added = between in ("", " ") or (between == " and " and not said.startswith(" of", part.end))
    return proper and added and whole.value is not None and whole.text.lstrip("-$€£¥₹ ").isdigit()


def _mixed(said: str, whole: Reading, part: Reading) -> Reading:
    assert whole.value is not None and part.value is not None
    value = whole.value - part.value if whole.text.startswith("-") else whole.value + part.value
    return Reading(text=said[whole.start : part.end], start=whole.start, end=part.end, value=value, factor=part.factor)
