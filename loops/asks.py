"""Every ask of a model, on disk before it is made and after it is answered; never paid for twice.

While a step runs its asks are lines of `asks/<step>.jsonl`; when it is done they become `asks/<step>.parquet`. An entry
without an answer was in flight when the process died: it is asked again. A torn last line is no entry.

Not covered: replies are held in memory by key, so a run with millions of long replies needs the memory for them.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from ..evals.rows import atomic
from ..policies.records import Cost
from ..policies.room import Recalled


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One ask and its answer."""

    key: str
    step: str
    item: str
    request: str
    reply: str
    tokens_in: int
    tokens_out: int


class Asks:
    """The asks of one run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, Recalled] = {}
        self._flying: dict[str, tuple[str, str]] = {}
        self._spent: dict[str, Cost] = {}
        for path in sorted(folder.glob("*")):
            for entry in read_asks(path):
                self._learn(entry)

    def recall(self, key: str) -> Recalled | None:
        return self._known.get(key)

    def asking(self, step: str, asks: Mapping[str, tuple[str, str]]) -> None:
        self._flying |= asks
        self._append(step, [["ask", key, item, request] for key, (item, request) in asks.items()])

    def answered(self, step: str, replies: Mapping[str, tuple[str, Cost]]) -> None:
        self._append(step, [["reply", key, text, c.tokens_in, c.tokens_out] for key, (text, c) in replies.items()])
        for key, (text, cost) in replies.items():
            item, request = self._flying.pop(key)
            self._learn(
                Entry(
                    key=key,
                    step=step,
                    item=item,
                    request=request,
                    reply=text,
                    tokens_in=cost.tokens_in,
                    tokens_out=cost.tokens_out,
                )
            )

    def spent(self, step: str = "") -> Cost:
        """Of the steps whose name begins with `step`: `3/` is round 3."""
        return sum((cost for name, cost in self._spent.items() if name.startswith(step)), Cost())

    def compact(self, step: str) -> None:
        """The step is done: its lines become a Parquet file, sorted by key."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self._path(step)
        if not path.exists():
            return
        whole = path.with_suffix(".parquet")  # there already, if a kill came between this and the step's commit
        found = {e.key: e for file in (whole, path) if file.exists() for e in read_asks(file)}
        rows = [vars(found[key]) for key in sorted(found)]
        with atomic(whole) as part:
            pq.write_table(pa.Table.from_pylist(rows), part, compression="zstd")
        path.unlink()

    def _learn(self, entry: Entry) -> None:
        if entry.key not in self._known:  # after a kill between compaction and unlink both files have it
            cost = Cost(calls=1, tokens_in=entry.tokens_in, tokens_out=entry.tokens_out)
            self._spent[entry.step] = self._spent.get(entry.step, Cost()) + cost
            self._known[entry.key] = Recalled(reply=entry.reply, step=entry.step, item=entry.item)

    def _path(self, step: str) -> Path:
        return self.folder / f"{step.replace('/', '-')}.jsonl"

    def _append(self, step: str, lines: list[list[object]]) -> None:
        path = self._path(step)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as f:
            if f.tell() == 0:
                f.write(to_json(["step", step]) + b"\n")
            elif not _ends_whole(path):
                f.write(b"\n")  # a torn line of a killed process stays what it is: no entry
            f.write(b"".join(to_json(line) + b"\n" for line in lines))
            f.flush()
            os.fsync(f.fileno())


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as f:
        f.seek(-1, os.SEEK_END)
        return f.read(1) == b"\n"


def read_asks(path: Path) -> Iterator[Entry]:
    """The answered asks of one file, either form."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            entries = file.read().to_pylist()
        yield from TypeAdapter(list[Entry]).validate_python(entries)
        return
    if path.suffix != ".jsonl":
        return
    step, asked = "", dict[str, tuple[str, str]]()
    for line in path.read_bytes().splitlines():
        try:
            kind, *rest = from_json(line)
        except ValueError:
            continue  # torn by a kill
        if kind == "step":
            step = rest[0]
        elif kind == "ask":
            asked[rest[0]] = (rest[1], rest[2])
        elif rest[0] in asked:
            item, request = asked.pop(rest[0])
            yield Entry(
                key=rest[0], step=step, item=item, request=request, reply=rest[1], tokens_in=rest[2], tokens_out=rest[3]
            )
