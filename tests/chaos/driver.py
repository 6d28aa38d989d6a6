"""A user's `tutorloop run`, that announces where it is: `driver.py run EXPERIMENT --run-dir DIR [KEY=VALUE ...]`.

    begin 1/teach             a step that is not on record is about to be done
    call generate             a role is in this call (said by the role, wherever it lives)
    optimizer step 1          the learner is about to take it
    torn steps/1/teach.json   half of a file is written
    sync steps/1/teach.json   something is about to be made durable: the file, or a folder after a rename
    end 1/teach               the step is on record

The environment names the socket (`CHAOS_SOCKET`) and, if any, the protection that is switched off (`CHAOS_FAULT`).
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tutorloop.__main__ import main
from tutorloop.loops.journal import Journal, Tick
from tutorloop.loops.launch import launch
from tutorloop.tests.chaos import faults
from tutorloop.tests.chaos.announcing import Announcer, announced

SOCKET, FAULT = os.environ.pop("CHAOS_SOCKET"), os.environ.pop("CHAOS_FAULT", "")

swap: Callable[..., None] = setattr


def announce_steps(announce: Announcer) -> None:
    step, told = Journal.step, Tick.step

    def begin(journal: Journal, name: str, *args: Any, **named: Any) -> Any:
        if not journal.done(name):
            announce(f"begin {name}")
        return step(journal, name, *args, **named)

    def end(tick: Tick, name: str, seconds: float, replayed: bool) -> None:
        told(tick, name, seconds, replayed)
        if not replayed:
            announce(f"end {name}")

    swap(Journal, "step", begin)
    swap(Tick, "step", end)


def announce_writes(announce: Announcer, run: Path) -> None:
    fsync, write = os.fsync, Path.write_bytes

    def durable(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_relative_to(run):
            announce(f"sync {path.relative_to(run)}")
        fsync(descriptor)

    def torn(path: Path, data: bytes) -> int:
        if not path.absolute().is_relative_to(run):
            return write(path, data)
        with path.open("wb") as f:
            f.write(data[: len(data) // 2])
            f.flush()
            announce(f"torn {path.absolute().relative_to(run)}")
            f.write(data[len(data) // 2 :])
        return len(data)

    swap(os, "fsync", durable)
    swap(Path, "write_bytes", torn)


def announce_roles() -> None:
    defaults = launch.__kwdefaults__
    assert defaults and "factory" in defaults
    defaults["factory"] = partial(announced, address=SOCKET, fault=FAULT)


if __name__ == "__main__":
    run = Path(sys.argv[sys.argv.index("--run-dir") + 1]).resolve()
    announce = Announcer(SOCKET, "driver")
    faults.plant(FAULT)
    announce_steps(announce)
    announce_writes(announce, run)
    announce_roles()
    announce("started")
    main()
