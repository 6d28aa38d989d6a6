r"""GSM8K as the task `gsm8k` of lm-evaluation-harness asks and reads it: figures to be held against others'.

    Question: <question>                Question: <first training question>
    Answer:                             Answer: <its work, as the data set has it>
    (zero-shot)
                                        Question: <question>
                                        Answer:
                                        (with `shots`: the first training rows, the harness's sampler `first_n`)

Two numbers are read from what was said, and each counts when it is the gold's, letter for letter, without commas,
dollar signs and a full stop behind it. `strict`: the number behind the first `#### `. `flexible`: the last thing in the
text that looks like a number. docs/baselines.md has how prompt and readings were compared with the harness itself.

Our own graders (`evals/graders`) decide what counts as right in a run; these two are printed beside them.

Not covered: the harness's other tasks on these problems (chain of thought, other marks), and its default draw of other
shots for every problem, which would show sealed problems solved.
"""

import re
from collections.abc import Mapping, Sequence

SCORES = ("strict", "flexible")
INVALID = "[invalid]"
"""What the harness reads where there is nothing to read."""

_STOPS = ("Question:", "</s>", "<|im_end|>")
"""Where the task ends an answer; our engines end where the model does."""
_MARKED = re.compile(r"#### (-?[0-9.,]+)")
_LIKE_A_NUMBER = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")


def prompt(question: str, shots: Sequence[tuple[str, str]] = ()) -> str:
    r"""The text of the user's turn.

    Args:
        shots: Questions and their answers, to be shown first.

    >>> prompt("2+2?", [("1+1?", "so <<1+1=2>>2\n#### 2")])
    'Question: 1+1?\nAnswer: so <<1+1=2>>2\n#### 2\n\nQuestion: 2+2?\nAnswer:'
    """
    shown = (f"Question: {q}\nAnswer: {a}\n\n" for q, a in shots)
    return f"{''.join(shown)}Question: {question}\nAnswer:"


def strict(said: str) -> str:
    """The number behind the first mark.

    >>> strict("It is 5.\\n#### 1,234.\\n#### 6"), strict("It is 5.")
    ('1,234.', '[invalid]')
    """
    found = _MARKED.search(_ended(said))
    return found[1] if found else INVALID


def flexible(said: str) -> str:
    """The last thing that looks like a number.

    >>> flexible("He pays $1,234."), flexible("3 of 4 are left"), flexible("none")
    ('$1,234.', '4', '[invalid]')
    """
    found = INVALID
    for match in _LIKE_A_NUMBER.finditer(_ended(said)):
        found = match[0]
    return found


def scores(answer: str, said: str) -> Mapping[str, float]:
    """Whether each of the two readings is the answer: 1.0 or 0.0.

    >>> scores("1234", "So he pays $1,234.")
    {'strict': 0.0, 'flexible': 1.0}
    """
    gold = _bare(answer)
    return {"strict": float(_bare(strict(said)) == gold), "flexible": float(_bare(flexible(said)) == gold)}


def _ended(said: str) -> str:
    for stop in _STOPS:
        said = said.partition(stop)[0]
    return said


def _bare(number: str) -> str:
    return re.sub(r"\.$", "", number.replace(",", "").replace("$", "")).lower()
