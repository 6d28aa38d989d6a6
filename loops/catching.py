"""What a policy prints while it is tried: kept apart by case, its beginning only, and out of what the command prints.

    catch()                   from now on, and again where a policy has put other streams in their place
    with printing(heard):     what is printed in here, or in a thread or task that is begun in here, goes to `heard`

What is printed elsewhere in the main thread is the command's own and passes; what a thread prints that belongs to
nobody, or that goes on when its case is over, is lost.

Not covered: what writes to the file descriptor itself (a library in C, a child process).
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TextIO, cast

from ..evals.terminal import Guarded

KEPT = 2000
"""Characters of what one case prints."""


@dataclass
class Heard:
    """What was printed."""

    n: int = 0
    """Characters in all."""
    _parts: list[str] = field(default_factory=list)
    _room: int = KEPT

    def add(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"only text can be printed, not {type(text).__name__}")
        self.n += len(text)
        if self._room > 0:
            self._parts.append(text[: self._room])
            self._room -= len(self._parts[-1])

    @property
    def beginning(self) -> str:
        """Text that can be written, whatever it was."""
        return "".join(self._parts).encode(errors="backslashreplace").decode()


_HEARD: ContextVar[Heard | None] = ContextVar("heard", default=None)


@contextmanager
def printing(heard: Heard) -> Iterator[None]:
    """A new thread is begun in a copy of this context by `waves.call`; a task is by asyncio."""
    before = _HEARD.set(heard)
    try:
        yield
    finally:
        _HEARD.reset(before)


def catch() -> Callable[[], None]:
    """Listen to this process's standard streams. There is no end to it: threads go on until the process does.

    Returns:
        What puts the ears in place again: a policy may have put streams of its own there.
    """
    out, err = (cast(TextIO, _Listening(stream)) for stream in (sys.stdout, sys.stderr))

    def again() -> None:
        sys.stdout, sys.stderr = out, err

    again()
    return again


class _Listening(Guarded):
    """It passes on what is the command's own."""

    def write(self, text: str) -> int:
        if (heard := _HEARD.get()) is not None:
            heard.add(text)
        elif threading.current_thread() is threading.main_thread():
            self.stream.write(text)
        return len(text)

    def close(self) -> None:
        return None  # it is everybody's
