"""What dead runs of ours have left on this machine: Ray's temporary folders, and processes that still use them.

A driver claims its folder by a lock that the kernel lets go of however the driver ends. So whose lock is free is dead,
whatever the process ids say, which are used again, and differ from one container to the next. Most of Ray's processes
die with the driver; two look for their server for about a minute before they give up, under names that say nothing of
the folder: they are known by their log files in it.

Not covered: other users' folders; folders on the other nodes of a cluster; what a killed training left in the system's
temporary folder (nothing but an empty folder).
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

OWNER = "owner"
"""The file in a folder that its driver holds locked."""
ROOM = "r"
PATIENCE = 5.0
"""Seconds that a killed process may take to be gone."""


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """One dead driver's."""

    folder: Path
    processes: tuple[int, ...]
    """Ids of those that still use it."""


class Claim:
    """A folder that is this process's until it is released, or the process ends."""

    def __init__(self) -> None:
        # Claimed before it has the name by which others would find it.
        hidden = Path(tempfile.mkdtemp(prefix=".ray-", dir=_place()))
        self._lock = _lock(hidden)
        self._lock.acquire(timeout=0)
        self.folder = hidden.with_name(hidden.name.removeprefix("."))
        hidden.rename(self.folder)

    @property
    def room(self) -> Path:
        """For Ray. A short path: below it are sockets, whose names may have 107 letters."""
        return self.folder / ROOM

    def release(self) -> None:
        """Remove it, and end what still uses it."""
        _clear(Leftover(folder=self.folder, processes=_users(self.folder)))
        self._lock.release()


def find() -> list[Leftover]:
    """What dead runs have left."""
    return list(_each())


def sweep() -> list[Leftover]:
    """End and remove it; what was found. What is a living run's is not touched."""
    found = []
    for leftover in _each():
        _clear(leftover)
        found.append(leftover)
    return found


def _each() -> Iterator[Leftover]:
    """Each is locked while it is looked at: two starts do not tidy up after the same run."""
    for folder in sorted(_place().glob("ray-*")):
        if _ours(folder):
            with suppress(Timeout, OSError), _lock(folder).acquire(timeout=0):
                yield Leftover(folder=folder, processes=_users(folder))


def _ours(folder: Path) -> bool:
    with suppress(OSError):
        status = folder.lstat()
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and (folder / OWNER).is_file()
    return False


def _users(folder: Path) -> tuple[int, ...]:
    """Ray's processes that use a folder, and what descends from them."""
    found: set[int] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if _uses(process, folder):
                found |= {p.pid for p in (process, *process.children(recursive=True))}
    return tuple(sorted(found - {os.getpid()}))


def _uses(process: psutil.Process, folder: Path) -> bool:
    command = process.cmdline()
    if not any(arg.startswith("ray::") or "/ray/" in arg for arg in command):
        return False  # e.g. somebody who reads a log there
    files = (Path(file.path) for file in process.open_files())
    return any(f"{folder}/" in arg for arg in command) or any(file.is_relative_to(folder) for file in files)


def _clear(leftover: Leftover) -> None:
    processes = []
    for pid in leftover.processes:
        with suppress(psutil.Error):
            processes.append(psutil.Process(pid))
            processes[-1].kill()
    psutil.wait_procs(processes, timeout=PATIENCE)
    shutil.rmtree(leftover.folder / ROOM, ignore_errors=True)
    if not (leftover.folder / ROOM).exists():  # else it still says whose it was, for the next time
        shutil.rmtree(leftover.folder, ignore_errors=True)


def _place() -> Path:
    return Path(os.environ.get("RAY_TMPDIR", "/tmp"))


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / OWNER, thread_local=False)  # who starts Ray need not be who stops it
