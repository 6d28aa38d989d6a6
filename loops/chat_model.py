"""A student of a run as a LangChain chat model: any round of any run.

    student = tutorloop.StudentChatModel(run="runs/arithmetic", round=3)
    student.invoke("502-178").text
    for piece in student.stream("502-178"): ...

What LangChain makes of a chat model (`batch`, `ainvoke`, chains, callbacks, caches, meters) goes on top of this. The
model is loaded, and proves that it is the student of that round, when the first question is put (`standing.py`).

Not covered: tools, structured output, anything but text; `batch` in one forward pass (questions are answered one after
another, whatever the number of threads, so an answer does not depend on what else is asked); two models of one run hold
their base twice; an engine that has no steps, as the scripted one, hands out its answer in one piece.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict, Field, PrivateAttr, ValidationError

from ..agents.cast import unread_system
from ..agents.chat import Chat
from ..agents.models import find_model
from ..agents.roles import Reply, Request, Stepwise
from ..evals.records import Messages, State, Turn
from .config import ConfigError
from .standing import Standing, standing

log = logging.getLogger(__name__)

ASKED = ("temperature", "max_tokens", "seed")
"""What may be set for the model and, again, for a single call; `stop` too, which LangChain passes by itself."""


class StudentChatModel(BaseChatModel):
    """The student of a run as it stood after a round.

    `response_metadata` of an answer has `model_name` (name and digest of the state), `state` (its whole sha256) and
    `finish_reason` (`stop`, or `length`: it was cut off).

    Raises:
        ConfigError: when it is made: there is no such round, or an option that the student has not; at the first
            question: what lies in the run folder is not what was trained.
        JournalError: there is no run in that folder, or it is damaged.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    run: str | Path
    """Folder of a run, a fork, or what was taught on top of one. It is only read."""
    round: int | None = Field(default=None, ge=0)
    """What this round's update left, kept or not; 0 is the student before any teaching. `None`: what serves after the
    last round."""
    temperature: float | None = Field(default=None, ge=0)
    """`None`: the run's, as all other settings of how the student answers. Above 0 an answer is drawn."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Of an answer; `None`: the run's."""
    seed: int | None = None
    """Which of the answers that may be drawn: the same seed and question, the same answer. `None`: 0."""
    stop: list[str] | None = None
    """An answer ends before the first of these texts."""
    streaming: bool = False
    """Whether `invoke` streams to callbacks."""

    _standing: Standing = PrivateAttr()
    _server: Any = PrivateAttr(default=None)
    _turn: Any = PrivateAttr(default_factory=Lock)
    """One step at a time: a chain asks from many threads."""
    _minded: bool = PrivateAttr(default=False)

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as e:
            wrong = e.errors()[0]
            name = ".".join(map(str, wrong["loc"]))
            takes = ", ".join(("run", "round", *ASKED, "stop"))
            raise ConfigError(f"`{name}` of a student: {wrong['msg']}. It takes {takes}.") from None
        self._standing = standing(Path(self.run), self.round)
        if self._standing.note:
            log.warning("warning: %s", self._standing.note)
        self._refuse_idle({name: getattr(self, name) for name in ASKED})

    # ---- who answers

    @property
    def model_name(self) -> str:
        """Name and digest of the state: the name alone is unique within a run only."""
        state = self._standing.state
        return f"{state.name}@{state.digest[:12]}"

    @property
    def _llm_type(self) -> str:
        return "tutorloop-student"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        """All that an answer depends on; a cache goes by it."""
        spec = self._standing.spec
        told = {"temperature": spec.temperature, "max_tokens": spec.max_tokens, "seed": 0, "run_seed": spec.seed}
        told |= {name: value for name in ASKED if (value := getattr(self, name)) is not None}
        return {"model_name": self.model_name, "options": dict(spec.options), "stop": self.stop, **told}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return {**super()._get_ls_params(stop=stop, **kwargs), "ls_provider": "tutorloop"}

    def get_token_ids(self, text: str) -> list[int]:
        """By the student's own tokenizer: LangChain would fetch one of another model.

        Raises:
            NotImplementedError: a scripted student has none.
        """
        spec = self._standing.spec
        if spec.engine == "scripted":
            raise NotImplementedError("a scripted student has no tokenizer")
        return Chat.of(find_model(spec.model, spec.revision)).encode(text)

    # ---- LangChain asks

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        pieces, reply = list[str](), None
        for piece, reply in self._pieces(messages, stop, kwargs):  # noqa: B007
            pieces.append(piece)
        assert reply is not None, "of the last piece"
        message = AIMessage(
            content="".join(pieces), usage_metadata=_usage(reply), response_metadata=self._metadata(reply)
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for piece, reply in self._pieces(messages, stop, kwargs):
            chunk = AIMessageChunk(content=piece)
            if reply is not None:
                chunk.usage_metadata = _usage(reply)
                chunk.response_metadata = self._metadata(reply)
                chunk.chunk_position = "last"
            yield ChatGenerationChunk(message=chunk)

    def _metadata(self, reply: Reply) -> dict[str, Any]:
        return {"model_name": self.model_name, "state": self._standing.state.digest, "finish_reason": reply.finish}

    # ---- the student answers

    def _pieces(
        self, messages: Sequence[BaseMessage], stop: Sequence[str] | None, given: Mapping[str, Any]
    ) -> Iterator[tuple[str, Reply | None]]:
        """An answer piece by piece; beside the last one the whole reply.

        Raises:
            ValueError: that cannot be asked of a student.
            ContextOverflowError: it is longer than the model's context.
        """
        settings = self._settings(given)
        request = Request(messages=turns(messages), sample=int(settings.pop("seed", 0)))
        state = self._standing.state
        state = replace(state, decoder={**state.decoder, **settings})
        stops = list(self.stop or ()) if stop is None else stop
        if "" in stops:
            raise ValueError("`stop` has an empty text, before which every answer ends. Leave it out.")
        said, reply = 0, None
        for reply in self._replies(state, request):
            if reply.finish == "error":
                raise ContextOverflowError(
                    reply.text or f"what is asked is {reply.tokens_in} tokens long, more than the student's context."
                )
            end, over = settled(reply.text, stops)
            if over:
                yield reply.text[said:end], replace(reply, finish="stop")
                return
            if end > said:
                yield reply.text[said:end], None
                said = end
        assert reply is not None, "a server answers"
        yield reply.text[said:], reply

    def _replies(self, state: State, request: Request) -> Iterator[Reply]:
        """The reply as far as it is, again and again."""
        server = self._proven()
        if any(turn.role == "system" for turn in request.messages) and not self._minded:
            self._minded = True
            if unread := unread_system(self._standing.spec):
                log.warning("warning: %s", unread)
        if not isinstance(server, Stepwise):
            with self._turn:
                yield from server.generate(state, [request])
            return
        steps = server.stream(state, request)
        while True:
            with self._turn:  # not for longer: who listens may ask something else meanwhile
                reply = next(steps, None)
            if reply is None:
                return
            yield reply

    def _proven(self) -> Any:
        with self._turn:
            if self._server is None:
                self._server = self._standing.proven()
            return self._server

    def _settings(self, given: Mapping[str, Any]) -> dict[str, float]:
        """Fields of a generation config, and the seed."""
        given = {name: value for name, value in given.items() if name != "stream"}  # LangChain's own
        if unknown := [name for name in given if name not in ASKED]:
            raise ValueError(
                f"`{unknown[0]}` is nothing that a student can be asked with. It takes {', '.join(ASKED)} and stop; "
                "another state of it is another StudentChatModel."
            )
        self._refuse_idle(given)
        told = {name: getattr(self, name) for name in ASKED} | {k: v for k, v in given.items() if v is not None}
        names = {"max_tokens": "max_new_tokens"}
        return {names.get(name, name): value for name, value in told.items() if value is not None}

    def _refuse_idle(self, told: Mapping[str, Any]) -> None:
        """
        Raises:
            ConfigError: the engine does not go by one of these.
        """
        idle = [name for name, value in told.items() if value is not None]
        if idle and self._standing.spec.engine == "scripted":
            raise ConfigError(
                f"`{idle[0]}` changes nothing: a scripted student writes what its misconceptions make of a problem, "
                "whole and always the same. Leave it out."
            )


def turns(messages: Sequence[BaseMessage]) -> Messages:
    """LangChain's messages as turns; their names are left out, as no chat template here knows any.

    >>> turns([HumanMessage("1+1", name="Ada")])
    (Turn(role='user', content='1+1'),)

    Raises:
        ValueError: there are none, or one is not plain text of the system, a person or the model.
    """
    if not messages:
        raise ValueError("nothing was asked: there are no messages.")
    return tuple(_turn(message) for message in messages)


def _turn(message: BaseMessage) -> Turn:
    if isinstance(message, SystemMessage):
        return Turn(role="system", content=_text(message))
    if isinstance(message, HumanMessage):
        return Turn(role="user", content=_text(message))
    if isinstance(message, AIMessage) and not message.tool_calls:
        return Turn(role="assistant", content=_text(message))
    what = "a call of a tool" if isinstance(message, AIMessage) else f"a message of type {message.type!r}"
    raise ValueError(f"{what} is nothing that a student reads. It is asked in system, human and AI messages.")


def _text(message: BaseMessage) -> str:
    for block in message.content if isinstance(message.content, list) else ():
        kind = "text" if isinstance(block, str) else block.get("type")
        if kind != "text":
            raise ValueError(f"a student reads text, and a message has a block of type {kind!r}. Leave it out.")
    return str(message.text)


def settled(text: str, stops: Sequence[str]) -> tuple[int, bool]:
    r"""How much of an answer, as far as it is, will stand whatever comes, and whether it ends there.

    Held back is what may turn out to begin a stop text, and a character of which not all bytes are there.

    >>> settled("ab\nQ", ["\nQ:"]), settled("ab\nQ: c", ["\nQ:"]), settled("ab\ufffd", []), settled("abc", ["\nQ:"])
    ((2, False), (2, True), (2, False), (3, False))
    """
    text = text.rstrip("\ufffd")
    if found := [at for stop in stops if (at := text.find(stop)) >= 0]:
        return min(found), True
    begun = (n for stop in stops for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n]))
    return len(text) - max(begun, default=0), False


def _usage(reply: Reply) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=reply.tokens_in,
        output_tokens=reply.tokens_out,
        total_tokens=reply.tokens_in + reply.tokens_out,
    )
