"""What a run came to, read from its folder.

Only committed files are read, and the run's lock is not held, so a run can be looked at while it goes on; a damaged one
says what is wrong with it. `history.py` reads one problem's history, `listing.py` what a list of runs needs, `words.py`
prints them all. `report.py` makes a page of it, `compare.py` sets two runs side by side.
"""

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from ..agents.roles import Trained
from ..evals.files import Checksum, whole
from ..evals.pools import Course
from ..evals.records import Gold
from ..evals.rows import Rows
from ..evals.statistics import mcnemar, transitions, wilson
from ..evals.steps import check_steps
from ..policies.records import Case
from ..policies.rounds import RoundReport, Sheet
from .asks import Entry, read_asks
from .bill import Bill, bills, price_of, total
from .documents import Documents, JournalError, run_record
from .journal import Status, read_status

T = TypeVar("T")
Sheets = dict[str, Sheet]


@dataclass(frozen=True)
class RunFolder:
    """A run folder, opened for reading.

    Raises:
        JournalError: there is no run, it is of another schema, or something in it is damaged.
    """

    root: Path

    def __post_init__(self) -> None:
        if not is_run(self.root):
            raise JournalError(f"there is no run in {self.root} (no run.json).{_nearest_run(self.root)}")
        assert self.record  # read now

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """`run.json`: config, sources, environment."""
        return run_record(self.root)

    @cached_property
    def documents(self) -> Documents:
        return Documents(self.root, self.record["run"])

    @cached_property
    def steps(self) -> Sequence[str]:
        """Names of the finished steps, in their order."""
        order = {int(record["number"]): str(record["step"]) for record in self.documents.records()}
        return [order[number] for number in sorted(order)]

    def step(self, name: str, of: type[T]) -> T | None:
        """The value of a finished step; `None`: it is not done."""
        if not self.documents.done(name):
            return None
        value: T = self.documents.value(self.documents.step(name), of)
        return value

    @cached_property
    def reports(self) -> Sequence[RoundReport]:
        """Of the finished rounds, round 0 first."""
        names = [name for name in self.steps if name == "0" or name.endswith("/gate")]
        return [r for name in names if (r := self.step(name, RoundReport))]

    @cached_property
    def course(self) -> Course | None:
        return self.step("course", Course)

    @cached_property
    def finals(self) -> Mapping[int, Sheets]:
        """Exam, probe and retention by the round after which they were sat; 0 is before any teaching."""
        numbers = [int(name.removeprefix("final/")) for name in self.steps if name.startswith("final/")]
        return {n: sheets for n in numbers if (sheets := self.step(f"final/{n}", Sheets)) is not None}

    def answered(self) -> Iterator[tuple[int, Rows[Case]]]:
        """What was asked in each round, graded and with the verifier's verdicts; an open round too."""
        for number in range(1, len(self.reports) + 1):
            for verb in ("verify", "attempt"):
                if (cases := self.step(f"{number}/{verb}", Rows[Case])) is not None:
                    yield number, cases
                    break

    def asks(self, step: str) -> Iterator[Entry]:
        """What was asked in a step, be it finished or not."""
        if self.documents.done(step):
            files = self.documents.step(step)["files"].items()
            paths = [whole(self.root / path, Checksum(*known)) for path, known in files if path.startswith("asks/")]
        else:
            paths = sorted((self.root / "asks").glob(f"{step.replace('/', '-')}.*"))
        for path in paths:
            with suppress(FileNotFoundError):  # the run has just made a Parquet file of it
                yield from read_asks(path, self.record["run"])

    def seconds(self, number: int) -> float:
        """What the steps of a round took. A training is a step within `update`, and counted once."""
        names = [name for name in self.steps if name.startswith(f"{number}/")]
        took = {name.partition("/")[2]: float(self.documents.step(name)["seconds"]) for name in names}
        trainings = sum(took.pop(name) for name in list(took) if name.startswith("train-"))
        return max(trainings, took.pop("update", 0.0)) + sum(took.values())

    def trained(self, number: int) -> Mapping[str, int]:
        """Optimizer tokens of a round by loss, e.g. `{"sft": 30120, "dpo": 8100}`; also of one that was rolled back."""
        tokens = Counter[str]()
        for name in self.steps:
            if name.startswith(f"{number}/train-") and (made := self.step(name, Trained)) is not None:
                tokens[name.rpartition("-")[2]] += made.tokens
        return tokens

    def status(self) -> tuple[Status, str]:
        return read_status(self.root)


def printed(path: Path | str) -> str:
    """A path as text, also where its name is no UTF-8."""
    return str(path).encode(errors="backslashreplace").decode()


@dataclass(frozen=True, kw_only=True)
class RoundLine:
    """One round, as `show RUN --json` has it. Round 0 is the student before any teaching. Accuracies are fractions."""

    round: int
    quiz_accuracy: float
    quiz_low: float
    """Wilson, 95 %, as `quiz_high`."""
    quiz_high: float
    quiz_n: int
    kept: bool
    why: str
    state: str
    """sha256 of the candidate, kept or not."""
    serving: str
    """sha256 of the student that serves from here on."""
    asked: int
    cases: int
    lessons: int
    accepted: int
    rejected: Mapping[str, int]
    examples: int
    origins: Mapping[str, int]
    teacher_calls: int
    teacher_tokens: int
    reused: int
    seconds: float
    fixed: int
    regressed: int
    truncated: int
    """Of the quiz, as `unparsed`."""
    unparsed: int
    p_drop: float | None
    smallest_drop: float | None
    proof: str
    stage: int
    bill: Bill
    """What the teacher was asked, and what it costs; `teacher_calls`, `teacher_tokens` and `reused` are of it."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """An accuracy before any teaching and after the last round."""

    before: float | None = None
    after: float | None = None
    n: int = 0


@dataclass(frozen=True, kw_only=True)
class Skilled(Change):
    """The same, with each skill's."""

    skills: Mapping[str, Change] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Masked:
    """Practice problems that are wrong for two reasons, of which the second is hidden behind the first."""

    problems: int
    asked: int
    shown: int
    """Of `asked`, a second error came into the open: a later wrong attempt went wrong at a later step."""
    by_cause: int
    """Of `shown`, that error was the second misconception's own line; the others went wrong there in another way, such
    as a number fact that the first misconception had kept out of sight."""
    cured: int
    """Of `asked`, right when last asked."""
    examples: Sequence[str]
    """Ids of some that were shown."""


@dataclass(frozen=True, kw_only=True)
class RunView:
    """What `show RUN --json` prints."""

    run: str
    status: Status
    why: str
    exam: Change
    rounds: Sequence[RoundLine]
    probe: Skilled | None
    retention: Skilled | None
    masked: Masked | None
    transitions: Mapping[str, float] | None
    """Of the exam: counts, and the two-sided exact McNemar p."""
    parent: str
    """Folder of the run that this one is a fork of; empty: none."""
    shared: int
    """The last round that it shares with it."""
    finals: Mapping[int, Mapping[str, Mapping[str, float]]]
    """Every sitting of exam, probe and retention: accuracy, low, high, n, right, truncated, unparsed."""
    method: str
    teacher: str
    """Its engine."""
    bill: Bill
    """Of all rounds, one that is still open included."""
    policy: str = ""
    """Teaches in the place of the method's own; empty: none."""
    scores: Mapping[int, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """Every sitting of GSM8K's exam as lm-evaluation-harness would print it, by `strict` and `flexible`: accuracy, low,
    high, n, right."""


def read_run(root: Path | str) -> RunView:
    """Everything about a run but its single problems.

    Raises:
        JournalError: there is no run, or it is damaged.
    """
    run = RunFolder(Path(root))
    status, why = run.status()
    fork = run.record.get("fork")
    last = run.reports[-1].number if run.reports else 0
    before = run.finals.get(0, {})
    after = run.finals.get(last, {}) if last or status == "finished" else {}
    exam = change(before.get("exam"), after.get("exam"))
    told = list(bills(run.root, run.record["run"], len(run.reports), price_of(run.record["config"])))
    return RunView(
        run=printed(root),
        status=status,
        why=why,
        exam=Change(before=exam.before, after=exam.after, n=exam.n),
        rounds=[_round(r, run.seconds(r.number), told[r.number - 1] if r.number else Bill()) for r in run.reports],
        probe=change(before["probe"], after.get("probe")) if "probe" in before else None,
        retention=change(before["retention"], after.get("retention")) if "retention" in before else None,
        masked=_masked(run),
        transitions=_transitions(before["exam"], after["exam"]) if "exam" in after and last else None,
        finals={n: {name: _sat(sheet) for name, sheet in sheets.items()} for n, sheets in run.finals.items()},
        method=str(run.record["config"]["method"]),
        teacher=str(run.record["config"]["teacher"]["engine"]),
        bill=total(told),
        policy=str(run.record["config"]["teacher"]["policy"]),
        parent=printed(fork["parent"]) if fork else "",
        shared=fork["round"] if fork else 0,
        scores={n: scored for n, sheets in run.finals.items() if (scored := _scored(sheets.get("exam")))},
    )


def _round(report: RoundReport, seconds: float, bill: Bill) -> RoundLine:
    tables, quiz, changed = report.tables, report.quiz, report.transitions
    return RoundLine(
        round=report.number,
        quiz_accuracy=quiz.accuracy,
        quiz_low=quiz.interval.low,
        quiz_high=quiz.interval.high,
        quiz_n=quiz.n,
        kept=report.kept,
        why=report.why,
        state=report.candidate.digest,
        serving=report.serving["student"].digest,
        asked=len(tables.answered) if tables else 0,
        cases=len(tables.cases) if tables else 0,
        lessons=len(tables.lessons) if tables else 0,
        accepted=report.accepted,
        rejected=report.rejected,
        examples=len(tables.examples) if tables else 0,
        origins=report.origins,
        teacher_calls=report.cost.calls,
        teacher_tokens=report.cost.tokens,
        reused=report.cost.reused,
        seconds=round(seconds, 3),
        fixed=len(changed.fixed) if changed else 0,
        regressed=len(changed.regressed) if changed else 0,
        truncated=quiz.truncated,
        unparsed=quiz.unparsed,
        p_drop=report.p_drop,
        smallest_drop=report.smallest_drop,
        proof=report.proof.status if report.proof else "",
        stage=report.stage,
        bill=bill,
    )


def change(before: Sheet | None, after: Sheet | None) -> Skilled:
    skills = {
        name: Change(before=_share(before, name), after=_share(after, name), n=n)
        for name, (_, n) in (before.skills.items() if before else ())
    }
    told = before or after
    return Skilled(
        before=before.accuracy if before else None,
        after=after.accuracy if after else None,
        n=told.n if told else 0,
        skills=skills,
    )


def _share(sheet: Sheet | None, skill: str) -> float | None:
    right, n = sheet.skills.get(skill, (0, 0)) if sheet else (0, 0)
    return right / n if n else None


def _sat(sheet: Sheet) -> dict[str, float]:
    low, high = wilson(sheet.right, sheet.n)
    counts = {"n": sheet.n, "right": sheet.right, "truncated": sheet.truncated, "unparsed": sheet.unparsed}
    return {"accuracy": sheet.accuracy, "low": low, "high": high, **counts}


def _scored(sheet: Sheet | None) -> dict[str, dict[str, float]]:
    if sheet is None:
        return {}
    told = {}
    for name, right in sheet.scores.items():
        low, high = wilson(round(right), sheet.n)
        told[name] = {"accuracy": right / sheet.n, "low": low, "high": high, "n": sheet.n, "right": right}
    return told


def _transitions(before: Sheet, after: Sheet) -> dict[str, float]:
    counts = transitions(before.marks, after.marks).counts
    return {**counts, "p": mcnemar(counts["fixed"], counts["regressed"], tail="two-sided")}


def first_wrong(case: Case) -> int | None:
    """Index of the first wrong line of a case's work: recomputed where the domain can be, else as a verifier said."""
    if case.right or not case.attempts:
        return None
    found = check_steps(case.problem, case.work)
    if found is not None and found.step is not None:
        return found.step
    return next((v.step for v in reversed(case.verdicts) if v.step is not None), None)


def _masked(run: RunFolder) -> Masked | None:
    gold: Iterable[Gold] = run.course.practice.gold if run.course else ()
    two = {g.problem: g.misconceptions for g in gold if len(g.misconceptions) > 1}
    if not two:
        return None
    reached: dict[str, int] = {}
    right: dict[str, bool] = {}
    cured: set[str] = set()
    shown: dict[str, bool] = {}
    for _, cases in run.answered():
        for case in cases:
            if (id := case.problem.id) not in two or not case.attempts:
                continue
            step = first_wrong(case)
            # Once it was right, a later error is a relapse and not what lay behind the first.
            if step is not None and id not in cured and step > reached.setdefault(id, step):
                found = check_steps(case.problem, case.work)
                shown[id] = shown.get(id, False) or bool(found and two[id][1] in found.causes)
            right[id] = case.right
            cured |= {id} if case.right else set()
    return Masked(
        problems=len(two),
        asked=len(right),
        shown=len(shown),
        by_cause=sum(shown.values()),
        cured=sum(right.values()),
        examples=sorted(shown, key=lambda id: not shown[id])[:5],
    )


def is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("run.json", "status.json", "steps"))


def _nearest_run(root: Path) -> str:
    """Those beside it; else those within it, or in `runs`, where a run is by default."""

    def readable(path: Path) -> bool:
        with suppress(OSError):  # somebody else's
            return is_run(path)
        return False

    for folder in (root.parent, root, Path("runs")):
        found = list[str]()
        with suppress(OSError):
            found += [p.name for p in folder.iterdir() if readable(p)]
        if near := difflib.get_close_matches(root.name, found, n=3, cutoff=0.0):
            return f" In {folder} there are: {', '.join(near)}"
    return ""
