"""From what was read to a verdict: what every grader does alike."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ..records import Attempt, Finish, Gold, Label, Problem, Verdict
from .spelling import tidy

Grader = Callable[[Problem, Gold, Attempt], Verdict]
"""A plain function, or a frozen dataclass with `__call__` when it has options."""

_UNREAD: Mapping[Finish, Label] = MappingProxyType({"length": "truncated", "error": "unparsed"})


def verdict(
    gold: Gold, attempt: Attempt, *, by: str, readable: bool, judge: Callable[[str], tuple[Label, str]]
) -> Verdict:
    """What `judge` makes of the tidied attempt, label and evidence; an attempt that was cut off is not judged.

    `ValueError` if the gold is not `readable`: nobody could be right.
    """
    if not readable:
        raise ValueError(
            f"the gold answer {gold.answer[:80]!r} of problem {gold.problem!r} cannot be read by the grader `{by}`, "
            "so nobody could be right. Correct the answer, or the problem's `kind`."
        )
    if attempt.finish in _UNREAD:
        return Verdict(label=_UNREAD[attempt.finish], by=by)
    label, evidence = judge(tidy(attempt.text))
    return Verdict(label=label, by=by, evidence=evidence)


def compared(said: str, right: bool) -> tuple[Label, str]:
    """Label and evidence of an answer that was read."""
    return "right" if right else "wrong", f"read {said[:40]!r}"
