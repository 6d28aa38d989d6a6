"""What passes between the slots of a round. Frozen, typed, JSON-serialisable; never mutated, only replaced.

Problem -> Attempt -> Case -> Lesson -> Example -> State
"""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from ..evals.records import Attempt, Messages, Problem, Verdict

Json = JsonValue

Evidence = Literal["steps", "blind", "answer", "own", "gold", "unchecked"]
"""Why a lesson may be learnt (`checking.py`). A method names the kinds that it takes."""

Origin = Literal["lesson", "earlier", "own", "gold"]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What was asked of a member of the cast. Reused asks cost nothing and are counted apart."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    reused: int = 0
    unmetered: int = 0
    """Calls of which the provider did not say the tokens: these are in no sum."""

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            calls=self.calls + other.calls,
            tokens_in=self.tokens_in + other.tokens_in,
            tokens_out=self.tokens_out + other.tokens_out,
            reused=self.reused + other.reused,
            unmetered=self.unmetered + other.unmetered,
        )


@dataclass(frozen=True, kw_only=True)
class Price:
    """Dollars for a million tokens."""

    input: float
    output: float

    def of(self, tokens_in: float, tokens_out: float) -> float:
        """Dollars.

        >>> Price(input=0.25, output=2.0).of(4_000_000, 500_000)
        2.0
        """
        return (tokens_in * self.input + tokens_out * self.output) / 1e6


@dataclass(frozen=True, kw_only=True)
class Case:
    """One unit of teacher work. Carries no gold, no skill, no true misconception.

    Example:
        Case(id="sub-0417", problem=Problem(...), attempts=(Attempt(...),), grades=(Verdict(label="wrong", ...),))
    """

    id: str
    """The problem's id; a triage that repeats a case appends `#2`, `#3` ..."""
    problem: Problem
    attempts: tuple[Attempt, ...] = ()
    grades: tuple[Verdict, ...] = ()
    """One per attempt, by the problem set's own grader, the same for every method."""
    verdicts: tuple[Verdict, ...] = ()
    """What the `verify` slot says: where it goes wrong. Steers teaching only."""
    history: tuple[str, ...] = ()
    """Labels of this problem's first grades in earlier rounds, oldest first."""
    priority: float = 0.0
    reason: str = ""
    """Why triage picked it."""
    brief: str = ""
    """What triage wants the teacher to know."""
    gold_seen: bool = False

    @property
    def question(self) -> str:
        return self.problem.question

    @property
    def work(self) -> str:
        """What the learner wrote in its first attempt; empty if it was not asked."""
        return self.attempts[0].text if self.attempts else ""

    @property
    def right(self) -> bool:
        """Whether there is an attempt and every one is right."""
        return bool(self.grades) and all(g.right for g in self.grades)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One unit of teacher output. A policy fills what it means; the framework adds who, for whom and at what cost.

    Example:
        Lesson(act="hint", text="Look at the tens: what is left after borrowing?")
        Lesson(act="similar", problem=Problem(id="", messages=user("62-37"), parent="sub-0417"), target="...\\n=25")
    """

    text: str = ""
    """What was said to the learner."""
    target: str = ""
    """What is to be learnt, as the learner should write it; empty: nothing (a hint is never a completion)."""
    act: str = "correction"
    """An open word: explanation, correction, similar, new, rephrase, hint, probing, telling, strategy, template ..."""
    problem: Problem | None = None
    """The problem that `target` answers, when it is not the case's own."""
    claimed: str = ""
    """The answer that the teacher claims for a problem of its own."""
    prefix: str = ""
    """The learner's own right beginning, which `target` continues."""
    rejected: str = ""
    """What the target is preferred over; empty: nothing."""
    about: str = ""
    """What the lesson is about in the teacher's words (a diagnosed misconception); triage and reports go by it."""
    id: str = ""
    case: str = ""
    """Id of the case."""
    gold_seen: bool = False
    """Whether gold was handed out while this was written. Then a matching answer proves nothing."""
    own: bool = False
    """Whether the target is the learner's own graded words (`room.retry`)."""
    verdict: Verdict | None = None
    """Of the check; `verdict.by` names the evidence."""
    cost: Cost = field(default_factory=Cost)

    @property
    def sound(self) -> bool:
        return self.verdict is not None and self.verdict.right


@dataclass(frozen=True, kw_only=True)
class Example:
    """One training example.

    Example:
        Example(id="1/sub-0417/0", prompt=user("502-178"), completion="...\\n=324", rejected="...\\n=476",
                origin="lesson", lesson="1/sub-0417/0")
    """

    id: str
    prompt: Messages
    completion: str
    rejected: str = ""
    """The wrong answer of a pair; empty: the example is for SFT alone."""
    spans: tuple[tuple[int, int, float], ...] = ()
    """Characters of the completion (start, end) and their weight; elsewhere 1."""
    weight: float = 1.0
    origin: Origin = "lesson"
    """`lesson` new this round, `earlier` a lesson of an earlier round, `own` the learner's right answer, `gold`."""
    lesson: str = ""
    """Id of the lesson it came from."""
    problem: str = ""
    """Id of the practice problem whose case or attempt it came from."""
    task: str = ""


@dataclass(frozen=True, kw_only=True)
class Marked:
    """One answered and graded problem of a sealed pool: a row of an exam sheet."""

    problem: Problem
    attempt: Attempt
    verdict: Verdict
    skill: str = ""
