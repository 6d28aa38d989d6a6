"""`tutorloop` and `python -m tutorloop`: the command line is `loops/cli.py`."""

import sys
from typing import TextIO, cast


def main() -> None:
    """Run the command line. What the output's encoding lacks is written out instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        cast(TextIO, stream).reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]
    try:
        from .evals.terminal import inert
        from .loops.cli import app

        # For good: a traceback is printed after everything else.
        sys.stdout, sys.stderr = inert(sys.stdout), inert(sys.stderr)
        app(prog_name="tutorloop")
    except KeyboardInterrupt:  # before there was anything to pause
        sys.exit(130)


if __name__ == "__main__":
    main()
