"""Files that are there whole or not at all, and that are known again.

    atomic, atomic_write    a file gets its name by a rename, once its content is on disk
    Checksum, whole         what a file must be; whoever stores a `Checksum` vouches for the file
    Lines                   a file that grows line by line, each of which says that it is whole and in its place

Not covered: a checksum shows damage and mix-ups and is no signature; who means to forge one can.
"""

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from pydantic_core import from_json, to_json

from .redact import redacted

REMEDY = "Restore it from a copy, or start again with a new --run-dir."
ALIEN = "Take it away, if it was put there by hand; else restore the run folder from a copy."


class DamagedFile(ValueError):
    """A file on disk is not what was written."""


class Checksum(NamedTuple):
    """What a file must be."""

    size: int
    sha256: str


def checksum(path: Path) -> Checksum:
    """Of the file as it lies there now."""
    with path.open("rb") as f:
        return Checksum(os.fstat(f.fileno()).st_size, hashlib.file_digest(f, "sha256").hexdigest())


def whole(path: Path, known: Checksum) -> Path:
    """The path, if what was written lies there.

    Raises:
        DamagedFile: it does not; says in what it differs.
    """
    try:
        found = checksum(path)
    except (FileNotFoundError, IsADirectoryError):
        raise DamagedFile(f"{path} is missing. {REMEDY}") from None
    if found != known:
        raise DamagedFile(
            f"{path} is not the file that was written: it has {found.size} bytes and the sha256 {found.sha256[:12]}, "
            f"and had {known.size} and {known.sha256[:12]}. {REMEDY}"
        )
    return path


class Lines:
    """A file of JSON lists, one a line, that grows at its end. Each line ends in a checksum over all up to there.

        ["rows/1/teach","9f0c2d","52b7a1f0"]
        [64,0,"e3b0c4","0d3f77e1"]

    The first says what the file is. So a line that was changed, or lost between two others, is found, and so is a file
    that belongs elsewhere. A last line that a kill has torn is none: the next one takes its place.

    Args:
        place: The file's own, in its run.
        run: Identity of the run.
    """

    def __init__(self, path: Path, place: str, run: str) -> None:
        self.path, self.head = path, [place, run]
        self._end: tuple[int, int] | None = None
        """How many bytes are whole, and the checksum over them; `None`: nobody has looked."""

    def read(self) -> Iterator[list[Any]]:
        """Its lines, without the first.

        Raises:
            DamagedFile: one of them is not what was written there, or the file is another run's, or of another place.
        """
        size = total = 0
        for number, line in enumerate(self._stored(), 1):
            body = line[:-_TAIL]
            total = crc32(body, total)
            if line != body + _tail(total):
                raise DamagedFile(f"{self.path}, line {number}: this is not what was written there. {REMEDY}")
            if number > 1:
                yield from_json(body + b"]")
            elif from_json(body + b"]") != self.head:
                raise DamagedFile(f"{self.path} is another run's, or of another place. {ALIEN}")
            size += len(line)
        self._end = size, total

    def append(self, lines: Iterable[Sequence[object]]) -> None:
        """Write lines at the end, durably. After a kill some of the last may be missing."""
        if self._end is None:
            deque(self.read(), maxlen=0)
        assert self._end is not None, "read to its end"
        size, total = self._end
        written = bytearray()
        new = chain([] if size else [self.head], lines)
        for line in redacted(b"\n".join(map(to_json, new))).splitlines():
            body = line[:-1]
            total = crc32(body, total)
            written += body + _tail(total)
        if not size:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if size or self.path.exists() else "wb") as f:
            f.truncate(size)
            f.seek(size)
            f.write(written)
            f.flush()
            os.fsync(f.fileno())
        if not size:
            sync(self.path.parent)
        self._end = size + len(written), total

    def _stored(self) -> Iterator[bytes]:
        if not self.path.exists():
            return
        with self.path.open("rb") as f:
            for line in f:
                if line.endswith(b"\n"):  # else a kill has torn it
                    yield line


def line_told(line: bytes) -> list[Any]:
    """What a line of `Lines` says, taken as it is."""
    told: list[Any] = from_json(line)
    return told[:-1]


def _tail(total: int) -> bytes:
    """What stands in place of a line's closing bracket."""
    return b',"%08x"]\n' % total


_TAIL = len(_tail(0))


class atomic:
    """`with atomic(path) as part:` write to `part`; on success it becomes `path`, durably; on failure it is gone."""

    def __init__(self, path: Path) -> None:
        self.path, self.part = path, path.with_name(f".{path.name}.part")

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.part

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.part.unlink(missing_ok=True)
            return
        sync(self.part)
        self.part.replace(self.path)
        sync(self.path.parent)  # else the rename itself may be lost in a power cut


def atomic_write(path: Path, content: bytes) -> None:
    with atomic(path) as part:
        part.write_bytes(redacted(content))


def in_the_way(folder: Path) -> str:
    """What keeps a folder from being made: `notes.txt is a file`; empty: nothing that one can see."""
    for path in (folder, *folder.parents):
        if path.is_symlink() and not path.exists():
            return f"{path} is a link that leads nowhere"
        if path.exists() and not path.is_dir():
            return f"{path} is a file"
    return ""


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of its files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
