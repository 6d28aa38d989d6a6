"""A member of the cast as the policies ask it: each ask under the digest of all that could change its answer."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import ValidationError
from pydantic_core import to_json, to_jsonable_python

from ..evals.records import Attempt, Messages, Problem, State, Turn, user
from ..evals.redact import redacted
from ..evals.rows import adapter, checked
from ..policies.records import Cost
from ..policies.room import NoAnswer
from .roles import Reply, Request

if TYPE_CHECKING:
    from .room import ItemRoom

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A request on its way, and who pays."""

    member: str
    state: State
    request: Request
    key: str
    """Empty: not journalled."""
    item: str


@dataclass
class ItemModel:
    """A `Model` for one item."""

    room: "ItemRoom"
    member: str
    state: State

    def ask(self, prompt: str | Messages, *, prefix: str = "", sample: int | None = None, fresh: bool = False) -> str:
        answer: str = self.room.wait(self.aask(prompt, prefix=prefix, sample=sample, fresh=fresh))
        return answer

    def fill(self, prompt: str | Messages, schema: type[T], *, sample: int | None = None) -> T:
        filled: T = self.room.wait(self.afill(prompt, schema, sample=sample))
        return filled

    def attempt(self, problem: Problem, *, context: str = "", prefix: str = "", sample: int | None = None) -> Attempt:
        attempt: Attempt = self.room.wait(self.aattempt(problem, context=context, prefix=prefix, sample=sample))
        return attempt

    async def aask(
        self, prompt: str | Messages, *, prefix: str = "", sample: int | None = None, fresh: bool = False
    ) -> str:
        request = self._request(_messages(prompt), prefix, sample=sample)
        return (await self._answer(request, fresh=fresh)).text

    async def afill(self, prompt: str | Messages, schema: type[T], *, sample: int | None = None) -> T:
        of = adapter(cast(Any, schema))
        request = self._request(_messages(prompt), schema=schema.__name__, sample=sample)
        if not self._told_forms:
            filled: T = of.validate_json((await self._answer(request)).text)
            return filled
        request = replace(request, json_schema=to_json(of.json_schema()).decode())
        for left in reversed(range(1 + REPAIRS)):
            text = (await self._answer(request)).text
            try:
                filled = of.validate_json(unfenced(text))
                return filled
            except ValidationError as e:
                if not left:
                    raise NoAnswer(f"the {self.member} filled no {schema.__name__}: {_wrong(e)}", "unfilled") from None
                request = self._repair(request, text, _wrong(e))
        raise AssertionError("the last try returns")

    @property
    def _told_forms(self) -> bool:
        """Whether it is told a record's JSON schema, and keeps to it by its own means."""
        return self.room.round.cast.seats[self.member].spec.engine in TELL_FORMS

    def _repair(self, request: Request, text: str, wrong: str) -> Request:
        """Once more, with what was wrong."""
        said = [Turn(role="assistant", content=text)] if text.strip() else []
        told = Turn(role="user", content=REPAIR.format(wrong=wrong, schema=request.json_schema))
        again: Request = checked(replace(request, messages=(*request.messages, *said, told)), Request)
        asked: Request = adapter(Request).validate_json(redacted(to_json(again)))
        return asked

    async def aattempt(
        self, problem: Problem, *, context: str = "", prefix: str = "", sample: int | None = None
    ) -> Attempt:
        request = self._request(in_view(problem.messages, context), prefix, sample=sample)
        own = self.room.slot == "attempt" and self.member == self.room.plan.learner
        told = self.room.said if self.member == self.room.plan.learner and not context and not prefix else set()
        reply = await self._ask(request, journalled=not own)
        if reply.finish == "error" and reply.text:  # why not: no words of the learner's
            raise ValueError(f"the {self.member} could not answer: {reply.text}")
        told.add((problem.digest, reply.text))
        return Attempt(
            problem=problem.id,
            text=reply.text,
            finish=reply.finish,
            state=self.state.digest,
            role=self.member,
            sample=request.sample,
            context=context,
            token_ids=reply.token_ids,
            logprobs=reply.logprobs,
        )

    def _request(self, messages: Messages, prefix: str = "", *, schema: str = "", sample: int | None) -> Request:
        """Checked here, in the policy's hands: what is no request fails its own item, and not the engine.

        Without secrets, so that what was asked is what is on record.
        """
        asked = Request(messages=messages, prefix=prefix, schema=schema, sample=sample or 0)
        request: Request = checked(asked, Request)
        request = adapter(Request).validate_json(redacted(to_json(request)))
        if not any(turn.role == "user" for turn in request.messages):
            raise ValueError("a prompt needs a turn of the user's")
        if sample is not None:
            return request
        kind = hashlib.sha256(to_json([self.member, request])).hexdigest()
        self.room.samples[kind] += 1
        return replace(request, sample=self.room.samples[kind] - 1)

    async def _answer(self, request: Request, *, fresh: bool = False) -> Reply:
        reply = await self._ask(request, fresh=fresh)
        if reply.finish == "error":
            why = reply.text or f"a prompt of {reply.tokens_in} tokens does not fit"
            if reply.fault:
                raise NoAnswer(f"the {self.member} could not answer: {why}", reply.fault)
            raise ValueError(f"the {self.member} could not answer: {why}")
        return reply

    async def _ask(self, request: Request, *, fresh: bool = False, journalled: bool = True) -> Reply:
        room = self.room
        salt = f"{room.plan.key(room.slot)}/{room.item}" if fresh else ""
        key = self.key(request, salt) if journalled else ""
        ask = Ask(member=self.member, state=self.state, request=request, key=key, item=room.item)
        reply, cost = await room.wave.ask(room.index, ask)
        if self.member == "teacher":
            room.cost += Cost() if key in room.asked else cost
            room.asked.add(key)
        return reply

    def key(self, request: Request, salt: str) -> str:
        """Same key, same answer. The slot is part of it: a check never reuses the very answer that it vouches for."""
        settings = self.room.round.cast.settings(self.member)
        told: dict[str, Any] = to_jsonable_python(request)
        if not request.json_schema:  # it came later than the first keys
            del told["json_schema"]
        parts = [self.member, self.state.digest, settings, self.room.slot, told, salt]
        return hashlib.sha256(to_json(parts)).hexdigest()[:32]


TELL_FORMS = ("chat", "vllm")
"""Engines that are."""
REPAIRS = 2
"""Asks for a record that is put right, where a model had the form told and did not keep to it."""
REPAIR = """This is no JSON of the form that was asked for:
{wrong}
Answer once more, with one JSON object of this schema and nothing else:
{schema}"""


def unfenced(text: str) -> str:
    """JSON without the fence that chat models like to put around it.

    >>> unfenced('```json\\n{"line": "=34"}\\n```')
    '{"line": "=34"}'
    """
    found = re.fullmatch(r"\s*```\w*\n(.*?)\n?```\s*", text, re.DOTALL)
    return found[1] if found else text


def _wrong(error: ValidationError) -> str:
    """What is wrong with a record, a line each."""
    found = error.errors(include_url=False, include_context=False)[:5]
    return "\n".join(f"{'.'.join(map(str, e['loc'])) or 'the answer'}: {e['msg']}" for e in found)


def in_view(messages: Messages, context: str) -> Messages:
    """The conversation with `context` on a line of its own at the end of the last user turn.

    >>> in_view(user("502-178"), "2-8 take 12 put 4")[-1].content
    '502-178\\n2-8 take 12 put 4'
    """
    if not context:
        return messages
    last = max(i for i, turn in enumerate(messages) if turn.role == "user")
    told = Turn(role="user", content=f"{messages[last].content}\n{context}")
    return (*messages[:last], told, *messages[last + 1 :])


def _messages(prompt: str | Messages) -> Messages:
    if isinstance(prompt, str):
        return user(prompt)
    if not isinstance(prompt, Iterable):
        raise TypeError(f"a prompt is a text or several turns, got {type(prompt).__name__}")
    return tuple(prompt)
