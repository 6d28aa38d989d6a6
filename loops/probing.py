"""What a run would cost, measured: the student answers practice problems as in round 1, and the method's own `verify`,
`teach` and `check` ask the real teacher about a few of them. What comes of it is thrown away; what was asked is paid.

    tutorloop plan my.yaml --probe 20

It is the run's own first steps, in its own roles, in a folder that is removed at the end. The student's answers cost
nothing, so there are more of them (`ANSWERS`): they say how many are wrong. What a case costs is the mean over those
that were asked about; how many cases triage would hand on is found by letting it pick from a round of that size, made
of the answers that there are. Cases that the teacher was not asked about get the verdicts of others, drawn.

    tokens of a round = wrong x (tokens to verify one) + picked x (tokens to teach and check one)

Not covered: what training takes; what later rounds have left to teach, which is assumed as `plan` does; stages after
the first are reckoned at the first one's tokens a case. On a cluster TMPDIR must be a folder that all nodes see.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from ..agents.build import build
from ..agents.cast import SHARD
from ..agents.purse import BudgetSpent
from ..agents.waves import call
from ..evals.pools import Course, make_course
from ..evals.records import Failure, Problem
from ..evals.rows import Rows
from ..evals.statistics import Interval, wilson
from ..policies.attempting import answer
from ..policies.gate import next_round
from ..policies.records import Case, Cost, Price
from ..policies.slots import Method
from ..policies.teaching import diagnose
from ..policies.triage import Balanced, unsolved, wrong
from .asks import read_asks
from .book import Book
from .company import Company, cast_of
from .config import ConfigError
from .courses import read_course
from .fitting import spendable
from .launch import Prepared, record_of, role_specs
from .slots import Slots

ANSWERS = 400
"""Practice problems that the student answers, if a round asks so many: the share of the wrong ones is then known to
within 0.05, and twenty are found where it is 0.05."""
SEEN = 3
"""Where triage may go by what `verify` found, so many times the cases are verified: of mistakes that take
turns the rare ones would else often be missed."""
POOL = 100_000
"""Cases from which triage is let pick; of more, in proportion."""


@dataclass(frozen=True, kw_only=True)
class Outlay:
    """What a part of a run takes of the teacher, mean or sum."""

    calls: float = 0.0
    tokens_in: float = 0.0
    tokens_out: float = 0.0

    @property
    def tokens(self) -> float:
        return self.tokens_in + self.tokens_out

    def __add__(self, other: "Outlay") -> "Outlay":
        return Outlay(
            calls=self.calls + other.calls,
            tokens_in=self.tokens_in + other.tokens_in,
            tokens_out=self.tokens_out + other.tokens_out,
        )

    def __mul__(self, n: float) -> "Outlay":
        return Outlay(calls=self.calls * n, tokens_in=self.tokens_in * n, tokens_out=self.tokens_out * n)


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """Of all rounds together."""

    calls: int
    tokens_in: int
    tokens_out: int
    dollars: float | None
    """`None`: unknown."""
    seconds: float
    """Of asking student and teacher. Training comes on top."""

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a probe has found, and what follows."""

    answers: int
    """Of the student."""
    wrong: int
    interval: Interval
    """Of the share that is wrong: Wilson, 95 %."""
    cases: int
    """That were taught."""
    seen: int
    """That were verified, those included."""
    calls: int
    """That were made and are paid for, those that came to no answer too."""
    faults: Mapping[str, int]
    tokens_in: int
    tokens_out: int
    unmetered: int
    dollars: float | None
    seconds: float
    first: Foreseen
    """Round 1 alone: measured shares and costs, and no assumption about later rounds."""
    about: Foreseen
    most: Foreseen
    """If no error were ever cured, and every round's errors were new."""
    how: Sequence[str]


@dataclass
class Measured:
    """What was measured."""

    answered: Rows[Case]
    verified: Sequence[Case]
    taught: int
    asked: int
    """Problems that a round asks."""
    verify: Mapping[bool, Outlay]
    """Of one case, by whether it was right."""
    teach: Mapping[bool, Outlay]
    """With its check."""
    teacher_seconds: float
    """Of asking about all of the cases."""
    answer_seconds: float
    """Of the student for one problem."""
    picking: Slots = field(repr=False)


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
                    reports = [book.step("0", cast.begin, course)]
                    plan = next_round(ready.stages, reports, seed=config.seed)
                    if plan is None:
                        raise ConfigError("the experiment has no round: there is nothing to probe.")
                    do = book.slots(ready.stages[plan.stage], plan, course, cast, reports)
                    found = _measured(do, book, n)
                    spent, faults = book.spent(), dict(book.faults())
                    return _foreseen(ready, found, spent, faults, price, lasting, answers, time.perf_counter() - began)
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
    drawn = _drawn(do, answered, wanted(do.method, n), rng)
    verified = do.verify(book.table("1/drawn", Case, drawn))
    cases = book.table("1/taught", Case, islice(do.triage(verified), n))
    lessons = do.check(do.teach(cases))
    right = {case.id: case.right for case in (*verified, *cases)}
    owner = {lesson.id: lesson.case for lesson in lessons}
    slots = {slot: _outlays(book, slot, right, owner) for slot in ("verify", "teach", "check")}
    sides = [case.right for case in cases]
    return Measured(
        answered=answered,
        verified=list(verified),
        taught=len(cases),
        asked=len(problems),
        verify={r: _mean(slots["verify"][r], [c.right for c in verified].count(r)) for r in (True, False)},
        teach={r: _mean(slots["teach"][r] + slots["check"][r], sides.count(r)) for r in (True, False)},
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
    if do.method.verify not in (None, diagnose) or any(case.right for case in _picks(do, list(answered))):
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


def _mean(sum_: Outlay, n: int) -> Outlay:
    return sum_ * (1 / n) if n else Outlay()


# ---- from what was measured to a run


def _picks(do: Slots, cases: Sequence[Case], method: Method | None = None) -> Sequence[Case]:
    """Whom triage hands on."""
    method = method or do.method
    if (triage := method.triage) is None:
        return cases
    room = do.room
    room.cases = cases
    room.index = {case.id: case for case in cases}
    room.answered = room.index
    wave = room.wave("triage")

    async def start(_: int) -> Sequence[Case]:
        return list(await call(triage, cases, room.enter("triage", "", wave)))

    (made,) = wave.run(["triage"], start)
    if isinstance(made, Failure):
        raise ConfigError(f"the method's triage failed in the probe: {made.error}")
    return made


def _round(found: Measured, method: Method, errors: float) -> Outlay:
    """What a round takes in which so many of its problems are wrong."""
    n = min(found.asked, POOL)
    rng, many = Random(0), round(errors * n / found.asked)
    groups = {right: [case for case in found.answered if case.right is right] for right in (True, False)}
    known = {right: [case for case in found.verified if case.right is right] for right in (True, False)}
    seen = {case.id: case for case in found.verified}

    def cases() -> Iterator[Case]:
        for right, size in ((False, many), (True, n - many)):
            for i in range(size if groups[right] else 0):
                case = groups[right][i % len(groups[right])]
                like = seen.get(case.id) or (rng.choice(known[right]) if known[right] else case)
                yield replace(case, id=f"{case.id}~{i}", verdicts=like.verdicts)

    pool = list(cases())
    picked = [case.right for case in _picks(found.picking, pool, method)]
    return (
        found.verify[False] * many
        + found.verify[True] * (n - many)
        + found.teach[False] * picked.count(False)
        + found.teach[True] * picked.count(True)
    ) * (found.asked / n)


def _foreseen(
    ready: Prepared,
    found: Measured,
    spent: Cost,
    faults: Mapping[str, int],
    price: Price | None,
    lasting: float,
    answers: int,
    seconds: float,
) -> Probe:
    many = sum(not case.right for case in found.answered)
    share = many / max(1, len(found.answered))
    made = spent.calls + sum(faults.values())
    speed = _Speed(ready, found, made)
    rounds = {part: list(_rounds(ready, found, share, part)) for part in (lasting, 1.0)}

    def told(outlays: Sequence[Outlay], answers: float) -> Foreseen:
        total = sum(outlays, Outlay())
        return Foreseen(
            calls=round(total.calls),
            tokens_in=round(total.tokens_in),
            tokens_out=round(total.tokens_out),
            dollars=price.of(total.tokens_in, total.tokens_out) if price else None,
            seconds=round(sum(map(speed.of, outlays)) + answers * found.answer_seconds, 1),
        )

    per = found.verify[False] + found.teach[False]
    return Probe(
        answers=len(found.answered),
        wrong=many,
        interval=wilson(many, len(found.answered)),
        cases=found.taught,
        seen=len(found.verified),
        calls=made,
        faults=faults,
        tokens_in=spent.tokens_in,
        tokens_out=spent.tokens_out,
        unmetered=spent.unmetered,
        dollars=price.of(spent.tokens_in, spent.tokens_out) if price else None,
        seconds=round(seconds, 1),
        first=told(rounds[1.0][:1], found.asked),
        about=told(rounds[lasting], answers),
        most=told(rounds[1.0], answers),
        how=list(_how(ready, found, share, lasting, per)),
    )


def _rounds(ready: Prepared, found: Measured, share: float, lasting: float) -> Iterator[Outlay]:
    done = 0
    for method in ready.stages:
        for _ in range(method.rounds.times):
            yield _round(found, method, found.asked * share * lasting**done)
            done += 1


def _how(ready: Prepared, found: Measured, share: float, lasting: float, per: Outlay) -> Iterator[str]:
    low, high = wilson(round(share * len(found.answered)), len(found.answered))
    whole = " (all of them)" if len(found.answered) == found.asked else ""
    yield (
        f"{share:.0%} of {len(found.answered)} practice problems{whole} were wrong"
        + ("" if whole else f" (95 %: {low:.0%} to {high:.0%} of the round's {found.asked})")
    )
    tokens = f"{per.tokens_in:.0f} tokens in and {per.tokens_out:.0f} out"
    yield f"a wrong case that is taught takes {per.calls:.1f} calls, {tokens}"
    if sum(m.rounds.times for m in ready.stages) > 1:
        yield f"of the errors {lasting:.0%} outlive a round (assumed: no probe can know), at most all of them"
    yield "seconds are of asking student and teacher, without training"


@dataclass
class _Speed:
    """How long the teacher takes, by how long it took for the probe."""

    ready: Prepared
    found: Measured
    made: int
    """Calls of the probe."""

    def of(self, outlay: Outlay) -> float:
        """Seconds of a round that takes this."""
        if not self.made:
            return 0.0
        took, limits = self.found.teacher_seconds, self.ready.experiment.teacher.limits
        alike = took * outlay.calls / self.made
        if self.ready.experiment.teacher.engine != "chat":
            return alike
        # In the probe one call a case was in flight, and in the run there are as many as may be.
        side = min(len(self.found.verified), limits.concurrency, SHARD)
        per_minute = (limits.requests_per_minute, outlay.calls), (limits.tokens_per_minute, outlay.tokens)
        return max(took, alike * side / limits.concurrency, *(60 * n / limit for limit, n in per_minute if limit))
