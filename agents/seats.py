"""A role's place in the run: one replica of it or several, any of which may answer.

Each replica has a host of its own, and its own record of what this incarnation has proven. A replica that dies or hangs
is reported and replaced once for the call that it was lost in, while the others go on; a second loss ends the run.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Lock
from typing import Any, TypeVar

from .roles import Evidence, Hello, Host, PublishError, RoleDied, RoleHung, RoleSpec

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass
class Replica:
    """One of those that play a role, through all its incarnations. One thread at a time may have it."""

    host: Host
    hello: Hello | None = None
    proven: set[str] = field(default_factory=set)
    """Names of the states that this incarnation has proven."""
    closed: bool = False
    _busy: Lock = field(default_factory=Lock)

    @property
    def name(self) -> str:
        return self.host.name

    def call(self, method: str, *args: Any) -> Any:
        """Call the role.

        Raises:
            RoleDied: also when it was closed.
        """
        with self._busy:
            self._open()
            return self.host.call(method, *args)

    def greet(self) -> Hello:
        hello: Hello = self.hello or self.call("hello")
        self.hello = hello
        return hello

    def prove(self, evidence: Evidence) -> None:
        """Let it show that it holds a state.

        Raises:
            PublishError: it does not. Names the replica.
        """
        try:
            self.call("prove", evidence)
        except PublishError as e:
            raise PublishError(f"{self.name}: {e}") from e
        self.proven.add(evidence.state.name)

    def surviving(self, ask: Callable[[], T]) -> T:
        """`ask()`; if the replica is lost in it, once more with a fresh one in its place."""
        try:
            return ask()
        except (RoleDied, RoleHung) as e:
            self.replace(e)
        return ask()

    def replace(self, e: BaseException) -> None:
        """A fresh one takes its place, which has proven nothing.

        Raises:
            BaseException: `e`, if it was closed.
        """
        if self.closed:
            raise e
        log.warning("%s\nA new %s takes its place.", e, self.name)
        with self._busy:
            self._open()
            self.host.restart()
            self.hello, self.proven = None, set()

    def leave(self) -> None:
        """End the process, which frees what it had. Another one comes by `come`, and has proven nothing."""
        with self._busy:
            self.host.close()
            self.hello, self.proven = None, set()

    def come(self) -> None:
        with self._busy:
            self._open()
            self.host.restart()

    def close(self) -> None:
        self.closed = True
        self.host.close()  # a call that is under way in an actor ends by this
        with self._busy:  # and one in this process by itself
            self.host.close()

    def _open(self) -> None:
        if self.closed:
            raise RoleDied(f"{self.name} was closed.")


@dataclass
class Seat:
    """A role's place in the run."""

    spec: RoleSpec
    replicas: Sequence[Replica]
    proven: set[str] = field(default_factory=set)
    """Names of the states that all replicas have proven; one that was replaced since has to do so again by itself."""
    away: bool = False
    """Whether all replicas have left, so that others have their devices."""
    _free: SimpleQueue[Replica] = field(default_factory=SimpleQueue)

    def __post_init__(self) -> None:
        for replica in self.replicas:
            self._free.put(replica)

    @contextmanager
    def taken(self) -> Iterator[Replica]:
        """A free replica; waits for one."""
        replica = self._free.get()
        try:
            yield replica
        finally:
            self._free.put(replica)

    def leave(self) -> None:
        """Make room: all processes end."""
        self.away = True
        self.proven.clear()
        for replica in self.replicas:
            replica.leave()

    def come(self) -> None:
        """Start all replicas again, side by side, if they have left."""
        if self.away:
            self.away = False
            for replica in self.replicas:
                replica.come()

    def close(self) -> None:
        """End all replicas, and what they are at."""
        for replica in self.replicas:
            replica.closed = True
        for replica in self.replicas:
            replica.close()
