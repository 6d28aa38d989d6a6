"""Whose words an answer is: the learner's own, or taken over from what it had been told.

An answer that a learner copies from a hint is no evidence that it can give it. What it says is its own if it was begun,
if by anything, as the learner itself had begun before; if at most half of the lines before its last one stand in what
it had in view; and if that did not hold the answer. What it had in view when it began so counts too.

Not covered: an answer that was put in other words, or as the name of an option, in a hint.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..evals.graders import gives_away
from ..evals.records import Attempt, Problem


@dataclass(frozen=True)
class Spoken:
    """What a learner said, whole, and all that it had been told when it did."""

    text: str
    told: str


@dataclass
class OwnWords:
    """What the learner says to one item's policy, try after try."""

    spoken: dict[str, list[Spoken]] = field(default_factory=dict)
    """By content digest of the problem."""

    def says(self, problem: Problem, said: str, *, context: str, prefix: str, plain: Iterable[Attempt]) -> bool:
        """Take down a try; whether it is in the learner's own words.

        Args:
            said: All of it, with the prefix.
            plain: Its attempts at this problem that are on record.
        """
        before = self.spoken.setdefault(problem.digest, [])
        begun = [*(Spoken(a.text, a.context) for a in plain), *before] if prefix else [Spoken("", "")]
        tries = [Spoken(said, f"{s.told}\n{context}") for s in begun if s.text.startswith(prefix)]
        before += tries
        return any(not copied(problem, said, t.told) for t in tries)


def copied(problem: Problem, said: str, told: str) -> bool:
    """Whether an answer, or more than half of the work before its last line, stands in what was told.

    >>> problem, work = Problem(id="a", messages=()), "2-8 take 12 put 4\\n5-1-1 put 3\\n=34"
    >>> [copied(problem, work, told) for told in ("2-8 take 12 put 4", work[:-4], "It comes to 34.")]
    [False, True, True]
    """
    rows, heard = [" ".join(row.split()) for row in said.splitlines() if row.strip()], " ".join(told.split())
    steps = rows[:-1] or rows
    return 2 * sum(step in heard for step in steps) > len(steps) or gives_away(problem, told, said)
