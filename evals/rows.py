"""`Rows[T]`: an immutable table of records on disk, one Parquet part per shard, read part by part.

A `Rows` value is a folder, counts and a digest, and travels through the loop in place of the records, so the driver's
memory does not grow with the number of problems, and two tables are compared by digest, never by content. The digest
is taken over the records, not over the files: it does not change with the Parquet library. `Table` makes one.

Scalars and lists of scalars are columns of their own; a nested record is one column of JSON text. So
`pyarrow`, DuckDB or pandas read a part without this package.

Not covered: appending to a part, or changing one: a part is written once, by rename.
"""

import hashlib
import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, lru_cache
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, cast, get_args, get_origin, get_type_hints, overload

from pydantic import BeforeValidator, PlainSerializer, TypeAdapter, ValidationError, ValidationInfo
from pydantic_core import PydanticSerializationError, from_json, to_json

from .records import Failure
from .redact import redacted

T = TypeVar("T")


class DamagedRows(ValueError):
    """A part on disk is not what was written."""


class Part(NamedTuple):
    """One shard of a table, as a line of its list says it."""

    n: int
    failed: int
    """How many items of the shard are in the sibling `.failures.jsonl`."""
    digest: str
    """sha256 over the JSON of its records, then of its failures."""
    sha256: str
    """Of the file."""


def _here(stored: Any, info: ValidationInfo) -> Any:
    root = (info.context or {}).get("root")
    return stored if root is None else str(root)


@dataclass(frozen=True, kw_only=True)
class Rows(Sequence[T]):
    """An immutable table. `len` and `digest` cost nothing; iterating, and taking `rows[i]`, read a shard at a time."""

    of: str
    """Import path of the record type below the package, e.g. `policies.records:Case`."""
    folder: str
    """Relative to the run folder."""
    n: int = 0
    failed: int = 0
    """Items that gave no record."""
    parts: int = 0
    digest: str = ""
    """sha256 over the digests of the parts."""
    root: Annotated[Path, PlainSerializer(lambda _: ""), BeforeValidator(_here)] = field(
        default=Path(), compare=False, repr=False
    )
    """The run folder; not part of the value. Never stored: it comes from the validation context, so a run can be moved.
    """

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[T]:
        for shard in self.shards():
            yield from shard

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[i] for i in range(self.n)[index]]
        at = range(self.n)[index]
        starts = _listed(self).starts
        shard = bisect_right(starts, at) - 1
        return _lately(self, shard)[at - starts[shard]]

    def shard(self, index: int) -> list[T]:
        """The records of one part, as they were written.

        Raises:
            DamagedRows: it is missing, or not the file that was written.
        """
        return _read(self._whole(index), record_type(self.of))

    def shards(self) -> Iterator[list[T]]:
        """The records of each part in turn."""
        for index in range(self.parts):
            yield self.shard(index)

    def column(self, name: str) -> Iterator[Any]:
        """The values of one scalar field, without reading the others."""
        import pyarrow.parquet as pq

        for index in range(self.parts):
            with pq.ParquetFile(self._whole(index)) as file:
                yield from file.read(columns=[name])[name].to_pylist()

    def path(self, index: int) -> Path:
        """File of a part."""
        return self.root / self.folder / _name(index)

    def _whole(self, index: int) -> Path:
        path, part = self.path(index), _listed(self)[index]
        if not path.exists():
            raise DamagedRows(
                f"{path} is missing; it held {part.n} rows. Restore it, or start again in a new run folder."
            )
        if file_sha256(path) != part.sha256:
            raise DamagedRows(f"{path} is not the file that was written (sha256 differs). Restore it from a copy.")
        return path

    def failures(self) -> Iterator[Failure]:
        """What became of the items that gave no record.

        Raises:
            DamagedRows: the file is missing, or holds something else.
        """
        for index in range(self.parts) if self.failed else ():
            if failed := _listed(self)[index].failed:
                yield from _read_failures(_failures(self.path(index)), failed)


class Table(Generic[T]):
    """A table that is being made. Shards are added in order, and what was added stays, whatever happens next.

        rows/3/teach/parts.jsonl            a line for each finished shard, appended when its file is on disk
        rows/3/teach/part-00000.parquet
        rows/3/teach/part-00000.failures.jsonl

    A part without its line was being written when the process died; it is written again.

    Args:
        anew: Whatever another attempt has left there is overwritten.
    """

    def __init__(self, root: Path, folder: str, of: type[T], *, anew: bool = False) -> None:
        if anew:
            (root / folder / LIST).unlink(missing_ok=True)
        self.root, self.folder, self.of = root, folder, of
        self.list = root / folder / LIST
        self.n = self.failed = self.parts = 0
        self._digest = hashlib.sha256()
        known = self.list.read_bytes() if self.list.exists() else b""
        self._whole = known.rfind(b"\n") + 1
        """Bytes of the list; behind them may be a line that a kill has torn."""
        for line in known[: self._whole].splitlines():
            self._count(_part(line, self.list))

    def add(self, records: Sequence[T], failures: Sequence[Failure] = ()) -> None:
        """Write the next shard, so that it is there whole, or not at all.

        A record that a user's code has made goes through `checked` first: what could not be read back would stop every
        later start of the run.
        """
        part = _write(self.root / self.folder / _name(self.parts), records, self.of, failures)
        line = to_json(part) + b"\n"
        with self.list.open("r+b" if self.parts else "wb") as f:
            f.truncate(self._whole)
            f.seek(self._whole)
            f.write(line)
            f.flush()
            os.fsync(f.fileno())
        if not self.parts:
            sync_folder(self.list.parent)
        self._whole += len(line)
        self._count(part)

    def _count(self, part: Part) -> None:
        self.n, self.failed, self.parts = self.n + part.n, self.failed + part.failed, self.parts + 1
        self._digest.update(part.digest.encode())

    def rows(self) -> Rows[T]:
        """What there is so far."""
        return Rows(
            of=record_name(self.of),
            folder=self.folder,
            n=self.n,
            failed=self.failed,
            parts=self.parts,
            digest=self._digest.hexdigest(),
            root=self.root,
        )


def write_rows(root: Path, folder: str, of: type[T], records: Iterable[T], shard: int = 64) -> Rows[T]:
    """Records that are at hand, as a table; what another attempt may have left there is overwritten.

    Raises:
        TypeError: a field of a record holds what could not be read back.
    """
    table = Table(root, folder, of, anew=True)
    rest = iter(records)
    while some := list(islice(rest, shard)):
        table.add([checked(record, of) for record in some])
    return table.rows()


class where(Sequence[T]):
    """The rows that a predicate holds for, read as they are asked for: only their positions are in memory.

    >>> list(where((1, 2, 3, 4), lambda n: n % 2 == 0)[1:])
    [4]
    """

    def __init__(self, rows: Sequence[T], predicate: Callable[[T], bool]) -> None:
        self.rows = rows
        self.at = array("Q", (i for i, row in enumerate(rows) if predicate(row)))

    def __len__(self) -> int:
        return len(self.at)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self.rows[i] for i in self.at[index]]
        return self.rows[self.at[index]]


LIST = "parts.jsonl"


def _name(index: int) -> str:
    return f"part-{index:05d}.parquet"


class _List:
    """The parts of a table, decoded one by one: as objects they would take more room than many a table's rows."""

    def __init__(self, path: Path, rows: Rows[Any]) -> None:
        try:
            self.text = path.read_bytes()
        except FileNotFoundError:
            raise DamagedRows(f"{path} is missing; it listed {rows.parts} parts. Restore it from a copy.") from None
        self.path, self.ends, self.starts = path, array("Q", [0]), array("Q", [0])
        total = hashlib.sha256()
        for line in self.text.splitlines(keepends=True)[: rows.parts]:
            part = _part(line, path)
            self.ends.append(self.ends[-1] + len(line))
            self.starts.append(self.starts[-1] + part.n)
            total.update(part.digest.encode())
        if total.hexdigest() != rows.digest:
            raise DamagedRows(f"{path} is not the list that was written (its digest differs). Restore it from a copy.")

    def __getitem__(self, index: int) -> Part:
        return _part(self.text[self.ends[index] : self.ends[index + 1]], self.path)


def _part(line: bytes, path: Path) -> Part:
    try:
        return Part(*from_json(line))
    except (ValueError, TypeError) as e:
        raise DamagedRows(f"{path} is not the list that was written ({e}). Restore it from a copy.") from None


def _listed(rows: Rows[Any]) -> _List:
    return _lists(rows.root, rows)  # the folder is no part of a table's value, so of no cache's key


@lru_cache(maxsize=8)
def _lists(root: Path, rows: Rows[Any]) -> _List:
    return _List(root / rows.folder / LIST, rows)


def _lately(rows: Rows[T], shard: int) -> list[T]:
    return _shards(rows.root, rows, shard)


@lru_cache(maxsize=32)
def _shards(root: Path, rows: Rows[Any], shard: int) -> list[Any]:
    return rows.shard(shard)


def _write(target: Path, records: Sequence[T], of: type[T], failures: Sequence[Failure]) -> Part:
    import pyarrow as pa
    import pyarrow.parquet as pq

    said = adapter(list[of]).dump_json(list(records))  # type: ignore[valid-type]
    if (clean := redacted(said)) != said:
        said, records = clean, adapter(list[of]).validate_json(clean)  # type: ignore[valid-type]
    failed = redacted(b"\n".join(to_json(f) for f in failures)).splitlines()
    schema = pa.schema([(name, kind or pa.string()) for name, kind in _columns(cast(Any, of)).items()])
    columns = [
        pa.array(
            [getattr(r, name) if kind else to_json(getattr(r, name)).decode() for r in records], schema.field(name).type
        )
        for name, kind in _columns(cast(Any, of)).items()
    ]
    if failures:
        atomic_write(_failures(target), b"\n".join(failed) + b"\n")
    with atomic(target) as part:
        # So few rows gain nothing from dictionaries and statistics, which take longer than the rows.
        pq.write_table(
            pa.Table.from_arrays(columns, schema=schema),
            part,
            compression="zstd",
            use_dictionary=False,
            write_statistics=False,
        )
    return Part(
        n=len(records),
        failed=len(failures),
        digest=hashlib.sha256(b"\n".join([said, *failed])).hexdigest(),
        sha256=file_sha256(target),
    )


def _read(path: Path, of: type[T]) -> list[T]:
    import pyarrow.parquet as pq

    nested = [name for name, kind in _columns(cast(Any, of)).items() if kind is None]
    with pq.ParquetFile(path) as file:  # `read_table` would import pandas
        rows = file.read(use_threads=False).to_pylist()  # a part is small
    for row in rows:
        for name in nested:
            row[name] = from_json(row[name])
    records: list[T] = adapter(list[of]).validate_python(rows)  # type: ignore[valid-type]
    return records


def checked(record: T, of: type[T]) -> T:
    """The record as it would be read back: a dataclass does not look at what it is given, and a user's code may err.

    Raises:
        TypeError: a field holds what it cannot; names it.

    >>> checked(Failure(item="a", where=None, error=""), Failure)
    Traceback (most recent call last):
    TypeError: `Failure.where`: Input should be a valid string, got None
    """
    try:
        back: T = adapter(cast(Any, of)).validate_json(to_json(record))
    except ValidationError as e:
        wrong = e.errors()[0]
        where = ".".join(str(x) for x in (of.__name__, *wrong["loc"]))
        raise TypeError(f"`{where}`: {wrong['msg']}, got {wrong['input']!r}") from None
    except PydanticSerializationError as e:  # no plain value, or half of a surrogate pair
        raise TypeError(f"{of.__name__}: {e}") from None
    return back


def record_type(name: str) -> type[Any]:
    """The class behind `Rows.of`: only records of this package are ever loaded.

    >>> record_type("evals.records:Failure").__name__
    'Failure'
    """
    module, _, attribute = name.partition(":")
    package = __name__.rpartition(".evals")[0]
    kind = getattr(import_module(f"{package}.{module}"), attribute)
    assert isinstance(kind, type)
    return kind


def record_name(of: type[Any]) -> str:
    package = __name__.rpartition(".evals")[0]
    return f"{of.__module__.removeprefix(package + '.')}:{of.__qualname__}"


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
        with self.part.open("rb") as f:
            os.fsync(f.fileno())
        self.part.replace(self.path)
        sync_folder(self.path.parent)  # else the rename itself may be lost in a power cut


def atomic_write(path: Path, content: bytes) -> None:
    with atomic(path) as part:
        part.write_bytes(redacted(content))


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _failures(path: Path) -> Path:
    return path.with_suffix(".failures.jsonl")


def _read_failures(path: Path, n: int) -> list[Failure]:
    try:
        found = [adapter(Failure).validate_json(line) for line in path.read_bytes().splitlines()]
    except FileNotFoundError:
        raise DamagedRows(f"{path} is missing; it held {n} failures. Restore it from a copy.") from None
    except ValidationError as e:
        raise DamagedRows(f"{path} is not the file that was written ({e.title}). Restore it from a copy.") from None
    if len(found) != n:
        raise DamagedRows(f"{path} holds {len(found)} failures and not {n}. Restore it from a copy.")
    return found


@lru_cache(maxsize=256)  # a policy may make a class in each call
def adapter(kind: Any) -> TypeAdapter[Any]:
    """Of a type, made once: making one takes up to some milliseconds."""
    return TypeAdapter(kind)


@cache
def _columns(of: Any) -> dict[str, Any]:
    """Arrow type of each field; `None`: JSON text."""
    import pyarrow as pa

    scalars: dict[Any, Any] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    hints = get_type_hints(of)

    def column(hint: Any) -> Any:
        if hint in scalars:
            return scalars[hint]
        args = get_args(hint)
        if get_origin(hint) is tuple and len(args) == 2 and args[1] is ... and args[0] in scalars:
            return pa.list_(scalars[args[0]])
        if args and all(isinstance(a, str) for a in args):  # a Literal of strings
            return pa.string()
        return None

    return {f.name: column(hints[f.name]) for f in fields(of)}
