"""What a role answers to, wherever it lives: in this process, or in a Ray actor on a device of its own.

    server    answers as one member of the cast in a named state          (student, teacher, evaluator)
    learner   trains a member, and reads its own log-probabilities        (TRL, or a script)

A role is a plain class whose arguments and results pickle. A `Host` holds it and knows deadlines and deaths; the loop
cannot tell an in-process host from an actor. Every answer names its `State`. A server answers with a state only after
it has proven it, once per incarnation (`prove`): a replica that was restarted is a fresh object and must prove again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from ..evals.pools import Sealed
from ..evals.records import Finish, Messages, State
from ..evals.rows import Rows
from ..policies.records import Example, Json, Marked
from .faults import Fault


@dataclass(frozen=True, kw_only=True)
class Request:
    """One ask of a model."""

    messages: Messages
    prefix: str = ""
    """Beginning of the reply, given; the reply's text continues it and does not repeat it."""
    schema: str = ""
    """Name of the record that the reply must be JSON of; empty: free text."""
    sample: int = 0
    """Which of several answers to the same ask; seeds the sampling."""
    json_schema: str = ""
    """What JSON that is, for an engine that does not know the record by its name; as JSON."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    text: str
    """Why not, when `finish` is `error`."""
    finish: Finish = "stop"
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    """Of each emitted token, natural log; same length as `token_ids`, or empty where the engine has none."""
    tokens_in: int = 0
    tokens_out: int = 0
    metered: bool = True
    """Whether the provider said how many tokens; if not, none are counted."""
    model: str = ""
    """Who the provider says has answered."""
    fault: str = ""
    """When `finish` is `error` since no call came to an answer: the last one's kind of fault."""


@dataclass(frozen=True, kw_only=True)
class Canary:
    """A prompt and a completion whose token log-probabilities two processes compare."""

    messages: Messages
    completion: str


Readings = tuple[tuple[float, ...], ...]
"""For each canary, the log-probability of each completion token, the stop token included."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a server must reproduce before it may answer with a state. Stored with the run, so that a restarted
    replica proves itself against the same record.
    """

    state: State
    canaries: tuple[Canary, ...]
    """Rows of this round's training set: there the update must show."""
    before: Readings
    """The trainer's, in the state from which the training started."""
    after: Readings
    """The trainer's, in `state`."""
    noise: float
    """Largest difference, in nats, between trainer and server on the base, measured at the start of the run."""

    @property
    def effect(self) -> float:
        """Largest change of a token's log-probability by the update, in nats, as the trainer sees it."""
        return largest_difference(self.before, self.after)

    @property
    def tolerance(self) -> float:
        """How far apart two honest readings may be: ten times the noise, at least 1e-4 nats."""
        return max(10 * self.noise, 1e-4)


def largest_difference(a: Readings, b: Readings) -> float:
    """In nats; infinite where one of two readings is no number.

    >>> largest_difference(((-0.5, -1.0),), ((-0.5, -3.0),))
    2.0
    """
    apart = [abs(x - y) for r, s in zip(a, b, strict=True) for x, y in zip(r, s, strict=True)]
    return math.inf if any(map(math.isnan, apart)) else max(apart, default=0.0)


class PublishError(RuntimeError):
    """The server does not answer with the state that the trainer left. Nothing is published."""


class Diverged(FloatingPointError):
    """A training came to numbers that are none. It leaves no state."""


class Unproven(RuntimeError):
    """This incarnation of the server has not proven the state that it was asked to answer with."""


@dataclass(frozen=True, kw_only=True)
class Hello:
    """Who answers."""

    incarnation: str
    """Drawn anew whenever the role is built."""
    pid: int
    base: State
    """The state without any update."""


class Server(Protocol):
    """Answers as one member of the cast."""

    def hello(self) -> Hello: ...

    def read(self, state: State, canaries: Sequence[Canary]) -> Readings:
        """Log-probabilities of the completions under `state`, proven or not. Used to measure noise and to prove."""
        ...

    def prove(self, evidence: Evidence) -> float:
        """Load `evidence.state` under a name that is never reused, and show that it is that state.

        Compares the digest of the tensors, the sets of module names, and the log-probabilities on the canaries.

        Returns:
            The largest difference from the trainer's readings, in nats.

        Raises:
            PublishError: it is another state, saying which comparison failed; the server keeps what it had.
        """
        ...

    def generate(self, state: State, requests: Sequence[Request]) -> list[Reply]:
        """Answer a shard. The batch is the shard: another batch size could flip a token.

        Raises:
            Unproven: `prove` has not succeeded for `state` in this incarnation.
        """
        ...


@runtime_checkable
class Stepwise(Protocol):
    """A server that can hand out an answer token by token."""

    def stream(self, state: State, request: Request) -> Iterator[Reply]:
        """The answer to one request as far as it is, after each token; the last one is what `generate` gives for it
        alone. Its `finish` is `length` while it goes on. Between two tokens the server may do other things.

        Raises:
            Unproven: as `generate`.
        """
        ...


class Caller(Protocol):
    """Answers through calls of an API, many at once. One try is one call; what comes of it is the driver's business."""

    def hello(self) -> Hello: ...

    def prove(self, evidence: Evidence) -> float: ...

    def begin(self, calls: Sequence[tuple[int, Request]]) -> None:
        """Make these calls, each under a number; does not wait for them."""
        ...

    def ended(self, seconds: float) -> list[tuple[int, Reply | Fault]]:
        """What has come of calls that ended since one asked last, by their numbers.

        Waits until there is one, at most so long.
        """
        ...


class Examiner(Server, Protocol):
    """The evaluator: a student replica of its own, the graders, and the only key to the sealed pools."""

    def sit(self, pool: Sealed, shard: int, state: State) -> list[Marked]:
        """Let the student in `state` sit one shard of a sealed pool, and grade it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training."""

    loss: Literal["sft", "dpo"]
    start: State
    reference: State | None
    """DPO: the state that the loss compares with. SFT: `None`."""
    examples: Rows[Example]
    """In the order in which they are trained on; DPO uses those with a rejected answer."""
    name: str
    """Name of the state that comes out, without its digest, e.g. `student-r0003-sft`. Never reused within a run."""
    settings: Mapping[str, Json] = field(default_factory=dict)
    """Fields of `SFTConfig` or `DPOConfig` under their own names."""
    lora: Mapping[str, Json] = field(default_factory=dict)
    """Fields of `LoraConfig`."""
    rate: float = 1.0
    """Factor on the learning rate."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training left."""

    state: State
    first_loss: float = 0.0
    last_loss: float = 0.0
    steps: int = 0
    tokens: int = 0
    """Optimizer tokens: prompt and completion of all rows over all epochs."""
    notes: Mapping[str, Json] = field(default_factory=dict)
    """E.g. the change of the right answers' log-probability under DPO."""


class Learner(Protocol):
    """Trains one member; holds its own copy of the base."""

    def hello(self) -> Hello: ...

    def read(self, state: State, canaries: Sequence[Canary]) -> Readings: ...

    def train(self, job: Job) -> Trained:
        """Train, write the state's folder atomically to `states/<name>-<digest8>`, say what came out.

        Raises:
            ValueError: a setting that the library does not know, or that cannot be served afterwards.
        """
        ...


class RoleDied(RuntimeError):
    """The process that held a role is gone. Says the role, the cause, and the role's own traceback if it left one."""


class RoleHung(RuntimeError):
    """A role did not answer within its deadline."""


class RayDied(RuntimeError):
    """Ray itself is gone, and every role with it or soon. The run goes on with another Ray: the same command."""


class Host(Protocol):
    """Where a role lives."""

    name: str
    """E.g. `student/0`."""

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the role and wait, at most `deadline` seconds.

        Raises:
            RoleDied, RoleHung: the role is lost; `restart` makes a fresh one.
            Exception: what the role itself raised, with its own type and traceback text.
        """
        ...

    def restart(self) -> None:
        """End what is left of the role and build it anew: another incarnation."""
        ...

    def close(self) -> None: ...


Engine = Literal["transformers", "vllm", "scripted", "replay", "chat"]
WITH_MODEL = ("transformers", "vllm")
"""Engines that hold a model in a folder, of which chat template and weights can be looked at."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How hard a provider may be pressed, by all replicas together, and how often one asks again."""

    concurrency: int = 64
    """Calls in flight."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    """In and out. What a call will take is estimated beforehand and put right afterwards."""
    tries: int = 6
    """Calls for one ask, the first included."""


@dataclass(frozen=True, kw_only=True)
class RoleSpec:
    """How to build one role, and where. Plain values: it crosses process borders."""

    role: Literal["student", "teacher", "evaluator", "learner"]
    engine: Engine
    root: Path
    """The run folder."""
    model: str = ""
    """Path or hub name of the model; empty: the shipped student. For `scripted` students the profile's folder, for
    `replay` the file of answers, for `chat` the provider's name of it."""
    revision: str = ""
    dtype: str = "float32"
    max_tokens: int = 160
    """Of a reply."""
    temperature: float = 0.0
    threads: int = 1
    """CPU threads. One, so that a sum is added up in the same order on every machine of a kind."""
    gpus: float = 0.0
    """Of each replica: whole ones, or a part of one."""
    replicas: int = 1
    """How many there are of it."""
    workers: int = 1
    """Of a learner: processes that train side by side. If there are several, each has `gpus`, and the learner none."""
    deadline: float = 600.0
    """Seconds that a call may take."""
    seed: int = 0
    options: Mapping[str, Json] = field(default_factory=dict)
    """The engine's own: e.g. `error_rate` of the scripted teacher; generation settings of transformers."""
    url: str = ""
    """`chat`: of a server that speaks as OpenAI's does."""
    chat: str = ""
    """`chat`: import path of a LangChain chat model, in place of `url`; `options` are its arguments."""
    key: str = ""
    """`chat`: name of the environment variable that holds the provider's key."""
    records: Literal["schema", "prompt"] = "schema"
    """`chat`: how the model is told the form of a record that it fills: by the provider's own means, or in words."""
    limits: Limits = field(default_factory=Limits)
    """`chat`."""
    publish: Literal["adapter", "merged"] = "adapter"
    """vLLM: whether a state is an adapter in the running engine, or a whole model in the place of the one before."""
    python: str = ""
    """On Ray: the interpreter of the role's process, of an environment of its own; empty: the driver's."""

    @property
    def calls(self) -> bool:
        """Whether it is a `Caller`: asked at once, through `calling.py`, and not in a wave."""
        return self.engine == "chat"

    @property
    def own_gpus(self) -> float:
        """Of each replica's own process."""
        return self.gpus if self.workers == 1 else 0.0

    @property
    def names(self) -> Sequence[str]:
        """Of the replicas: `student/0`, `student/1`."""
        return [f"{self.role}/{i}" for i in range(self.replicas)]
