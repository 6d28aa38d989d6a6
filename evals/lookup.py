"""Finding records by a key without holding them, or their keys, in memory: SQLite keeps both on disk.

The databases are temporary: they have no name, are made anew by each process and vanish with it, a kill included. What
counts is in the tables and the journal.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from functools import cached_property
from threading import Lock
from typing import TypeVar

from .rows import Rows

T = TypeVar("T")


CACHE = 512
"""KiB of a database that are held in memory. A table of ten thousand keys fills it, and one of a million no more."""


def scratch(*tables: str) -> sqlite3.Connection:
    """A temporary database on disk with these tables; several threads may use it, one at a time."""
    db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
    db.executescript("pragma journal_mode = off; pragma synchronous = off")
    db.execute(f"pragma cache_size = -{CACHE}")
    for table in tables:
        db.execute(f"create table {table} without rowid")
    return db


class Seen:
    """Which keys came up before, and with what.

    >>> seen = Seen()
    >>> seen.before("a", "line 1"), seen.before("b", "line 2"), seen.before("a", "line 3")
    (None, None, 'line 1')
    """

    def __init__(self) -> None:
        self._db = scratch("seen (key text primary key, note text)")

    def before(self, key: str, note: str = "") -> str | None:
        """The note with which `key` came first; `None`, and it is remembered, when this is the first time."""
        if self._db.execute("insert or ignore into seen values (?, ?)", (key, note)).rowcount:
            return None
        (found,) = self._db.execute("select note from seen where key = ?", (key,)).fetchone()
        return str(found)


class Lookup(Mapping[str, T]):
    """The records of a table by one of their text columns, the first one where a value is there twice."""

    def __init__(self, rows: Rows[T], column: str) -> None:
        self.rows, self.column = rows, column
        self._turn = Lock()  # policies in their threads look things up too

    def __getitem__(self, key: str) -> T:
        if (at := self._at(key)) is None:
            raise KeyError(key)
        return self.rows[at]

    def __contains__(self, key: object) -> bool:
        return self._at(key) is not None

    def _at(self, key: object) -> int | None:
        with self._turn:
            found = self._places.execute("select at from place where key = ?", (key,)).fetchone()
        return None if found is None else int(found[0])

    def __iter__(self) -> Iterator[str]:
        return self.rows.column(self.column)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def _places(self) -> sqlite3.Connection:
        db = scratch("place (key text primary key, at integer)")
        db.execute("begin")
        db.executemany(
            "insert or ignore into place values (?, ?)",
            ((key, at) for at, key in enumerate(self.rows.column(self.column))),
        )
        db.execute("commit")
        return db
