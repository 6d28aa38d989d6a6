"""The schedule as data: `Rounds` says it, `Plan` is one round of it, `RoundReport` is what came out.

`next_round` is pure: from the method and the reports so far it makes the next plan, or `None` when there is none.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..evals.records import State
from ..evals.rows import Rows
from ..evals.statistics import Interval, Transitions
from .records import Case, Cost, Example, Json, Lesson, Marked, Price

Start = Literal["previous", "base", "best"] | str
Reference = Literal["sft", "start", "base"] | str


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a run may spend. `None`: no limit. A spent budget leaves the round open; a larger one finishes it."""

    teacher_tokens: int | None = None
    """In and out, scoring included."""
    teacher_calls: int | None = None
    """Those that came to no answer too: they were made, and a provider may bill them."""
    teacher_dollars: float | None = None
    """At `price`."""
    price: Price | None = None
    """`None`: what a token costs is not known."""


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How often, on how much, from where. Every choice that the published scripts leave implicit."""

    times: int = 5
    ask: int | None = None
    """Practice problems put to the learner in a round; `None`: all of them."""
    rows: int = 500
    """Examples trained on in every round: fewer errors must not mean smaller rounds (they do damage)."""
    fill: Mapping[str, float] = field(default_factory=lambda: {"earlier": 0.5, "own": 0.5})
    """With what the round is filled up to `rows`, by share: `earlier` lessons and `own` right answers."""
    new: float = 0.6
    """At most this share of `rows` is new lessons; the rest is rehearsal, or the new undoes the old."""
    start: Start = "previous"
    """Where training starts: `previous` (what serves now), `base`, `best` (of the quiz), or a round's number."""
    reference: Reference = "sft"
    """What DPO compares with: `sft` (what this round's SFT left), `start`, `base`, or a round's number."""
    decay: float = 1.0
    """Factor on the learning rates from round to round."""
    patience: int | None = None
    """Stop after this many rolled-back rounds in a row; `None`: never."""
    gate: float | None = 0.05
    """Level of the one-sided exact McNemar test on the quiz below which a round is rolled back; `None`: never."""
    settings: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    """Fields of the libraries under their own names: `sft` (SFTConfig), `dpo` (DPOConfig), `lora` (LoraConfig)."""

    def __post_init__(self) -> None:
        if self.times < 0:
            raise ValueError(f"`times` must not be negative, got {self.times}")
        for name in ("ask", "rows", "patience"):
            if (n := getattr(self, name)) is not None and n < 1:
                raise ValueError(f"`{name}` must be at least 1, got {n}")
        if not 0 < self.new <= 1:
            raise ValueError(f"`new` is a share above 0 and at most 1, got {self.new}")
        if not 0 < self.decay < math.inf:
            raise ValueError(f"`decay` is a factor above 0, got {self.decay}")
        if self.gate is not None and not 0 < self.gate < 1:
            raise ValueError(f"`gate` is a level between 0 and 1, got {self.gate}")
        for name, words in (("start", ("previous", "base", "best")), ("reference", ("sft", "start", "base"))):
            value = str(getattr(self, name))
            if value not in words and not value.isdigit():
                raise ValueError(f"`{name}` is {', '.join(words)} or the number of a round, got {value!r}")
            object.__setattr__(self, name, value)  # YAML reads a round's number as a number
        if unknown := set(self.fill) - {"earlier", "own"}:
            raise ValueError(f"`fill` takes `earlier` and `own`, got {sorted(unknown)}")
        if wrong := {name: share for name, share in self.fill.items() if not 0 <= share < math.inf}:
            raise ValueError(f"`fill` is shares of at least 0, got {wrong}")

    def words(self) -> str:
        """The schedule in words, for `tutorloop plan`."""
        asked = "every practice problem" if self.ask is None else f"{self.ask} practice problems"
        fill = " and ".join(f"{share:.0%} {name}" for name, share in self.fill.items())
        gate = "never rolled back" if self.gate is None else f"rolled back on a significant drop (p < {self.gate:g})"
        start = f"round {self.start}" if self.start.isdigit() else f"the {self.start} state"
        return (
            f"{self.times} rounds. Each asks {asked}, trains on {self.rows} examples (at most {self.new:.0%} new "
            f"lessons, the rest {fill}), starts from {start}, DPO compares with `{self.reference}`; "
            f"learning rates x {self.decay:g} a round; {gate}."
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One round, resolved. Holds nothing that may grow (how many rounds there will be, what they may cost)."""

    stage: int
    number: int
    """From 1, over all stages."""
    learner: str
    start: State
    reference: State | None
    """`None`: what this round's SFT leaves."""
    serving: Mapping[str, State]
    """What each member of the cast serves while this round is prepared."""
    ask: int | None
    rows: int
    fill: Mapping[str, float]
    new: float
    gate: float | None
    rate: float
    """Factor on the learning rates."""
    settings: Mapping[str, Mapping[str, Json]]
    seed: int

    def key(self, verb: str) -> str:
        """Name of a step of this round, e.g. `3/teach`."""
        return f"{self.number}/{verb}"

    def serves(self, state: State) -> dict[str, State]:
        """The cast with `state` in the learner's place."""
        return {**self.serving, self.learner: state}


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A sat pool. Every accuracy carries its n, interval and unreadable share."""

    pool: str
    state: str
    """Digest of the student's state."""
    n: int
    right: int
    truncated: int
    unparsed: int
    skills: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Right and n by skill, where the gold knows it."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """How many are right by another rule than ours, by its name (`evals/harness.py`); empty: there is none."""
    rows: Rows[Marked] = field(repr=False)

    @property
    def accuracy(self) -> float:
        return self.right / self.n if self.n else 0.0

    @property
    def interval(self) -> Interval:
        """Wilson, 95 %."""
        from ..evals.statistics import wilson

        return wilson(self.right, self.n)

    @property
    def marks(self) -> Mapping[str, bool]:
        """Whether each problem was answered right, by its id. Reads the rows."""
        return {row.problem.id: row.verdict.right for row in self.rows}


@dataclass(frozen=True, kw_only=True)
class Proof:
    """That the serving engine answers with the state that the trainer left (design of `agents/cast.py`)."""

    status: Literal["published", "effect below noise", "unchanged"]
    state: State
    noise: float = 0.0
    """Largest difference between trainer's and engine's log-probabilities of a canary's tokens, in nats."""
    effect: float = 0.0
    """Largest change of the trainer's own log-probabilities by the update, in nats."""
    canaries: str = ""
    """File of the canaries and the trainer's readings, relative to the run folder: a restarted replica proves by it."""


@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """What a round did. Round 0 is the cast before any teaching."""

    number: int
    stage: int = 0
    quiz: Sheet
    candidate: State
    """What the update left, kept or not."""
    serving: Mapping[str, State]
    """What each member of the cast serves from here on."""
    kept: bool = True
    why: str = "before teaching"
    p_drop: float | None = None
    """One-sided exact McNemar p of a drop against the best kept so far."""
    smallest_drop: float | None = None
    """The smallest drop in accuracy that the gate could have seen."""
    transitions: Transitions | None = None
    """Of the quiz, against the state that served before."""
    proof: Proof | None = None
    tables: "Tables | None" = None
    """`None` in round 0."""
    accepted: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Why lessons were not accepted, and how many."""
    origins: Mapping[str, int] = field(default_factory=dict)
    """Examples by where they came from."""
    cost: Cost = field(default_factory=Cost)
    """What was asked of the teacher."""
    notes: Mapping[str, Json] = field(default_factory=dict)

    @property
    def practice(self) -> "PracticeReport":
        return PracticeReport(
            number=self.number,
            kept=self.kept,
            cases=len(self.tables.cases) if self.tables else 0,
            lessons=len(self.tables.lessons) if self.tables else 0,
            accepted=self.accepted,
            notes=self.notes,
        )


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What a round worked on and made."""

    answered: Rows[Case] = field(repr=False)
    """Every problem that was asked, graded, with the verifier's verdicts."""
    cases: Rows[Case] = field(repr=False)
    """Those that the teacher saw, in triage's order."""
    lessons: Rows[Lesson] = field(repr=False)
    """Checked, the unsound ones too."""
    examples: Rows[Example] = field(repr=False)
    """What was trained on, in that order."""


@dataclass(frozen=True, kw_only=True)
class PracticeReport:
    """The side of a round that a policy may read: nothing of quiz or exam."""

    number: int
    kept: bool
    cases: int
    lessons: int
    accepted: int
    notes: Mapping[str, Json]


Reports = Sequence[RoundReport]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run came to."""

    before: Mapping[str, Sheet]
    """Exam, probe and retention before any teaching, by pool."""
    after: Mapping[str, Sheet] | None = None
    """The same after the last round; `None` while a round is open."""
    rounds: Reports
    status: Literal["finished", "stopped"] = "finished"
    why: str = ""
