"""The whole cycle at toy scale, in seconds: what one does before a GPU night.

    tutorloop run my.yaml --quick        the same as the key `limit: 8`

The real experiment, with its own models, policies and settings, on the first eight problems of each pool, with at most
two rounds and 32 rows in a stage, in this process. It lives in a folder of its own, `<run folder>-quick`, and begins
anew each time: a policy may have been mended meanwhile. At its end stand three rows as they were trained on, token by
token, and one problem's history. Its figures mean nothing.

Not covered: what only Ray or a second device would show; memory at full scale.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..evals.terminal import safe
from .config import Experiment
from .documents import JournalError, run_record
from .history import read_history
from .journal import locked
from .show import RunFolder
from .training_rows import ShownRow, shown_rows
from .words import history_lines

SUFFIX = "-quick"
IDS = 24
"""Token ids of a row that are printed; the middle of a longer one is left out."""


def toy_folder(config: Experiment, run_dir: Path) -> Path:
    """Where an experiment runs: with a `limit`, never where it would run without one."""
    if config.limit is None or run_dir.name.endswith(SUFFIX):
        return run_dir
    return run_dir.with_name(run_dir.name + SUFFIX)


def clear(root: Path) -> None:
    """Remove an earlier run at toy scale.

    Raises:
        JournalError: somebody runs in it, or what lies there is no such run.
    """
    if not root.exists():
        return
    if (root / "run.json").exists() and run_record(root)["config"].get("limit") is None:
        raise JournalError(f"{root} holds a run without a `limit`, which is not removed. Choose another --run-dir.")
    if locked(root):
        raise JournalError(f"{root} is in use by another process. Wait for it, or choose another --run-dir.")
    if (root / "run.json").exists():
        shutil.rmtree(root)


# ---- what it shows


def toy_lines(root: Path) -> Iterator[str]:
    """What a run at toy scale shows at its end. Of any other run: nothing."""
    run = RunFolder(root)
    if (limit := run.record["config"].get("limit")) is None:
        return
    yield ""
    rows, total = shown_rows(run)
    if not rows:
        yield "nothing was trained on: no lesson was accepted, and nothing could be rehearsed"
    else:
        yield f"{len(rows)} of {total} rows of the last training, as they were trained on:"
    for row in rows:
        yield ""
        yield f"row {safe(row.example.id)}, {safe(row.example.origin)}"
        yield from row_lines(row)
    if id := _telling(run):
        yield ""
        yield "one problem's history:"
        yield ""
        yield from history_lines(read_history(root, id))
    yield ""
    yield f"toy scale (limit={limit}): the figures of this run mean nothing. Its folder is {safe(str(root))}"


def row_lines(row: ShownRow) -> Iterator[str]:
    """A training row, for people."""
    if told := row.rendered:
        prompt, completion = len(told.prompt), len(told.completion)
        yield f"  {prompt + completion} tokens: {prompt} masked, {completion} up to the stop token"
    for text, weight in row.pieces:
        word = "masked" if not weight else "trained" if weight == 1 else f"x {weight:g}"
        yield f"  {word:<9}{safe(repr(text))}"
    if told:
        yield f"  {'ids':<9}{_some(told.prompt)} | {_some(told.completion)}"
    if row.rejected:
        tokens = f"{len(told.rejected)} tokens, " if told else ""
        yield f"  {'rejected':<9}{safe(repr(row.rejected))}, {tokens}in the DPO"


def _some(ids: Sequence[int]) -> str:
    if len(ids) <= IDS:
        return " ".join(map(str, ids))
    return " ".join([*map(str, ids[: IDS // 2]), "...", *map(str, ids[-IDS // 2 :])])


def _telling(run: RunFolder) -> str:
    """Id of the practice problem of which there is most to tell: one that was taught, else one that was wrong."""
    best = (0, "")
    for report in run.reports:
        if report.tables is None:
            continue
        taught = list(report.tables.lessons)
        for case in report.tables.answered:
            mine = [x for x in taught if x.case.partition("#")[0] == case.id]
            weight = 100 * any(x.sound for x in mine) + 10 * bool(mine) + (not case.right) + 1
            best = max(best, (weight, case.problem.id), key=lambda told: told[0])
    return best[1]
