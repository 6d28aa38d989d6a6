"""Whether a policy still moves while it is tried, and whether its file was saved."""

import sys
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

EVERY = 0.1
"""Seconds between two looks."""


class Blocked(Exception):
    """The event loop on which policies run stands still. Says where."""


@dataclass
class Pulse:
    """Beats on the policies' event loop, to find out who blocks it: a wave's own clock stands still then too."""

    loop: AbstractEventLoop | None = None
    at: float = 0.0
    moved: float = 0.0
    """When a policy has last begun, ended, or got an answer."""
    asking: set[str] = field(default_factory=set)
    """What a model is at work on, some of it on that loop: it takes as long as it takes."""

    def begin(self, loop: AbstractEventLoop) -> None:
        """Beat on this loop from now on."""
        self.move()
        if loop is not self.loop:
            self.loop = loop
            self._beat()

    def move(self) -> None:
        self.moved = time.monotonic()

    def _beat(self) -> None:
        self.at = time.monotonic()
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_later(EVERY, self._beat)

    def watched(self, do: Callable[[], None], seconds: float) -> None:
        """`do()` in a thread of its own, as long as its loop beats.

        Raises:
            Blocked: it has not for so many seconds. The thread is left behind.
        """
        done = Future[None]()

        def work() -> None:
            try:
                do()
                done.set_result(None)
            except BaseException as e:
                done.set_exception(e)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(EVERY / 2)
            if self.loop is None or not self.loop.is_running() or self.asking or done.done():
                continue
            now = time.monotonic()
            if now - self.at > seconds:
                raise Blocked(
                    f"the event loop stood still for {seconds:g} s{_place(thread)}: `async def` may not block; await, "
                    "or make it a plain `def`"
                )
            if now - self.moved > 2 * seconds + 1:  # a wave gives up after `seconds`
                raise Blocked("it was given up and goes on: `async def` must let `CancelledError` pass")
        done.result()


def _place(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    return f" at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else ""


def saves(file: Path) -> Iterator[None]:
    """Now, and each time that the file was saved since: written anew, or another put in its place."""
    seen = _stamp(file)
    yield
    while True:
        found = _stamp(file)
        time.sleep(EVERY / 4)  # an editor may be in the middle of it
        if found is None or found == seen or found != _stamp(file):
            continue
        seen = found
        yield


def _stamp(file: Path) -> tuple[int, ...] | None:
    with suppress(OSError):  # between two states
        told = file.stat()
        return told.st_mtime_ns, told.st_size, told.st_ino
    return None
