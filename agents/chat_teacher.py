"""A chat model of some provider in a role's place: it calls, many at once, and says what came of each call.

Whether to ask again, how hard the provider may be pressed, and what is on record is decided in the driver
(`calling.py`). This process has the key, the connections and the CPU time that they take.
"""

import asyncio
import hashlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Protocol
from uuid import uuid4

from pydantic_core import to_json

from ..evals.records import State
from ..evals.redact import declare
from .faults import Fault, of_exception
from .roles import Canary, Evidence, Hello, PublishError, Readings, Reply, Request, RoleSpec

TOGETHER = 0.002
"""Seconds that one waits after the first answer for more: each handing over costs about as much as a call does."""

THREADS = 256
"""Calls in flight of models that have no asynchronous call of their own."""


class Client(Protocol):
    """Makes one call at a time for whoever awaits it."""

    async def complete(self, request: Request) -> Reply | Fault: ...
    async def close(self) -> None: ...


class ChatTeacher:
    """Implements `Caller`.

    Raises:
        ValueError: it cannot be built as it is specified; says why.
    """

    def __init__(self, spec: RoleSpec) -> None:
        if spec.key:
            declare(spec.key)
        self.me = Hello(incarnation=uuid4().hex, pid=os.getpid(), base=state_of(spec))
        self._there = threading.Condition()
        self._done: list[tuple[int, Reply | Fault]] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._loop = _loop()
        self._client = asyncio.run_coroutine_threadsafe(_client(spec), self._loop).result()

    def hello(self) -> Hello:
        return self.me

    def read(self, state: State, canaries: Sequence[Canary]) -> Readings:
        raise NotImplementedError("a chat model has no log-probabilities")

    def prove(self, evidence: Evidence) -> float:
        if evidence.state.digest != self.me.base.digest:
            raise PublishError(f"a chat model has only its base state, not {evidence.state.name}.")
        return 0.0

    def begin(self, calls: Sequence[tuple[int, Request]]) -> None:
        self._loop.call_soon_threadsafe(self._begin, calls)

    def ended(self, seconds: float) -> list[tuple[int, Reply | Fault]]:
        with self._there:
            if not self._there.wait_for(lambda: self._done, seconds):
                return []
        if self._calls:
            threading.Event().wait(TOGETHER)
        with self._there:
            done, self._done = self._done, []
        return done

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result(5)

    def _begin(self, calls: Sequence[tuple[int, Request]]) -> None:
        for number, request in calls:
            task = self._loop.create_task(self._call(number, request))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    async def _call(self, number: int, request: Request) -> None:
        try:
            came = await self._client.complete(request)
        except Exception as e:  # a fault of ours: it costs its case, and nobody waits for ever
            came = of_exception(e)
        with self._there:
            self._done.append((number, came))
            self._there.notify()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One for the process, for good: `ChatOpenAI` has its connections from a cache, and they belong to a loop."""
    loop = asyncio.new_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS))
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


async def _client(spec: RoleSpec) -> Client:
    if spec.chat:
        from .langchain_model import LangChainModel

        return LangChainModel(spec)
    from .completions import Completions

    return Completions(spec)


def state_of(spec: RoleSpec) -> State:
    """Who answers: another provider, model, or option is another teacher."""
    told = [spec.url, spec.chat, spec.model, spec.max_tokens, spec.temperature, spec.records]
    digest = hashlib.sha256(to_json(["chat teacher", *told, dict(sorted(spec.options.items()))])).hexdigest()
    return State(member="teacher", name="teacher-base", digest=digest)
