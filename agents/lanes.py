"""Working ahead: several shards are made side by side, and each is done with in its turn.

    for made in Lanes(4).run(make, range(100)):     # make(0), make(1), ... in this order, four of them in flight
        commit(made)                                # whoever waits for its `turn` waits until this is through

What comes out, what fails first, and all that is done in turn is as if one shard had been made after the other. An
error is raised in its shard's place: those before it come out first.

Not covered: a thread cannot be ended from outside. When the caller leaves, one that is busy goes on until it next waits
for its turn or asks a role; nothing that it makes is kept.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from itertools import islice
from threading import Condition, Thread
from typing import TypeVar

T = TypeVar("T")


class Left(Exception):
    """The caller has left: an earlier shard failed, or the run is paused."""


class Lanes:
    """For one table: `run` it once."""

    def __init__(self, n: int = 1) -> None:
        self.n = n
        self._moved = Condition()
        self._at: int | None = None
        """Whose turn it is."""
        self._left = False

    def run(self, make: Callable[[int], T], items: Sequence[int]) -> Generator[T, None, None]:
        """`make(item)` of each item, in order; the caller asks for the next when it has done with the last.

        At most `n` are in flight, the one included that the caller has, each in a thread of its own. One lane, or a
        single item, is made in the caller's.
        """
        if self.n == 1 or len(items) == 1:
            for item in items:
                self._next(item)
                yield make(item)
            return
        rest = iter(items)
        flying = deque((item, _begin(make, item)) for item in islice(rest, self.n))
        try:
            while flying:
                item, made = flying.popleft()
                self._next(item)
                yield made.result()
                flying.extend((item, _begin(make, item)) for item in islice(rest, 1))
        finally:
            self._leave()

    def turn(self, item: int) -> None:
        """In `make(item)`: wait until the caller has done with every item before this one.

        Raises:
            Left: it never will.
        """
        with self._moved:
            self._moved.wait_for(lambda: self._left or self._at == item)
            if self._left:
                raise Left

    def _next(self, item: int) -> None:
        with self._moved:
            self._at = item
            self._moved.notify_all()

    def _leave(self) -> None:
        with self._moved:
            self._left = True
            self._moved.notify_all()


def _begin(make: Callable[[int], T], item: int) -> Future[T]:
    made = Future[T]()

    def work() -> None:
        try:
            made.set_result(make(item))
        except BaseException as e:
            made.set_exception(e)

    # Not a pool's: Python would wait for such a thread at its end, however long a user's policy hangs in it.
    Thread(target=work, daemon=True).start()
    return made
