"""What every engine that holds a model does the same way: who may answer, after which proof, and what fits.

    TransformersServer    `transformers_server.py`
    VllmServer            `vllm_server.py`

A state's adapter is loaded by `prove`, under a name of its own, and only a proven state answers. The last few that were
used stay loaded; an older one that is asked for again is loaded and proven anew, with the evidence of the first time.

Not covered: engines without weights of their own (scripted, recorded, or behind somebody's API).
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from math import isfinite
from typing import Any
from uuid import uuid4

from ..evals.records import Finish, State
from .base import Base
from .decoding import decoder
from .roles import (
    Canary,
    Evidence,
    Hello,
    PublishError,
    Readings,
    Reply,
    Request,
    RoleSpec,
    Unproven,
    largest_difference,
)
from .weights import adapter_digest

KEPT = 3
"""Adapters that stay loaded: the serving one, this round's after SFT, and after DPO."""

Said = tuple[list[int], list[float]]
"""Emitted token ids, and the log-probability of each."""


class ModelServer(ABC):
    """A `Server` but for what its engine does."""

    kept = KEPT

    def __init__(self, spec: RoleSpec, decoding: Mapping[str, Any]) -> None:
        self.base = Base(spec)
        self.decoder = decoder({"temperature": spec.temperature, **decoding})
        self.names: dict[str, str] = {}  # digest of what is loaded -> its name in the engine; the last used one last
        self.proven: dict[str, Evidence] = {}  # by digest; loaded or not
        self._hello = Hello(incarnation=uuid4().hex, pid=os.getpid(), base=self.base.state)

    def hello(self) -> Hello:
        return self._hello

    def read(self, state: State, canaries: Sequence[Canary]) -> Readings:
        if not self.holds(state):
            self.load(state)
        return self.readings(state, canaries)

    def prove(self, evidence: Evidence) -> float:
        state = evidence.state
        try:
            self._same_digest(state)
            if not self.holds(state) or (state.weights and state.digest not in self.proven):
                self.load(state)
            if state.weights:
                self.same_tensors(state)
            difference = compare(evidence, self.read(state, evidence.canaries))
        except PublishError:
            self.unload(state.digest)
            self.proven.pop(state.digest, None)
            raise
        self.proven[state.digest] = evidence
        for digest in list(self.names)[: -self.kept]:
            self.unload(digest)
        return difference

    def generate(self, state: State, requests: Sequence[Request]) -> list[Reply]:
        self.current(state)
        prompts, fits, settings, limit = self.begun(state, requests)
        replies = [Reply(text="", finish="error", tokens_in=len(prompt)) for prompt in prompts]
        if not fits:
            return replies
        said = self.answers(state, [requests[i] for i in fits], [prompts[i] for i in fits], settings, limit)
        for i, (ids, logprobs) in zip(fits, said, strict=True):
            replies[i] = self.reply(len(prompts[i]), ids, logprobs)
        return replies

    def current(self, state: State) -> None:
        """See to it that a state is proven, and loaded."""
        evidence = self.proven.get(state.digest)
        if evidence is None:
            raise Unproven(
                f"{state.name} ({state.digest[:12]}) is not proven in incarnation {self._hello.incarnation[:8]} "
                f"of the {self.base.spec.role}. Call `prove` with its evidence first."
            )
        if not self.holds(state):
            self.prove(evidence)  # it was unloaded meanwhile; what lies on disk may have changed

    def begun(
        self, state: State, requests: Sequence[Request]
    ) -> tuple[list[list[int]], list[int], dict[str, float], int]:
        """Prompts, the places of those that fit into the context, how to decode, and how many tokens there may be."""
        settings = decoder({**self.decoder, **state.decoder})
        prompts = [self.base.chat.prompt(r.messages, r.prefix) for r in requests]
        fits = [i for i, prompt in enumerate(prompts) if len(prompt) < self.window]
        limit = int(settings.get("max_new_tokens", self.base.spec.max_tokens))
        return prompts, fits, settings, min(limit, self.window - max((len(prompts[i]) for i in fits), default=0))

    def reply(self, tokens_in: int, ids: list[int], logprobs: list[float]) -> Reply:
        finish: Finish = "stop" if ids and ids[-1] in self.base.chat.stops else "length"
        return Reply(
            text=self.base.chat.text(ids),
            finish=finish,
            token_ids=tuple(ids),
            logprobs=tuple(logprobs),
            tokens_in=tokens_in,
            tokens_out=len(ids),
        )

    def _same_digest(self, state: State) -> None:
        """The base, and the tensors on disk, are those that the state names."""
        if not state.weights:
            here = self.base.state.digest
        else:
            try:
                here = adapter_digest(self.base.weights(state), self.base.state.digest)
            except ValueError as e:
                raise PublishError(f"{state.name}: {e}") from e
        if here != state.digest:
            where = self.base.weights(state) if state.weights else self.base.folder
            raise PublishError(
                f"{state.name} has digest {state.digest[:12]}, but what lies in {where} has {here[:12]}: "
                "it was changed after the training, or belongs to another base."
            )

    # ---- what an engine does

    @property
    @abstractmethod
    def window(self) -> int:
        """Tokens of prompt and answer together."""

    def holds(self, state: State) -> bool:
        """Whether the state's weights are loaded."""
        return not state.weights or state.digest in self.names

    @abstractmethod
    def load(self, state: State) -> None:
        """Load the state's weights afresh, in the place of what is loaded of it.

        Raises:
            PublishError: the engine does not take them. It serves what it served before.
        """

    @abstractmethod
    def unload(self, digest: str) -> None:
        """Forget a state's weights, if they are loaded."""

    @abstractmethod
    def same_tensors(self, state: State) -> None:
        """What is in memory is what is on disk: as many modules, and the same numbers.

        Raises:
            PublishError: it is not.
        """

    @abstractmethod
    def readings(self, state: State, canaries: Sequence[Canary]) -> Readings:
        """See `Server.read`; the state is loaded."""

    @abstractmethod
    def answers(
        self,
        state: State,
        requests: Sequence[Request],
        prompts: Sequence[list[int]],
        settings: Mapping[str, float],
        limit: int,
    ) -> list[Said]:
        """Answer prompts that fit, with at most `limit` tokens each, the stop token included."""


def seed_of(seed: int, request: Request) -> int:
    """Of a request's sampling: by run seed, sample and messages, so its place in the batch does not count."""
    asked = "\x1e".join(f"{t.role}\x1f{t.content}" for t in request.messages)
    key = hashlib.sha256(f"{seed}\0{request.sample}\0{asked}\0{request.prefix}".encode()).digest()
    return int.from_bytes(key[:8], "little") >> 1


def taken(name: str, names: Mapping[str, str]) -> None:
    """
    Raises:
        PublishError: another adapter is loaded under this name.
    """
    if name in names.values():
        raise PublishError(f"the name {name} is taken by another adapter; a state's name is never reused.")


def same_modules(name: str, here: Set[str], there: Set[str]) -> None:
    """
    Args:
        here: Modules of the base on which the adapter's config puts matrices.
        there: Those that its file has tensors for.

    Raises:
        PublishError: they are not the same.
    """
    if here != there:
        lacking, extra = sorted(here - there), sorted(there - here)
        raise PublishError(
            f"{name}: its config puts adapters on {len(here)} modules of this base, its file has {len(there)}"
            + (f"; without tensors: {', '.join(lacking[:3])}" if lacking else "")
            + (f"; unexpected: {', '.join(extra[:3])}" if extra else "")
            + ". A missing module is filled with one that does nothing, without a word."
        )


def adapted(net: Any, name: str) -> set[str]:
    """Modules of a model on which PEFT has put the adapter of this name."""
    return {
        path
        for path, module in net.named_modules()
        if name in getattr(module, "lora_A", ()) or name in getattr(module, "lora_embedding_A", ())
    }


def compare(evidence: Evidence, readings: Readings) -> float:
    """Whether the server's readings are the trainer's; the largest difference in nats.

    Raises:
        PublishError: they are not; says whether they look like the state from which the training started.
    """
    name, tolerance = evidence.state.name, evidence.tolerance
    if not all(isfinite(x) for row in (*readings, *evidence.after) for x in row):
        raise PublishError(f"{name}: a log-probability is not a finite number; the training diverged.")
    try:
        difference = largest_difference(readings, evidence.after)
        moved = largest_difference(readings, evidence.before)
    except ValueError as e:
        raise PublishError(f"{name}: server and trainer split the canaries into other tokens.") from e
    if difference > tolerance:
        stale = "; it reads like the state before the training" if moved <= tolerance < evidence.effect else ""
        raise PublishError(
            f"{name}: the server's log-probabilities differ from the trainer's by {difference:.2e} nats, more than "
            f"{tolerance:.1e}{stale}."
        )
    if evidence.effect > tolerance >= moved:
        raise PublishError(
            f"{name}: the trainer sees an effect of {evidence.effect:.2e} nats, the server only {moved:.2e}."
        )
    return difference
