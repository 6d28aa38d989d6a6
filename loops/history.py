"""One problem's history: what the student wrote, what the teacher made of it, what was learnt, what became of it.

Reads committed files only, like `show.py`. Of a table only those parts are decoded that mention the problem.

Not covered: the log-probability of an old answer in a later state, which would need the student.
"""

import difflib
import heapq
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import from_json, to_json

from ..evals.records import Attempt, Gold, Problem, Verdict, halved
from ..evals.rows import Rows
from ..evals.statistics import Transitions
from ..policies.records import Case, Example, Lesson, Marked
from ..policies.rounds import RoundReport, Sheet
from .asks import Entry
from .show import RunFolder, first_wrong, printed

T = TypeVar("T")


class UnknownProblem(LookupError):
    """The run has no problem with this id."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """One lesson of a case."""

    id: str
    act: str
    question: str
    """Of the problem that the teacher wrote; empty: the case's own."""
    text: str
    target: str
    about: str
    accepted: bool
    by: str
    """The kind of evidence, or what was missing."""
    evidence: str
    gold_seen: bool


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """One round of a practice problem's history."""

    round: int
    label: str
    """Of the first attempt; empty: nobody was asked."""
    work: str
    finish: str
    attempts: int
    right: int
    state: str
    """Digest of the state that wrote it."""
    first_wrong: int | None
    """Index of a line of `work`, from 0."""
    diagnosed: str
    masked: bool = False
    """Goes wrong later than an earlier attempt did: this error was hidden until now."""
    gold_seen: bool
    picked: bool
    """Whether triage gave it to the teacher."""
    reason: str
    saw: Sequence[str] = ()
    """Of `question` and `work`, what stands in the teacher's prompts."""
    asks: int = 0
    tokens: int = 0
    lessons: Sequence[Told]
    taught: Mapping[str, int]
    """Examples that were trained on, by the act of the lesson."""
    rehearsed: Mapping[str, int]
    """Rehearsal of this problem in this round: `earlier` lessons, `own` right answers."""
    kept: bool | None = None
    """Of the whole round; `None`: it is still open."""
    quiz: tuple[float, float] | None = None
    """Accuracy of the state that served before, and of this round's."""
    regressed: int = 0
    """Quiz problems that went from right to wrong in this round."""
    were_right: int = 0


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """A sealed problem, answered."""

    after_round: int
    state: str
    label: str
    work: str
    first_wrong: int | None


@dataclass(frozen=True, kw_only=True)
class Twins:
    """Problems of the probe that need the same knowledge and are never taught."""

    n: int
    before: int
    after: int | None


@dataclass(frozen=True, kw_only=True)
class History:
    """What `show RUN PROBLEM --json` prints. `rounds` for a practice problem, `sittings` for a sealed one."""

    run: str
    problem: str
    pool: str
    question: str
    answer: str = ""
    skill: str = ""
    misconceptions: Sequence[str] = ()
    """Why the untaught student gets it wrong, as the world knows and nobody was told."""
    twins: Twins | None = None
    rounds: Sequence[Chapter] = ()
    sittings: Sequence[Sitting] = ()


def read_history(root: Path | str, id: str) -> History:
    """Everything about one problem.

    Raises:
        UnknownProblem: names the nearest ids.
    """
    return history_of(RunFolder(Path(root)), id)


def history_of(run: RunFolder, id: str) -> History:
    """The same, of a folder that is open already."""
    if halved(id):
        raise UnknownProblem(f"{id!r} is no text that a problem could be called by.")
    course = run.course
    problem = next((p for p in _with(course.practice.problems, "id", id) if p.id == id), None) if course else None
    if course is None or problem is None:
        return _sealed(run, id)
    gold = next((g for g in _with(course.practice.gold, "problem", id) if g.problem == id), Gold(problem=id, answer=""))
    return History(
        run=printed(run.root),
        problem=id,
        pool="practice",
        question=problem.question,
        answer=gold.answer,
        skill=gold.skill,
        misconceptions=gold.misconceptions,
        twins=_twins(run, gold),
        rounds=list(_chapters(run, id)),
    )


def _chapters(run: RunFolder, id: str) -> Iterator[Chapter]:
    reports = {r.number: r for r in run.reports}
    asked: list[Entry] = []
    furthest: float | None = None
    for number, answered in run.answered():
        case = next((c for c in _with(answered, "id", id) if c.problem.id == id), None)
        triaged = run.step(f"{number}/triage", Rows[Case])
        picked = [c for c in _with(answered if triaged is None else triaged, "id", id) if c.problem.id == id]
        ids = {c.id for c in picked}
        lessons = [x for x in _with(_lessons(run, number), "case", id) if x.case in ids]
        examples = [e for e in _with(run.step(f"{number}/curate", Rows[Example]), "problem", id) if e.problem == id]
        if case is None and not examples:
            continue
        asks = _asks(run, number, {id, *ids, *(x.id for x in lessons)})
        asked += asks
        chapter = _chapter(number, case, picked, lessons, examples)
        step = chapter.first_wrong
        yield replace(
            chapter,
            masked=step is not None and furthest is not None and step > furthest,
            saw=_saw(case, asked),
            asks=len(asks),
            tokens=sum(e.tokens_in + e.tokens_out for e in asks),
            **_outcome(reports, number),
        )
        if chapter.label == "right":
            furthest = math.inf  # a later error is a relapse and was not hidden
        elif step is not None:
            furthest = max(step, furthest or 0)


def _chapter(
    number: int, case: Case | None, picked: Sequence[Case], lessons: Sequence[Lesson], examples: Sequence[Example]
) -> Chapter:
    case = case or Case(id="", problem=Problem(id="", messages=()))  # only rehearsed in this round
    attempt = case.attempts[0] if case.attempts else Attempt(problem="", text="", finish="stop", state="")
    acts = {x.id: x.act for x in lessons}
    new = [acts.get(e.lesson, str(e.origin)) for e in examples if e.origin in ("lesson", "gold")]
    return Chapter(
        round=number,
        label=case.grades[0].label if case.grades else "",
        work=attempt.text,
        finish=attempt.finish,
        attempts=len(case.attempts),
        right=sum(g.right for g in case.grades),
        state=attempt.state,
        first_wrong=first_wrong(case),
        diagnosed=diagnosed(case),
        gold_seen=any(c.gold_seen for c in picked) or any(x.gold_seen for x in lessons),
        picked=bool(picked),
        reason=next((c.reason for c in picked), ""),
        lessons=[told(lesson) for lesson in lessons],
        taught=dict(Counter(new)),
        rehearsed=dict(Counter(str(e.origin) for e in examples if e.origin in ("earlier", "own"))),
    )


def diagnosed(case: Case) -> str:
    """What a verifier said that the error is; empty: nothing."""
    return next((v.evidence for v in reversed(case.verdicts) if v.evidence), "")


def _outcome(reports: Mapping[int, RoundReport], number: int) -> dict[str, Any]:
    """What the whole round came to, as far as it has."""
    if (report := reports.get(number)) is None:
        return {}
    served = next(r for n, r in sorted(reports.items(), reverse=True) if n < number and r.kept)
    changed = report.transitions or Transitions()
    return {
        "kept": report.kept,
        "quiz": (served.quiz.accuracy, report.quiz.accuracy),
        "regressed": len(changed.regressed),
        "were_right": len(changed.regressed) + len(changed.kept_right),
    }


def _saw(case: Case | None, asked: Sequence[Entry]) -> list[str]:
    """What of the student stands in the prompts. An ask that is reused in a later round was made in an earlier one."""
    paid = (e for e in asked if not e.reused)
    said = "\n".join(str(turn["content"]) for e in paid for turn in from_json(e.request)["messages"])
    there = {"question": case.question, "work": case.work} if case else {}
    return [name for name, text in there.items() if text and text in said]


def told(lesson: Lesson) -> Told:
    """A lesson, as it is told of."""
    verdict = lesson.verdict or Verdict(label="abstain", by="not checked yet")
    return Told(
        id=lesson.id,
        act=lesson.act,
        question=lesson.problem.question if lesson.problem else "",
        text=lesson.text,
        target=lesson.prefix + lesson.target if lesson.target else "",
        about=lesson.about,
        accepted=lesson.sound,
        by=verdict.by,
        evidence=verdict.evidence,
        gold_seen=lesson.gold_seen,
    )


def _lessons(run: RunFolder, number: int) -> Rows[Lesson] | None:
    return run.step(f"{number}/check", Rows[Lesson]) or run.step(f"{number}/teach", Rows[Lesson])


def _asks(run: RunFolder, number: int, items: Collection[str]) -> list[Entry]:
    """What was asked for these items in this round, each once."""
    found: dict[str, Entry] = {}
    for slot in ("verify", "triage", "teach", "check"):
        for entry in run.asks(f"{number}/{slot}"):
            if entry.item in items and not entry.fault and not (entry.reused and entry.key in found):
                found[entry.key] = entry
    return list(found.values())


def _twins(run: RunFolder, gold: Gold) -> Twins | None:
    if not gold.twins or "probe" not in run.finals.get(0, {}):
        return None
    last = max(run.finals)
    before, after = (_right(run.finals[n]["probe"], gold.twins) for n in (0, last))
    return Twins(n=len(gold.twins), before=before, after=after if last else None)


def _right(sheet: Sheet, ids: Collection[str]) -> int:
    return sum(row.verdict.right for row in sheet.rows if row.problem.id in ids)


def _sealed(run: RunFolder, id: str) -> History:
    """A problem of a pool that is never taught: only what the student answered, each time it sat."""
    quizzes = {r.number: {"quiz": r.quiz} for r in run.reports}
    found: list[tuple[int, str, str, Marked]] = []
    for number in sorted({*quizzes, *run.finals}):
        sheets = {**quizzes.get(number, {}), **run.finals.get(number, {})}
        for pool, sheet in sheets.items():
            rows = (row for row in _with(sheet.rows, "problem", id) if row.problem.id == id)
            found += [(number, pool, sheet.state, row) for row in rows]
    if not found:
        raise UnknownProblem(f"{run.root} has no problem {id!r}.{_nearest(run, id)}")
    _, pool, _, first = found[0]
    return History(
        run=printed(run.root),
        problem=id,
        pool=pool,
        question=first.problem.question,
        skill=first.skill,
        sittings=[
            Sitting(
                after_round=number,
                state=state,
                label=row.verdict.label,
                work=row.attempt.text,
                first_wrong=first_wrong(
                    Case(id=id, problem=row.problem, attempts=(row.attempt,), grades=(row.verdict,))
                ),
            )
            for number, _, state, row in found
        ],
    )


def _nearest(run: RunFolder, id: str) -> str:
    ids = [p.id for p in run.course.practice.problems] if run.course else []
    sheets = [*(r.quiz for r in run.reports[:1]), *run.finals.get(0, {}).values()]
    ids += [row.problem.id for sheet in sheets for row in sheet.rows]
    likely = heapq.nlargest(500, ids, key=lambda known: sum(a == b for a, b in zip(known, id, strict=False)))
    near = difflib.get_close_matches(id, likely, n=3, cutoff=0.0)
    return f" The nearest: {', '.join(near)}" if near else ""


def _with(rows: Rows[T] | None, column: str, id: str) -> Iterator[T]:
    """The records of those parts that mention `id` in a column."""
    import pyarrow.parquet as pq

    written = id, to_json(id).decode()[1:-1]  # a column of text, or one of JSON
    for index in range(rows.parts if rows is not None else 0):
        assert rows is not None
        with pq.ParquetFile(rows.part(index)) as file:
            values = file.read(columns=[column])[column].to_pylist()
        if any(text in str(value) for value in values for text in written):
            yield from rows.shard(index)
