"""What an experiment would do: schedule, slots, asks, settings with who set them, roles. Starts and writes nothing,
unless a probe is wanted (`probing.py`).

The estimate is arithmetic over the course's own texts, and says its assumptions. It is no promise: how often a student
is wrong after a round is what the experiment is to find out.

Not covered: seconds, memory, and what a policy of one's own asks (it is counted as one ask a case).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from statistics import fmean
from textwrap import wrap
from typing import Any

from ..agents.devices import devices
from ..evals.records import Gold, Problem
from ..evals.terminal import safe
from ..policies.checking import Sound
from ..policies.explain import ExplainThenPractise
from ..policies.hinting import HintThenRetry, Socratic
from ..policies.rounds import Budget
from ..policies.slots import Method
from ..policies.teaching import CORRECT, DIAGNOSE, PRACTISE, CorrectAndPractise, diagnose
from ..policies.triage import Balanced
from .bill import money, without_answer
from .courses import read_course
from .fitting import doubts, spendable
from .foreseeing import Foreseen, Probe
from .knobs import Setting, settings_of, unsaid
from .launch import Prepared, prepare, role_specs
from .probing import probe as probed
from .probing import wanted
from .progress import spent
from .words import columns

SLOTS = ("select", "attempt", "verify", "triage", "teach", "check", "curate", "update")
WRONG = 0.5
"""Share of the practice problems that a student gets wrong at first, where the course does not say."""
LASTING = 0.5
"""Share of the errors that is taken to outlive a round."""
HELPS = 0.5
"""Share of the hints after which the student is right."""
WORK = 400
"""Characters of work, where the course has no solutions."""


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage of the method."""

    name: str
    schedule: str
    slots: Mapping[str, str]
    learns: Sequence[str]
    """Kinds of evidence on which a lesson is learnt; empty: the check is the method's own."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What it would take, all rounds together."""

    rounds: int
    student_answers: int
    """Practice, quizzes, and twice everything that is only reported."""
    teacher_calls: int
    teacher_tokens: int
    """In and out."""
    teacher_dollars: float | None
    """`None`: unknown, as no price is set."""
    most_calls: int
    """If no error were ever cured, and every round's errors were new."""
    most_tokens: int
    most_dollars: float | None
    how: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class ExperimentPlan:
    """What `plan --json` prints."""

    experiment: str
    method: str
    summary: str
    citation: str
    requires: Sequence[str]
    pools: Mapping[str, int]
    stages: Sequence[StagePlan]
    estimate: Estimate
    budget: Budget
    placement: str
    gpus: int
    """How many the roles take together."""
    roles: Sequence[Mapping[str, Any]]
    settings: Sequence[Setting]
    warnings: Sequence[str]
    probe: Probe | None = None


def plan(
    experiment: Path | str, overrides: Sequence[str] = (), probe: int = 0, tell: Callable[[str], None] = print
) -> ExperimentPlan:
    """Check an experiment and say what it would do.

    Args:
        probe: About so many real cases the teacher is asked, which is paid for. 0: nothing is started.
        tell: Is told of a probe before it begins.

    Raises:
        ConfigError: as `launch` would.
        Unserved: the teacher's provider takes no call of the probe.
    """
    made = _planned(experiment, ready := prepare(experiment, overrides))
    if not probe:
        return made
    told, asked = made.estimate, ready.experiment.teacher
    who = f"{asked.model or asked.chat} at {asked.url or asked.chat}" if asked.engine == "chat" else asked.engine
    first = ready.stages[0]
    calls = wanted(first, probe) * _verify(first, 0, 0).calls + probe * _teach(first, 0, 0).calls
    tell(f"probe: the teacher ({who}) is asked about {probe} cases now: about {calls:.0f} calls, which are paid")
    return replace(made, probe=probed(ready, probe, LASTING, told.student_answers))


def _planned(experiment: Path | str, ready: Prepared) -> ExperimentPlan:
    config, first = ready.experiment, ready.stages[0]
    data = read_course(config.course, config.seed, config.student, ready.folder, config.limit)
    practice = list(data.splits["practice"])
    sizes = {name: sum(1 for _ in split) for name, split in data.splits.items()}
    return ExperimentPlan(
        experiment=str(experiment),
        method=config.method,
        summary="; then ".join(m.summary for m in ready.stages),
        citation=first.citation,
        requires=sorted({need for m in ready.stages for need in m.requires}),
        pools=sizes,
        stages=[_stage(m) for m in ready.stages],
        estimate=_estimate(ready, [p for p, _ in practice], [g for _, g in practice if g], sizes),
        budget=spendable(config),
        placement=config.placement,
        gpus=devices([*role_specs(ready, Path()).values()], shared=config.placement == "shared"),
        roles=list(_roles(ready)),
        settings=list(settings_of(ready)),
        warnings=list(_warnings(ready, sizes)),
    )


def _stage(method: Method) -> StagePlan:
    slots = {name: _named(getattr(method, name)) for name in SLOTS}
    slots["select"] = slots["select"] or "the schedule's window of the practice pool"
    slots["triage"] = slots["triage"] or "every case"
    learns = method.check.kinds if isinstance(method.check, Sound) else ()
    return StagePlan(name=method.name, schedule=method.rounds.words(), slots=slots, learns=learns)


def _named(slot: Any) -> str:
    """A slot by import path; a dataclass with its options."""
    if slot is None:
        return ""
    if is_dataclass(slot) and not isinstance(slot, type):
        return f"{type(slot).__module__}:{slot!r}"
    return f"{slot.__module__}:{getattr(slot, '__qualname__', type(slot).__qualname__)}"


# ---- what it would take


@dataclass(frozen=True)
class _Asks:
    """What one slot asks for one case: how often, with how many characters in and out."""

    calls: float
    """At most."""
    sent: float = 0.0
    got: float = 0.0
    guess: str = ""
    likely: float = 1.0
    """Share of the calls that is taken to be needed."""


def _estimate(ready: Prepared, practice: Sequence[Problem], gold: Sequence[Gold], sizes: Mapping[str, int]) -> Estimate:
    found = Counter(g.misconceptions[0] for g in gold if g.misconceptions)
    share = found.total() / len(practice) if found else WRONG
    kinds = [n / found.total() for n in found.values()] or [1.0]
    question = fmean(len(p.question) for p in practice)
    solutions = [len(g.solution) for g in gold if g.solution]
    work = fmean(solutions) if solutions else WORK
    letters = 5 if ready.experiment.teacher.engine == "scripted" else 4
    how = [
        f"{share:.0%} of the practice problems are wrong at first"
        + (" (the course knows)" if found else " (assumed: the course does not say)"),
        f"of the errors {LASTING:.0%} outlive a round (assumed); at most: all of them, and never the same twice",
        f"a token is {letters} characters of the course's own questions and solutions, with the prompts of the slots",
    ]
    answers, done = 0, 0
    about, most = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    price = ready.experiment.teacher.price.value()
    for method in ready.stages:
        asked = min(method.rounds.ask or len(practice), len(practice))
        verify, teach = _verify(method, question, work), _teach(method, question, work)
        how += [x.guess for x in (verify, teach) if x.guess]
        for _ in range(method.rounds.times):
            for total, lasting in ((about, LASTING**done), (most, 1.0)):
                wrong = asked * share * lasting
                taught = _picked(method, wrong, kinds)
                for asks, cases in ((verify, wrong), (teach, taught)):
                    part = cases * (asks.likely if total is about else 1.0)
                    total[0] += asks.calls * part
                    total[1] += part * asks.sent / letters
                    total[2] += part * asks.got / letters
            done += 1
            answers += asked
    reported = sum(n for pool, n in sizes.items() if pool not in ("practice", "quiz"))
    return Estimate(
        rounds=done,
        student_answers=answers + sizes["quiz"] * (1 + done) + 2 * reported,
        teacher_calls=round(about[0]),
        teacher_tokens=round(about[1] + about[2]),
        teacher_dollars=price.of(about[1], about[2]) if price else None,
        most_calls=round(most[0]),
        most_tokens=round(most[1] + most[2]),
        most_dollars=price.of(most[1], most[2]) if price else None,
        how=list(dict.fromkeys(how)),
    )


def _verify(method: Method, question: float, work: float) -> _Asks:
    if method.verify is None:
        return _Asks(0)
    guess = "" if method.verify is diagnose else f"{_named(method.verify)} asks once for each wrong case (assumed)"
    return _Asks(1, len(DIAGNOSE) + question + work, 40, guess)


def _teach(method: Method, question: float, work: float) -> _Asks:
    teach, seen = method.teach, question + work
    written = teach.practice if isinstance(teach, CorrectAndPractise | ExplainThenPractise) else 0
    calls, guess, likely = getattr(teach, "asks", None) if teach else 0, "", 1.0
    if not isinstance(calls, int):
        calls, guess = 1, f"{_named(teach)} asks once for each case (assumed: no attribute `asks` of it says otherwise)"
    elif isinstance(teach, HintThenRetry | Socratic) and calls > 1:
        likely = (1 + (calls - 1) * (1 - HELPS)) / calls
        guess = f"of the hints {HELPS:.0%} help, and what would follow is not asked (assumed); at most: none"
    sent, got = calls * (len(CORRECT) + seen), calls * work
    if written:  # the last ask, and no correction
        sent, got = sent - len(CORRECT) + len(PRACTISE), got - work + written * seen
    checks = 0
    if isinstance(method.check, Sound) and "blind" in method.check.kinds and teach:
        checks = written + (not isinstance(teach, ExplainThenPractise))  # an explanation is not learnt
    return _Asks(calls + checks, sent + checks * question, got + checks * work, guess, likely)


def _picked(method: Method, wrong: float, kinds: Sequence[float]) -> float:
    """How many of the wrong cases triage hands on, at most. `kinds`: the share of each mistake."""
    triage = method.triage
    if not isinstance(triage, Balanced):
        return wrong
    picked = sum(min(wrong * part, triage.each if triage.each is not None else wrong) for part in kinds)
    return min(picked, triage.limit if triage.limit is not None else wrong)


def _roles(ready: Prepared) -> Iterator[Mapping[str, Any]]:
    kept = ("engine", "model", "revision", "dtype", "max_tokens", "temperature")
    placed = ("threads", "gpus", "replicas", "workers", "deadline")
    address = ready.experiment.cluster.address
    for name, spec in role_specs(ready, Path()).items():
        told = asdict(replace(spec, model=spec.model or spec.chat))
        where = "an actor of its own" if spec.replicas == 1 else f"actors {' '.join(spec.names)}"
        where += f" on the cluster at {address}" if address else ""
        where += f", and {spec.workers} that train" if spec.workers > 1 else ""
        if ready.experiment.placement == "local":
            where = "this process"
        yield {"role": name, "where": where, **{key: told[key] for key in kept + placed}, "options": dict(spec.options)}


def _warnings(ready: Prepared, sizes: Mapping[str, int]) -> Iterator[str]:
    yield from doubts(ready.experiment, ready.stages)
    yield from unsaid(ready)
    for method in ready.stages:
        if isinstance(method.check, Sound) and "unchecked" in method.check.kinds:
            yield f"{method.name} learns from unchecked lessons: nobody looks whether they are right"
        if method.rounds.gate is not None and sizes["quiz"] < 300:
            yield f"the quiz has {sizes['quiz']} problems: with fewer than 300 the gate sees only large drops"


# ---- in words


def plan_lines(plan: ExperimentPlan) -> Iterator[str]:
    yield f"{safe(plan.experiment)}: method {safe(plan.method)}, {safe(plan.summary)}"
    if plan.citation:
        yield f"  {safe(plan.citation)}"
    yield f"course    {', '.join(f'{name} {n}' for name, n in plan.pools.items())} problems"
    for stage in plan.stages:
        yield ""
        yield from wrap(f"{safe(stage.name)}: {stage.schedule}", 110, subsequent_indent="  ")
        yield from (f"  {name:<8}{safe(slot) or '-'}" for name, slot in stage.slots.items())
        if stage.learns:
            yield f"  a lesson is learnt on any evidence of: {', '.join(stage.learns)}"
    yield ""
    yield from _estimate_lines(plan)
    yield ""
    table = [["role", "engine", "model", "where", "threads", "gpus", "max tokens"]]
    for role in plan.roles:
        model = role["model"] or ("-" if role["engine"] == "scripted" and role["role"] == "teacher" else "shipped")
        times = f"{role['replicas']} x " if role["replicas"] > 1 else ""
        cells = [f"{times}{role['role']}", role["engine"], safe(model), role["where"]]
        table.append([*cells, f"{role['threads']}", f"{role['gpus']:g}", f"{role['max_tokens']}"])
    yield from columns(table, right=(4, 5, 6))
    yield from _shared(plan)
    yield ""
    set_ = [s for s in plan.settings if s.origin != "the library's"]
    rows = [["setting", "value", "set by", "otherwise"]]
    rows += [
        [
            f"{s.group}.{s.name}",
            safe(f"{s.value!r}"),
            s.origin,
            "without effect" if s.without_effect else safe(s.otherwise),
        ]
        for s in set_
    ]
    yield from columns(rows)
    yield f"and {len(plan.settings) - len(set_)} fields as the libraries have them (--json lists them)"
    for warning in plan.warnings:
        yield f"warning: {warning}"
    yield "no run was started and nothing was written" if plan.probe else "nothing was started and nothing was written"


def _shared(plan: ExperimentPlan) -> Iterator[str]:
    parts = [role for role in plan.roles if role["gpus"]]
    if plan.placement != "local" and parts:
        each = ", ".join(f"{role['gpus']:g} for each {role['role']}" for role in parts)
        turns = "; the learner has them in turn with the others" if plan.placement == "shared" else ""
        yield f"{plan.gpus} GPU{'s' if plan.gpus > 1 else ''} in all: {each}; parts share one where they fit{turns}"


def _estimate_lines(plan: ExperimentPlan) -> Iterator[str]:
    told = plan.estimate
    yield (
        f"estimate  {told.rounds} rounds; {told.student_answers:,} answers of the student; teacher: about "
        f"{told.teacher_calls:,} asks and {told.teacher_tokens:,} tokens, at most {told.most_calls:,} and "
        f"{told.most_tokens:,}"
        + (f"; cost about {money(told.teacher_dollars)}, at most {money(told.most_dollars)}" if priced(plan) else "")
    )
    yield from (f"          {line}" for line in told.how)
    if (probe := plan.probe) is not None:
        yield from _probe_lines(probe, priced(plan))
        told_by, calls, tokens, dollars = "the probe", probe.about.calls, probe.about.tokens, probe.about.dollars
    else:
        told_by, calls, tokens, dollars = "this estimate", told.teacher_calls, told.teacher_tokens, told.teacher_dollars
    budget = plan.budget
    for limit, name, need in (
        (budget.teacher_tokens, f"{budget.teacher_tokens or 0:,} teacher tokens", tokens),
        (budget.teacher_calls, f"{budget.teacher_calls or 0:,} teacher calls", calls),
        (budget.teacher_dollars, f"{money(budget.teacher_dollars)} for the teacher", dollars),
    ):
        if limit is not None and need is not None:
            enough = "enough" if limit >= need else "not enough: the run would stop and could be resumed"
            yield f"          the budget is {name}: by {told_by} {enough}"


def priced(plan: ExperimentPlan) -> bool:
    """Whether there is anything to say of dollars, be it that they are unknown."""
    teacher = next(role for role in plan.roles if role["role"] == "teacher")
    return teacher["engine"] == "chat" or plan.estimate.teacher_dollars is not None


def _probe_lines(probe: Probe, priced: bool) -> Iterator[str]:
    def words(told: Foreseen) -> str:
        cost = f", {money(told.dollars, probe.unmetered)}" if priced else ""
        return f"{told.calls:,} calls, {told.tokens_in:,} tokens in and {told.tokens_out:,} out{cost}"

    failed = f" ({without_answer(probe.faults)})" if probe.faults else ""
    cost = f", {money(probe.dollars, probe.unmetered)}" if priced else ""
    seen = f" of {probe.seen} verified" if probe.seen > probe.cases else ""
    yield (
        f"probe     {probe.calls} calls of the teacher were made{failed}, {probe.tokens_in + probe.tokens_out:,} tokens"
        f"{cost}: {probe.cases} cases taught{seen}; a run does not use them again"
    )
    if probe.failed:
        why = ", ".join(f"{n} x {safe(error)}" for error, n in probe.failed.items())
        yield f"          {sum(probe.failed.values())} failed: {why}"
    yield f"          round 1 {words(probe.first)}; {spent(probe.first.seconds)}"
    yield f"          all     {words(probe.about)}; {spent(probe.about.seconds)}"
    if probe.most.calls > probe.about.calls:
        yield f"          at most {words(probe.most)}; {spent(probe.most.seconds)}"
    yield from (f"          {line}" for line in probe.how)
