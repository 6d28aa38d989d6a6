"""What was said, in the one spelling that the readers know."""

import re
import unicodedata

_READ = 20_000  # characters of a text, from its end: answers come last
_PILE = 8  # marks on one letter; NFKC sorts a pile in time that grows with its square

_BEFORE_VULGAR = re.compile(r"(?<=[0-9])(?=[¼-¾⅐-⅞])")
_RAISED = re.compile(r"[⁰¹²³⁴-⁹⁺⁻]+")
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf)\s*\{([^{}]*)\}")
_FRAC = re.compile(
    r"(?P<digit>[0-9]?)\\[dtc]?frac\s*(?:\{\s*(-?[0-9.]+)\s*\}|([0-9]))\s*(?:\{\s*([0-9.]+)\s*\}|([0-9]))"
)
_BOLD = re.compile(r"(?<!\S)\*\*(?=\S)|(?<=\S)\*\*(?!\S)|(?<=[^\d\s)])\*\*(?=\S)|(?<=\S)\*\*(?=[^\d\s(])")
_NEGATIVE = re.compile(r"\b(?:minus|negative) (?=[$€£¥₹]?\.?[0-9])", re.IGNORECASE)
_SPELLINGS = (
    ("\u2212", "-"),  # minus
    ("\u2010", "-"),  # hyphen
    ("\u2012", "-"),  # figure dash
    ("\u2013", "-"),  # en dash
    ("\u2044", "/"),  # fraction slash
    ("\u066b", "."),  # Arabic decimal point
    ("\u066c", ","),  # Arabic thousands
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


def tidy(said: str) -> str:
    r"""Thoughts cut off, symbols and LaTeX spelt plainly, single blanks; at most the last 20,000 characters.

    >>> tidy("<think>3?</think>The  **answer** is 2½, i.e. $1{,}000 \\times \\frac{1}{400}$")
    'The answer is 2 1/2, i.e. $1,000 * 1/400$'
    """
    said = _seen(_ending(said.rstrip()))
    thought = said.rpartition("</think>")[2]
    said = thought if thought.strip() else said
    said = _RAISED.sub(lambda m: "^" + unicodedata.normalize("NFKC", m[0]), _BEFORE_VULGAR.sub(" ", said))
    said = _BOLD.sub("", _ending(unicodedata.normalize("NFKC", said)))
    for seen, known in _SPELLINGS:
        said = said.replace(seen, known)
    said = _NEGATIVE.sub("-", _FRAC.sub(_slashed, _WRAPPER.sub(r"\1", said)))
    return "\n".join(" ".join(line.split()) for line in said.splitlines() if line.strip())


def _ending(said: str) -> str:
    """The last characters, from the first white space on: half a number would be another number."""
    if len(said) <= _READ:
        return said
    said = said[-_READ:]
    space = re.search(r"\s", said)
    return said[space.end() :] if space else ""


def _seen(said: str) -> str:
    r"""What a reader sees: nothing invisible, the digits of every script as 0 to 9.

    >>> _seen("1\u200b0"), _seen("٤٢")
    ('10', '42')
    """
    if said.isascii():
        return said
    seen: list[str] = []
    pile = 0
    for char in said:
        if unicodedata.category(char) == "Cf":
            continue
        pile = pile + 1 if unicodedata.combining(char) else 0
        if pile <= _PILE:
            digit = unicodedata.decimal(char, None)
            seen.append(char if digit is None else str(digit))
    return "".join(seen)


def _slashed(frac: re.Match[str]) -> str:
    r"""`9\frac{1}{2}` is nine and a half: `9 1/2`."""
    digit, *parts = frac.groups(default="")
    over, under = parts[0] or parts[1], parts[2] or parts[3]
    return f"{digit} {over}/{under}" if digit else f"{over}/{under}"
