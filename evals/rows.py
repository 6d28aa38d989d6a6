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
import sys
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, lru_cache
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, cast, get_args, get_origin, get_type_hints, overload

from pydantic import BeforeValidator, ConfigDict, PlainSerializer, TypeAdapter, ValidationError, ValidationInfo
from pydantic_core import PydanticSerializationError, from_json, to_json

from .files import REMEDY, Checksum, DamagedFile, Lines, atomic, atomic_write, checksum, line_told, whole
from .records import Failure
from .redact import redacted

if sys.platform == "linux":
    # Arrow's usual allocator keeps what was freed: twenty MiB of a driver, and more the longer its tables are. The
    # system's is left with holes by the little that a Parquet file under way remembers of each row group.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")

T = TypeVar("T")


class Part(NamedTuple):
    """One shard of a table, as a line of its list says it."""

    n: int
    failed: int
    """How many items of the shard gave no record: they are told of in the sibling `.failures.jsonl`."""
    digest: str
    """sha256 over the JSON of its records, then of its failures."""
    file: Checksum
    failures: Checksum | None
    beside: Any
    """What else whoever writes the table wants to know again with the shard; plain data, and no part of the digest."""


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
        return self.shard(shard)[at - starts[shard]]

    def shard(self, index: int) -> Sequence[T]:
        """The records of one part, as they were written. Those that were read last are at hand."""
        return _lately(self.root, self, index)

    def written(self, index: int) -> Sequence[T]:
        """The records of a part that has been added to the table since."""
        return _read(self.path(index), record_type(self.of))

    def shards(self) -> Iterator[Sequence[T]]:
        """The records of each part in turn."""
        for index in range(self.parts):
            yield self.shard(index)

    def column(self, name: str) -> Iterator[Any]:
        """The values of one scalar field, without reading the others."""
        import pyarrow.parquet as pq

        for index in range(self.parts):
            with pq.ParquetFile(self.part(index)) as file:
                yield from file.read(columns=[name])[name].to_pylist()

    def path(self, index: int) -> Path:
        """File of a part."""
        return self.root / self.folder / _name(index)

    def part(self, index: int) -> Path:
        """The same, when it is what was written.

        Raises:
            DamagedFile: it is not, or missing.
        """
        return whole(self.path(index), _listed(self)[index].file)

    def failures(self) -> Iterator[Failure]:
        """What became of the items that gave no record.

        Raises:
            DamagedFile: the file is missing, or not the one that was written.
        """
        for index in range(self.parts) if self.failed else ():
            if known := _listed(self)[index].failures:
                lines = whole(_failures(self.path(index)), known).read_bytes().splitlines()
                yield from (adapter(Failure).validate_json(line) for line in lines)


class Table(Generic[T]):
    """A table that is being made. Shards are added in order, and what was added stays, whatever happens next.

        rows/3/teach/parts.jsonl            a line for each finished shard, appended when its file is on disk
        rows/3/teach/part-00000.parquet
        rows/3/teach/part-00000.failures.jsonl

    A part without its line was being written when the process died; it is written again.

    Args:
        run: Identity of the run.
        anew: Whatever another attempt has left there is overwritten.

    Raises:
        DamagedFile: the list is not what was written, or another run's.
    """

    def __init__(self, root: Path, folder: str, of: type[T], *, run: str = "", anew: bool = False) -> None:
        if anew:
            (root / folder / LIST).unlink(missing_ok=True)
        self.root, self.folder, self.of = root, folder, of
        self.n = self.failed = self.parts = 0
        self.beside: list[Any] = []
        """Of each part that was there."""
        self._digest = hashlib.sha256()
        self._list = Lines(root / folder / LIST, folder, run)
        for line in self._list.read():
            part = _part(line)
            self.beside.append(part.beside)
            self._count(part)

    def add(self, records: Sequence[T], failures: Sequence[Failure] = (), beside: Any = None) -> None:
        """Write the next shard, so that it is there whole, or not at all.

        A record that a user's code has made goes through `checked` first: what could not be read back would stop every
        later start of the run.
        """
        part = _write(self.root / self.folder / _name(self.parts), records, self.of, failures, beside)
        self._list.append([part])
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


def write_rows(
    root: Path, folder: str, of: type[T], records: Iterable[T], *, run: str = "", shard: int = 64
) -> Rows[T]:
    """Records that are at hand, as a table; what another attempt may have left there is overwritten.

    Raises:
        TypeError: a field of a record holds what could not be read back.
    """
    table = Table(root, folder, of, run=run, anew=True)
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
        self.at = array("I", (i for i, row in enumerate(rows) if predicate(row)))

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
PARQUET: dict[str, Any] = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
"""How a part is written. So few rows gain nothing from dictionaries and statistics, which take longer than they do."""


def checked_parts(root: Path, folder: str, run: str) -> Iterator[Part]:
    """The parts of a table, each after a look at its files.

    Raises:
        DamagedFile: one of them, or the list, is not what was written.
    """
    for index, line in enumerate(Lines(root / folder / LIST, folder, run).read()):
        part, path = _part(line), root / folder / _name(index)
        whole(path, part.file)
        if part.failures:
            whole(_failures(path), part.failures)
        yield part


def _name(index: int) -> str:
    return f"part-{index:05d}.parquet"


class _List:
    """The parts of a table, read one by one: at hand they would take more room than many a table's rows."""

    def __init__(self, path: Path, rows: Rows[Any]) -> None:
        self.path, self.starts, total = path, array("Q", [0]), hashlib.sha256()
        try:
            with path.open("rb") as f:
                self.ends = array("Q", [len(f.readline())])
                for line in islice(f, rows.parts):
                    part = self._told(line)
                    self.ends.append(self.ends[-1] + len(line))
                    self.starts.append(self.starts[-1] + part.n)
                    total.update(part.digest.encode())
        except FileNotFoundError:
            raise DamagedFile(f"{path} is missing; it listed {rows.parts} parts. {REMEDY}") from None
        if total.hexdigest() != rows.digest:
            raise self._damaged()

    def __getitem__(self, index: int) -> Part:
        with self.path.open("rb") as f:
            f.seek(self.ends[index])
            return self._told(f.readline())

    def _told(self, line: bytes) -> Part:
        try:
            return _part(line_told(line))
        except (ValueError, TypeError):
            raise self._damaged() from None

    def _damaged(self) -> DamagedFile:
        return DamagedFile(f"{self.path} is not the list that was written. {REMEDY}")


def _part(line: Sequence[Any]) -> Part:
    part = Part(*line)
    return part._replace(file=Checksum(*part.file), failures=part.failures and Checksum(*part.failures))


def _listed(rows: Rows[Any]) -> _List:
    return _lists(rows.root, rows)  # the folder is no part of a table's value, so of no cache's key


@lru_cache(maxsize=8)
def _lists(root: Path, rows: Rows[Any]) -> _List:
    return _List(root / rows.folder / LIST, rows)


@lru_cache(maxsize=32)
def _lately(root: Path, rows: Rows[Any], shard: int) -> tuple[Any, ...]:
    return tuple(_read(rows.part(shard), record_type(rows.of)))


def _write(target: Path, records: Sequence[T], of: type[T], failures: Sequence[Failure], beside: Any) -> Part:
    import pyarrow as pa
    import pyarrow.parquet as pq

    said = adapter(list[of]).dump_json(list(records))  # type: ignore[valid-type]
    if (clean := redacted(said)) != said:
        said, records = clean, adapter(list[of]).validate_json(clean)  # type: ignore[valid-type]
    failed = redacted(b"\n".join(to_json(f) for f in failures)).splitlines()
    columns = _columns(cast(Any, of))
    schema = pa.schema([(name, column.kind) for name, column in columns.items()])
    arrays = [
        pa.array([column.stored(getattr(r, name)) for r in records], column.kind) for name, column in columns.items()
    ]
    if failures:
        atomic_write(_failures(target), b"\n".join(failed) + b"\n")
    made = pa.BufferOutputStream()  # Arrow's own way to a file takes as long as the rows
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), made, **PARQUET)
    content = made.getvalue()
    with atomic(target) as part:
        part.write_bytes(content)
    return Part(
        n=len(records),
        failed=len(failures),
        digest=hashlib.sha256(b"\n".join([said, *failed])).hexdigest(),
        file=Checksum(len(content), hashlib.sha256(content).hexdigest()),
        failures=checksum(_failures(target)) if failures else None,
        beside=beside,
    )


def _read(path: Path, of: type[T]) -> list[T]:
    import pyarrow.parquet as pq

    nested = [name for name, column in _columns(cast(Any, of)).items() if column.nested]
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


def _failures(path: Path) -> Path:
    return path.with_suffix(".failures.jsonl")


@lru_cache(maxsize=256)  # a policy may make a class in each call
def adapter(kind: Any) -> TypeAdapter[Any]:
    """Of a type, made once: making one takes up to some milliseconds."""
    return TypeAdapter(kind)


class _Column(NamedTuple):
    """How a field is stored."""

    kind: Any
    """Of Arrow."""
    nested: bool
    """It is JSON text."""
    stored: Callable[[Any], Any]
    """From the field's value to the column's."""


@cache
def _columns(of: Any) -> dict[str, _Column]:
    """One for each field of a record type."""
    import pyarrow as pa

    scalars: dict[Any, Any] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    hints = get_type_hints(of)

    def column(hint: Any) -> _Column:
        args = get_args(hint)
        if hint in scalars:
            return _Column(scalars[hint], False, _as_it_is)
        if get_origin(hint) is tuple and len(args) == 2 and args[1] is ... and args[0] in scalars:
            return _Column(pa.list_(scalars[args[0]]), False, _as_it_is)
        if args and all(isinstance(a, str) for a in args):  # a Literal of strings
            return _Column(pa.string(), False, _as_it_is)
        # Half the time of `to_json`, which looks at each value anew, and the same text, NaN included. Optional, since
        # pydantic takes no `config` for a dataclass by itself.
        maybe: Any = hint | None
        said: TypeAdapter[Any] = TypeAdapter(maybe, config=ConfigDict(ser_json_inf_nan="constants"))
        return _Column(pa.string(), True, said.serializer.to_json)

    return {f.name: column(hints[f.name]) for f in fields(of)}


def _as_it_is(value: Any) -> Any:
    return value
