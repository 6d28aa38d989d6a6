"""What a run would cost, measured: the student answers practice problems as in round 1, and the method's own `verify`,
`teach` and `check` ask the real teacher about a few of them. What comes of it is thrown away; what was asked is paid.

    tutorloop plan my.yaml --probe 20

It is the run's own first steps, in its own roles, in a folder that is removed at the end. The student's answers cost
nothing, so there are more of them (`ANSWERS`): they say how many are wrong. What a case costs is the mean over those
that were asked about; `foreseeing.py` has what follows for a run.

Not covered: what training takes; what later rounds have left to teach, which is assumed as `plan` does; stages after
the first are reckoned at the first one's tokens a case. On a cluster TMPDIR must be a folder that all nodes see.
"""

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from ..agents.build import build
from ..agents.purse import BudgetSpent
from ..evals.pools import Course, make_course
from ..evals.records import Problem
from ..evals.rows import Rows
from ..policies.attempting import answer
from ..policies.gate import next_round
from ..policies.records import Case
from ..policies.slots import Method
from ..policies.teaching import diagnose
from ..policies.triage import Balanced, unsolved, wrong
from .asks import read_asks
from .book import Book
from .company import Company, cast_of
from .config import ConfigError
from .courses import read_course
from .fitting import spendable
from .foreseeing import Measured, Outlay, Probe, foreseen, mean, picks
from .launch import Prepared, record_of, role_specs
from .slots import Slots

ANSWERS = 400
"""Practice problems that the student answers, if a round asks so many: the share of the wrong ones is then known to
within 0.05, and twenty are found where it is 0.05."""
SEEN = 3
"""Where triage may go by what `verify` found, so many times the cases are verified: of mistakes that take
turns the rare ones would else often be missed."""


def probe(ready: Prepared, n: int, lasting: float, answers: int) -> Probe:
    """Ask about `n` real cases, and say what the run would take.

    Args:
        lasting: Share of the errors that is taken to outlive a round.
        answers: Of the student, in the whole run.

    Raises:
        ConfigError: the experiment is wrong, or its budget is spent by the probe already.
        Unserved: the provider takes no call.
    """
    began = time.perf_counter()
    config, price = ready.experiment, ready.experiment.teacher.price.value()
    with TemporaryDirectory(prefix="tutorloop-probe-") as scratch:
        root = Path(scratch).resolve() / "probe"
        specs = list(role_specs(ready, root).values())
        company = Company(specs=specs, placement=config.placement, factory=build, cluster=config.cluster)
        with closing(company):
            company.muster()
            book = Book.open(root, run=record_of(ready, None)["run"], seed=config.seed)
            book.budget, book.failures = spendable(config), 1.0
            try:
                course = _course(ready, book)
                with cast_of(company, book.root, book, config.policy_seconds) as cast:
                    cast.apart = False  # begun early, `verify` would be asked about all that the student answered
                    reports = [book.step("0", cast.begin, course)]
                    plan = next_round(ready.stages, reports, seed=config.seed)
                    if plan is None:
                        raise ConfigError("the experiment has no round: there is nothing to probe.")
                    do = book.slots(ready.stages[plan.stage], plan, course, cast, reports)
                    found = _measured(do, book, n)
                    spent, faults = book.spent(), dict(book.faults())
                    return foreseen(ready, found, spent, faults, price, lasting, answers, time.perf_counter() - began)
            except BudgetSpent as e:
                raise ConfigError(f"the probe itself takes more than the run may: {e}.") from None
            finally:
                book.release()


def _course(ready: Prepared, book: Book) -> Course:
    """The practice pool as it is; of all others one problem, so that it is a course."""
    told = ready.experiment
    data = read_course(told.course, told.seed, told.student, ready.folder, told.limit)
    splits: Mapping[str, Any] = {
        name: split if name == "practice" else list(islice(split, 1)) for name, split in data.splits.items()
    }
    return make_course(told.course.kind, book.root, splits, run=book.run)


def _measured(do: Slots, book: Book, n: int) -> Measured:
    problems, rng = do.select(do.room.course.practice), Random(f"{do.plan.seed}/probe")
    most = ANSWERS if do.method.attempt in (answer, None) else n  # others may ask the teacher
    chosen = sorted(rng.sample(range(len(problems)), min(most, len(problems))))
    answered = do.attempt(book.table("1/asked", Problem, [problems[i] for i in chosen]))
    if not len(answered):
        why = next((f.error for f in answered.failures()), "")
        raise ConfigError(f"the student answered none of {len(chosen)} practice problems: {why}")
    drawn = _drawn(do, answered, wanted(do.method, n), rng)
    verified = do.verify(book.table("1/drawn", Case, drawn))
    cases = book.table("1/taught", Case, islice(do.triage(verified), n))
    told = do.teach(cases)
    lessons = do.check(told)
    right = {case.id: case.right for case in (*verified, *cases)}
    owner = {lesson.id: lesson.case for lesson in lessons}
    slots = {slot: _outlays(book, slot, right, owner) for slot in ("verify", "teach", "check")}
    sides = [case.right for case in cases]
    return Measured(
        answered=answered,
        verified=list(verified),
        taught=len(cases),
        failed=Counter(f.kind or f.error for rows in (verified, told, lessons) for f in rows.failures()),
        asked=len(problems),
        verify={r: mean(slots["verify"][r], [c.right for c in verified].count(r)) for r in (True, False)},
        teach={r: mean(slots["teach"][r] + slots["check"][r], sides.count(r)) for r in (True, False)},
        teacher_seconds=sum(_took(book, slot) for slot in slots),
        answer_seconds=_took(book, "attempt") / max(1, len(answered)),
        picking=do,
    )


def wanted(method: Method, n: int) -> int:
    """How many cases are verified where `n` are taught."""
    whole = method.triage in (None, wrong, unsolved, Balanced())  # whatever was found, all go on
    return n if whole or method.verify is None else n * SEEN


def _drawn(do: Slots, answered: Rows[Case], n: int, rng: Random) -> list[Case]:
    """About whom the teacher is asked: wrong ones; where right ones may cost something too, some of each."""
    groups = {right: [case for case in answered if case.right is right] for right in (False, True)}
    for group in groups.values():
        rng.shuffle(group)
    part = 0
    if do.method.verify not in (None, diagnose) or any(case.right for case in picks(do, list(answered))):
        part = min(len(groups[True]), max(1, round(n * len(groups[True]) / len(answered))))
    return groups[False][: n - part] + groups[True][:part]


def _took(book: Book, slot: str) -> float:
    return float(book.documents.step(f"1/{slot}")["seconds"]) if book.done(f"1/{slot}") else 0.0


def _outlays(book: Book, slot: str, right: Mapping[str, bool], owner: Mapping[str, str]) -> dict[bool, Outlay]:
    """What a slot took of the teacher, by whether the case was right."""
    sums = {True: Outlay(), False: Outlay()}
    for path in (book.root / "asks").glob(f"1-{slot}.*"):
        for e in read_asks(path, book.run):
            if e.member == "teacher" and not e.reused:
                one = Outlay(calls=1, tokens_in=e.tokens_in, tokens_out=e.tokens_out)
                sums[right[owner.get(e.item, e.item)]] += one
    return sums
