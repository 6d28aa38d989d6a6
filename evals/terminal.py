"""Where text meets the terminal: nothing that is printed is obeyed by it, and no secret is shown.

The command prints through `inert` streams, and so do the roles into their logs: our lines, a policy's own prints, a
traceback, whatever. `safe` is for a field within one of our lines: there a line break is written out too, so that no
text can pass itself off as a line.

Not covered: what writes to the file descriptor itself (a library in C, a child process); letters that only look like
others.
"""

import json
from collections.abc import Iterable
from typing import Any, TextIO, cast

from .redact import redacted


def safe(text: str) -> str:
    """One line as it may be printed: what a terminal would obey is written out, as in JSON.

    >>> safe("5-1 put 4\\x1b[2J")
    '5-1 put 4\\\\u001b[2J'
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def harmless(text: str) -> str:
    """Lines as they may be printed, without secrets.

    >>> harmless("a\\tb\\n\\x9b2J")
    'a\\tb\\n\\\\u009b2J'
    """
    # `split` and not `splitlines`: to a terminal the other line breaks are something else.
    return "\n".join("\t".join(map(safe, line.split("\t"))) for line in redacted(text).split("\n"))


def inert(stream: TextIO) -> TextIO:
    """The stream, for text that is only to be read."""
    return cast(TextIO, _Inert(stream))


def bare(stream: TextIO) -> TextIO:
    """The stream behind it, for who moves the cursor on purpose."""
    return stream.stream if isinstance(stream, _Inert) else stream


class Guarded:
    """A text stream in front of another, all of whose text goes through `write`. Its bytes are out of reach: they would
    pass that by.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        raise NotImplementedError

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name in ("buffer", "detach"):
            raise AttributeError(f"this stream has no `{name}`: bytes would pass by what its text goes through")
        return getattr(self.stream, name)


class _Inert(Guarded):
    """On which everything is harmless."""

    def write(self, text: str) -> int:
        self.stream.write(harmless(text))
        return len(text)

    def isatty(self) -> bool:
        return False  # no bar can be drawn here
