"""What a slot may reach: the room, the models in it, and what the room needs of the journal. Protocols only.

The room that is handed out lives in `agents/room.py`. It never leads to a sealed problem.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar

from ..evals.records import Attempt, Gold, Messages, Problem, State, Verdict
from .records import Case, Cost, Example, Json, Lesson
from .rounds import Plan, PracticeReport

T = TypeVar("T")


class Model(Protocol):
    """A member of the cast in one state; library, decoder and chat template already applied.

    The blocking calls are for a plain `def` policy, which runs in a thread of its own; called on the event loop
    they raise. An `async def` policy awaits the same under the name with an `a` before it.
    """

    @property
    def state(self) -> State: ...

    def ask(self, prompt: str | Messages, *, prefix: str = "", sample: int | None = None, fresh: bool = False) -> str:
        """Put one prompt to the model, get its reply. Journalled; asked again in a later round, it is not paid again.

        Args:
            prefix: Beginning of the reply, given; the returned text continues it.
            sample: Which of several answers to the same prompt; `None`: the next one that this case has not had.
            fresh: Ask anew even if an earlier round has the answer.

        Returns:
            The reply; empty if the model has nothing to say (the scripted teacher abstains so).
        """
        ...

    def fill(self, prompt: str | Messages, schema: type[T], *, sample: int | None = None) -> T:
        """The reply as a record of type `schema`.

        Raises:
            ValueError: the reply does not fit the schema.
        """
        ...

    def attempt(self, problem: Problem, *, context: str = "", prefix: str = "", sample: int | None = None) -> Attempt:
        """Let the model work on a problem; `context` is appended to the last user turn, on a line of its own."""
        ...

    async def aask(
        self, prompt: str | Messages, *, prefix: str = "", sample: int | None = None, fresh: bool = False
    ) -> str: ...
    async def afill(self, prompt: str | Messages, schema: type[T], *, sample: int | None = None) -> T: ...
    async def aattempt(
        self, problem: Problem, *, context: str = "", prefix: str = "", sample: int | None = None
    ) -> Attempt: ...


def free_tries(problem: Problem) -> int:
    """How many graded tries leave the answer untold. With two options one wrong guess tells; with numbers the third
    grade says more than work does.
    """
    return 1 if problem.kind in ("choice", "boolean") else 2


class Room(Protocol):
    """All that a slot may reach. No sealed problem, ever."""

    @property
    def plan(self) -> Plan: ...
    @property
    def rng(self) -> Random:
        """Seeded by run, round, slot and item: the same on every resume."""
        ...

    @property
    def history(self) -> Sequence[PracticeReport]:
        """The practice side of the rounds before this one, oldest first."""
        ...

    @property
    def practice(self) -> Sequence[Problem]: ...
    @property
    def cases(self) -> Sequence[Case]:
        """The whole round, taught or not."""
        ...

    def case(self, lesson: Lesson) -> Case:
        """The case that a lesson is about."""
        ...

    @property
    def cast(self) -> Mapping[str, Model]:
        """Every member of the cast by name: teacher, student, judge ..."""
        ...

    @property
    def learner(self) -> Model:
        """Who attempts and is trained in this stage."""
        ...

    @property
    def teacher(self) -> Model: ...

    def retry(self, what: Problem | Case, *, context: str = "", prefix: str = "", who: str = "") -> Case:
        """Let the learner (or the member `who`) try again with `context` in view; graded.

        A right answer in the learner's own words may be learnt (evidence `own`), for the problem as it stands: the
        trained prompt holds neither `context` nor `prefix`. Words are its own if they were begun, if by anything, as it
        had begun by itself, and are not what `context` told it (`agents/own_words.py`).

        Args:
            what: A practice problem, or its case. A problem that somebody wrote is answered and not graded.
            context: Appended to the last user turn, on a line of its own.
            prefix: Beginning of the answer. What comes back is how it goes on; a lesson takes both, as `Lesson.prefix`
                and `Lesson.target`.

        Returns:
            The case with the new attempt and its grade in place of the old ones; `brief` is the context. After more
            graded tries than `free_tries`, whoever made them, the answer has leaked: it comes back with `gold_seen`.
        """
        ...

    async def aretry(self, what: Problem | Case, *, context: str = "", prefix: str = "", who: str = "") -> Case: ...

    def grade(self, what: Problem | Case, text: str) -> Verdict:
        """Grade a text as an answer to a practice problem. Counted like a try of `retry`.

        Raises:
            LookupError: it is not a practice problem of the course, unchanged.
        """
        ...

    def gold(self, what: Problem | Case) -> Gold:
        """The truth about a practice problem. Marks what this policy writes from here on as `gold_seen`."""
        ...

    def sealed(self, problem: Problem) -> str:
        """Name of the sealed pool that holds a problem of this content; empty if none. For who writes problems."""
        ...

    def note(self, key: str, value: Json) -> None:
        """Read later as `history[-1].notes[key]`."""
        ...


class Trainer(Room, Protocol):
    """The room of the `update` slot: it can train."""

    def train(self, examples: Sequence[Example], loss: str, *, start: State, reference: State | None = None) -> State:
        """One durable training of the learner: from `start`, on `examples` in their order.

        Args:
            loss: `sft` or `dpo`.
            reference: For `dpo`, the state whose log-probabilities the loss compares with.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Recalled:
    """A reply from the journal."""

    reply: str
    """As JSON."""
    step: str
    """In which it was paid."""
    item: str
    """For which item it was paid."""


class Asked(NamedTuple):
    """An ask on record."""

    member: str
    """Who is asked."""
    item: str
    """For which item."""
    request: str
    """As JSON."""


class Tried(NamedTuple):
    """A call that came to no answer, on record."""

    kind: str
    """Of the fault."""
    why: str
    tokens_in: int
    """As far as the provider said."""
    tokens_out: int


class NoAnswer(ValueError):
    """A model gave no answer, after all tries that it was worth. A policy may catch it; else it costs its case."""

    def __init__(self, message: str, kind: str = "unknown") -> None:
        super().__init__(message)
        self.kind = kind
        """`rate limited`, `timeout`, `refused` ...: docs/teachers.md."""


NOTHING: Mapping[str, Any] = MappingProxyType({})


class Ledger(Protocol):
    """What the room needs of the journal. Calls of an API write to it from a thread of their own."""

    def recall(self, key: str) -> Recalled | None:
        """The recorded reply to the ask with this key, of this step or an earlier one."""
        ...

    def record(
        self,
        step: str,
        *,
        asking: Mapping[str, Asked] = NOTHING,
        tried: Sequence[tuple[str, Tried]] = (),
        replies: Mapping[str, tuple[str, Cost]] = NOTHING,
        reused: Sequence[tuple[str, str, str]] = (),
    ) -> None:
        """All in one durable write.

        Args:
            asking: Asks that are about to be made, by key. What is asked again after a call that came to no answer is
                on record as asking once more.
            tried: Calls that came to no answer, by key.
            replies: By key: the reply as JSON, and what it cost.
            reused: Asks (key, member, item) that were answered by what another step or item had asked.
        """
        ...

    def spent(self, step: str = "", member: str = "teacher") -> Cost:
        """What asking this member has cost in the steps whose name begins so."""
        ...

    def faults(self, step: str = "", member: str = "teacher") -> Mapping[str, int]:
        """How many calls of this member came to no answer, by kind of fault, in the steps as in `spent`."""
        ...

    def note(self, step: str, notes: Mapping[str, Json]) -> None:
        """Keep what a slot noted, with its step."""
        ...
