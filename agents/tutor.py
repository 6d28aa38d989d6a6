"""The scripted teacher: a program that reads a question and a student's work, and knows how columns go.

It sees text and nothing else: no gold, no skill, no list of what this student has wrong. It recomputes the work line by
line, and the first line that recomputation refutes is where the error was made. The misconception in its catalogue
whose procedure writes exactly that line is the diagnosis. Four misconceptions of the world are missing from the
catalogue (`TEACHER_LACKS`). What it does not recognise it corrects all the same, says that it does not know what it is,
and has no targeted practice for it.

Where several misconceptions of the catalogue would write the same line (`3-6 put 3` is the smaller from the larger, and
also the upper digit in place of a borrow), the one that comes first in `BUGS` is named: narrower ones come first, and
of the gates the commoner. So a diagnosis can be wrong, and a misconception that is missing can be taken for one that is
not; `docs/world.md` has the rates. Each work is looked at alone, without the same student's earlier ones.

`error_rate` makes an imperfect teacher: in a share of cases, drawn by a hash of seed and case, a correction, a hint or
a practice work has one plausible wrong line, and goes on from it. Diagnoses are left as they are.

Not covered: anything but column addition and subtraction; work in another notation; a second problem in one prompt (the
first is answered); questions inside a sentence.
"""

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from random import Random

from ..evals.arithmetic import (
    BUGS,
    TEACHER_KNOWS,
    again,
    check_work,
    fresh,
    read,
    solve,
    why_wrong,
    work,
    wrong_cases,
)
from ..evals.arithmetic.columns import Column, Line, next_column, parse_line, read_or_raise, render, right_line, write

_PROBLEM = re.compile(r"[\s>*_`#-]*(?:[A-Za-z][\w' ]{0,30}[:.)]|\d{1,3}[.)])?[\s*_`]*(.*?)[\s*_`=?]*")
_ROW = re.compile(r"[\s>*_`]*(?:[A-Za-z][\w' ]{0,30}:|\d{1,3}[.)]|[-*])?[\s*_`]*(.*?)[\s*_`]*")
_ANSWER = re.compile(r"=\s*\d+")
_WIDTH = 200  # of a line that is read: the patterns above try every end of what a line begins with


def find(prompt: str) -> tuple[str, str] | None:
    """The first line of a text that is a problem, bare or after a label, and the work that follows it.

    >>> find("Correct this, please.\\nQuestion: 52 - 18\\nIts work:\\n2-8 put 6\\n5-1 put 4\\n=46\\nBe kind.")
    ('52-18', '2-8 put 6\\n5-1 put 4\\n=46')
    >>> find("52-18") is None and find("2-8 put 6") is None
    True
    """
    question, rows = "", list[str]()
    for row in (line[:_WIDTH] for line in prompt.splitlines()):
        if not question:
            match = _PROBLEM.fullmatch(row)
            question = "".join(match[1].split()) if match and read(match[1]) else ""
            continue
        match = _ROW.fullmatch(row)
        text = " ".join(match[1].split()) if match else ""
        if _ANSWER.fullmatch(text):
            return question, "\n".join([*rows, text.replace(" ", "")])
        if parse_line(text) or (
            rows and "put" in text.split()
        ):  # a garbled line among work is the student's, and stays
            rows.append(text)
        elif rows:
            break
    return (question, "\n".join(rows)) if rows else None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What the teacher makes of one work.

    Example:
        Diagnosis(bug="smaller-from-larger", step=0, wrote="2-8 put 6", due="2-8 take 12 put 4", text="...")
    """

    bug: str | None
    """`None`: nothing is wrong, or the teacher does not know what this error is."""
    step: int | None
    """Index of the first wrong line; `None` if every line is right as far as the work goes."""
    wrote: str = ""
    """That line."""
    due: str = ""
    """The right line in its place."""
    text: str = ""
    """The same in a sentence."""


@dataclass(frozen=True, kw_only=True)
class Tutor:
    """A teacher without weights. The same question and work always get the same words.

    >>> Tutor().reply("52-18\\n2-8 put 6\\n5-1 put 4\\n=46")
    '2-8 take 12 put 4\\n5-1-1 put 3\\n=34'
    """

    error_rate: float = 0.0
    """Share of cases with one wrong line in what it says."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.error_rate <= 1:
            raise ValueError(f"`error_rate` must be between 0 and 1, got {self.error_rate}")

    def reply(self, prompt: str) -> str | None:
        """The full corrected work; `None` if the text holds no problem with work after it."""
        found = find(prompt)
        return None if found is None else self._written(*found)

    def diagnose(self, question: str, work: str) -> Diagnosis:
        """The first line that recomputation refutes, and the misconception that writes it.

        >>> Tutor().diagnose("52-18", "2-8 put 6\\n5-1 put 4\\n=46").bug
        'smaller-from-larger'
        """
        check = check_work(question, work)
        if check.first_wrong is None:
            return Diagnosis(bug=None, step=None, due=check.due, text="Every line is right." if check.sound else "")
        rows = [" ".join(row.split()) for row in work.splitlines() if row.strip()]
        wrote, step = rows[check.first_wrong], check.first_wrong
        lines = [line for line in map(parse_line, rows[:step]) if line]  # right ones, and no answer: the first wrong
        column = next_column(read_or_raise(question), lines)
        bug = None if column is None else self._recognise(column, wrote)
        cause = BUGS[bug].says if bug else "I do not know what lies behind this."
        text = f"Line {step + 1} says `{wrote}`. {cause}"
        if check.due:
            text += f" It should be `{check.due}`."
        return Diagnosis(bug=bug, step=step, wrote=wrote, due=check.due, text=text)

    def hint(self, question: str, work: str) -> str:
        """The right line in place of the first wrong one, or the next one if the work breaks off; empty if it is right.

        >>> Tutor().hint("52-18", "2-8 put 6\\n5-1 put 4\\n=46")
        '2-8 take 12 put 4'
        """
        check = check_work(question, work)
        line = parse_line(check.due)
        if line is None or not self._errs(question, work):
            return check.due
        return str(_off_by_one(line, self._rng(question, work)))

    def practice(self, bug: str | None, n: int, rng_key: str, avoid: Collection[str] = ()) -> list[tuple[str, str]]:
        """New problems that exercise what was diagnosed and, as far as possible, nothing else, with right work.

        None for a misconception that is not in the catalogue. `rng_key` names the case: the same one gives the same
        problems. `avoid` holds digests of problems that must not be written.

        >>> Tutor().practice("smaller-from-larger", 1, "52-18")[0][0]
        '50-16'
        """
        if bug is None or bug not in TEACHER_KNOWS:
            return []
        rng = self._rng("practice", bug, rng_key)
        return [(question, self._written(question, "practice")) for question in fresh(bug, rng=rng, n=n, avoid=avoid)]

    def drill(self, question: str, work: str, n: int) -> list[tuple[str, str]]:
        """New problems in which the step that goes wrong first in this work comes up again, with right work.

        For errors that no misconception in the catalogue explains, such as 13-8 taken for 6: the teacher does not know
        why, and lets the same step be done again. Empty if no step is wrong.

        >>> Tutor().drill("52-18", "2-8 take 12 put 5\\n5-1-1 put 3\\n=35", 1)[0][1].splitlines()[0]
        '2-8 take 12 put 4'
        """
        due = check_work(question, work).due
        if parse_line(due) is None:
            return []
        rng = self._rng("drill", question, work)
        others = again(due, rng=rng, n=n, accept=lambda other: other != question)
        return [(other, self._written(other, "practice")) for other in others]

    def _recognise(self, column: Column, wrote: str) -> str | None:
        for name, bug in BUGS.items():
            if name in TEACHER_KNOWS and bug.sign == column.sign and column.top is not None:
                line = bug.writes(column)
                if line is not None and str(line) == wrote:
                    return name
        return None

    def _written(self, question: str, work: str) -> str:
        if not self._errs(question, work):
            return solve(question)
        rng = self._rng(question, work, "line")
        at = rng.randrange(solve(question).count("\n"))

        def choose(column: Column) -> Line:
            right = right_line(column)
            return _off_by_one(right, rng) if column.index == at else right

        return render(write(read_or_raise(question), choose))

    def _errs(self, question: str, work: str) -> bool:
        return self._rng(question, work).random() < self.error_rate

    def _rng(self, *key: str) -> Random:
        return Random(hashlib.sha256("\x1f".join([str(self.seed), *key]).encode()).digest())


def _off_by_one(line: Line, rng: Random) -> Line:
    return replace(line, put=(line.put + rng.choice((1, 9))) % 10)


@dataclass(frozen=True, kw_only=True)
class DiagnosisRates:
    """How often the scripted teacher is right about why, where the truth is known.

    Example:
        DiagnosisRates(known=900, named=880, misnamed=20, lacking=100, abstained=80)
    """

    known: int
    """Cases whose first reason is in the catalogue."""
    named: int
    """Of these: diagnosed as what it is."""
    misnamed: int
    """Of these: taken for another. For the rest it said that it does not know."""
    lacking: int
    """Cases whose first reason is missing from the catalogue."""
    abstained: int
    """Of these: it said that it does not know. The rest were taken for something else."""


def diagnosis_rates(bugs: Collection[str], *, n: int = 1000, seed: int = 0) -> DiagnosisRates:
    """Diagnose `n` fresh wrong works of a student with these misconceptions.

    >>> diagnosis_rates(["smaller-from-larger"], n=20)
    DiagnosisRates(known=20, named=20, misnamed=0, lacking=0, abstained=0)
    """
    tutor, pairs = Tutor(), list[tuple[str, str | None]]()
    for question in wrong_cases(bugs, n, seed=seed):
        pairs.append((why_wrong(question, bugs)[0], tutor.diagnose(question, work(question, bugs)).bug))
    known = [(true, said) for true, said in pairs if true in TEACHER_KNOWS]
    return DiagnosisRates(
        known=len(known),
        named=sum(true == said for true, said in known),
        misnamed=sum(said not in (true, None) for true, said in known),
        lacking=len(pairs) - len(known),
        abstained=sum(said is None for true, said in pairs if true not in TEACHER_KNOWS),
    )
