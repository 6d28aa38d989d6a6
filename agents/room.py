"""The room that is handed out: what one slot may reach while it works on one item.

`RoundRoom` is the round's; `enter` opens an `ItemRoom` for one item, which counts samples and graded tries, marks
whether gold was seen, and adds up what was asked. Asks of every member are journalled under the digest of (member and
state, settings, slot, schema, messages, prefix, sample), except the learner's own attempts, which are cheap, local and
committed by shard.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from random import Random
from typing import Any

from pydantic_core import from_json, to_json

from ..evals.graders import grade
from ..evals.lookup import Lookup
from ..evals.pools import Course
from ..evals.records import Attempt, Gold, Problem, State, Verdict
from ..evals.rows import adapter
from ..policies.records import Case, Cost, Example, Json, Lesson
from ..policies.room import Asked, Ledger, Model, free_tries
from ..policies.rounds import Budget, Plan, PracticeReport
from .asking import Ask, ItemModel
from .calling import cost_of
from .cast import Cast
from .own_words import OwnWords
from .purse import Purse
from .roles import Reply
from .waves import Wave, block

NO_GOLD = Verdict(label="abstain", by="no gold")
"""Of an answer to a problem that is not the course's."""


@dataclass
class RoundRoom:
    """The round's side of the room."""

    plan: Plan
    course: Course
    cast: Cast
    ledger: Ledger
    history: Sequence[PracticeReport]
    run_seed: int
    budget: Budget
    cases: Sequence[Case] = ()
    index: Mapping[str, Case] = field(default_factory=dict)
    """By id: the cases as triage left them."""
    answered: Mapping[str, Case] = field(default_factory=dict)
    """By id of the problem: the cases as they were answered, before triage had them in hand."""
    opened: set[str] = field(default_factory=set)
    """Problems whose gold a slot has read: a policy may remember it from one item to the next."""
    train: Callable[..., State] | None = None
    """The update slot's training, as a durable step."""
    purse: Purse = field(init=False)
    """What may be spent on the teacher: one for all that are asked at the same time, in copies of this room too."""

    def __post_init__(self) -> None:
        self.purse = Purse(self.budget, self.ledger)

    @property
    def practice(self) -> Sequence[Problem]:
        return self.course.practice.problems

    @cached_property
    def problems(self) -> Mapping[str, Problem]:
        """The practice problems by id."""
        return Lookup(self.course.practice.problems, "id")

    @cached_property
    def gold(self) -> Mapping[str, Gold]:
        """By id of the practice problem."""
        return Lookup(self.course.practice.gold, "problem")

    def wave(self, slot: str, turn: Callable[[], None] = lambda: None) -> Wave[Ask, tuple[Reply, Cost]]:
        """`turn` waits until all shards before this one are written. What is journalled is asked in turn: who pays for
        an answer, and what the budget is spent on, does not depend on who is ready first.
        """

        def send(asks: list[Ask]) -> list[tuple[Reply, Cost]]:
            if any(ask.key for ask in asks):
                turn()
            return self._send(self.plan.key(slot), asks)

        call = partial(self._call, self.plan.key(slot))
        return Wave(send=send, where=slot, deadline=self.cast.policy_seconds, call=call)

    def enter(self, slot: str, item: str, wave: Wave[Ask, tuple[Reply, Cost]], index: int = 0) -> "ItemRoom":
        return ItemRoom(round=self, slot=slot, item=item, wave=wave, index=index)

    def _call(self, step: str, ask: Ask) -> "Future[tuple[Reply, Cost]] | None":
        """Ask a paid API at once. Of items that ask the same, whoever is first pays."""
        calls = self.cast.calls(ask.member, ask.state)
        purse = self.purse if ask.member == "teacher" else None
        return calls.ask(self.ledger, step, ask, purse) if calls else None

    def _send(self, step: str, asks: list[Ask]) -> list[tuple[Reply, Cost]]:
        """Answer a wave: from the journal what it has, the rest from the engines, journalled before and after."""
        missing: dict[str, Ask] = {}
        for i, ask in enumerate(asks):
            key = ask.key or f"#{i}"
            if key not in missing and (not ask.key or self.ledger.recall(key) is None):
                missing[key] = ask
        replies = self._generate(step, missing)
        out, reused = [], []
        for i, ask in enumerate(asks):
            if not ask.key:
                out.append((replies[f"#{i}"], Cost()))
                continue
            found = self.ledger.recall(ask.key)
            assert found is not None, "answered just now"
            reply = adapter(Reply).validate_json(found.reply)
            # The payer is on record, so that a resumed run books each ask to the same item.
            paid = (found.step, found.item) == (step, ask.item)
            reused += [] if paid else [(ask.key, ask.member, ask.item)]
            out.append((reply, cost_of(reply) if paid else Cost(reused=1)))
        if reused:
            self.ledger.record(step, reused=reused)
        return out

    def _generate(self, step: str, asks: Mapping[str, Ask]) -> dict[str, Reply]:
        now, later = self._affordable(asks)
        try:
            replies = self._generated(step, now)
        finally:
            self.purse.give_back(sum(ask.member == "teacher" for ask in now.values()))
        return replies | self._generate(step, later) if later else replies

    def _generated(self, step: str, asks: Mapping[str, Ask]) -> dict[str, Reply]:
        journalled = {k: Asked(a.member, a.item, to_json(a.request).decode()) for k, a in asks.items() if a.key}
        if journalled:
            self.ledger.record(step, asking=journalled)
        replies: dict[str, Reply] = {}
        for member, state in dict.fromkeys((a.member, a.state.digest) for a in asks.values()):
            batch = {k: a for k, a in asks.items() if (a.member, a.state.digest) == (member, state)}
            one = next(iter(batch.values()))
            answers = self.cast.generate(member, one.state, [a.request for a in batch.values()])
            replies |= dict(zip(batch, answers, strict=True))
        if journalled:
            told = {k: (to_json(replies[k]).decode(), cost_of(replies[k])) for k in journalled}
            self.ledger.record(step, replies=told)
        return replies

    def _affordable(self, asks: Mapping[str, Ask]) -> tuple[Mapping[str, Ask], Mapping[str, Ask]]:
        """Those of a wave that the budget has room for, and those that it has none for.

        Raises:
            BudgetSpent: it has room for none.
        """
        dear = [key for key, ask in asks.items() if ask.member == "teacher"]
        left = set(dear[self.purse.fit(len(dear)) :]) if dear else set()
        return {k: a for k, a in asks.items() if k not in left}, {k: a for k, a in asks.items() if k in left}


@dataclass
class ItemRoom:
    """A `Room` for one item of one slot."""

    round: RoundRoom
    slot: str
    item: str
    wave: Wave[Ask, tuple[Reply, Cost]]
    index: int
    gold_seen: bool = False
    cost: Cost = field(default_factory=Cost)
    """Of asking the teacher."""
    own: set[tuple[str, str]] = field(default_factory=set)
    """Content digest of a problem, and a text of the learner that was graded right for it here."""
    said: set[tuple[str, str]] = field(default_factory=set)
    """The same for all that the learner said here to a plain question: neither told nor begun by anybody."""
    words: OwnWords = field(default_factory=OwnWords)
    noted: dict[str, Json] = field(default_factory=dict)
    tries: Counter[str] = field(default_factory=Counter)
    samples: Counter[str] = field(default_factory=Counter)
    asked: set[str] = field(default_factory=set)
    cast: Mapping[str, Model] = field(init=False)

    def __post_init__(self) -> None:
        self.cast = {name: ItemModel(room=self, member=name, state=s) for name, s in self.plan.serving.items()}
        try:
            self.loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self.loop = None  # a slot that asks nobody

    @property
    def rng(self) -> Random:
        return self._rng

    @cached_property
    def _rng(self) -> Random:
        return Random(f"{self.round.run_seed}/{self.plan.key(self.slot)}/{self.item}")

    @property
    def plan(self) -> Plan:
        return self.round.plan

    @property
    def history(self) -> Sequence[PracticeReport]:
        return self.round.history

    @property
    def practice(self) -> Sequence[Problem]:
        return self.round.practice

    @property
    def cases(self) -> Sequence[Case]:
        return self.round.cases

    def case(self, lesson: Lesson) -> Case:
        return self.round.index[lesson.case]

    @property
    def learner(self) -> Model:
        return self.cast[self.plan.learner]

    @property
    def teacher(self) -> Model:
        return self.cast["teacher"]

    def retry(self, what: Problem | Case, *, context: str = "", prefix: str = "", who: str = "") -> Case:
        case: Case = self.wait(self.aretry(what, context=context, prefix=prefix, who=who))
        return case

    async def aretry(self, what: Problem | Case, *, context: str = "", prefix: str = "", who: str = "") -> Case:
        problem, member = _problem(what), who or self.plan.learner
        attempt = await self.cast[member].aattempt(problem, context=context, prefix=prefix)
        said = prefix + attempt.text
        verdict = NO_GOLD
        if self._practised(problem):
            verdict = self._graded(problem, replace(attempt, text=said))
        if member == self.plan.learner:
            plain = self._on_record(problem)
            own = self.words.says(problem, said, context=context, prefix=prefix, plain=plain)
            if own and verdict.right:
                self.own.add((problem.digest, said))
        before = what if isinstance(what, Case) else Case(id=what.id, problem=what)
        return replace(
            before,
            attempts=(attempt,),
            grades=(verdict,),
            verdicts=(),
            brief=context,
            gold_seen=before.gold_seen or self.gold_seen,
        )

    def _on_record(self, problem: Problem) -> Sequence[Attempt]:
        """How the learner answered this problem when it was asked this round."""
        case = self.round.answered.get(problem.id)
        return case.attempts if case is not None and case.problem.digest == problem.digest else ()

    def grade(self, what: Problem | Case, text: str) -> Verdict:
        problem = _problem(what)
        return self._graded(problem, Attempt(problem=problem.id, text=text, finish="stop", state=""))

    def _graded(self, problem: Problem, attempt: Attempt) -> Verdict:
        self.tries[problem.id] += 1
        if self.tries[problem.id] > free_tries(problem):
            self._sees(problem)
        return replace(grade(problem, self._gold(problem), attempt), gold_seen=self.gold_seen)

    def mark(self, problem: Problem, attempt: Attempt) -> Verdict:
        """Grade an attempt of the `attempt` slot: the loop's own grading, which no policy sees happen."""
        if problem.id not in self.round.problems:
            return NO_GOLD  # written by the `select` slot
        return grade(problem, self._gold(problem), attempt)

    def gold(self, what: Problem | Case) -> Gold:
        self._sees(_problem(what))
        return self._gold(_problem(what))

    def _sees(self, problem: Problem) -> None:
        self.gold_seen = True
        if self.slot != "check":  # lessons are signed before, or while, they are checked: it is too late for them
            self.round.opened.add(problem.id)

    def _practised(self, problem: Problem) -> bool:
        known = self.round.problems.get(problem.id)
        return known is not None and known.digest == problem.digest  # who borrows another's id gets no gold

    def _gold(self, problem: Problem) -> Gold:
        if not self._practised(problem):
            raise LookupError(f"no gold for {problem.id!r}: only practice problems of the course, unchanged, have it")
        return self.round.gold[problem.id]

    def sealed(self, problem: Problem) -> str:
        return self.round.course.holds(problem)

    def note(self, key: str, value: Json) -> None:
        self.noted |= from_json(to_json({key: value}))  # what cannot be written fails here, in the policy's hands

    def train(self, examples: Sequence[Example], loss: str, *, start: State, reference: State | None = None) -> State:
        raise RuntimeError("only the `update` slot can train")

    def wait(self, coroutine: Any) -> Any:
        if self.loop is None:
            coroutine.close()
            raise RuntimeError(f"the `{self.slot}` slot asks nobody")
        return block(coroutine, self.loop)


def _problem(what: Problem | Case) -> Problem:
    return what.problem if isinstance(what, Case) else what


@dataclass
class TrainingRoom(ItemRoom):
    """The room of the `update` slot."""

    def train(self, examples: Sequence[Example], loss: str, *, start: State, reference: State | None = None) -> State:
        assert self.round.train is not None, "set when the round's slots are made"
        return self.round.train(examples, loss, start=start, reference=reference)
