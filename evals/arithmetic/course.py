"""The pools of the embedded world, made for one student's misconceptions.

Practice is taught from, the quiz steers, the exam is only reported; the probe holds twins of practice problems (same
skill, same reasons, other operands) that are never taught; retention holds problems of skills that no misconception
touches. Every pool has problems and their gold, apart.

Guarantees, all checked by tests: no two problems of the course have the same content digest; no operand pair occurs in
pre-training (`skills.unseen`); practice lies on one side of the digit patterns and all other pools on the other
(`skills.side`); ids and order say nothing but the pool and the sign. The mix of every pool but probe and retention is
`MIX`: a quarter of the problems are wrong for two reasons, of which the second shows only when the first is gone.

Not covered: a measure of how hard a problem is beyond its skill; prerequisites are given (`Skill.needs`), not enforced.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

from ..records import Gold, Problem, user
from .bugs import TEACHER_LACKS
from .columns import solve
from .profiles import draw_profile, profile
from .skills import SKILLS, Side, anything, clean, draw, fresh, most
from .working import why_wrong

Need = tuple[str, tuple[str, ...]]
"""Skill and reasons."""

MIX: Mapping[str, float] = {"right": 0.33, "one": 0.36, "beyond": 0.05, "two": 0.26}
"""Shares: right at first; wrong for one reason; wrong only for a reason that the teacher's catalogue lacks; for two."""


class Sheet(NamedTuple):
    """Problems and, apart from them, their gold.

    Example:
        problems, gold = world().practice
    """

    problems: tuple[Problem, ...]
    gold: dict[str, Gold]
    """By id of the problem."""


@dataclass(frozen=True, kw_only=True)
class World:
    """A course for one student.

    Example:
        world(seed=0)
    """

    student: tuple[str, ...]
    """The misconceptions for which it was made."""
    mastered: tuple[str, ...]
    """Skills that none of them touches."""
    practice: Sheet
    quiz: Sheet
    exam: Sheet
    probe: Sheet
    retention: Sheet


def beyond_teacher(gold: Gold) -> bool:
    """Wrong only for reasons that the scripted teacher does not know: reported apart."""
    return bool(gold.misconceptions) and set(gold.misconceptions) <= TEACHER_LACKS


def _kind(reasons: Sequence[str]) -> str:
    if not reasons:
        return "right"
    if set(reasons) <= TEACHER_LACKS:
        return "beyond"
    return "one" if len(reasons) == 1 else "two"


def needs(bugs: Collection[str]) -> dict[Need, str]:
    """Every (skill, reasons) that this student's clean problems show, and its share of `MIX`.

    >>> needs(["smaller-from-larger"])["sub-borrow-two", ("smaller-from-larger",)]
    'one'
    """
    rng, found = Random("needs"), dict[Need, str]()
    for skill in SKILLS:
        reasons = [why_wrong(q, bugs) for q in (draw(skill, rng) for _ in range(150)) if clean(q, bugs)]
        for why in sorted(set(reasons)):
            if reasons.count(why) >= 15:  # rarer ones would take too long to find
                found[skill, why] = _kind(why)
    return found


def mastered(bugs: Collection[str]) -> tuple[str, ...]:
    """Skills that none of the bugs touches.

    >>> mastered(["smaller-from-larger", "n-n=n"])[-3:]
    ('sub-plain', 'sub-zero', 'sub-short')
    """
    rng = Random("mastered")
    return tuple(s for s in SKILLS if not any(why_wrong(draw(s, rng), bugs) for _ in range(150)))


def _shares(found: Mapping[Need, str], total: int) -> Iterator[tuple[Need, int]]:
    """How many problems of each need; the needs of one kind get equal shares, up to one."""
    kinds = {kind: [need for need, k in found.items() if k == kind] for kind in MIX}
    counts = {kind: round(share * total) for kind, share in MIX.items()}
    counts["right"] += total - sum(counts.values())
    for kind, members in kinds.items():
        if not members and counts[kind]:
            raise ValueError(f"no problem of the kind {kind!r} exists for these misconceptions; draw another profile")
        for i, need in enumerate(members):
            yield need, counts[kind] // len(members) + (i < counts[kind] % len(members))


@dataclass
class _Maker:
    """Makes sheets, never using a question twice."""

    bugs: Collection[str]
    seed: int
    used: set[str]

    def _shows(self, reasons: Sequence[str]) -> Callable[[str], bool]:
        return lambda question: why_wrong(question, self.bugs) == reasons and clean(question, self.bugs)

    def sheet(self, pool: str, wanted: Sequence[tuple[Need, int]], where: Side) -> Sheet:
        for (skill, _), n in wanted:  # first: looking for what there is not takes its time
            if n > most(skill):
                raise ValueError(f"`{pool}`: {n} problems of {skill}, of which there are {most(skill)}; ask for fewer")
        rng = Random(f"{self.seed} {pool}")
        rows: list[tuple[str, Need]] = []
        for need, n in wanted:
            skill, reasons = need
            found = fresh(skill, rng=rng, n=n, avoid=self.used, where=where, accept=self._shows(reasons))
            if len(found) < n:
                raise ValueError(f"`{pool}`: only {len(found)} of {n} problems of {skill} are left; ask for fewer")
            rows += [(question, need) for question in found]
            self.used |= {_problem("", q).digest for q in found}
        rng.shuffle(rows)
        problems = [
            _problem(f"{'' if pool == 'practice' else pool + '-'}{'add' if '+' in q else 'sub'}-{i:04d}", q)
            for i, (q, _) in enumerate(rows)
        ]
        gold = {}
        for problem, (question, (skill, reasons)) in zip(problems, rows, strict=True):
            solution = solve(question)
            answer = solution.rpartition("=")[2]
            gold[problem.id] = Gold(
                problem=problem.id, answer=answer, solution=solution, skill=skill, misconceptions=reasons
            )
        return Sheet(tuple(problems), gold)


def _problem(id: str, question: str) -> Problem:
    return Problem(id=id, messages=user(question), kind="number", domain="arithmetic")


def _with_twins(practice: Sheet, probe: Sheet) -> Sheet:
    twins: dict[Need, tuple[str, ...]] = {}
    for gold in probe.gold.values():
        need = gold.skill, gold.misconceptions
        twins[need] = (*twins.get(need, ()), gold.problem)
    return Sheet(
        practice.problems,
        {
            id: Gold(**{**vars(gold), "twins": twins.get((gold.skill, gold.misconceptions), ())})
            for id, gold in practice.gold.items()
        },
    )


def world(
    seed: int = 0,
    *,
    student: Path | str | Collection[str] | None = None,
    practice: int = 300,
    quiz: int = 300,
    exam: int = 500,
    twins: int = 8,
    retention: int = 200,
) -> World:
    """The course for a student: a folder with `provenance.json`, or names of bugs; by default the shipped one.

    `twins` is per need of the practice pool, `retention` per mastered skill. The seed draws the problems; the
    misconceptions are the student's.

    >>> w = world(practice=100, quiz=100, exam=100)
    >>> len(w.practice.problems), sum(len(g.misconceptions) == 2 for g in w.practice.gold.values())
    (100, 26)
    """
    if student is None:
        student = draw_profile(0)
    bugs = profile(Path(student)) if isinstance(student, Path | str) else tuple(student)
    found = needs(bugs)
    maker = _Maker(bugs=bugs, seed=seed, used=set())
    taught = maker.sheet("practice", list(_shares(found, practice)), "practice")
    quizzed = maker.sheet("quiz", list(_shares(found, quiz)), "exam")
    examined = maker.sheet("exam", list(_shares(found, exam)), "exam")
    wanted = sorted({(g.skill, g.misconceptions) for g in taught.gold.values() if g.misconceptions})
    probe = maker.sheet("probe", [(need, twins) for need in wanted], "exam")
    kept = mastered(bugs)
    return World(
        student=tuple(bugs),
        mastered=kept,
        practice=_with_twins(taught, probe),
        quiz=quizzed,
        exam=examined,
        probe=probe,
        retention=maker.sheet("retention", [((skill, ()), retention) for skill in kept], "exam"),
    )


def wrong_cases(bugs: Collection[str], n: int, *, seed: int = 0) -> tuple[str, ...]:
    """Distinct clean questions that this student gets wrong, of all skills, outside every pool's seed: for measuring.

    >>> [why_wrong(q, ["smaller-from-larger"]) for q in wrong_cases(["smaller-from-larger"], 2)]
    [('smaller-from-larger',), ('smaller-from-larger',)]
    """
    rng, found = Random(f"{seed} wrong cases"), dict[str, None]()
    while len(found) < n:
        question = anything(rng)
        if why_wrong(question, bugs) and clean(question, bugs):
            found[question] = None
    return tuple(found)
