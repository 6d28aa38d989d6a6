"""Every ask of a model, on disk before it is made and after it is answered; never paid for twice.

While a step runs its asks are lines of `asks/<step>.jsonl`; when it is done they become `asks/<step>.parquet`. An entry
without an answer was in flight when the process died: it is asked again. A call of an API that came to no answer is an
entry too, and answers nothing: the ask is made again, now or by the next start.

What is known is looked up in a temporary database, so that millions of replies need no memory.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import repeat
from operator import attrgetter
from pathlib import Path
from threading import RLock
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from ..agents.lanes import Left
from ..evals.files import ALIEN, REMEDY, DamagedFile, Lines, atomic
from ..evals.lookup import scratch
from ..evals.redact import redacted
from ..policies.records import Cost
from ..policies.room import NOTHING, Asked, Recalled, Tried


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
    unmetered: bool = False
    """The provider did not say the tokens, and none are counted."""
    fault: str = ""
    """Why this call came to no answer, in a word or two; `reply` has the rest. Empty: it did."""
    number: int = 0
    """Of the calls for one ask that came to no answer: which, from 1."""


_ENTRIES = TypeAdapter(list[Entry])
_RUN = b"run"
"""Where a Parquet file says whose it is."""
GROUP = 4096
"""Asks that are written at once. Fewer would need less memory, but of each group something is held to the end."""


class Asks:
    """The asks of one run folder; several threads may use it.

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
        self._faults: Counter[tuple[str, str, str]] = Counter()
        self._turn = RLock()  # calls of an API write from a thread of their own
        self._closed = False
        self._db = scratch(
            "paid (key text primary key, step text, item text, reply text)",
            "reused (step text, key text, item text, primary key (step, key, item))",
            "failed (step text, key text, number int, primary key (step, key, number))",
        )
        for path in sorted(folder.glob("*")):
            for entry in read_asks(path, run):
                self._learn(entry)

    def close(self) -> None:
        """Nothing is written any more, whoever is still at work in a thread: the folder may be another process's."""
        with self._turn:
            self._closed = True

    def recall(self, key: str) -> Recalled | None:
        with self._turn:
            found = self._db.execute("select reply, step, item from paid where key = ?", (key,)).fetchone()
        return found and Recalled(reply=found[0], step=found[1], item=found[2])

    def record(
        self,
        step: str,
        *,
        asking: Mapping[str, Asked] = NOTHING,
        tried: Sequence[tuple[str, Tried]] = (),
        replies: Mapping[str, tuple[str, Cost]] = NOTHING,
        reused: Sequence[tuple[str, str, str]] = (),
    ) -> None:
        """
        Raises:
            Left: the folder was let go.
        """
        with self._turn:
            if self._closed:
                raise Left
            # Who uses an answer again costs nothing: it may be known before it is on disk.
            lines: list[Sequence[object]] = [
                ["reuse", step, *ask] for ask in dict.fromkeys(reused) if self._learn(_reuse(step, *ask))
            ]
            for key, asked in asking.items():
                lines.append(["again", step, key] if key in self._flying else ["ask", step, key, *asked])
            self._flying |= asking
            failed = [_try(step, key, self._flying[key], self._number(step, key), *told) for key, told in tried]
            for e in failed:
                lines.append(["try", step, e.key, e.number, e.fault, e.reply, e.tokens_in, e.tokens_out])
            lines += [["reply", step, key, text, *_counted(cost)] for key, (text, cost) in replies.items()]
            if lines:
                self._append(step, lines)
            for entry in failed:
                self._learn(entry)
            # As a resumed run would read them.
            texts = from_json(redacted(to_json({key: text for key, (text, _) in replies.items()})))
            for key, (_, cost) in replies.items():
                self._learn(_entry(step, key, self._flying.pop(key), texts[key], *_counted(cost)))

    def spent(self, step: str = "", member: str = "teacher") -> Cost:
        """On one member, in the steps whose name begins with `step`: `3/` is round 3. Calls without an answer are in
        the tokens, as far as the provider said, and not in the calls.
        """
        with self._turn:
            found = [cost for (name, who), cost in self._spent.items() if name.startswith(step) and who == member]
        return sum(found, Cost())

    def faults(self, step: str = "", member: str = "teacher") -> Counter[str]:
        """How many calls of one member came to no answer, by kind of fault, in the steps as in `spent`."""
        told = Counter[str]()
        with self._turn:
            for (name, who, kind), n in self._faults.items():
                if name.startswith(step) and who == member:
                    told[kind] += n
        return told

    def answers(self, step: str) -> int:
        """How many asks of a step were answered, be it for nothing."""
        with self._turn:
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
        kinds: dict[str, Any] = {name: pa.int64() for name in ("tokens_in", "tokens_out", "number")}
        kinds |= {name: pa.bool_() for name in ("reused", "unmetered")}
        schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names], {_RUN: self.run.encode()})
        row = attrgetter(*names)
        by_key = scratch(f"entry ({', '.join(names)}, primary key (key, item, number))")
        by_key.executemany(
            f"insert or replace into entry values ({', '.join('?' * len(names))})",
            (row(entry) for file in (whole, path) if file.exists() for entry in read_asks(file, self.run)),
        )
        found = by_key.execute("select * from entry order by key, item, number")
        with atomic(whole) as part, pq.ParquetWriter(part, schema, compression="zstd") as parquet:
            while rows := found.fetchmany(GROUP):
                columns = {name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
                columns |= {name: list(map(bool, columns[name])) for name in ("reused", "unmetered")}
                parquet.write_table(pa.Table.from_pydict(columns, schema=schema))
        path.unlink()
        self._files.pop(step, None)
        return whole

    def _learn(self, entry: Entry) -> bool:
        """Whether it is new; after a kill between compaction and unlink both files have it."""
        row: Sequence[object]
        if entry.reused:
            table, row = "reused", [entry.step, entry.key, entry.item]
            cost = Cost(reused=1)
        elif entry.fault:
            table, row = "failed", [entry.step, entry.key, entry.number]
            cost = Cost(tokens_in=entry.tokens_in, tokens_out=entry.tokens_out)
        else:
            table, row = "paid", [entry.key, entry.step, entry.item, entry.reply]
            cost = Cost(calls=1, tokens_in=entry.tokens_in, tokens_out=entry.tokens_out, unmetered=int(entry.unmetered))
        new = self._db.execute(f"insert or ignore into {table} values ({', '.join('?' * len(row))})", row).rowcount
        if new:
            account = entry.step, entry.member
            self._spent[account] = self._spent.get(account, Cost()) + cost
            if entry.fault:
                self._faults[entry.step, entry.member, entry.fault] += 1
            else:
                self._answers[entry.step] += 1
        return bool(new)

    def _number(self, step: str, key: str) -> int:
        """Of the next call for this ask that comes to no answer."""
        (n,) = self._db.execute("select count(*) from failed where step = ? and key = ?", (step, key)).fetchone()
        return int(n) + 1

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


def tally(path: Path, run: str = "", member: str = "teacher") -> tuple[Cost, Counter[str]]:
    """What a file says was asked of a member, as `Asks.spent` and `faults` count it. No text is read of a Parquet file.

    Raises:
        DamagedFile: the file is not what was written, or another run's.
    """
    calls, again, blind, sent, got, faults = 0, 0, 0, 0, 0, Counter[str]()
    for who, reused, fault, unmetered, tokens_in, tokens_out in _figures(path, run):
        if who == member:
            answered = not (reused or fault)
            calls, again, blind = calls + answered, again + bool(reused), blind + bool(answered and unmetered)
            sent, got = sent + tokens_in, got + tokens_out
            if fault:
                faults[fault] += 1
    return Cost(calls=calls, tokens_in=sent, tokens_out=got, reused=again, unmetered=blind), faults


def _figures(path: Path, run: str) -> Iterator[Sequence[Any]]:
    columns = ["member", "reused", "fault", "unmetered", "tokens_in", "tokens_out"]
    if path.suffix != ".parquet":
        yield from map(attrgetter(*columns), read_asks(path, run))
        return
    for batch in _batches(path, run, columns):
        none = repeat(None, batch.num_rows)  # a column that came later than the file
        known = set(batch.schema.names)
        yield from zip(*(batch.column(name).to_pylist() if name in known else none for name in columns), strict=True)


def _compacted(path: Path, run: str) -> Iterator[Entry]:
    for batch in _batches(path, run):
        yield from _ENTRIES.validate_python(batch.to_pylist())


def _batches(path: Path, run: str, columns: list[str] | None = None) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if (file.schema_arrow.metadata or {}).get(_RUN) != run.encode():
                raise DamagedFile(f"{path} is another run's. {ALIEN}")
            yield from file.iter_batches(10_000, columns=columns)
    except pa.ArrowException as e:
        raise DamagedFile(f"{path} is damaged ({next(iter(str(e).splitlines()), '')}). {REMEDY}") from None


def _answered(path: Path, run: str) -> Iterator[Entry]:
    asked = dict[str, Asked]()
    for kind, step, key, *rest in _lines(path, run).read():
        if kind == "ask":
            asked[key] = Asked(*rest)
        elif kind == "reuse":
            yield _reuse(step, key, *rest)
        elif kind == "try" and key in asked:
            yield _try(step, key, asked[key], *rest)
        elif kind == "reply" and key in asked:
            yield _entry(step, key, asked.pop(key), *rest)


def _lines(path: Path, run: str) -> Lines:
    return Lines(path, f"asks/{path.name}", run)


def _counted(cost: Cost) -> Sequence[int]:
    """What a line says of it: tokens in and out, and whether nobody knows."""
    return [cost.tokens_in, cost.tokens_out, *[1] * cost.unmetered]


def _entry(step: str, key: str, asked: Asked, reply: str, tokens_in: int, tokens_out: int, unmetered: int = 0) -> Entry:
    return Entry(
        key=key,
        step=step,
        reply=reply,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        unmetered=bool(unmetered),
        **asked._asdict(),
    )


def _try(
    step: str, key: str, asked: Asked, number: int, fault: str, why: str, tokens_in: int, tokens_out: int
) -> Entry:
    return Entry(
        key=key,
        step=step,
        item=asked.item,
        member=asked.member,
        request="",  # the answer's entry has it, if one came
        reply=why,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        fault=fault,
        number=number,
    )


def _reuse(step: str, key: str, member: str, item: str) -> Entry:
    return Entry(
        key=key, step=step, item=item, member=member, request="", reply="", tokens_in=0, tokens_out=0, reused=True
    )
