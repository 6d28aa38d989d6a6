"""A run as one page that can be read anywhere: `report.html`, with everything in it and nothing fetched.

    tutorloop report runs/arithmetic

It needs no script, and its policy lets none run. Whatever a student or a teacher wrote is text in it: escaped, with
control characters written out, cut to a length with a note of what is left out. There is no clock in it, and no path of
this machine but what the experiment names by one, so the same run gives the same page.

The journal does not vouch for the page: it can be made again at any time, and taken away. While a run goes on, the page
in its folder is as old as its last end.

Not covered: a page of every problem (`tutorloop show RUN PROBLEM`); comparing runs (`compare.py`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from ..evals.files import atomic_write, in_the_way
from ..evals.statistics import wilson
from ..evals.terminal import harmless
from ..policies.methods import METHODS
from ..policies.rounds import RoundReport
from .bill import without_answer
from .config import ConfigError, Experiment, changed
from .drawing import WIDTH, Column, Moves, curve, dumbbell, flow
from .history import Chapter, History, history_of
from .listing import spoken
from .picking import Shelf, shelves
from .show import Change, RoundLine, RunFolder, RunView, Skilled, printed, read_run
from .training_rows import shown_rows
from .words import run_warnings, worth_showing

T = TypeVar("T")

NAME = "report.html"
TEMPLATE = Path(__file__).with_name("report.html.j2")
COLUMNS, POINTS, BACK = 9, 120, 8
"""Sittings in the flow and points of the curve: of a longer run some are chosen, evenly. Rolled-back rounds with a flow
of their own."""
ROUNDS = 60
"""Rows in the table of rounds."""
CHAPTERS = 10
"""Rounds of one history."""
LESSONS = 6
"""Lessons of one case in one round."""
SKILLS = 40
"""Rows of one pool."""
TEXT, LINE, SETTINGS = 700, 240, 8_000
"""Characters of a text that somebody wrote, of one of its lines, and of all settings together."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of an answer, or a gap."""

    text: str
    number: int
    """From 1; 0: lines are left out here."""
    wrong: bool = False
    """The first wrong one."""


def write_report(root: Path | str, out: Path | None = None) -> Path:
    """Make the page of a run, finished or not.

    Args:
        out: By default `report.html` in the run's folder.

    Raises:
        JournalError: there is no run, or it is damaged.
        ConfigError: the page cannot be written there.
    """
    path = out or Path(root) / NAME
    if path.is_dir():
        raise ConfigError(f"the report cannot be written to {path}: it is a folder. Name a file: --out FILE")
    if why := in_the_way(path.parent):
        raise ConfigError(f"the report cannot be written to {path}: {why}. Name another file: --out FILE")
    page = report_page(root)
    try:
        atomic_write(path, page.encode())
    except PermissionError as e:
        raise ConfigError(f"the report cannot be written to {path}: {e.strerror}. Name another file: --out FILE") from e
    return path


def report_page(root: Path | str) -> str:
    """The page itself.

    Raises:
        JournalError: there is no run, or it is damaged.
    """
    run, view = RunFolder(Path(root)), read_run(root)
    name = printed(run.root.resolve().name)
    config = dict(run.record["config"])
    kept = [report for report in run.reports if report.kept]
    back = [line for line in view.rounds if not line.kept]
    told = _shelves(run, shelves(run)) if run.reports else []
    rows, total = shown_rows(run)
    return _template().render(
        name=name,
        parent=Path(view.parent).name,
        view=view,
        costs=view.teacher == "chat" or view.bill.dollars is not None,
        method=METHODS.get(view.method, (None,))[0],
        lead=list(_lead(view)),
        warnings=list(run_warnings(view)),
        curve=curve(_even(view.rounds, POINTS), _exams(view)) if view.rounds else None,
        undrawn=max(0, len(view.rounds) - POINTS),
        flow=_flow(_even(kept, COLUMNS)) if len(kept) > 1 else None,
        thinned=max(0, len(kept) - COLUMNS),
        rounds=_ends(view.rounds, ROUNDS),
        rolled_back=[(line, _small(run, line)) for line in back[:BACK]],
        more_back=len(back[BACK:]),
        pools=list(_pools(view)),
        shelves=told,
        rows=rows,
        of_rows=total,
        trained={line.round: run.trained(line.round) for line in view.rounds},
        changed=changed(Experiment().model_dump(mode="json"), config),
        config=yaml.safe_dump(config, sort_keys=True, allow_unicode=True, width=100),
        record=run.record,
    )


# ---- what it says


def _lead(view: RunView) -> Iterator[str]:
    """What the run came to, in sentences."""
    before, after = _ends_of(view)
    if before and after and view.transitions is not None:
        t = view.transitions
        yield (
            f"The exam went from {_told(before['exam'])} to {_told(after['exam'])} of {view.exam.n} problems: "
            f"{t['fixed']:.0f} fixed, {t['regressed']:.0f} regressed (exact McNemar, two-sided p = {t['p']:.2g})."
        )
    elif before:
        yield f"Before any teaching the exam is {_told(before['exam'])} right, of {before['exam']['n']:.0f} problems."
    if after and "probe" in after:
        yield (
            f"Twins of the practice problems, which were never taught, went from {_told(before['probe'])} to "
            f"{_told(after['probe'])}."
        )
    if view.retention is not None and view.retention.after is not None:
        yield _retained(view.retention)
    done = [line for line in view.rounds if line.round]
    if done:
        back = [str(line.round) for line in done if not line.kept]
        many = len(back) > 1
        said = f"round{'s' * many} {', '.join(back)} {'were' if many else 'was'} rolled back"
        lost = f"; {said}" if back else "; all were kept"
        if still := [str(line.round) for line in done if line.proof == "unchanged"]:
            lost += f"; round{'s' * (len(still) > 1)} {', '.join(still)} left the student as it was"
        calls, tokens = sum(r.teacher_calls for r in done), sum(r.teacher_tokens for r in done)
        yield (
            f"{len(done)} round{'s' if len(done) > 1 else ''}{lost}. The teacher was asked {calls:,} times, {tokens:,} "
            "tokens in all."
        )


def _told(sat: Mapping[str, float]) -> str:
    return f"{sat['accuracy']:.3f} ({sat['low']:.3f}–{sat['high']:.3f})"


def _retained(kept: Skilled) -> str:
    after = {name: change for name, change in kept.skills.items() if (change.after or 0.0) < (change.before or 0.0)}
    worst = min(after, key=lambda name: (after[name].after or 0.0) - (after[name].before or 0.0), default="")
    told = f"; the worst, {worst}, ends at {after[worst].after or 0:.2f} (n {after[worst].n})" if worst else ""
    return f"Skills that were mastered before went from {kept.before or 0:.3f} to {kept.after or 0:.3f}{told}."


def _ends_of(view: RunView) -> tuple[Mapping[str, Mapping[str, float]], Mapping[str, Mapping[str, float]]]:
    """What was sat before any teaching, and after the last round; empty: it was not."""
    last = max(view.finals, default=0)
    return view.finals.get(0, {}), view.finals[last] if last and view.exam.after is not None else {}


def _exams(view: RunView) -> dict[int, Mapping[str, float]]:
    return {number: sheets["exam"] for number, sheets in sorted(view.finals.items()) if "exam" in sheets}


@dataclass(frozen=True, kw_only=True)
class PoolRow:
    """An accuracy before and after, for the table and its little picture."""

    name: str
    skill: bool
    """Whether it is a part of the pool above it."""
    before: Mapping[str, float] | None
    after: Mapping[str, float] | None
    picture: Markup
    left_out: int = 0
    """Skills that have no row of their own; this row says so and nothing else."""


def _pools(view: RunView) -> Iterator[PoolRow]:
    before, after = _ends_of(view)
    for pool, was in before.items():
        now = after.get(pool)
        yield PoolRow(name=pool, skill=False, before=was, after=now, picture=dumbbell(was, now))
        yield from _scored(view) if pool == "exam" else ()
        told: Skilled | None = {"probe": view.probe, "retention": view.retention}.get(pool)
        skills = list(told.skills.items()) if told and len(told.skills) > 1 else []
        for name, change in skills[:SKILLS]:
            first, then = _share(change, change.before), _share(change, change.after)
            yield PoolRow(name=name, skill=True, before=first, after=then, picture=dumbbell(first, then))
        if left := len(skills) - SKILLS if len(skills) > SKILLS else 0:
            yield PoolRow(name=pool, skill=True, before=None, after=None, picture=Markup(), left_out=left)


def _scored(view: RunView) -> Iterator[PoolRow]:
    """The exam by others' rules, below our own."""
    last = max(view.scores, default=0)
    for name, before in view.scores.get(0, {}).items():
        after = view.scores[last][name] if last and view.exam.after is not None else None
        yield PoolRow(name=name, skill=True, before=before, after=after, picture=dumbbell(before, after))


def _share(change: Change, share: float | None) -> dict[str, float] | None:
    if share is None:
        return None
    low, high = wilson(round(share * change.n), change.n)
    return {"accuracy": share, "low": low, "high": high, "n": change.n}


# ---- what became of each answer


def _even(items: Sequence[T], most: int) -> Sequence[T]:
    """So many of them at most, evenly, first and last among them.

    >>> _even(list(range(30)), 9)
    [0, 4, 7, 11, 14, 18, 22, 25, 29]
    """
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _flow(reports: Sequence[RoundReport], width: float = WIDTH, height: float = 250) -> Markup:
    columns, moves = list[Column](), list[Moves]()
    before: dict[str, str] = {}
    for report in reports:
        now = {row.problem.id: row.verdict.label for row in report.quiz.rows}
        if before:
            moves.append(Counter((before[id], label) for id, label in now.items() if id in before))
        columns.append(
            Column(name=f"round {report.number}" if report.number else "before", counts=Counter(now.values()))
        )
        before = {id: str(label) for id, label in now.items()}
    return flow(columns, moves, width=width, height=height)


def _small(run: RunFolder, line: RoundLine) -> Markup:
    """A round that was rolled back: from the state that served, which goes on serving."""
    of = {report.number: report for report in run.reports}
    served = next(of[n] for n in range(line.round - 1, -1, -1) if of[n].kept)
    return _flow([served, of[line.round]], 330, 170)


# ---- problems with their histories


def _shelves(run: RunFolder, found: Sequence[Shelf]) -> list[tuple[Shelf, list[History]]]:
    return [(shelf, [history_of(run, id) for id in shelf.ids]) for shelf in found]


def lines(work: str, first_wrong: int | None) -> list[Line]:
    """The lines of an answer that are shown.

    >>> [(line.number, line.wrong) for line in lines("3-8 put 5\\n\\n=5", 0)]
    [(1, True), (2, False)]
    """
    rows = [row for row in work.splitlines() if row.strip()]  # as `check_steps` counts them
    at = first_wrong if first_wrong is not None and 0 <= first_wrong < len(rows) else 0
    shown, last = list[Line](), -1
    for i in worth_showing(len(rows), at):
        if i != last + 1:
            shown.append(Line(text=f"{i - last - 1} lines", number=0))
        shown.append(Line(text=rows[i], number=i + 1, wrong=first_wrong == i))
        last = i
    return shown


def _ends(items: Sequence[Any], most: int) -> tuple[Sequence[Any], int, Sequence[Any]]:
    """The first and the last of many, and how many are left out between them.

    >>> _ends([1, 2, 3, 4, 5, 6], 4)
    ([1, 2], 2, [5, 6])
    """
    if len(items) <= most:
        return items, 0, []
    return items[: most // 2], len(items) - most, items[-(most - most // 2) :]


def cut(text: str, most: int = TEXT) -> Markup:
    """A text as it may stand in a page, with a note of what is left out."""
    shown = escape(harmless(text[:most]))
    left = len(text) - most
    return shown if left <= 0 else Markup('{} <span class="cut">… {:,} more characters</span>').format(shown, left)


def _moved(chapter: Chapter) -> str:
    """What a round came to for everybody."""
    if chapter.kept is None:
        return "the round is still open"
    if chapter.quiz is None:
        return ""
    kept = "kept" if chapter.kept else "rolled back"
    return f"quiz {chapter.quiz[0]:.3f} → {chapter.quiz[1]:.3f}, {kept}"


@cache
def _template() -> Template:
    # What is not from the template passes through `harmless`: control characters, also those that turn the direction
    # of writing, are written out, and secrets are not.
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: harmless(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters |= {"cut": cut, "ends": _ends, "spoken": spoken}
    environment.globals |= {"lines": lines, "moved": _moved, "LESSONS": LESSONS, "CHAPTERS": CHAPTERS}
    environment.globals |= {"without_answer": without_answer, "LINE": LINE, "SETTINGS": SETTINGS}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
