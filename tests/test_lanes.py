"""Shards that are made side by side come to what they would come to one by one."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tutorloop.agents.lanes import Lanes, Left

SOON = 30.0
"""Seconds after which a test that waits has failed."""


def done(lanes: Lanes, make: Callable[[int], Any], n: int) -> list[Any]:
    return list(lanes.run(make, range(n)))


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("items", [0, 1, 9])
def test_everything_is_made_once_and_comes_in_order(n: int, items: int) -> None:
    made = list[int]()

    def make(item: int) -> int:
        time.sleep(0.01 * (item % 3 == 0))  # the first of three is the last to be ready
        made.append(item)
        return 10 * item

    assert done(Lanes(n), make, items) == [10 * i for i in range(items)]
    assert sorted(made) == list(range(items))


def test_as_many_as_there_are_lanes_are_made_at_once() -> None:
    all_there = threading.Barrier(3, timeout=SOON)
    done(Lanes(3), lambda item: all_there.wait(), 6)


def test_never_more_are_in_flight_than_there_are_lanes_the_callers_included() -> None:
    begun, over, seen = list[int](), 0, list[int]()

    def make(item: int) -> int:
        begun.append(item)
        return item

    for item in Lanes(3).run(make, range(12)):
        time.sleep(0.01)  # time enough to begin more than they may
        seen.append(len(begun) - over)
        over = item + 1
    assert max(seen) == 3


def test_one_lane_is_the_callers_own_thread_and_begins_nothing_before_it_is_asked_for() -> None:
    threads = list[threading.Thread]()
    shards = Lanes(1).run(lambda item: threads.append(threading.current_thread()), range(3))
    next(shards)
    assert threads == [threading.current_thread()]


def test_an_error_comes_in_its_place_and_what_stands_before_it_comes_first() -> None:
    failed, seen = threading.Event(), list[int]()

    def make(item: int) -> int:
        if item == 2:
            failed.set()
            raise LookupError("the third")
        assert failed.wait(SOON)
        return item

    with pytest.raises(LookupError, match="the third"):
        seen.extend(Lanes(3).run(make, range(9)))
    assert seen == [0, 1]


def test_what_is_done_in_turn_is_done_in_order_once_all_before_it_is_through() -> None:
    lanes, order, second = Lanes(3), list[str](), threading.Event()

    def make(item: int) -> int:
        if item == 0:
            assert second.wait(SOON), "the second one is ready before the first"
        if item == 1:
            second.set()
        lanes.turn(item)
        order.append(f"turn {item}")
        return item

    for item in lanes.run(make, range(6)):
        time.sleep(0.01)  # whoever does not wait is ahead now
        order.append(f"through {item}")
    assert order == [f"{what} {item}" for item in range(6) for what in ("turn", "through")]


@pytest.mark.parametrize("leaves", ["by an error", "by itself"])
def test_who_waits_for_a_turn_that_never_comes_is_let_go(leaves: str) -> None:
    lanes, let_go, waits = Lanes(3), list[int](), threading.Semaphore(0)

    def make(item: int) -> int:
        if item == 0 and leaves == "by an error":
            raise LookupError
        try:
            lanes.turn(item)
        except Left:
            let_go.append(item)
            waits.release()
        return item

    shards = lanes.run(make, range(9))
    if leaves == "by an error":
        with pytest.raises(LookupError):
            next(shards)
    else:
        assert next(shards) == 0
        shards.close()
    assert waits.acquire(timeout=SOON) and waits.acquire(timeout=SOON)
    assert sorted(let_go) == [1, 2]
