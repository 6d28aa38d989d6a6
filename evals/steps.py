"""Checking work step by step, without gold: is every line what the lines before it ask for?

Not covered: domains without a checker of their own. There, `steps` is no evidence and another kind is needed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .arithmetic import check_work, explained_by
from .records import Problem


@dataclass(frozen=True, kw_only=True)
class StepCheck:
    sound: bool
    """At least one step, every one right and derived from the problem, and the answer follows from them."""
    step: int | None
    """Index of the first wrong line, from 0."""
    due: str
    """What should stand there."""
    why: str
    """In words, for a report."""
    causes: tuple[str, ...] = ()
    """Documented misconceptions that would have written just that wrong line; several if they cannot be told apart."""


def check_steps(problem: Problem, work: str) -> StepCheck | None:
    """What recomputing the work finds; `None`: this domain has no checker."""
    checker = _CHECKERS.get(problem.domain)
    return checker(problem, work) if checker else None


def _columns(problem: Problem, work: str) -> StepCheck:
    found = check_work(problem.question, work)
    if not found.readable:
        why = "not in the notation of the work"
    elif found.first_wrong is not None:
        why = f"line {found.first_wrong + 1} is not what is due there: {found.due!r}"
    elif not found.finished:
        why = "no answer"
    elif not found.sound:
        why = "no step shown" if not found.steps else "the answer does not follow from the lines"
    else:
        why = f"{found.steps} steps recomputed"
    causes = explained_by(problem.question, work)
    return StepCheck(sound=found.sound, step=found.first_wrong, due=found.due, why=why, causes=causes)


_CHECKERS: Mapping[str, Callable[[Problem, str], StepCheck]] = {"arithmetic": _columns}
