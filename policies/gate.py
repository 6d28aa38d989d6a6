"""What comes next, and whether a round is kept. Pure: from reports and rows, no clock, no model.

The gate compares the quiz with that of the best state kept so far, problem by problem, and rolls a round back only on
a significant drop (one-sided exact McNemar). States are values, so rolling back costs nothing but the round's budget.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from ..evals.records import State
from ..evals.statistics import mcnemar, smallest_drop, transitions
from .records import Cost, Json
from .rounds import Plan, Proof, Reports, RoundReport, Sheet, Tables
from .slots import Method, Stages


def next_round(stages: Stages, reports: Reports, *, seed: int) -> Plan | None:
    """The next plan; `None` when the stages are through: enough rounds, patience gone, or nothing left to teach."""
    stage = reports[-1].stage
    done = [r for r in reports if r.number and r.stage == stage]
    if _through(stages[stage], done):
        stage, done = stage + 1, []
    while stage < len(stages) and stages[stage].rounds.times == 0:
        stage += 1
    if stage >= len(stages):
        return None
    method, last = stages[stage], reports[-1]
    rounds, base = method.rounds, reports[0].serving[method.learner]
    start = base if rounds.start == "best" else last.serving[method.learner]
    if rounds.start == "best":
        start = max(reports, key=lambda r: r.quiz.accuracy if r.kept else -1.0).serving[method.learner]
    elif rounds.start != "previous":
        start = _named(rounds.start, base, reports, method.learner)
    reference = None
    if rounds.reference != "sft":
        reference = start if rounds.reference == "start" else _named(rounds.reference, base, reports, method.learner)
    return Plan(
        stage=stage,
        number=last.number + 1,
        learner=method.learner,
        start=start,
        reference=reference,
        serving=last.serving,
        ask=rounds.ask,
        rows=rounds.rows,
        fill=rounds.fill,
        new=rounds.new,
        gate=rounds.gate,
        rate=rounds.decay ** len(done),
        settings=rounds.settings,
        seed=seed,
    )


def _through(method: Method, done: Reports) -> bool:
    if len(done) >= method.rounds.times:
        return True
    same = method.rounds.ask is None and method.select is None
    if same and done and done[-1].tables is not None and not len(done[-1].tables.examples):
        return True  # the next round would ask the same state the same, and learn nothing again
    patience = method.rounds.patience
    return patience is not None and len(done) >= patience and not any(r.kept for r in done[-patience:])


def _named(name: str, base: State, reports: Reports, learner: str) -> State:
    if name == "base":
        return base
    found = next((r for r in reports if str(r.number) == name), None)
    if found is None:
        known = ", ".join(str(r.number) for r in reports)
        raise ValueError(f"`start` or `reference` names round {name!r}; rounds so far: {known}, or `base`")
    return found.serving[learner]


def gate(
    plan: Plan,
    reports: Sequence[RoundReport],
    quiz: Sheet,
    proof: Proof,
    tables: Tables,
    cost: Cost,
    notes: Mapping[str, Json],
) -> RoundReport:
    """Keep the candidate, or roll back; and everything worth reporting of the round."""
    best = max((r for r in reports if r.kept), key=lambda r: r.quiz.accuracy)
    after, before = quiz.marks, best.quiz.marks
    against_best = transitions(before, after)
    fixed, regressed = len(against_best.fixed), len(against_best.regressed)
    p = mcnemar(fixed, regressed)
    level = plan.gate
    kept = level is None or p >= level
    served = next(r for r in reversed(reports) if r.kept)
    if proof.status == "unchanged":
        lead = "" if len(tables.examples) else "nothing to learn: "
        why = f"{lead}the state is unchanged; {_nothing(tables)}"
    elif not kept:
        why = (
            f"rolled back: quiz {quiz.accuracy:.3f} against {best.quiz.accuracy:.3f} of round {best.number}, p={p:.2g}"
        )
    else:
        why = "kept" if proof.status == "published" else f"kept, but {proof.status}"
    found = Counter((x.sound, x.verdict.by if x.verdict else "") for x in tables.lessons)
    return RoundReport(
        number=plan.number,
        stage=plan.stage,
        quiz=quiz,
        candidate=proof.state,
        serving=plan.serves(proof.state) if kept else plan.serving,
        kept=kept,
        why=why,
        p_drop=p,
        smallest_drop=smallest_drop(quiz.n, fixed=fixed, alpha=level) if level else None,
        transitions=transitions(served.quiz.marks, after),
        proof=proof,
        tables=tables,
        accepted=sum(n for (sound, _), n in found.items() if sound),
        rejected={why: n for (sound, why), n in sorted(found.items()) if why and not sound},
        origins=dict(sorted(Counter(tables.examples.column("origin")).items())),
        cost=cost,
        notes=notes,
    )


def _nothing(tables: Tables) -> str:
    """Why a round left the student as it was."""
    if len(tables.examples):
        return f"the update made nothing of {len(tables.examples)} examples"
    if not len(tables.answered):
        return "nothing was asked"
    if not len(tables.cases):
        right = all(case.right for case in tables.answered)
        return "all that was asked was right" if right else "triage picked no case"
    if not len(tables.lessons):
        return f"the teacher had nothing to say on any of {len(tables.cases)} cases"
    if sound := sum(lesson.sound for lesson in tables.lessons):
        return f"none of {sound} sound lessons became an example"
    return f"none of {len(tables.lessons)} lessons was sound"
