"""Who plays in a run: the members' seats, what they may answer with, and the proof that they do.

    student    answers practice, as an actor of its own
    evaluator  a second replica of the student, with the graders and the key to the sealed pools
    teacher    answers the policies' asks
    learner    trains the student, and reads its own log-probabilities

Publishing (`publish`) is a handshake: the most damaging fault of this field is a student that is silently the base
model, or last round's. A state is served only after the server's log-probabilities on rows of this round's training
set agree with the trainer's, within the noise between the two that was measured at the start (`begin`). The evidence
is stored, and a replica that was restarted proves itself against it before its first row.

Where all share the devices, those who answer and the learner have them in turn: some leave, and the others come. The
trainer's readings are taken before it leaves; who comes again proves what it will answer with before its first row.

Where a role has several replicas (`seats.py`), all of them prove a state before any of them answers with it. What they
answer does not depend on how many they are: the engines' batches are fixed, and what is made side by side is written in
order (`lanes.py`).
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, TypeVar

from pydantic_core import to_json

from ..evals.files import atomic_write
from ..evals.pools import SHARD, Course, Sealed
from ..evals.records import Problem, State
from ..evals.rows import Rows, adapter
from ..policies.records import Example, Marked
from ..policies.rounds import Plan, Proof, RoundReport, Sheet
from .calling import Calls
from .doubts import doubts
from .lanes import Lanes
from .models import model_folder, without_system
from .roles import (
    WITH_MODEL,
    Canary,
    Evidence,
    Job,
    PublishError,
    Readings,
    Reply,
    Request,
    RoleSpec,
    Trained,
    largest_difference,
)
from .seats import Replica, Seat

log = logging.getLogger(__name__)
T = TypeVar("T")

CANARIES = 4
SAME_BASE = 0.1
"""Nats. Two readings of one base differ by rounding; above this, trainer and server hold different models."""
BATCH = 64
"""Requests in one call to an engine."""
AHEAD = 2
"""Shards in flight for each replica: one is answered, and one is got ready or waits to be written."""
STRAGGLERS = 6
"""Items in flight for each call that may be: a shard waits for its slowest call, and for the shards before it."""


class Shelf(Protocol):
    """Where what a step makes is kept."""

    def shards(
        self, name: str, of: type[T], total: int, make: Callable[[int], Sequence[T]], lanes: Lanes | None = None
    ) -> Rows[T]:
        """A table, written shard by shard; a finished shard is not made again."""
        ...

    def vouch(self, path: Path) -> None:
        """The running step has left this file, or this folder of files."""
        ...


@dataclass
class Cast:
    """All seats of a run."""

    root: Path
    seats: Mapping[str, Seat]
    shelf: Shelf
    policy_seconds: float = 120.0
    """How long a policy may go without an answer or a result."""
    shared: bool = False
    """Whether the learner has the devices in turn with the others."""
    apart: bool = False
    """Whether who is asked works elsewhere, and can do so while another does."""
    _learning: bool | None = None
    """Whose turn it is; nobody's yet."""
    _minded: set[str] = field(default_factory=set)
    """Members of whose chat template it was asked what it does with a system turn."""
    _calls: dict[str, Calls] = field(default_factory=dict)
    """By member, of those that are asked through an API."""
    _opening: Lock = field(default_factory=Lock)

    def close(self) -> None:
        for calls in self._calls.values():
            calls.close()
        for seat in self.seats.values():
            seat.close()

    def _turn(self, learning: bool) -> None:
        """The devices to the learner, or to those who answer."""
        if not self.shared or learning == self._learning:
            return
        ours, theirs = (
            [seat for name, seat in self.seats.items() if (name == "learner") is whose]
            for whose in (learning, not learning)
        )
        if self._learning is not None:
            for seat in theirs:
                seat.leave()
        for seat in ours:
            seat.come()
        self._learning = learning

    # ---- answering

    def settings(self, member: str) -> str:
        """What of a member's configuration changes its answers; part of every ask's key."""
        spec = self.seats[member].spec
        # Not the model's place: the state's digest says which model it is, wherever it lies.
        told = [spec.engine, spec.dtype, spec.max_tokens, spec.temperature, spec.seed]
        return to_json([*told, dict(sorted(spec.options.items()))]).decode()

    def generate(self, member: str, state: State, requests: Sequence[Request]) -> list[Reply]:
        """Answers of a member of the cast in `state`, in order."""
        batches = [list(requests[i : i + BATCH]) for i in range(0, len(requests), BATCH)]
        lanes = self.lanes(member, state)
        if any(turn.role == "system" for request in requests for turn in request.messages):
            self._mind_system(member)
        replies = lanes.run(lambda i: self._answer(member, state, "generate", state, batches[i]), range(len(batches)))
        return list(chain.from_iterable(replies))

    def calls(self, member: str, state: State) -> Calls | None:
        """By which a member in `state` is asked at once; `None`: it answers in waves."""
        seat = self.seats[member]
        if not seat.spec.calls:
            return None
        with self._opening:
            if member not in self._calls:
                self.lanes(member, state)
                evidence = self._evidence(state)
                self._calls[member] = Calls(seat.spec, list(seat.replicas), lambda replica: replica.prove(evidence))
        return self._calls[member]

    def ahead(self, serving: Mapping[str, State]) -> Lanes:
        """For items that may ask anybody. Those of one shard are in step with one another and with the shards before
        it; where a paid API is asked there are as many shards in flight as keep it busy, stragglers and all.
        """
        called = [self.seats[name].spec for name, state in serving.items() if self.calls(name, state)]
        return Lanes(max((2 + -(-STRAGGLERS * spec.limits.concurrency // SHARD) for spec in called), default=1))

    def _mind_system(self, member: str) -> None:
        """Say once that what a policy says in a system turn reaches nobody. Of models of the hub nothing is known."""
        if member not in self._minded and (unread := unread_system(self.seats[member].spec)):
            log.warning("warning: %s", unread)
        self._minded.add(member)

    def sit(self, pool: Sealed, serving: Mapping[str, State]) -> Sheet:
        """Let the student sit a sealed pool."""
        state = serving["student"]
        rows: Rows[Marked] = self.shelf.shards(
            f"sheets/{pool.name}/{state.name}",
            Marked,
            pool.shards,
            lambda shard: self._answer("evaluator", state, "sit", pool, shard, state),
            self.lanes("evaluator", state),
        )
        return _sheet(pool.name, state, rows)

    def sit_all(self, pools: Sequence[Sealed], serving: Mapping[str, State]) -> dict[str, Sheet]:
        return {pool.name: self.sit(pool, serving) for pool in pools}

    def lanes(self, member: str, state: State) -> Lanes:
        """For a member's answers in `state`: as many as keep its replicas busy, of which each has proven the state.

        The first time in a process it is for one thread alone: roles are started, all of them prove.

        Raises:
            PublishError: a replica does not hold `state`. None of them has answered.
        """
        seat = self.seats[member]
        if state.name not in seat.proven:
            self._prove(seat, self._evidence(state))
        return Lanes(AHEAD * len(seat.replicas))

    def _answer(self, member: str, state: State, method: str, *args: Any) -> Any:
        with self.seats[member].taken() as replica:

            def ask() -> Any:
                if state.name not in replica.proven:
                    replica.prove(self._evidence(state))
                return replica.call(method, *args)

            return replica.surviving(ask)

    # ---- training

    def train(self, job: Job) -> Trained:
        learner = self._learner
        trained: Trained = learner.surviving(lambda: learner.call("train", job))
        for place in filter(None, (trained.state.weights, trained.state.library)):
            self.shelf.vouch(self.root / place)
        base = self._evidence(self._learner.surviving(self._learner.greet).base)
        for line in doubts(job, trained, base.tolerance):
            log.warning("warning: %s: %s", trained.state.name, line)
        return trained

    @property
    def _learner(self) -> Replica:
        """Its turn begins."""
        self._turn(learning=True)
        (learner,) = self.seats["learner"].replicas
        return learner

    # ---- publishing

    def begin(self, course: Course) -> RoundReport:
        """Round 0: whether all roles hold the same student, how far apart their readings are, and the first quiz.

        Raises:
            PublishError: trainer, student and evaluator do not hold the same base.
        """
        canaries = tuple(
            Canary(messages=p.messages, completion=p.question) for p in _first(course.practice.problems, CANARIES)
        )
        learner = self._learner
        base = learner.surviving(learner.greet).base
        mine = _read(learner, base, canaries)
        self._turn(learning=False)
        servers = [replica for name in ("student", "evaluator") for replica in self.seats[name].replicas]
        _common_base(servers, learner.name, base)
        apart = {server.name: largest_difference(mine, _read(server, base, canaries)) for server in servers}
        worst = max(apart, key=lambda name: apart[name])
        if apart[worst] > SAME_BASE:
            raise PublishError(
                f"trainer and {worst} differ by {apart[worst]:.2g} nats on the untouched base: they do not run the "
                "same model."
            )
        self._store(Evidence(state=base, canaries=canaries, before=mine, after=mine, noise=apart[worst]))
        serving = {"student": base, "teacher": self._teacher()}
        return RoundReport(number=0, quiz=self.sit(course.quiz, serving), candidate=base, serving=serving)

    def join(self, report: RoundReport) -> RoundReport:
        """Take over from another cast after a round that it has played: the teacher may be another from here on."""
        return replace(report, serving={**report.serving, "teacher": self._teacher(report.serving["teacher"])})

    def _teacher(self, before: State | None = None) -> State:
        self._turn(learning=False)
        replicas = self.seats["teacher"].replicas
        teacher = _common_base(replicas, replicas[0].name, replicas[0].surviving(replicas[0].greet).base)
        if before is not None and teacher.digest != before.digest:
            teacher = replace(teacher, name=f"{teacher.name}-{teacher.digest[:8]}")  # a name is never used again
        self._store(Evidence(state=teacher, canaries=(), before=(), after=(), noise=0.0))
        return teacher

    def publish(self, plan: Plan, state: State, examples: Rows[Example]) -> Proof:
        """Prove `state` to every server that will answer with it, each replica of it.

        Raises:
            PublishError: a server does not show what the trainer sees. Nothing is published.
        """
        if state == plan.serving[plan.learner]:
            return Proof(status="unchanged", state=state)
        canaries = _canaries(examples)
        before, after = (_read(self._learner, s, canaries) for s in (plan.start, state))
        noise = self._evidence(plan.start).noise
        evidence = Evidence(state=state, canaries=canaries, before=before, after=after, noise=noise)
        file = self._store(evidence)
        for name in dict.fromkeys((plan.learner, "evaluator")):
            self._prove(self.seats[name], evidence)
        small = evidence.effect <= evidence.tolerance
        if small:
            log.warning("%s: effect below noise (%.2g nats)", state.name, evidence.effect)
        return Proof(
            status="effect below noise" if small else "published",
            state=state,
            noise=evidence.noise,
            effect=evidence.effect,
            canaries=file,
        )

    def _prove(self, seat: Seat, evidence: Evidence) -> None:
        self._turn(learning=False)
        for replica in seat.replicas:
            replica.surviving(partial(replica.prove, evidence))
        seat.proven.add(evidence.state.name)

    def _store(self, evidence: Evidence) -> str:
        file = proof_file(evidence.state)
        atomic_write(self.root / file, to_json(evidence, indent=1))
        self.shelf.vouch(self.root / file)
        return file

    def _evidence(self, state: State) -> Evidence:
        return evidence_of(self.root, state)


def evidence_of(root: Path, state: State) -> Evidence:
    """What was stored when a state was published.

    Raises:
        OSError, ValueError: it is not there, or is none.
    """
    found: Evidence = adapter(Evidence).validate_json((root / proof_file(state)).read_bytes())
    return replace(found, state=state)


def proof_file(state: State) -> str:
    """Where in its run folder the evidence of a state lies."""
    return f"proofs/{state.name}.json"


def unread_system(spec: RoleSpec) -> str:
    """What to warn of where a role is given a system turn: that its chat template does not write it. Empty: nothing."""
    folder = model_folder(spec.model) if spec.engine in WITH_MODEL else None
    if folder is None or not (does := without_system(folder)):
        return ""
    return (
        f"the chat template of the {spec.role} ({folder}) {does} a system turn: what is said there is not read. Say it "
        "in the first user turn."
    )


def _common_base(replicas: Sequence[Replica], first: str, base: State) -> State:
    """The base, which `first` holds; whether all replicas do."""
    for replica in replicas:
        if (other := replica.surviving(replica.greet).base).digest != base.digest:
            raise PublishError(
                f"{replica.name} holds another base ({other.digest[:12]}) than {first} ({base.digest[:12]}). "
                "Give both the same `model` and `revision`."
            )
    return base


def _read(replica: Replica, state: State, canaries: Sequence[Canary]) -> Readings:
    readings: Readings = replica.surviving(lambda: replica.call("read", state, canaries))
    return readings


def _canaries(examples: Rows[Example]) -> tuple[Canary, ...]:
    """A few rows of this round's lessons, or of its rehearsal if there are none: there the update must show."""
    rows = {e.id: e for e in examples}
    lessons = [e for e in rows.values() if e.origin in ("lesson", "gold")]
    picked = (lessons or list(rows.values()))[:CANARIES]
    return tuple(Canary(messages=e.prompt, completion=e.completion) for e in picked)


def _first(problems: Rows[Problem], n: int) -> Sequence[Problem]:
    return next(problems.shards())[:n]


def _sheet(pool: str, state: State, rows: Rows[Marked]) -> Sheet:
    skills: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    labels: dict[str, int] = defaultdict(int)
    scores: dict[str, float] = defaultdict(float)
    for row in rows:
        labels[row.verdict.label] += 1
        for name, score in row.verdict.scores.items():
            scores[name] += score
        if row.skill:
            skills[row.skill][0] += row.verdict.right
            skills[row.skill][1] += 1
    return Sheet(
        pool=pool,
        state=state.digest,
        n=len(rows),
        right=labels["right"],
        truncated=labels["truncated"],
        unparsed=labels["unparsed"],
        skills={name: (right, n) for name, (right, n) in sorted(skills.items())},
        scores=dict(scores),
        rows=rows,
    )
