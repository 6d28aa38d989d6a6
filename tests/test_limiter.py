"""A provider is pressed as hard as it may be, and no harder. Time is the test's own; sums by hand."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

import pytest

from tutorloop.agents.faults import Fault
from tutorloop.agents.limiter import Bucket, Closed, Limiter
from tutorloop.agents.roles import Limits, Reply, Request
from tutorloop.evals.records import user


class Patient(selectors.SelectSelector):
    """Time passes when nobody has anything to do."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nobody has anything to do ever again"
        self.now += timeout
        return super().select(0)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    clock = Patient()
    loop = asyncio.SelectorEventLoop(clock)
    loop.time = lambda: clock.now  # type: ignore[method-assign]
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def answered(n: int = 0) -> Reply:
    return Reply(text="", tokens_out=n)


LIMITED = Fault(kind="rate limited", why="", retry_after=30.0)


async def begun(limiter: Limiter, n: int, seconds: float = 0.0, tokens: float = 0.0) -> list[float]:
    """When each of `n` calls that last so long began."""
    found, loop = list[float](), asyncio.get_running_loop()

    async def one(i: int) -> None:
        await limiter.enter(i, tokens)
        found.append(loop.time())
        await asyncio.sleep(seconds)
        limiter.leave(tokens, answered(int(tokens)))

    await asyncio.gather(*(one(i) for i in range(n)))
    return found


def test_no_more_calls_are_in_flight_than_may_be() -> None:
    limiter = Limiter(Limits(concurrency=3))
    assert run(begun(limiter, 7, seconds=10)) == [0, 0, 0, 10, 10, 10, 20]
    assert limiter.flying == 0


@pytest.mark.parametrize("per_minute", [2, 30, 600])
def test_no_minute_has_more_requests_than_its_limit_and_nearly_as_many(per_minute: int) -> None:
    when = run(begun(Limiter(Limits(requests_per_minute=per_minute)), 3 * per_minute))
    for i, first in enumerate(when):
        assert sum(1 for t in when[i:] if t < first + 60) <= per_minute
    assert when[-1] <= 60 * 3 / min(0.95, 1 - 1 / (2 * per_minute)) + 60


def test_no_minute_has_more_tokens_than_its_limit() -> None:
    when = run(begun(Limiter(Limits(tokens_per_minute=6000)), 300, tokens=50))
    for i, first in enumerate(when):
        assert sum(50 for t in when[i:] if t < first + 60) <= 6000 + 50
    assert 130 < when[-1] < 170, "15,000 tokens"


def test_what_a_call_took_is_settled_when_it_is_known() -> None:
    async def two(took: int) -> float:
        limiter, loop = Limiter(Limits(tokens_per_minute=6000)), asyncio.get_running_loop()
        await limiter.enter(0, 10)
        limiter.leave(10, answered(took))
        await limiter.enter(1, 10)
        return loop.time()

    assert run(two(10)) == 0.0, "a hundred are there"
    assert run(two(1000)) == pytest.approx((1000 + 10 - 100) / 99, rel=0.02), "99 a second flow in"


def test_estimates_learn_how_long_answers_are() -> None:
    limiter, request = Limiter(Limits()), Request(messages=user("x" * 350))
    assert limiter.estimate(request) == 100 + 300
    run(begun(limiter, 100, tokens=1000))
    assert limiter.estimate(request) == pytest.approx(1100, rel=0.01)


def test_who_asked_first_goes_first_also_when_it_comes_again() -> None:
    async def order() -> list[str]:
        limiter, found = Limiter(Limits(concurrency=1)), list[str]()

        async def one(order: int, name: str) -> None:
            await limiter.enter(order, 0)
            found.append(name)
            limiter.leave(0, answered())

        await limiter.enter(0, 0)
        others = [asyncio.create_task(one(i, f"{i}")) for i in (1, 2, 3)]
        await asyncio.sleep(0)
        again = asyncio.create_task(one(0, "0 again"))
        await asyncio.sleep(0)
        limiter.leave(0, LIMITED)
        await asyncio.gather(*others, again)
        return found

    assert run(order()) == ["0 again", "1", "2", "3"]


@pytest.mark.parametrize(("in_a_row", "held"), [(2, False), (3, True)])
def test_one_call_that_was_too_many_waits_by_itself_and_after_several_in_a_row_everybody_waits(
    in_a_row: int, held: bool
) -> None:
    async def when() -> float:
        limiter = Limiter(Limits())
        for _ in range(in_a_row):
            await limiter.enter(0, 0)
        for _ in range(in_a_row):
            limiter.leave(0, LIMITED)
        await limiter.enter(1, 0)
        return asyncio.get_running_loop().time()

    assert run(when()) == (30.0 if held else 0.0)


def test_an_answer_in_between_ends_the_row() -> None:
    async def when() -> float:
        limiter = Limiter(Limits())
        for came in (LIMITED, LIMITED, answered(), LIMITED, LIMITED):
            await limiter.enter(0, 0)
            limiter.leave(0, came)
        await limiter.enter(1, 0)
        return asyncio.get_running_loop().time()

    assert run(when()) == 0.0


def test_who_does_not_want_to_wait_any_more_takes_no_place() -> None:
    async def left() -> int:
        limiter = Limiter(Limits(concurrency=1))
        await limiter.enter(0, 0)
        gone = asyncio.create_task(limiter.enter(1, 0))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        limiter.leave(0, answered())
        await limiter.enter(2, 0)
        return limiter.flying

    assert run(left()) == 1


def test_when_it_is_closed_whoever_waits_is_let_go_and_nobody_begins() -> None:
    async def closed() -> None:
        limiter = Limiter(Limits(concurrency=1))
        await limiter.enter(0, 0)
        waits = asyncio.create_task(limiter.enter(1, 0))
        await asyncio.sleep(0)
        limiter.close()
        with pytest.raises(Closed):
            await waits
        with pytest.raises(Closed):
            await limiter.enter(2, 0)

    run(closed())


def test_more_than_a_bucket_holds_is_taken_when_it_is_full_and_owed() -> None:
    bucket = Bucket(600)
    assert bucket.wait(1000, 0.0) == 0.0
    bucket.take(1000, 0.0)
    assert bucket.wait(1, 0.0) == pytest.approx((1000 - 10 + 1) / (590 / 60))
