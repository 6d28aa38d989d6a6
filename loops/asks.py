"""Every ask of a model, on disk before it is made and after it is answered; never paid for twice.

While a step runs its asks are lines of `asks/<step>.jsonl`; when it is done they become `asks/<step>.parquet`. An entry
without an answer was in flight when the process died: it is asked again.

What is known is looked up in a temporary database, so that millions of replies need no memory.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from ..evals.files import ALIEN, REMEDY, DamagedFile, Lines, atomic
from ..evals.lookup import scratch
from ..evals.redact import redacted
from ..policies.records import Cost
from ..policies.room import Asked, Recalled


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One ask and its answer."""

    key: str
    step: str
    item: str
    member: str
    """Who was asked."""
    request: str
    """Empty, like the reply, when `reused`."""
    reply: str
    tokens_in: int
    tokens_out: int
    reused: bool = False
    """Answered, for nothing, by what another step or item had asked under this key."""


_ENTRIES = TypeAdapter(list[Entry])
_RUN = b"run"
"""Where a Parquet file says whose it is."""
GROUP = 4096
"""Asks that are written at once. Fewer would need less memory, but of each group something is held to the end."""


class Asks:
    """The asks of one run folder.

    Raises:
        DamagedFile: a file is not what was written, or another run's.
    """

    def __init__(self, folder: Path, run: str = "") -> None:
        self.folder, self.run = folder, run
        self._files: dict[str, Lines] = {}
        """Of the steps in which this process has asked."""
        self._flying: dict[str, Asked] = {}
        self._spent: dict[tuple[str, str], Cost] = {}
        self._answers: Counter[str] = Counter()
        self._db = scratch(
            "paid (key text primary key, step text, item text, reply text)",
            "reused (step text, key text, item text, primary key (step, key, item))",
        )
        for path in sorted(folder.glob("*")):
            for entry in read_asks(path, run):
                self._learn(entry)

    def recall(self, key: str) -> Recalled | None:
        found = self._db.execute("select reply, step, item from paid where key = ?", (key,)).fetchone()
        return found and Recalled(reply=found[0], step=found[1], item=found[2])

    def asking(self, step: str, asks: Mapping[str, Asked]) -> None:
        self._flying |= asks
        self._append(step, [["ask", step, key, *asked] for key, asked in asks.items()])

    def answered(self, step: str, replies: Mapping[str, tuple[str, Cost]]) -> None:
        lines = [["reply", step, key, text, c.tokens_in, c.tokens_out] for key, (text, c) in replies.items()]
        self._append(step, lines)
        # As a resumed run would read them.
        texts = from_json(redacted(to_json({key: text for key, (text, _) in replies.items()})))
        for key, (_, cost) in replies.items():
            self._learn(_entry(step, key, self._flying.pop(key), texts[key], cost.tokens_in, cost.tokens_out))

    def reused(self, step: str, asks: Sequence[tuple[str, str, str]]) -> None:
        new = [ask for ask in dict.fromkeys(asks) if self._learn(_reuse(step, *ask))]
        if new:
            self._append(step, [["reuse", step, *ask] for ask in new])

    def spent(self, step: str = "", member: str = "teacher") -> Cost:
        """On one member, in the steps whose name begins with `step`: `3/` is round 3."""
        found = (cost for (name, who), cost in self._spent.items() if name.startswith(step) and who == member)
        return sum(found, Cost())

    def answers(self, step: str) -> int:
        """How many asks of a step were answered, be it for nothing."""
        return self._answers[step]

    def hold(self, step: str, n: int) -> None:
        """
        Raises:
            DamagedFile: there are fewer than `n` answers of a step, and there were as many.
        """
        if (found := self._answers[step]) < n:
            raise DamagedFile(f"{self._path(step)} holds {found} answers, and there were at least {n}. {REMEDY}")

    def compact(self, step: str) -> Path | None:
        """The step is done: its lines become a Parquet file, sorted by key. `None`: nobody was asked."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self._path(step)
        whole = path.with_suffix(".parquet")  # there already, if a kill came between this and the step's commit
        if not path.exists():
            return whole if whole.exists() else None
        names = [f.name for f in fields(Entry)]
        kinds: dict[str, Any] = {"tokens_in": pa.int64(), "tokens_out": pa.int64(), "reused": pa.bool_()}
        schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names], {_RUN: self.run.encode()})
        row = attrgetter(*names)
        by_key = scratch(f"entry ({', '.join(names)}, primary key (key, item))")
        by_key.executemany(
            f"insert or replace into entry values ({', '.join('?' * len(names))})",
            (row(entry) for file in (whole, path) if file.exists() for entry in read_asks(file, self.run)),
        )
        found = by_key.execute("select * from entry order by key, item")
        with atomic(whole) as part, pq.ParquetWriter(part, schema, compression="zstd") as parquet:
            while rows := found.fetchmany(GROUP):
                columns = {name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
                columns["reused"] = list(map(bool, columns["reused"]))
                parquet.write_table(pa.Table.from_pydict(columns, schema=schema))
        path.unlink()
        self._files.pop(step, None)
        return whole

    def _learn(self, entry: Entry) -> bool:
        """Whether it is new; after a kill between compaction and unlink both files have it."""
        if entry.reused:
            table, row = "reused", [entry.step, entry.key, entry.item]
            cost = Cost(reused=1)
        else:
            table, row = "paid", [entry.key, entry.step, entry.item, entry.reply]
            cost = Cost(calls=1, tokens_in=entry.tokens_in, tokens_out=entry.tokens_out)
        new = self._db.execute(f"insert or ignore into {table} values ({', '.join('?' * len(row))})", row).rowcount
        if new:
            account = entry.step, entry.member
            self._spent[account] = self._spent.get(account, Cost()) + cost
            self._answers[entry.step] += 1
        return bool(new)

    def _path(self, step: str) -> Path:
        return self.folder / f"{step.replace('/', '-')}.jsonl"

    def _append(self, step: str, lines: Iterable[Sequence[object]]) -> None:
        if step not in self._files:
            self._files[step] = _lines(self._path(step), self.run)
        self._files[step].append(lines)


def read_asks(path: Path, run: str = "") -> Iterator[Entry]:
    """The answered asks of one file, either form.

    Args:
        run: Identity of the run that has asked.

    Raises:
        DamagedFile: the file is not what was written, or another run's.
    """
    if path.suffix == ".parquet":
        yield from _compacted(path, run)
    elif path.suffix == ".jsonl":
        yield from _answered(path, run)


def _compacted(path: Path, run: str) -> Iterator[Entry]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if (file.schema_arrow.metadata or {}).get(_RUN) != run.encode():
                raise DamagedFile(f"{path} is another run's. {ALIEN}")
            for batch in file.iter_batches(10_000):
                yield from _ENTRIES.validate_python(batch.to_pylist())
    except pa.ArrowException as e:
        raise DamagedFile(f"{path} is damaged ({next(iter(str(e).splitlines()), '')}). {REMEDY}") from None


def _answered(path: Path, run: str) -> Iterator[Entry]:
    asked = dict[str, Asked]()
    for kind, step, key, *rest in _lines(path, run).read():
        if kind == "ask":
            asked[key] = Asked(*rest)
        elif kind == "reuse":
            yield _reuse(step, key, *rest)
        elif key in asked:
            yield _entry(step, key, asked.pop(key), *rest)


def _lines(path: Path, run: str) -> Lines:
    return Lines(path, f"asks/{path.name}", run)


def _entry(step: str, key: str, asked: Asked, reply: str, tokens_in: int, tokens_out: int) -> Entry:
    return Entry(key=key, step=step, reply=reply, tokens_in=tokens_in, tokens_out=tokens_out, **asked._asdict())


def _reuse(step: str, key: str, member: str, item: str) -> Entry:
    return Entry(
        key=key, step=step, item=item, member=member, request="", reply="", tokens_in=0, tokens_out=0, reused=True
    )
