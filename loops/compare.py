"""Two runs problem by problem: who has right what both were asked, how sure that is, what differs, what each has cost.

    tutorloop compare runs/tailored runs/gold

Problems are matched by their content, pool by pool, in the last sitting of each run; what only one of them sat is
counted and left out. The test is paired: the exact McNemar test, and an interval of the difference.

Not covered: arms over several seeds: one pair of runs tells two students apart and no methods; whether the two agree on
what is right, where their data files differ.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..evals.statistics import Interval, Word, mcnemar, paired_interval, paired_verdict, wilson
from ..evals.terminal import safe
from ..policies.rounds import RoundReport, Sheet
from .bill import money, price_of
from .config import changed
from .documents import JournalError
from .journal import Status
from .listing import spoken
from .parts import BudgetConfig
from .show import RunFolder, printed
from .words import UNREADABLE, columns

MARGIN = 0.02
"""Accuracies that surely differ by less are called equivalent."""
SOME = 5
"""Ids of problems that only one run has right."""
UNEQUAL = 0.02
"""Share by which two costs may differ and still be called equal."""
ONE_PAIR = (
    "This is one pair of runs: it tells these two students apart, on problems like these, and not the methods that "
    "taught them. How much runs of one method differ from seed to seed is not in it. For that, run both methods over "
    "the same seeds."
)


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two students on the same problems. Accuracies are fractions; a difference is the second less the first."""

    n: int
    """Problems that both sat."""
    both: int
    only_first: int
    """Right in the first run and not in the second."""
    only_second: int
    neither: int
    accuracy: tuple[float, float]
    intervals: tuple[Interval, Interval]
    """Wilson, 95 %."""
    difference: float
    interval: Interval
    """Of the difference, 95 %, paired (Bonett & Price)."""
    p: float
    """Exact McNemar, two-sided."""
    verdict: Word


@dataclass(frozen=True, kw_only=True)
class PairedPool(Paired):
    """A whole pool."""

    left_out: tuple[int, int]
    """Problems that only the first run sat, and only the second."""
    unread: tuple[int, int]
    """Of the common problems, answers that were cut off or could not be read."""
    skills: Mapping[str, Paired] = field(default_factory=dict)
    """Of no skill is the p corrected for how many there are."""
    lost: Sequence[tuple[str, str]] = ()
    """Some that only the first run has right: their ids in the first run and in the second."""
    won: Sequence[tuple[str, str]] = ()
    """Some that only the second run has right."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two runs."""

    run: str
    status: Status
    method: str
    after_round: int
    """The sitting that is compared."""
    rounds: int
    shared: int
    """Rounds that a fork shares with its parent: what they cost was paid there, and is counted here too."""
    kept: int
    examples: int
    """Rows trained on."""
    teacher_calls: int
    teacher_tokens: int
    """In and out, all rounds, rolled-back ones too."""
    teacher_dollars: float | None
    """`None`: unknown."""
    optimizer_tokens: Mapping[str, int]
    """By loss, all rounds."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `compare RUN RUN --json` prints. The exam is what counts."""

    first: Side
    second: Side
    pools: Mapping[str, PairedPool]
    same_start: bool
    """Whether both began with the same student, weights and all."""
    differs: Mapping[str, tuple[Any, Any]]
    """Settings, sources and versions that are not alike, by name."""
    verdict: Word
    """Of the exam."""
    sentence: str
    caution: str = ONE_PAIR


class _Mark(NamedTuple):
    """What came of one problem."""

    id: str
    right: bool
    unread: bool
    skill: str


def compare(first: Path | str, second: Path | str) -> Comparison:
    """Set two runs side by side. Both may still be going on: what they sat last counts.

    Raises:
        JournalError: there is no run, it is damaged, it sat no exam yet, or the two exams have no problem in common.
    """
    runs = RunFolder(Path(first)), RunFolder(Path(second))
    sides = tuple(_side(run, path) for run, path in zip(runs, (first, second), strict=True))
    sat = tuple(run.finals[side.after_round] for run, side in zip(runs, sides, strict=True))
    pools = {name: pair for name in sat[0] if name in sat[1] and (pair := _pool(sat[0][name], sat[1][name]))}
    if "exam" not in pools:
        raise JournalError(
            f"the exams of {printed(first)} and {printed(second)} have no problem in common, so nothing can be "
            "compared. Compare runs with the same `course` (for the embedded world, the same seed too)."
        )
    starts = [run.reports[0].serving["student"].digest for run in runs]
    return Comparison(
        first=sides[0],
        second=sides[1],
        pools=pools,
        same_start=starts[0] == starts[1],
        differs=_differs(runs[0].record, runs[1].record),
        verdict=pools["exam"].verdict,
        sentence=_sentence(pools["exam"]),
    )


def _side(run: RunFolder, root: Path | str) -> Side:
    if not run.finals:
        raise JournalError(f"{printed(root)} sat no exam yet. Let it run to its end: the same command goes on.")
    rounds = [report for report in run.reports if report.number]
    trained = [run.trained(report.number) for report in rounds]
    price = price_of(run.record["config"])
    return Side(
        run=printed(root),
        status=run.status()[0],
        method=str(run.record["config"]["method"]),
        after_round=max(run.finals),
        rounds=len(rounds),
        shared=run.record["fork"]["round"] if run.record.get("fork") else 0,
        kept=sum(report.kept for report in rounds),
        examples=sum(_rows(report) for report in rounds),
        teacher_calls=sum(report.cost.calls for report in rounds),
        teacher_tokens=sum(report.cost.tokens for report in rounds),
        teacher_dollars=sum(price.of(r.cost.tokens_in, r.cost.tokens_out) for r in rounds) if price else None,
        optimizer_tokens={
            loss: sum(tokens.get(loss, 0) for tokens in trained)
            for loss in sorted({loss for tokens in trained for loss in tokens})
        },
        seconds=round(sum(run.seconds(report.number) for report in rounds), 3),
    )


def _rows(report: RoundReport) -> int:
    unchanged = report.proof is None or report.proof.status == "unchanged"  # then nobody learnt from them
    return 0 if unchanged or report.tables is None else len(report.tables.examples)


def _pool(first: Sheet, second: Sheet) -> PairedPool | None:
    """`None`: they have no problem in common."""
    a, b = _marks(first), _marks(second)
    common = [digest for digest in a if digest in b]
    if not common:
        return None
    skills: dict[str, list[str]] = {}
    for digest in common:
        skills.setdefault(a[digest].skill, []).append(digest)
    lost = [digest for digest in common if a[digest].right and not b[digest].right]
    won = [digest for digest in common if b[digest].right and not a[digest].right]
    return PairedPool(
        **vars(_paired(a, b, common)),
        left_out=(len(a) - len(common), len(b) - len(common)),
        unread=(sum(a[d].unread for d in common), sum(b[d].unread for d in common)),
        skills={skill: _paired(a, b, those) for skill, those in sorted(skills.items()) if skill},
        lost=[(a[d].id, b[d].id) for d in lost[:SOME]],
        won=[(a[d].id, b[d].id) for d in won[:SOME]],
    )


def _marks(sheet: Sheet) -> dict[str, _Mark]:
    """By content: ids are a run's own."""
    return {
        row.problem.digest: _Mark(
            row.problem.id, row.verdict.right, row.verdict.label in ("truncated", "unparsed"), row.skill
        )
        for row in sheet.rows
    }


def _paired(a: Mapping[str, _Mark], b: Mapping[str, _Mark], common: Sequence[str]) -> Paired:
    n = len(common)
    right = sum(a[d].right for d in common), sum(b[d].right for d in common)
    both = sum(a[d].right and b[d].right for d in common)
    only_first, only_second = right[0] - both, right[1] - both
    return Paired(
        n=n,
        both=both,
        only_first=only_first,
        only_second=only_second,
        neither=n - both - only_first - only_second,
        accuracy=(right[0] / n, right[1] / n),
        intervals=(wilson(right[0], n), wilson(right[1], n)),
        difference=(right[1] - right[0]) / n,
        interval=paired_interval(only_first, only_second, n),
        p=mcnemar(only_second, only_first, tail="two-sided"),
        verdict=paired_verdict(only_first, only_second, n, MARGIN),
    )


def _differs(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    found = changed(first["config"], second["config"])
    more: dict[str, Any] = {
        "rounds": (first["rounds"], second["rounds"]),
    }
    budgets = first["config"]["budget"], second["config"]["budget"]
    more |= {f"budget.{name}": tuple(b.get(name) for b in budgets) for name in BudgetConfig.model_fields}
    for group, cut in (("sources", 8), ("environment", None)):
        for name in sorted(first[group].keys() | second[group].keys()):
            values = (first[group].get(name), second[group].get(name))
            more[f"{group}: {name}"] = tuple(value and value[:cut] for value in values)
    empty: tuple[Any, ...] = ({}, None)  # a group without keys, and no group
    return {name: (a, b) for name, (a, b) in (found | more).items() if a != b and not (a in empty and b in empty)}


def _sentence(exam: Paired) -> str:
    """What the exam supports.

    >>> _sentence(_paired({"x": _Mark("x", True, False, "")}, {"x": _Mark("x", True, False, "")}, ["x"]))
    'not settled: on the 1 exam problem that both sat, neither run is ahead (95 % interval -0.924 to +0.924, p = 1).'
    """
    low, high = exam.interval
    lead = f"{abs(exam.difference):.3f} ahead"
    ahead = f"B is {lead}" if exam.difference > 0 else f"A is {lead}" if exam.difference < 0 else "neither run is ahead"
    within = f"; the difference is surely below {MARGIN} either way" if exam.verdict == "equivalent" else ""
    return (
        f"{exam.verdict}: on the {exam.n} exam problem{'s' if exam.n > 1 else ''} that both sat, {ahead} (95 % "
        f"interval {low:+.3f} to {high:+.3f}, p = {exam.p:.2g}){within}."
    )


# ---- in words


def comparison_lines(told: Comparison) -> Iterator[str]:
    for letter, side in (("A", told.first), ("B", told.second)):
        sat = "before any teaching" if not side.after_round else f"after round {side.after_round}"
        rounds = "first round" if side.shared == 1 else f"first {side.shared} rounds"
        fork = f"; a fork that shares its {rounds} with its parent" if side.shared else ""
        yield f"{letter}  {safe(side.run)}  {side.status}; method {safe(spoken(side.method))}; exam sat {sat}{fork}"
    yield "both began with the same student" if told.same_start else "they began with DIFFERENT students"
    yield ""
    yield from _table(told.pools)
    yield "95 %: Wilson interval, of B - A paired (Bonett & Price); p: exact McNemar, two-sided"
    yield ""
    yield f"exam: {told.sentence}"
    yield told.caution
    yield ""
    for name, pool in told.pools.items():
        yield from _pool_lines(safe(name), pool)
    yield from _costs(told.first, told.second)
    yield ""
    if told.differs:
        rows = [["what differs", "A", "B"]]
        rows += [[safe(name), *(safe(repr(x)) for x in values)] for name, values in told.differs.items()]
        yield from columns(rows)
    else:
        yield "their settings, sources and versions are the same"


def _table(pools: Mapping[str, Paired]) -> list[str]:
    rows = [["", "n", "A", "95 %", "B", "95 %", "B - A", "95 %", "p", "both", "only A", "only B", "neither"]]
    rows += [[safe(name), *_cells(pair)] for name, pair in pools.items()]
    return columns(rows, right=range(1, 13))


def _cells(pair: Paired) -> list[str]:
    cells = [f"{pair.n}"]
    for accuracy, (low, high) in zip(pair.accuracy, pair.intervals, strict=True):
        cells += [f"{accuracy:.3f}", f"{low:.3f}-{high:.3f}"]
    cells += [f"{pair.difference:+.3f}", f"{pair.interval.low:+.3f} to {pair.interval.high:+.3f}", f"{pair.p:.2g}"]
    return [*cells, f"{pair.both}", f"{pair.only_first}", f"{pair.only_second}", f"{pair.neither}"]


def _pool_lines(name: str, pool: PairedPool) -> Iterator[str]:
    if any(pool.left_out):
        a, b = pool.left_out
        yield f"{name}: {a} problems that only A sat, and {b} that only B sat, are left out"
    for letter, unread in zip("AB", pool.unread, strict=True):
        if unread / pool.n > UNREADABLE:
            yield f"warning: {name}, {letter}: {unread} of {pool.n} answers were cut off or could not be read"
    for letter, n, some in (("A", pool.only_first, pool.lost), ("B", pool.only_second, pool.won)):
        if some:
            ids = ", ".join(safe(a if a == b else f"{a} (in B {b})") for a, b in some)
            yield f"{name}, only {letter} has right: {ids}{f' and {n - len(some)} more' if n > len(some) else ''}"
    if apart := {skill: pair for skill, pair in pool.skills.items() if pair.only_first or pair.only_second}:
        alike = len(pool.skills) - len(apart)
        more = f"; in {alike} others they have the same right" if alike else ""
        yield f"{name}, by skill (p not corrected for their number){more}:"
        yield from (f"  {line}" for line in _table(apart))
        yield ""


def _costs(first: Side, second: Side) -> Iterator[str]:
    costs = any(side.teacher_dollars is not None for side in (first, second))
    losses = sorted({*first.optimizer_tokens, *second.optimizer_tokens})
    head = ["", "rounds", "kept", "rows", "asks", "teacher tokens", *(f"{x.upper()} tokens" for x in losses)]
    rows = [[*head, *(["cost"] if costs else []), "s"]]
    for letter, side in (("A", first), ("B", second)):
        counts = [side.rounds, side.kept, side.examples, side.teacher_calls, side.teacher_tokens]
        counts += [side.optimizer_tokens.get(loss, 0) for loss in losses]
        cost = [money(side.teacher_dollars)] if costs else []
        rows.append([letter, *(f"{n:,}" for n in counts), *cost, f"{side.seconds:.1f}"])
    yield from columns(rows, right=range(1, len(rows[0])))
    spent = [
        ("teacher tokens", first.teacher_tokens, second.teacher_tokens),
        ("optimizer tokens", sum(first.optimizer_tokens.values()), sum(second.optimizer_tokens.values())),
    ]
    for what, a, b in spent:
        apart = abs(a - b) / max(a, b, 1)
        yield f"{what}: {'equal' if apart <= UNEQUAL else 'NOT EQUAL'}, {apart:.1%} apart"
