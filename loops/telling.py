"""What goes wrong, told to whoever gave the command: one line and what to do, or where the traceback is."""

import errno
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

CURES = {
    errno.ENOSPC: "Free some space there",
    errno.EDQUOT: "Free some of your quota there",
    errno.EROFS: "Make it writable",
    errno.EACCES: "Gain access to it",
    errno.EPERM: "Gain access to it",
}
"""What to do about errors that keep a run from being written, and are nobody's bug."""


def say(line: str) -> None:
    """One line for a person, whatever is in it."""
    from ..evals.terminal import safe

    typer.echo(safe(line), err=True)


@contextmanager
def told(root: Path | None = None) -> Iterator[None]:
    """What a person can mend is told in one line, and so is what befell a role; a traceback is in the run's logs.

    Args:
        root: The run that is written; `None`: the command only reads, and a bug's traceback is printed.
    """
    from ..agents.faults import Unserved
    from ..agents.roles import Diverged, PublishError, RayDied, RoleDied, RoleHung, Unproven
    from ..evals.files import DamagedFile
    from ..evals.pools import OverlappingPools
    from ..evals.redact import redacted
    from .config import ConfigError
    from .documents import JournalError
    from .history import UnknownProblem

    try:
        yield
    except (ConfigError, JournalError, OverlappingPools, DamagedFile, UnknownProblem, Diverged, Unserved) as e:
        say(f"tutorloop: {' '.join(redacted(str(e)).split())}")
        raise typer.Exit(2) from None
    except Exception as e:
        if isinstance(e, OSError) and e.errno in CURES:
            where = e.filename or root or Path.cwd()
            say(f"tutorloop: {os.strerror(e.errno)}: {where}. {CURES[e.errno]}; the same command goes on from here.")
            raise typer.Exit(2) from None
        if isinstance(e, OSError) and root and not (root / "run.json").exists():
            say(f"tutorloop: {e}")
            raise typer.Exit(2) from None
        log = logged(root) if root else None
        if log is None and not isinstance(e, (PublishError, RayDied, RoleDied, RoleHung, Unproven)):
            raise
        first = next(iter(redacted(str(e)).splitlines()), "")
        where = f" (traceback in {log}; the same command goes on from here)" if log else ""
        say(f"tutorloop: {type(e).__name__}: {first}{where}")
        raise typer.Exit(1) from None


def logged(root: Path) -> Path | None:
    """Append the traceback in flight to the run's log; `None`: there is no run to log to."""
    import time
    import traceback

    from ..evals.terminal import harmless

    if not (root / "run.json").exists():
        return None
    log = root / "logs" / "driver.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("a", encoding="utf-8", errors="backslashreplace") as f:
        told = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {shlex.join(sys.argv)}\n{traceback.format_exc()}\n"
        f.write(harmless(told))  # somebody will `cat` it
    return log


@contextmanager
def warnings() -> Iterator[None]:
    """What the package logs goes to standard error, a line at a time."""
    import logging

    class ToStderr(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            for line in record.getMessage().splitlines():
                say(line)

    log, handler = logging.getLogger(__name__.partition(".")[0]), ToStderr()
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
