"""Processes as Linux tells of them in /proc. No test by itself."""

import os
import select
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def everybody() -> list[int]:
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]


def _stat(pid: int) -> list[str]:
    """State, parent, ... of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def alive(pid: int) -> bool:
    return bool(stat := _stat(pid)) and stat[0] != "Z"


def born(pid: int) -> str:
    """When a process was started: ids are used again."""
    return stat[19] if (stat := _stat(pid)) else ""


def running(pid: int) -> str:
    """Its command line; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""


def descendants(pid: int) -> dict[int, str]:
    """Every process below one, and when it was started."""
    stats = {p: stat for p in everybody() if (stat := _stat(p))}
    below, found = [pid], dict[int, str]()
    for parent in below:
        for p, stat in stats.items():
            if int(stat[1]) == parent:
                below.append(p)
                found[p] = stat[19]
    return found


def gone(pids: Iterable[int], seconds: float = 20.0) -> None:
    """Wait until these have ended, so long at most."""
    end = time.monotonic() + seconds
    for pid in pids:
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
            finally:
                os.close(descriptor)
