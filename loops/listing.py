"""The runs of a folder in a line each: what `tutorloop runs` prints. No table is opened."""

from dataclasses import dataclass
from pathlib import Path

from ..evals.files import DamagedFile
from .documents import JournalError
from .show import Change, RunFolder, change, is_run, printed

NOTHING = Change()
BY_HAND = "tutorloop.policies.by_hand:METHOD"
"""The method of what `tutorloop teach` makes: it ships, and is none that a run would be started with."""


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """One run in the list."""

    run: str
    status: str
    """Of a run, or `damaged`, or `unreadable` (nobody knows whether it is a run): see `fault`."""
    why: str = ""
    method: str = ""
    policy: str = ""
    """Teaches in the place of the method's own; empty: none."""
    rounds: int = 0
    quiz: float | None = None
    """Of the last round, kept or not."""
    exam: Change = NOTHING
    fault: str = ""
    parent: str = ""
    """Folder of the run that this one is a fork of."""
    shared: int = 0
    """The last round that it shares with it."""


def spoken(method: str) -> str:
    """The name of a run's method, for people.

    >>> spoken(BY_HAND), spoken("tailored"), spoken("my_methods:METHOD")
    ('by hand', 'tailored', 'my_methods:METHOD')
    """
    return "by hand" if method == BY_HAND else method


def listing(folder: Path, depth: int = 3) -> list[RunLine]:
    """Every run below a folder, or the folder itself; a damaged or unreadable one with its fault. Hidden folders are
    not looked into: a fork that is being made is one.

    Raises:
        OSError: the folder itself cannot be read.
    """
    if is_run(folder):
        return [_line(folder)]
    below = sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".") if folder.is_dir() and depth else []
    return [line for path in below for line in _listed(path, depth - 1)]


def _listed(folder: Path, depth: int) -> list[RunLine]:
    try:
        return listing(folder, depth)
    except OSError as e:  # somebody else's
        return [_faulty(folder, e)]


def _line(root: Path) -> RunLine:
    """The little that the list needs: no table is opened."""
    try:
        run = RunFolder(root)
        status, why = run.status()
        fork = run.record.get("fork")
        last = run.reports[-1] if run.reports else None
        before, after = run.finals.get(0, {}), run.finals.get(last.number if last else 0, {})
        exam = change(before.get("exam"), after.get("exam") if status == "finished" else None)
        return RunLine(
            run=printed(root),
            status=status,
            why=why,
            method=str(run.record["config"]["method"]),
            policy=str(run.record["config"]["teacher"]["policy"]),
            rounds=last.number if last else 0,
            quiz=last.quiz.accuracy if last else None,
            exam=Change(before=exam.before, after=exam.after, n=exam.n),
            parent=printed(fork["parent"]) if fork else "",
            shared=fork["round"] if fork else 0,
        )
    except (JournalError, DamagedFile, OSError) as e:
        return _faulty(root, e)


def _faulty(root: Path, e: Exception) -> RunLine:
    status, fault = "damaged", str(e)
    if isinstance(e, OSError):
        status, fault = "unreadable", f"{e.strerror}: {e.filename}. Gain access to it to see whether there is a run."
    return RunLine(run=printed(root), status=status, fault=printed(" ".join(fault.split())))
