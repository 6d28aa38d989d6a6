"""Running a policy over a shard: many at once, each for itself, and one batch for a model where each had its own ask.

Asks go to an engine in a wave: when every unfinished item waits for one, all pending asks are sent together, in the
order of the items. So batches do not depend on timing, and there is no call per sample. An ask of a paid API does not
wait for the wave: it is called at once (`calling.py`), and a wave goes out when nobody waits for a call any more.

A policy that raises becomes a `Failure`; one that hangs is given up likewise, when nothing has moved for `deadline`
seconds. What goes wrong with the run itself (a dead role, a spent budget) is raised from `run` and never passes through
a policy's hands.

A plain `def` runs in a daemon thread of its own, an `async def` on the loop. Not covered: a thread that hangs is left
behind until the process ends, as Python cannot end it; and an `async def` that blocks without awaiting stops the loop.
"""

import asyncio
import contextvars
import difflib
import inspect
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from sysconfig import get_path
from typing import Any, Generic, TypeVar

from ..evals.records import Failure
from ..policies.room import NoAnswer

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")


WITHIN = (f"{Path(__file__).parent}/", f"{get_path('stdlib')}/")
"""A frame of these files is not where a policy went wrong: it is what the policy called, or what called it."""
LATE = "this item was given up: it had not answered in time"


@dataclass
class Wave(Generic[A, R]):
    """One shard's items in flight. `A` is what they ask, `R` what they get."""

    send: Callable[[list[A]], list[R]]
    """Blocking: answers a batch of asks, in order."""
    where: str
    """Slot, for failures."""
    deadline: float
    """Seconds without any movement after which the items that do not wait for an answer are given up."""
    call: Callable[[A], "Future[R] | None"] = lambda ask: None
    """Makes an ask at once that is to be; `None`: it goes out with the wave. What its future raises ends the run."""
    _pending: list[tuple[int, A, "asyncio.Future[R]"]] = field(default_factory=list)
    _calling: Counter[int] = field(default_factory=Counter)
    """How many calls an item waits for."""
    _called: set["asyncio.Future[R]"] = field(default_factory=set)
    """Calls under way, be it that nobody waits for them any more."""
    _broken: BaseException | None = None
    _moved: asyncio.Event = field(default_factory=asyncio.Event)
    _given_up: set[int] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop | None = None

    def run(self, names: Sequence[str], start: Callable[[int], Coroutine[Any, Any, T]]) -> list[T | Failure]:
        """Run `start(i)` for each of `names`; results in that order, a `Failure` where one raised or hung."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._run(names, start))
        with ThreadPoolExecutor(1) as beside:  # started from a notebook, whose own loop runs here
            return beside.submit(asyncio.run, self._run(names, start)).result()

    async def ask(self, item: int, ask: A) -> R:
        """For item `item`: wait for the answer to `ask`.

        Raises:
            RuntimeError: from a loop of the policy's own, where no answer would arrive; or too late.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            raise RuntimeError("asked on an event loop of your own: in a plain `def`, call the blocking `ask`")
        if item in self._given_up:
            raise RuntimeError(LATE)
        if (called := self.call(ask)) is not None:
            return await self._answer(item, called)
        answer: asyncio.Future[R] = loop.create_future()
        self._pending.append((item, ask, answer))
        self._moved.set()
        return await answer

    async def _answer(self, item: int, called: "Future[R]") -> R:
        call = asyncio.wrap_future(called)
        self._called.add(call)
        call.add_done_callback(self._through)
        self._calling[item] += 1
        self._moved.set()
        try:
            await asyncio.wait([call])  # a policy that has had enough of waiting ends no call
            if self._broken is not None:
                await asyncio.get_running_loop().create_future()  # for ever: this is no business of the policy's
            return call.result()
        finally:
            self._calling[item] -= 1
            self._moved.set()

    def _through(self, call: "asyncio.Future[R]") -> None:
        self._called.discard(call)
        if not call.cancelled() and (error := call.exception()) is not None:
            self._broken = self._broken or error
            self._moved.set()

    async def _run(self, names: Sequence[str], start: Callable[[int], Coroutine[Any, Any, T]]) -> list[T | Failure]:
        self._loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(start(i)) for i in range(len(names))]
        for task in tasks:
            task.add_done_callback(lambda _: self._moved.set())
        try:
            while busy := {i for i, task in enumerate(tasks) if not task.done()}:
                await self._move(tasks, busy)
            while self._called:  # what was asked and not waited for is paid for, and on record before this is over
                await asyncio.wait(self._called)
                await asyncio.sleep(0)
            if self._broken is not None:
                raise self._broken
        finally:
            for task in tasks:  # else asyncio would tell of each one that the run's own end has ended
                if task.done() and not task.cancelled():
                    task.exception()
        return [self._result(i, name, tasks[i]) for i, name in enumerate(names)]

    async def _move(self, tasks: "Sequence[asyncio.Task[T]]", busy: set[int]) -> None:
        self._moved.clear()
        for _ in range(3):  # an item may be about to ask more than once (`gather`)
            await asyncio.sleep(0)
        if self._broken is not None:
            raise self._broken
        if self._moved.is_set():
            return
        waiting = {i for i, _, _ in self._pending}
        if busy <= waiting and not +self._calling:
            self._flush()
            return
        waiting |= {*+self._calling}
        try:
            # A call has its own deadlines, and may have to wait for its turn.
            await asyncio.wait_for(self._moved.wait(), self.deadline if busy - waiting else None)
        except TimeoutError:
            self._given_up |= busy - waiting
            for i in busy - waiting:
                tasks[i].cancel()
            await asyncio.wait([tasks[i] for i in busy - waiting])

    def _flush(self) -> None:
        batch = sorted(self._pending, key=lambda p: p[0])  # stable: an item's own asks keep their order
        self._pending.clear()
        for (_, _, future), reply in zip(batch, self.send([ask for _, ask, _ in batch]), strict=True):
            if not future.done():
                future.set_result(reply)

    def _result(self, i: int, name: str, task: "asyncio.Task[T]") -> T | Failure:
        if i in self._given_up:
            return Failure(item=name, where=self.where, error=f"gave no answer within {self.deadline:g} s")
        if task.cancelled():
            return Failure(item=name, where=self.where, error="CancelledError: it cancelled itself")
        if (error := task.exception()) is None:
            return task.result()
        kind = error.kind if isinstance(error, NoAnswer) else ""
        frames = list(traceback.extract_tb(error.__traceback__))
        frames = [f for f in frames if not f.filename.startswith(WITHIN)] or frames
        place = f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
        try:
            told = f"{type(error).__name__}: {error}{_meant(error)}{place}"
        except Exception:  # its `__str__` is a user's code too
            told = f"{type(error).__name__}{place}"
        return Failure(item=name, where=self.where, error=told.encode(errors="replace").decode(), kind=kind)


def _meant(error: BaseException) -> str:
    """The name that was likely meant, which Python says in a traceback only.

    >>> _meant(AttributeError(name="appent", obj=[]))
    '. The nearest is `append`'
    >>> _meant(NameError())
    ''
    """
    known: Sequence[str] = ()
    if isinstance(error, AttributeError) and error.name and error.obj is not None:
        known = [name for name in dir(error.obj) if not name.startswith("_")]
    elif isinstance(error, NameError) and error.name and (at := error.__traceback__):
        while at.tb_next:
            at = at.tb_next
        known = [*at.tb_frame.f_locals, *at.tb_frame.f_globals]
    near = difflib.get_close_matches(error.name, known, n=1) if known else []  # type: ignore[attr-defined]
    return f". The nearest is `{near[0]}`" if near else ""


async def call(policy: Callable[..., Any] | None, *args: object) -> Any:
    """Call a slot, `def` (in a thread) or `async def`, and await what it returns if that is awaitable."""
    assert policy is not None, "an empty slot is not called"
    if inspect.iscoroutinefunction(policy) or inspect.iscoroutinefunction(getattr(policy, "__call__", None)):  # noqa: B004
        try:
            return await policy(*args)
        except SystemExit as e:  # a user's code; asyncio would end the run by it
            raise RuntimeError(f"SystemExit: {e}") from e
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def work() -> None:
        result, error = None, None
        try:
            result = policy(*args)
        except BaseException as e:  # a user's code: anything may come, `SystemExit` included
            error = RuntimeError(f"{type(e).__name__}: {e}") if isinstance(e, StopIteration | SystemExit) else e
        with suppress(RuntimeError):  # the loop is closed: this item was given up
            loop.call_soon_threadsafe(settle, result, error)

    context = contextvars.copy_context()  # whose case it is, for who wants to know
    threading.Thread(target=context.run, args=(work,), daemon=True).start()
    result = await done
    return await result if inspect.isawaitable(result) else result


def block(coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    """For a policy in its thread: wait for a coroutine on the loop.

    Raises:
        RuntimeError: called on the loop itself, where it would wait for ever.
    """
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        if not loop.is_closed():
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result()
        coroutine.close()
        raise RuntimeError(LATE) from None
    coroutine.close()
    name = getattr(coroutine, "__name__", "aask")
    raise RuntimeError(
        f"a blocking call on the event loop ({type(running).__name__}): inside `async def`, await `{name}`"
    )
