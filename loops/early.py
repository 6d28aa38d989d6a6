"""Beginning a step early: its shards are made as soon as what they need of the step before it is on disk.

    attempt   | 0 | 1 | 2 | 3 |                the learner answers
    verify        | 0 | 1 | 2 | 3 |            the teacher looks at what it answered

What is made early is what the step would make by itself: the same items, in the same order, into the same table. When
the step comes it goes on from there, and meets what went wrong in its place. After a kill there are shards on disk, as
of any step that was begun.

At most as many shards are in flight as the step itself would have, each in a thread of its own; one that has nothing to
do yet waits, and reads its items from the disk when they are there.

A policy that looks at all of the round's cases while they are not all there is called again when they are, as is all of
its shard, and no more is begun early. What it has asked is on record, and not asked again.

Not covered: a step that looks at a whole table, as triage does, begins when that is through. Gold of *another* problem
that an `attempt` or `verify` of one's own has read marks only lessons that are written after that.
"""

from collections.abc import Callable, Generator
from contextlib import closing
from copy import copy
from threading import Condition, Lock, Thread
from typing import Any, cast

from ..agents.lanes import Lanes, Left
from ..agents.room import RoundRoom


class TooEarly(Exception):
    """What was made is of no use: it has looked for what was not there yet."""


class NotYet:
    """In the place of a table that is not all there."""

    def __init__(self) -> None:
        self.asked_for = False

    def _look(self, *_: object) -> Any:
        self.asked_for = True
        raise TooEarly("the round's cases are not all there yet; this policy is called again when they are")

    __len__ = __iter__ = __getitem__ = __contains__ = __reversed__ = _look
    index = count = get = keys = values = items = _look


def before_all(room: RoundRoom) -> RoundRoom:
    """The room of a round whose cases are not all there."""
    assert room.problems is not None and room.gold is not None  # looked up once, for both
    early, cases = copy(room), NotYet()
    early.cases = early.index = early.answered = cast(Any, cases)
    return early


def nobody(shard: int) -> None:
    """Has nothing to do with it."""


class Early:
    """The shards of a step that has not begun."""

    def __init__(
        self,
        add: Callable[[Any], object],
        make: Callable[[int], Any],
        lanes: Lanes,
        shards: range,
        then: Callable[[int], None],
    ) -> None:
        """
        Args:
            add: Writes what a shard came to.
            make: As the step's own.
            shards: Those that are not on disk.
            then: Is told of each shard that is.
        """
        self._add, self._make, self._lanes, self._shards, self._then = add, make, lanes, shards, then
        self._moved, self._writing = Condition(), Lock()
        self._there, self._done = 0, shards.start
        """Shards of the step before that are on disk, and of this one."""
        self._left = self._over = False
        self._error: BaseException | None = None
        Thread(target=self._work, daemon=True).start()  # a user's policy may hang in it

    def there(self, shard: int) -> None:
        """A shard of the step before is on disk."""
        with self._moved:
            self._there = shard + 1
            self._moved.notify_all()

    def leave(self) -> None:
        """Nothing is written any more: the run ends."""
        with self._writing, self._moved:
            self._left = True
            self._moved.notify_all()

    def parts(self) -> Generator[int, None, None]:
        """How many shards are on disk, each time that there are more; the step before is through.

        Raises:
            Exception: what the step would have met.
        """
        seen, over = 0, False
        while not over:
            with self._moved:
                while self._done == seen and not self._over:
                    self._moved.wait()
                done, over = self._done, self._over
            yield from range(seen + 1, done + 1)
            seen = done
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            for shard in range(self._shards.start):
                self._then(shard)
            with closing(self._lanes.run(self._made, self._shards)) as made:
                for shard, rows in zip(self._shards, made, strict=True):
                    with self._writing:
                        if self._left:
                            return
                        self._add(rows)
                    self._then(shard)
                    with self._moved:
                        self._done += 1
                        self._moved.notify_all()
        except TooEarly:
            pass
        except BaseException as e:
            self._error = e
        finally:
            with self._moved:
                self._over = True
                self._moved.notify_all()

    def _made(self, shard: int) -> Any:
        with self._moved:
            self._moved.wait_for(lambda: self._left or self._there > shard)
            if self._left:
                raise Left
        return self._make(shard)
