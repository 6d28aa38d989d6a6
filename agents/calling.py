"""Asks of a paid API on their way: called at once, tried again where that may help, and on record before and after.

    policy -> wave -> Calls.ask -> journal -> limiter -> a replica's process -> provider
                          ^            (a fault that may pass: back-off, and again)  |
                          +------- journal <------------------------------------------+

An ask is on record before it is called, and what came of each call after it: an answer, or a fault with its tokens.
Until that is on disk the call keeps its place in the limiter, so a kill repeats no more calls than may be in flight.
What comes to be written while the disk is busy is written together next.

A good answer is never paid for twice; an ask that came to none is on record as such, and is made again by the next
start that needs it. When the run ends early no call begins any more, and those in flight are waited for a moment: they
will be paid for.
"""

import asyncio
import logging
import math
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from itertools import count
from queue import SimpleQueue
from typing import Any, NamedTuple

from pydantic_core import to_json

from ..evals.rows import adapter
from ..policies.records import Cost
from ..policies.room import Asked, Ledger, Recalled, Tried
from .asking import Ask
from .faults import AGAIN, FATAL, Fault, Unserved
from .limiter import Closed, Limiter, sent
from .purse import Purse
from .roles import Reply, Request, RoleDied, RoleHung, RoleSpec
from .seats import Replica

log = logging.getLogger(__name__)

FIRST, LONGEST = 0.5, 60.0
"""Seconds of the first back-off, each next one twice as long, and of the longest."""
LISTEN = 1.0
"""Seconds that one waits for what came of calls before one looks whether anybody still wants to know."""
DRAIN = 10.0
"""Seconds that calls in flight are waited for when the run ends early."""


class Calls:
    """All calls of one member of the cast."""

    def __init__(self, spec: RoleSpec, replicas: list[Replica], proven: Callable[[Replica], None]) -> None:
        """
        Args:
            proven: Lets a replica that was replaced prove itself.
        """
        self.spec, self.limiter = spec, Limiter(spec.limits)
        self._loop = asyncio.new_event_loop()
        self._lines = [_Line(replica, self._loop, spec, proven) for replica in replicas]
        self._entries = _Together(self._loop, _write)
        self._orders = count()
        self._asked: dict[str, asyncio.Event] = {}
        """By key: set when somebody who is asking this is through."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._told = set[str]()
        """Of what was warned."""
        self._closed = False
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def ask(self, ledger: Ledger, step: str, ask: Ask, purse: Purse | None = None) -> "Future[tuple[Reply, Cost]]":
        """What the member says, and what it cost: nothing, where the journal has the answer.

        Args:
            purse: From which each call is paid; the run ends when there is nothing left in it.

        Returns:
            To come. An ask that no call came to an answer for has a reply that is an error, with the kind of fault;
            what ends the run is the future's exception.
        """
        order = next(self._orders)
        return asyncio.run_coroutine_threadsafe(self._known(self._ask(ledger, step, ask, purse, order)), self._loop)

    def close(self) -> None:
        """No call begins any more; those in flight are waited for, and put on record."""
        if self._closed:
            return
        self._closed = True
        try:
            asyncio.run_coroutine_threadsafe(self._drain(), self._loop).result(DRAIN + 5)
        except (TimeoutError, asyncio.CancelledError):
            pass
        finally:
            for line in self._lines:
                line.close()
            self._entries.close()
            self._loop.call_soon_threadsafe(self._loop.stop)

    async def _known(self, asking: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None, "runs on the loop"
        self._tasks.add(task)
        try:
            return await asking
        finally:
            self._tasks.discard(task)

    async def _drain(self) -> None:
        self.limiter.close()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=DRAIN)
            for task in late:
                task.cancel()

    # ---- one ask

    async def _ask(self, ledger: Ledger, step: str, ask: Ask, purse: Purse | None, order: int) -> tuple[Reply, Cost]:
        while (asked := self._asked.get(ask.key)) is not None:
            await asked.wait()
        if (found := ledger.recall(ask.key)) is None:
            through = self._asked[ask.key] = asyncio.Event()
            try:
                if (failed := await self._tried(ledger, step, ask, purse, order)) is not None:
                    return failed, Cost()
            finally:
                del self._asked[ask.key]
                through.set()
            found = ledger.recall(ask.key)
            assert found is not None, "answered just now"
            return _booked(found, paid=True)
        paid = (found.step, found.item) == (step, ask.item)
        if not paid:
            await self._entries(_Entry(ledger, step, ask, None))
        return _booked(found, paid=paid)

    async def _tried(self, ledger: Ledger, step: str, ask: Ask, purse: Purse | None, order: int) -> Reply | None:
        """Call until there is an answer, which is on record then; else the error that it comes to."""
        asked = Asked(ask.member, ask.item, to_json(ask.request).decode())
        for number in range(1, self.spec.limits.tries + 1):
            await self._entries(_Entry(ledger, step, ask, asked))
            tokens = self.limiter.estimate(ask.request)
            held = math.ceil(sent(ask.request)), self.limiter.longest or self.spec.max_tokens
            await self.limiter.enter(order, tokens, partial(purse.take, *held) if purse else _free)
            came: Reply | Fault = Fault(kind="dropped", why="not called")
            try:
                came = await self._lines[next(_turn) % len(self._lines)].call(ask.request)
                await self._entries(_Entry(ledger, step, ask, came))
            finally:
                if purse:
                    purse.give_back(1, *held)
                self.limiter.leave(tokens, came)
            if isinstance(came, Reply):
                self._look(came, purse)
                return None
            if came.kind in FATAL:
                raise Unserved(f"the {ask.member}'s provider: {came.kind}: {came.why}. {_cure(came, self.spec)}")
            if came.kind not in AGAIN or number == self.spec.limits.tries:
                after = f" (after {number} calls)" if number > 1 else ""
                return Reply(text=f"{came.kind}{after}: {came.why}", finish="error", fault=came.kind)
            await self._wait(max(came.retry_after or 0.0, _back_off(number)))
        raise AssertionError("the last try returns")

    async def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._closed:
                raise Closed
            await asyncio.sleep(min(left, 0.5))

    def _look(self, reply: Reply, purse: Purse | None) -> None:
        """Say once what is worth saying about who answers."""
        if reply.model and self.spec.model and reply.model != self.spec.model:
            self._warn(f"the {self.spec.role} was asked as {self.spec.model}, and {reply.model} has answered")
        if not reply.metered:
            blind = ", and a budget of tokens or dollars does not see them" if purse and purse.by_tokens else ""
            who = f"the {self.spec.role}'s provider"
            self._warn(f"{who} does not say how many tokens a call takes: none are counted{blind}")

    def _warn(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            log.warning("warning: %s.", line)


_turn = count()


def _free() -> bool:
    return True


def _booked(found: Recalled, *, paid: bool) -> tuple[Reply, Cost]:
    """The payer is on record, so that a resumed run books each ask to the same item."""
    reply: Reply = adapter(Reply).validate_json(found.reply)
    return reply, cost_of(reply) if paid else Cost(reused=1)


def cost_of(reply: Reply) -> Cost:
    unmetered = int(not reply.metered)
    return Cost(calls=1, tokens_in=reply.tokens_in, tokens_out=reply.tokens_out, unmetered=unmetered)


def _back_off(number: int) -> float:
    """Seconds to wait after the `number`th call, drawn: those that failed together do not come back together."""
    return float(min(LONGEST, FIRST * 2 ** (number - 1)) * random.uniform(0.5, 1.0))


def _cure(fault: Fault, spec: RoleSpec) -> str:
    key = f"${spec.key}" if spec.key else "`teacher.key`, which names no variable"
    cures = {
        "authentication": f"Look at the key in {key}",
        "no credit": f"Top up the account of {key}",
        "not found": f"Look at `teacher.model` ({spec.model}) and where it is asked ({spec.url or spec.chat})",
    }
    return f"{cures[fault.kind]}; the same command goes on from here."


# ---- on record


class _Entry(NamedTuple):
    """What is to be written. `what`: asked, answered, or failed; `None`: answered by what others had asked."""

    ledger: Ledger
    step: str
    ask: Ask
    what: Asked | Reply | Fault | None


def _write(entries: list[_Entry]) -> None:
    """Together, in one durable write for each step: there is hardly ever another."""
    steps = dict.fromkeys((id(e.ledger), e.step) for e in entries)
    for ledger, step in steps:
        mine = [e for e in entries if (id(e.ledger), e.step) == (ledger, step)]
        mine[0].ledger.record(
            step,
            asking={e.ask.key: e.what for e in mine if isinstance(e.what, Asked)},
            tried=[
                (e.ask.key, Tried(e.what.kind, e.what.why, e.what.tokens_in, e.what.tokens_out))
                for e in mine
                if isinstance(e.what, Fault)
            ],
            replies={e.ask.key: (to_json(e.what).decode(), cost_of(e.what)) for e in mine if isinstance(e.what, Reply)},
            reused=[(e.ask.key, e.ask.member, e.ask.item) for e in mine if e.what is None],
        )


class _Together:
    """A thread that works on what there is; what comes meanwhile is done together next."""

    def __init__(self, loop: asyncio.AbstractEventLoop, do: Callable[[list[Any]], None]) -> None:
        self._loop, self._do = loop, do
        self._next: SimpleQueue[tuple[Any, asyncio.Future[None]] | None] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    async def __call__(self, item: Any) -> None:
        done: asyncio.Future[None] = self._loop.create_future()
        self._next.put((item, done))
        await done

    def close(self) -> None:
        self._next.put(None)

    def _work(self) -> None:
        while (first := self._next.get()) is not None:
            batch, over = [first], False
            while not self._next.empty():
                if (more := self._next.get()) is None:
                    over = True
                    break
                batch.append(more)
            error: BaseException | None = None
            try:
                self._do([item for item, _ in batch])
            except BaseException as e:
                error = e
            self._loop.call_soon_threadsafe(self._settle, [done for _, done in batch], error)
            if over:
                return

    @staticmethod
    def _settle(batch: "list[asyncio.Future[None]]", error: BaseException | None) -> None:
        for done in batch:
            if done.done():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)


# ---- one replica


class _Line:
    """Calls through one replica. One that dies takes its calls with it, which are made again, and is replaced; a second
    loss without an answer in between ends the run.
    """

    def __init__(
        self, replica: Replica, loop: asyncio.AbstractEventLoop, spec: RoleSpec, proven: Callable[[Replica], None]
    ) -> None:
        self.replica, self._loop, self._proven = replica, loop, proven
        self._seconds = min(LISTEN, spec.deadline / 2)
        self._numbers = count()
        self._flying: dict[int, asyncio.Future[Reply | Fault]] = {}
        self._begun = threading.Semaphore(0)
        """One for each time that there may be something to listen for."""
        self._hand_over = _Together(loop, self._begin)
        self._in_doubt = False
        """It did not take a call: whether it is still there is to be looked at."""
        self._lost: BaseException | None = None
        self._closed = False
        threading.Thread(target=self._listen, daemon=True).start()

    async def call(self, request: Request) -> Reply | Fault:
        """One call. The fault of a replica that was lost is the call's.

        Raises:
            RoleDied, RoleHung: for good.
        """
        if self._lost is not None:
            raise self._lost
        number = next(self._numbers)
        came: asyncio.Future[Reply | Fault] = self._loop.create_future()
        self._flying[number] = came
        try:
            await self._hand_over((number, request))
        except (RoleDied, RoleHung) as e:
            self._in_doubt = True
            self._deliver([(number, Fault(kind="dropped", why=_line(e)))])
        self._begun.release()
        return await came

    def close(self) -> None:
        self._closed = True
        self._hand_over.close()
        self._begun.release()

    def _begin(self, calls: list[tuple[int, Request]]) -> None:
        self.replica.host.call("begin", calls)

    def _listen(self) -> None:
        losses = 0
        while True:
            self._begun.acquire()
            while (self._flying or self._in_doubt) and not self._closed:
                self._in_doubt = False
                try:
                    came = self.replica.host.call("ended", self._seconds)
                except Exception as e:
                    losses += 1
                    self._loop.call_soon_threadsafe(self._all_lost, e, losses > 1)
                    if losses > 1 or not isinstance(e, RoleDied | RoleHung) or not self._replaced(e):
                        return
                    break
                if came:
                    losses = 0
                    self._loop.call_soon_threadsafe(self._deliver, came)
            if self._closed:
                return

    def _replaced(self, e: BaseException) -> bool:
        try:
            self.replica.replace(e)
            self._proven(self.replica)
        except Exception as again:
            self._loop.call_soon_threadsafe(self._all_lost, again, True)
            return False
        self._begun.release()
        return True

    def _deliver(self, came: list[tuple[int, Reply | Fault]]) -> None:
        for number, what in came:
            waiting = self._flying.pop(number, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(what)

    def _all_lost(self, e: BaseException, for_good: bool) -> None:
        if for_good or not isinstance(e, RoleDied | RoleHung):
            self._lost = e
        flying, self._flying = self._flying, {}
        for waiting in flying.values():
            if waiting.done():
                continue
            if self._lost is not None:
                waiting.set_exception(self._lost)
            else:
                waiting.set_result(Fault(kind="dropped", why=_line(e)))


def _line(e: BaseException) -> str:
    return next(iter(str(e).splitlines()), type(e).__name__)
