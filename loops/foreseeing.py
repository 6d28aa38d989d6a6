"""From what a probe has measured (`probing.py`) to what a run would take.

    tokens of a round = wrong x (tokens to verify one) + picked x (tokens to teach and check one)
    seconds           = calls x (seconds of the probe / its calls), as many side by side as the limits allow

How many cases triage would hand on is found by letting it pick from a round of that size, made of the answers that
there are. Cases that the teacher was not asked about get the verdicts of others, drawn.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from ..agents.waves import call
from ..evals.pools import SHARD
from ..evals.records import Failure
from ..evals.rows import Rows
from ..evals.statistics import Interval, wilson
from ..policies.records import Case, Cost, Price
from ..policies.slots import Method
from .config import ConfigError
from .launch import Prepared
from .slots import Slots

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
    failed: Mapping[str, int]
    """Of these, cases in which a slot failed, by why."""
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
    failed: Mapping[str, int]
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


def mean(sum_: Outlay, n: int) -> Outlay:
    """Nothing of none."""
    return sum_ * (1 / n) if n else Outlay()


def picks(do: Slots, cases: Sequence[Case], method: Method | None = None) -> Sequence[Case]:
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
    picked = [case.right for case in picks(found.picking, pool, method)]
    return (
        found.verify[False] * many
        + found.verify[True] * (n - many)
        + found.teach[False] * picked.count(False)
        + found.teach[True] * picked.count(True)
    ) * (found.asked / n)


def foreseen(
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
        failed=found.failed,
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
