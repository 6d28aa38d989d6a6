"""How hard a provider is pressed: calls in flight, requests and tokens a minute, and what it says about waiting.

One limiter stands before all replicas of a member, in the driver, and lives on one event loop. Who asked first goes
first, also when it comes again after a fault: the oldest shard is what all others wait for.

Requests and tokens come from buckets that hold a second's worth and are filled so slowly that no minute has more than
its limit. What a call will take in tokens is not known before: its text is estimated, the answer is taken to be as long
as answers were so far, and the difference is settled when it is there. A bucket may be in debt.

A call that was told to wait (`Retry-After`) waits that long by itself. When `IN_A_ROW` were told to, and none was
answered in between, it is not one call that is too much, and everybody waits.

Not covered: other processes that use the same key, another run of this package among them.
"""

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from .faults import Fault
from .roles import Limits, Reply, Request

LETTERS = 3.5
"""Characters in a token, for what is about to be sent."""
FIRST = 300
"""Tokens of an answer, until there was one."""
IN_A_ROW = 3
SOONEST = 0.001
"""Seconds after which one looks again."""


@dataclass
class Bucket:
    """So much a minute."""

    per_minute: float
    level: float = field(init=False)
    at: float = 0.0
    """When the level was right."""

    def __post_init__(self) -> None:
        self.holds = max(1.0, self.per_minute / 60)
        # In any minute: what it holds, and what has come in since.
        self.rate = max(self.per_minute - self.holds, self.per_minute / 2) / 60
        self.level = self.holds

    def wait(self, n: float, now: float) -> float:
        """Seconds until `n` may be taken. More than it holds may be, when it is full."""
        self._fill(now)
        return max(0.0, (min(n, self.holds) - self.level) / self.rate)

    def take(self, n: float, now: float) -> None:
        self._fill(now)
        self.level -= n

    def _fill(self, now: float) -> None:
        self.level = min(self.holds, self.level + max(0.0, now - self.at) * self.rate)
        self.at = now


def sent(request: Request) -> float:
    """Tokens of what is sent, estimated."""
    return (sum(len(turn.content) for turn in request.messages) + len(request.json_schema)) / LETTERS


class Closed(RuntimeError):
    """No call begins any more: the run is ending."""


class Limiter:
    """For one provider and key.

    Args:
        clock: Seconds, as the event loop's `call_later` counts them.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] | None = None) -> None:
        self.limits = limits
        self.flying = 0
        self._clock = clock
        self._requests = Bucket(limits.requests_per_minute) if limits.requests_per_minute else None
        self._tokens = Bucket(limits.tokens_per_minute) if limits.tokens_per_minute else None
        self._waiting: list[tuple[int, int, float, Callable[[], bool], asyncio.Future[None]]] = []
        self._ties = count()
        self._timer: asyncio.TimerHandle | None = None
        self._held = 0.0
        """Until when nobody goes."""
        self._limited = 0
        """Calls in a row that were too many."""
        self.longest = 0
        """Tokens of the longest answer so far."""
        self._answer = float(FIRST)
        """Mean length of answers, of late."""
        self._closed = False

    def estimate(self, request: Request) -> float:
        """Tokens that a call may take, in and out."""
        return sent(request) + self._answer

    async def enter(self, order: int, tokens: float, may: Callable[[], bool] = lambda: True) -> None:
        """Wait until a call may be made; lower `order` goes first. Each needs a `leave`.

        Args:
            may: Asked last of all, and again when a call has ended: whether it can be paid for. What it raises is
                raised here.

        Raises:
            Closed: none may any more.
        """
        if self._closed:
            raise Closed
        going = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (order, next(self._ties), tokens, may, going))
        self._admit()
        try:
            await going
        except asyncio.CancelledError:
            if going.done() and not going.cancelled() and not going.exception():
                self._left()
            raise

    def leave(self, tokens: float, came: Reply | Fault) -> None:
        """A call has ended, for which so many tokens were taken."""
        used = float(came.tokens_in + came.tokens_out)
        if isinstance(came, Reply) and came.metered:
            self._answer += (came.tokens_out - self._answer) / 16
            self.longest = max(self.longest, came.tokens_out)
        if self._tokens is not None and used:
            self._tokens.take(used - tokens, self._now())
        if isinstance(came, Reply):
            self._limited = 0
        elif came.kind == "rate limited":
            self._limited += 1
            if self._limited >= IN_A_ROW and came.retry_after:
                self._held = max(self._held, self._now() + came.retry_after)
        self._left()

    def close(self) -> None:
        """Whoever waits is let go."""
        self._closed = True
        for *_, going in self._waiting:
            if not going.done():
                going.set_exception(Closed())
        self._waiting.clear()

    def _left(self) -> None:
        self.flying -= 1
        self._admit()

    def _admit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and self.flying < self.limits.concurrency:
            _, _, tokens, may, going = self._waiting[0]
            if going.done():  # it is not wanted any more
                heapq.heappop(self._waiting)
                continue
            now = self._now()
            wait = self._held - now
            for bucket, n in ((self._requests, 1.0), (self._tokens, tokens)):
                wait = max(wait, bucket.wait(n, now) if bucket else 0.0)
            if wait > SOONEST / 1000:  # else by rounding
                self._timer = asyncio.get_running_loop().call_later(max(wait, SOONEST), self._admit)
                return
            try:
                if not may():
                    return  # until a call has ended
            except Exception as e:
                heapq.heappop(self._waiting)
                going.set_exception(e)
                continue
            heapq.heappop(self._waiting)
            for bucket, n in ((self._requests, 1.0), (self._tokens, tokens)):
                if bucket:
                    bucket.take(n, now)
            self.flying += 1
            going.set_result(None)

    def _now(self) -> float:
        return self._clock() if self._clock else asyncio.get_running_loop().time()
