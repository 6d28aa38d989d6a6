"""`Rows[T]`: an immutable table of records on disk, one Parquet part per shard, read part by part.

A `Rows` value is small (paths, counts, digests) and travels through the loop in place of the records, so the
driver's memory does not grow with the number of problems, and two tables are compared by digest, never by content.
The digest is taken over the records, not over the file: it does not change with the Parquet library.

Scalars and lists of scalars are columns of their own; a nested record is one column of JSON text. So
`pyarrow`, DuckDB or pandas read a part without this package.

Not covered: appending to a part, or changing one: a part is written once, by rename.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, cast, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, PlainSerializer, TypeAdapter, ValidationError, ValidationInfo
from pydantic_core import PydanticSerializationError, from_json, to_json

from .records import Failure

T = TypeVar("T")


class DamagedRows(ValueError):
    """A part on disk is not what was written."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One shard's file."""

    path: str
    """Relative to the run folder."""
    n: int
    digest: str
    """sha256 over the JSON of its records."""
    sha256: str
    """Of the file."""
    failed: int = 0
    """How many items of the shard are in the sibling `.failures.jsonl`."""


def _here(stored: Any, info: ValidationInfo) -> Any:
    root = (info.context or {}).get("root")
    return stored if root is None else str(root)


@dataclass(frozen=True, kw_only=True)
class Rows(Generic[T]):
    """An immutable table. Iterate it, or take `shards()`; `len`, `digest` cost nothing."""

    of: str
    """Import path of the record type below the package, e.g. `policies.records:Case`."""
    parts: tuple[Part, ...] = ()
    root: Annotated[Path, PlainSerializer(lambda _: ""), BeforeValidator(_here)] = field(
        default=Path(), compare=False, repr=False
    )
    """The run folder; not part of the value. Never stored: it comes from the validation context, so a run can be moved.
    """

    def __len__(self) -> int:
        return sum(p.n for p in self.parts)

    @property
    def failed(self) -> int:
        return sum(p.failed for p in self.parts)

    @property
    def digest(self) -> str:
        return hashlib.sha256(" ".join(p.digest for p in self.parts).encode()).hexdigest()

    def __iter__(self) -> Iterator[T]:
        for shard in self.shards():
            yield from shard

    def shards(self) -> Iterator[list[T]]:
        """The records of each part in turn.

        Raises:
            DamagedRows: a part is missing, or not the file that was written.
        """
        for part in self.parts:
            yield read_part(self.root, part, record_type(self.of))

    def failures(self) -> Iterator[Failure]:
        """What became of the items that gave no record.

        Raises:
            DamagedRows: the file is missing, or holds something else.
        """
        for part in self.parts:
            if part.failed:
                yield from _read_failures(_failures(self.root / part.path), part.failed)


def write_part(root: Path, path: str, records: Sequence[T], of: type[T], failures: Sequence[Failure] = ()) -> Part:
    """Write one part so that it is there whole, or not at all.

    Args:
        path: Relative to `root`, ending in `.parquet`.

    Raises:
        TypeError: a field of a record holds what could not be read back.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = root / path
    lines = [to_json(checked(r, of)) for r in records]
    columns = _columns(cast(Any, of))
    dicts = [from_json(line) for line in lines]
    for row in dicts:
        for name, kind in columns.items():
            if kind is None:
                row[name] = to_json(row[name]).decode()
    schema = pa.schema([(name, kind or pa.string()) for name, kind in columns.items()])
    if failures:
        atomic_write(_failures(target), b"\n".join(to_json(f) for f in failures) + b"\n")
    with atomic(target) as part:
        pq.write_table(pa.Table.from_pylist(dicts, schema=schema), part, compression="zstd")
    return Part(
        path=path,
        n=len(lines),
        digest=hashlib.sha256(b"\n".join([*lines, *(to_json(f) for f in failures)])).hexdigest(),
        sha256=file_sha256(target),
        failed=len(failures),
    )


def read_part(root: Path, part: Part, of: type[T]) -> list[T]:
    import pyarrow.parquet as pq

    path = root / part.path
    if not path.exists():
        raise DamagedRows(f"{path} is missing; it held {part.n} rows. Restore it, or start again in a new run folder.")
    if file_sha256(path) != part.sha256:
        raise DamagedRows(f"{path} is not the file that was written (sha256 differs). Restore it from a copy.")
    nested = [name for name, kind in _columns(cast(Any, of)).items() if kind is None]
    with pq.ParquetFile(path) as file:  # `read_table` would import pandas
        rows = file.read().to_pylist()
    for row in rows:
        for name in nested:
            row[name] = from_json(row[name])
    records: list[T] = _adapter(list[of]).validate_python(rows)  # type: ignore[valid-type]
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
        back: T = _adapter(cast(Any, of)).validate_json(to_json(record))
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
        part.write_bytes(content)


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
        found = [_adapter(Failure).validate_json(line) for line in path.read_bytes().splitlines()]
    except FileNotFoundError:
        raise DamagedRows(f"{path} is missing; it held {n} failures. Restore it from a copy.") from None
    except ValidationError as e:
        raise DamagedRows(f"{path} is not the file that was written ({e.title}). Restore it from a copy.") from None
    if len(found) != n:
        raise DamagedRows(f"{path} holds {len(found)} failures and not {n}. Restore it from a copy.")
    return found


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
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
