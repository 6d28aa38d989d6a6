"""Which problems are worth reading in a run: those that were cured, lost or never learnt, and whether their twins were.

Reads a run's tables once, a part at a time. In memory are a few problems of each kind, and the ids of the taught ones;
of a list, what is on it.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..evals.lookup import Lookup, Seen
from ..policies.records import Case
from ..policies.rounds import Sheet
from .config import ConfigError
from .history import diagnosed
from .show import RunFolder, first_wrong, printed

EACH = 3
"""Problems of each kind."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """One practice problem."""

    id: str
    labels: Sequence[str]
    """Of its first answer in each round in which it was asked."""
    taught: int = 0
    """Rounds in which the teacher worked on it."""
    twins: tuple[int, int, int] | None = None
    """How many twins there are, how many were right before, and after; `None`: there are none, or it is not over."""

    @property
    def gain(self) -> float:
        n, before, after = self.twins or (0, 0, 0)
        return (after - before) / max(1, n)

    @property
    def wrongs(self) -> int:
        return sum(label != "right" for label in self.labels)

    @property
    def path(self) -> str:
        """`cured`, `lost` (right once, wrong when last asked), `uncured`, or empty: always right."""
        *earlier, last = self.labels
        if last == "right":
            return "cured" if any(label != "right" for label in earlier) else ""
        return "lost" if "right" in earlier else "uncured"


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """Problems of one kind, the most telling first."""

    title: str
    note: str
    n: int
    """How many there are."""
    ids: Sequence[str]
    """Of those that are shown."""


KINDS = {"wrong": ("lost", "uncured"), "fixed": ("cured",), "regressed": ("lost",)}
"""Of a list, and which paths are in it."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One practice problem, as it was last asked."""

    problem: str
    question: str
    round: int
    """In which it was last asked: before that round's training."""
    labels: Sequence[str]
    """Of its first answer in each round in which it was asked, this one the last."""
    answer: str
    """The student's whole work."""
    first_wrong: int | None
    """Index of a line of `answer`, from 0."""
    diagnosed: str


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What `show RUN --only wrong --json` prints."""

    run: str
    only: str
    """`wrong`, `fixed` or `regressed`."""
    asked: int
    """Practice problems that were asked at all."""
    problems: Sequence[Listed]


@dataclass
class _Best:
    """The few that rank highest, and how many there were; ties go to the first by id."""

    rank: Callable[[Found], tuple[float, ...]]
    n: int = 0
    some: list[tuple[list[float], str]] = field(default_factory=list)

    def see(self, found: Found) -> None:
        self.n += 1
        self.some = heapq.nsmallest(EACH, [*self.some, ([-x for x in self.rank(found)], found.id)])

    @property
    def ids(self) -> list[str]:
        return [id for _, id in self.some]


def listed(root: Path | str, only: str) -> Listing:
    """The practice problems that are wrong as last asked (`wrong`), those of them that were right before
    (`regressed`), or those that are right and were not always (`fixed`). The latest round first.

    Raises:
        ConfigError: no such kind.
        JournalError: there is no run, or it is damaged.
    """
    if only not in KINDS:
        raise ConfigError(f"{only!r} is no kind of problems to list: one of {', '.join(KINDS)}.")
    run, asked, problems = RunFolder(Path(root)), 0, list[Listed]()
    for number, case in _last_asked(run):
        asked += 1
        found = Found(id=case.problem.id, labels=_labels(case))
        if found.path in KINDS[only]:
            problems.append(
                Listed(
                    problem=found.id,
                    question=case.question,
                    round=number,
                    labels=found.labels,
                    answer=case.work,
                    first_wrong=first_wrong(case),
                    diagnosed=diagnosed(case),
                )
            )
    return Listing(run=printed(root), only=only, asked=asked, problems=problems)


def shelves(run: RunFolder) -> list[Shelf]:
    """The kinds of problems that a run has; of each, how many there are and some to read."""

    # What the twins did goes first, then what the teacher made of it, then how often it was wrong.
    general = _Best(lambda f: (f.gain, f.taught, f.wrongs))
    narrow, lost = (_Best(lambda f: (-f.gain, f.taught, f.wrongs)) for _ in range(2))
    plain, uncured = (_Best(lambda f: (f.taught, f.wrongs, -f.gain)) for _ in range(2))
    for problem in _practice(run):
        if problem.path == "cured":
            (plain if problem.twins is None else general if problem.gain > 0 else narrow).see(problem)
        elif problem.path:
            (lost if problem.path == "lost" else uncured).see(problem)
    never = "probe problems that need the same knowledge and are never taught"
    told = [
        (
            "Cured, and the twins with it",
            f"Wrong in an earlier round, right when last asked; more of its twins are right, {never}.",
            general,
        ),
        (
            "Cured alone",
            "Wrong in an earlier round, right when last asked; no more of its twins are right than before.",
            narrow,
        ),
        ("Cured", "Wrong in an earlier round, right when last asked.", plain),
        ("Lost", "Right in an earlier round, not right when last asked.", lost),
        ("Never cured", "Not right in any round in which it was asked.", uncured),
    ]
    found = [Shelf(title=title, note=note, n=best.n, ids=best.ids) for title, note, best in told if best.n]
    if len(run.finals) > 1 and (ids := list(_forgotten(run))):
        note = "Right before any teaching, not right when it was last sat. It was never taught from."
        found.append(Shelf(title="Lost in the exam", note=note, n=len(ids), ids=ids[:EACH]))
    return found


def _practice(run: RunFolder) -> Iterator[Found]:
    """Each practice problem that was asked, once."""
    twins, taught = _twins(run), _taught(run)
    for _, case in _last_asked(run):
        id = case.problem.id
        yield Found(id=id, labels=_labels(case), taught=taught[id], twins=twins(id))


def _last_asked(run: RunFolder) -> Iterator[tuple[int, Case]]:
    """Each practice problem that was asked, with the last round in which it was; the latest round first."""
    seen = Seen()
    for number, answered in reversed(list(run.answered())):
        for case in answered:
            if case.grades and seen.before(case.problem.id) is None:
                yield number, case


def _labels(case: Case) -> list[str]:
    """A case knows what it was in the earlier rounds in which it was asked."""
    return [*case.history, case.grades[0].label]


def _taught(run: RunFolder) -> Counter[str]:
    """In how many rounds the teacher had something to say on a case."""
    told = Counter[str]()
    for report in run.reports:
        told.update({id.partition("#")[0] for id in report.tables.lessons.column("case")} if report.tables else ())
    return told


def _twins(run: RunFolder) -> Callable[[str], tuple[int, int, int] | None]:
    last = max(run.finals, default=0)
    if not last or run.course is None or "probe" not in run.finals[0]:
        return lambda id: None
    before, after = (_right(run.finals[n]["probe"]) for n in (0, last))
    gold = Lookup(run.course.practice.gold, "problem")

    def told(id: str) -> tuple[int, int, int] | None:
        twins = truth.twins if (truth := gold.get(id)) else ()
        return (
            (len(twins), sum(before.get(t, False) for t in twins), sum(after.get(t, False) for t in twins))
            if twins
            else None
        )

    return told


def _right(sheet: Sheet) -> Mapping[str, bool]:
    return {row.problem.id: row.verdict.right for row in sheet.rows}


def _forgotten(run: RunFolder) -> Iterator[str]:
    before, after = (_right(run.finals[n]["exam"]) for n in (0, max(run.finals)))
    return (id for id, right in before.items() if right and after.get(id) is False)
