"""Runs one experiment in a process that tests can kill: `python experiment.py EXPERIMENT.json RUN_DIR [POINT]`.

At a point it writes the process ids of all that it has started to `RUN_DIR.family`, and kills itself, as the kernel's
out-of-memory killer would:

    asked 1/teach                   the teacher was asked, and has not answered
    training student-r0001-2-dpo    the learner is at it
    after 2/publish                 the step is on record
    shard sheets/quiz/student-r0002 the first part of the table whose name begins so is on disk
"""

import json
import os
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tutorloop
from tutorloop.agents.cast import Cast
from tutorloop.agents.roles import Job, Trained
from tutorloop.loops.book import Book
from tutorloop.loops.journal import Tick


def family() -> list[int]:
    """Everything that descends from this process."""
    below: dict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        below[int(fields[1])].append(int(stat.parent.name))

    def under(pid: int) -> Iterator[int]:
        for child in below[pid]:
            yield child
            yield from under(child)

    return list(under(os.getpid()))


class Killer(Tick):
    def __init__(self, run: Path, point: str) -> None:
        self.family = run.with_name(f"{run.name}.family")
        self.kind, _, self.name = point.partition(" ")

    def __call__(self, name: str, done: int, total: int) -> None:
        if self.kind == "shard" and name.startswith(self.name) and done < total:
            self.kill()

    def step(self, name: str, seconds: float, replayed: bool) -> None:
        if self.kind == "after" and name == self.name:
            self.kill()
        if name.startswith("final/") and not replayed:  # the roles are there, at the end
            self.remember()

    def remember(self) -> None:
        self.family.write_text(" ".join(map(str, family())))

    def kill(self) -> None:
        self.remember()
        os.kill(os.getpid(), signal.SIGKILL)

    def plant(self) -> None:
        """Points within a step."""
        record, train = Book.record, Cast.train

        def asked(book: Book, step: str, **what: Any) -> None:
            record(book, step, **what)
            if self.kind == "asked" and step == self.name and what.get("asking"):
                self.kill()

        def training(cast: Cast, job: Job) -> Trained:  # the journal reads what it returns from here
            if self.kind == "training" and job.name == self.name:
                threading.Timer(0.2, self.kill).start()
                train(cast, job)
                threading.Event().wait()  # a training may take less: it is not told of before the end comes
            return train(cast, job)

        swap: Callable[..., None] = setattr
        swap(Book, "record", asked)
        swap(Cast, "train", training)


def main() -> None:
    experiment, run, *point = sys.argv[1:]
    print(tutorloop.__file__, flush=True)
    killer = Killer(Path(run), " ".join(point))
    killer.plant()
    report = tutorloop.launch(json.loads(Path(experiment).read_text()), run, tick=killer)
    print(report.status, flush=True)


if __name__ == "__main__":
    main()
