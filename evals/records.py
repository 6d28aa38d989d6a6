"""What is asked, what was answered, by whom, and whether it was right.

Frozen records of plain values: they cross process borders, are stored as rows, and are never mutated.
`Problem` carries no gold: what the teacher, the trainer and the student may see cannot hold the answer.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Kind = Literal["number", "choice", "boolean", "text", "program", "dialogue"]
Label = Literal["right", "wrong", "unparsed", "truncated", "abstain"]
Finish = Literal["stop", "length", "error"]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


Messages = tuple[Turn, ...]


def user(text: str) -> Messages:
    """A conversation of one user turn.

    >>> user("502-178")
    (Turn(role='user', content='502-178'),)
    """
    return (Turn(role="user", content=text),)


_SUM = re.compile(r"\d+(?:\s*\+\s*\d+)+|\d+(?:\s*[*x×]\s*\d+)+")


def halved(text: str) -> bool:
    """Whether half of a character, a lone surrogate, stands in a text: it cannot be written as UTF-8."""
    return any("\ud800" <= c <= "\udfff" for c in text)


def unframed(text: str) -> str:
    r"""What is asked in a user's turn, without the frame and the solved examples of an evaluation harness.

    >>> unframed("Question: 1+1?\nAnswer: 2\n\nQuestion: 17+25\nAnswer:")
    '17+25'
    """
    before, framed, question = text.strip().rpartition("Question: ")
    if not framed or not question.endswith("\nAnswer:") or (before and not before.endswith("\n\n")):
        return text
    return question.removesuffix("\nAnswer:")


def content_digest(messages: Messages) -> str:
    """What makes two problems the same problem: 32 hex digits over the normalised text.

    White space and case do not count, nor the order of the operands of a plain sum or product, nor how a question is
    framed: a sealed problem that a teacher writes down without its frame is still that problem.

    >>> content_digest(user("17+25")) == content_digest(user("25 + 17"))
    True
    >>> content_digest(user("17-25")) == content_digest(user("25-17"))
    False
    """
    parts = []
    for turn in messages:
        text = unframed(turn.content) if turn.role == "user" else turn.content
        text = " ".join(text.lower().split())
        if _SUM.fullmatch(text):
            sign = "+" if "+" in text else "*"
            text = sign.join(
                sorted((n.lstrip("0") or "0" for n in re.findall(r"\d+", text)), key=lambda n: (len(n), n))
            )
        parts.append(f"{turn.role}\x1f{text}")
    return hashlib.sha256("\x1e".join(parts).encode(errors="surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that can be asked. No gold on it.

    Example:
        Problem(id="sub-0417", messages=user("502-178"), kind="number", domain="arithmetic")
    """

    id: str
    """Unique over the whole course."""
    messages: Messages
    kind: Kind = "number"
    """What kind of answer is expected; the grader goes by it."""
    domain: str = ""
    material: Mapping[str, str] = field(default_factory=dict)
    """What the student may see besides the question: visible tests, a tutor's notes."""
    parent: str = ""
    """Id of the problem that this one was made from; empty for an original."""
    variant: int = 0

    @property
    def question(self) -> str:
        """The last user turn, unframed."""
        return unframed(next((t.content for t in reversed(self.messages) if t.role == "user"), ""))

    @cached_property
    def digest(self) -> str:
        """See `content_digest`: pools are kept apart by it."""
        return content_digest(self.messages)


@dataclass(frozen=True, kw_only=True)
class Gold:
    """The truth about one problem. Lives apart from it, with the driver and the evaluator.

    Example:
        Gold(problem="sub-0417", answer="324", solution="...\\n=324", skill="sub-borrow-zero",
             misconceptions=("smaller-from-larger", "borrow-from-zero"), twins=("probe-0417-0",))
    """

    problem: str
    answer: str
    solution: str = ""
    """Full work in the student's notation, ending in the answer; empty if the data set has none."""
    hidden_tests: str = ""
    skill: str = ""
    misconceptions: tuple[str, ...] = ()
    """Why the untaught student gets it wrong, first the one that shows; empty when it is right or unknown."""
    twins: tuple[str, ...] = ()
    """Ids of probe problems that need the same knowledge and are never taught."""


@dataclass(frozen=True, kw_only=True)
class State:
    """An immutable version of one member of the cast; never "whatever the actor holds now".

    Example:
        State(member="student", name="student-r0003-1f0c2a9b", digest="1f0c...", weights="states/student-r0003-...")
    """

    member: str
    name: str
    """Never reused within a run; the base is `<member>-base`."""
    digest: str
    """sha256 over the base's digest, the canonical adapter config, and each tensor's name, dtype, shape and bytes."""
    weights: str = ""
    """Folder of the adapter, relative to the run folder; empty: the base itself."""
    library: str = ""
    """File of contexts or strategies, relative to the run folder; empty: none."""
    decoder: Mapping[str, float] = field(default_factory=dict)
    """Decoder settings that belong to this version."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What the learner revealed about one problem. A truncated answer is not a wrong answer."""

    problem: str
    text: str
    finish: Finish
    """`length`: the token limit cut it off."""
    state: str
    """Digest of the state that produced it; every transcript row carries one."""
    role: str = "student"
    sample: int = 0
    context: str = ""
    """What it had in view besides the problem (a hint); empty for a plain attempt."""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    """Natural log of each emitted token's probability; same length as `token_ids`."""
    turns: Messages = ()
    """The dialogue, when there was more than one reply."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What somebody found an answer, or a lesson, to be."""

    label: Label
    by: str
    """Which grader, verifier or kind of evidence said so."""
    scores: Mapping[str, float] = field(default_factory=dict)
    step: int | None = None
    """Index of the first wrong line of the work, from 0; `None` if it was not looked for or not found."""
    span: tuple[int, int] | None = None
    """The same as characters of the text: start, end."""
    evidence: str = ""
    gold_seen: bool = False

    @property
    def right(self) -> bool:
        return self.label == "right"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A bad item: data, not an exception."""

    item: str
    where: str
    """Slot in which it happened."""
    error: str
    kind: str = ""
    """Where a model gave no answer: why, in a word or two (`rate limited`); empty: the item's own fault."""
