"""`tutorloop teach`: a correction from a file or from $EDITOR, and what it did, for people."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from ..evals.lookup import Lookup
from ..evals.records import State
from ..evals.terminal import safe
from ..policies.records import Case
from .live import Refused, Taught, check_work, folder_of, practised
from .live import open as opened
from .show import RunFolder

NOTE = (
    "# {id}: {question}\n# Above is the work as the student writes it now. Correct it, and save to teach it.\n"
    "# These lines are not part of it. Leave all as it is, and nothing is taught.\n"
)


def teach(run: Path, problem: str, work: Path | None, run_dir: Path | None = None) -> Taught:
    """Teach the correction in this file, or ask for it.

    Raises:
        Refused: it cannot be taught, or nothing was changed in the editor.
    """
    text = None if work is None else read(work).strip()
    if (course := RunFolder(run).course) is not None:  # what can be refused by itself starts nothing, and forks nothing
        asked = practised(Lookup(course.practice.problems, "id"), problem)
        if text is not None:
            check_work(asked, Lookup(course.practice.gold, "problem")[problem], text)
    with opened(run, run_dir) as live:
        if text is not None:
            return live.teach(problem, text)
        case = live.work(problem)
        if case.right:
            live.check(case, "")  # says why not
        if not (os.environ.get("VISUAL") or os.environ.get("EDITOR") or sys.stdin.isatty()):
            raise Refused("no terminal to edit in. Give the correction in a file: --work FILE")
        return live.teach(problem, edited(case))


def undo(run: Path, run_dir: Path | None = None) -> State:
    """Take the last correction back; the student that serves again.

    Raises:
        Refused: nothing was taught.
    """
    if not (folder_of(run, run_dir) / "run.json").exists():
        raise Refused(f"nothing was taught on {run}, so there is nothing to undo.")
    with opened(run, run_dir) as live:
        return live.undo()


def read(file: Path) -> str:
    """
    Raises:
        Refused: it cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "it is no UTF-8"
        raise Refused(
            f"the correction in {file} cannot be read: {why}. Name a text file: --work FILE. Nothing was taught."
        ) from None


def edited(case: Case) -> str:
    """The student's work as a person has corrected it.

    Raises:
        Refused: it was left as it was, or there is no editor.
    """
    note = NOTE.format(id=case.id, question="\n# ".join(case.question.splitlines()))
    try:
        text = click.edit(f"{case.work}\n{note}", extension=".txt")
    except click.ClickException as e:
        raise Refused(
            f"the editor failed: {e.message}. Set EDITOR, or give the correction in a file: --work FILE"
        ) from None
    ours = {line.rstrip() for line in note.splitlines()}  # work may have lines with a # of its own: #### 72
    told = "\n".join(line for line in (text or "").splitlines() if line.rstrip() not in ours).strip()
    if not told or told == case.work.strip():
        raise Refused(f"the work on {case.id} was left as it was. Nothing was taught.")
    return told


def taught_lines(taught: Taught) -> Iterator[str]:
    """What a correction did, for people."""
    problem = taught.before.problem
    yield f"{safe(problem.id)}   {safe(problem.question)}{f'   {safe(taught.about)}' if taught.about else ''}"
    for when, case in (("before", taught.before), ("after", taught.after)):
        work = " / ".join(safe(line) for line in case.work.splitlines() if line.strip())
        yield f"  {when:<9}{case.grades[0].label}   {work}"
    if not taught.after.right:
        yield "  not cured: a correction is taught gently. The same command teaches it once more"
    origins = ", ".join(f"{n} {ORIGINS[name]}" for name, n in taught.origins.items())
    yield f"  trained  on {sum(taught.origins.values())} examples: {origins}; {taught.proof}"
    for name, paired in (
        ("twins, never taught", taught.twins),
        ("mastered before any teaching (retention)", taught.mastered),
        ("quiz", taught.quiz),
    ):
        if paired is not None:
            yield (
                f"  {name}: {paired.before} -> {paired.after} of {paired.n} right; {paired.fixed} fixed, "
                f"{paired.regressed} regressed, p = {paired.p:.2g} (exact McNemar, two-sided)"
            )
    yield f"  student  {taught.was.digest[:12]} -> {taught.state.digest[:12]} in {safe(taught.run)}"
    yield f"  undo: tutorloop teach {safe(taught.run)} --undo"


ORIGINS = {
    "lesson": "of the correction",
    "earlier": "earlier lessons",
    "own": "of its own right answers",
    "gold": "gold",
}
