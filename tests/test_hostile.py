"""Text made to break what reads it is answered: not right, not an exception, and not after minutes.

The readers run in a process of their own, since nothing inside a process ends a regular expression that never ends.
"""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

DRIVER = Path(__file__).parent / "drivers" / "hostile.py"
READERS = (
    "number",
    "strict_number",
    "choice",
    "boolean",
    "text",
    "gold",
    "question",
    "final_answer, number",
    "final_answer, choice",
    "final_answer, boolean",
    "final_answer, text",
    "check_steps",
    "check_work",
    "explained_by",
    "tutor.find",
)


@pytest.fixture(scope="module")
def told() -> list[tuple[str, str, str]]:
    """Reader, text, what came of it; the last line of a process that was killed says over what."""
    done = subprocess.run([sys.executable, DRIVER], capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"ended by {done.returncode} at: {lines[-1] if lines else done.stderr}"
    return [(reader, name, answer) for reader, name, answer in (line.split("\t") for line in lines)]


@pytest.mark.parametrize("reader", READERS)
def test_every_hostile_text_is_answered_and_none_is_right(reader: str, told: list[tuple[str, str, str]]) -> None:
    answers = {name: answer for who, name, answer in told if who == reader}
    assert len(answers) > 60
    assert {n: a for n, a in answers.items() if a not in ("wrong", "unparsed", "unreadable")} == {}


def test_every_reader_was_tried_on_every_text(told: list[tuple[str, str, str]]) -> None:
    tried = Counter(reader for reader, _, _ in told)
    assert set(tried) == set(READERS)
    assert len(set(tried.values())) == 1
