"""The verbs of a round: rows on disk -> rows on disk. Each runs the method's slot, item by item or on the whole round.

Per item (attempt, verify, teach, check): a shard at a time, as one wave; a shard is committed whole or repeated whole.
Attempts are worked ahead, as many as keep the learner's replicas busy; the teacher's time is spent shard by shard, or,
where the teacher is a paid API, on as many shards as keep that busy.
An item that fails is a `Failure`; when more than a stated share of a table has failed the run stops and says of what.
The whole round at once (select, triage, curate, update): in memory, as one step.

Where roles have processes of their own, or the teacher is a paid API, `verify` begins with the first shard of attempts,
`teach` too if no triage stands between them, and `check` with the first of lessons (`early.py`): the teacher works
while the learner does. Their steps go on with what was made.
"""

from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from random import Random
from typing import Any, Generic, TypeVar

from ..agents.lanes import Lanes
from ..agents.roles import Job
from ..agents.room import ItemRoom, RoundRoom, TrainingRoom
from ..agents.waves import call
from ..evals.lookup import Lookup, Seen
from ..evals.pools import Pool
from ..evals.records import Attempt, Failure, Problem, State, Verdict
from ..evals.rows import Rows, checked, where
from ..policies.curating import fill
from ..policies.records import Case, Example, Lesson
from ..policies.rounds import Plan, Reports
from ..policies.slots import Method
from .early import NotYet, TooEarly, before_all, nobody
from .items import curated, each, several, signed, taught, weighed
from .journal import Journal

A = TypeVar("A")
T = TypeVar("T")
AT_HAND = 4096
"""Rows in a part of a table of examples: nobody works on these shard by shard."""


class TooManyFailures(RuntimeError):
    """More than the stated share of the items of a table have failed."""


@dataclass(frozen=True, kw_only=True)
class Work(Generic[A, T]):
    """A slot for each item of a table."""

    slot: str
    of: type[T]
    items: "Rows[A] | Coming[A]"
    one: Callable[[A, ItemRoom], Coroutine[Any, Any, list[T]]]
    sign: Callable[[T, int, A, ItemRoom], T] = lambda record, i, item, room: record
    """When all of a shard are through, on what each came to."""
    lanes: Lanes = field(default_factory=Lanes)
    room: RoundRoom


@dataclass(frozen=True)
class Coming(Generic[A]):
    """Items of a table that is being written; a shard is asked for when it is on disk."""

    table: Rows[A]
    """What there is so far."""
    parts: int
    most: int

    def __len__(self) -> int:
        return self.most

    def shard(self, index: int) -> Sequence[A]:
        return self.table.written(index)


@dataclass
class Slots:
    """One round's verbs."""

    method: Method
    plan: Plan
    room: RoundRoom
    book: Journal
    reports: Reports
    failure_share: float
    """Of a table; above it the run stops."""

    def __post_init__(self) -> None:
        self.room.train = self._train
        self.trainings = 0

    def select(self, practice: Pool) -> Rows[Problem]:
        """What is asked this round."""
        if self.method.select is None and self.plan.ask is None:
            return practice.problems
        return self._step("select", self._select, practice.problems)

    def attempt(self, problems: Rows[Problem]) -> Rows[Case]:
        """What the learner reveals; graded."""
        return self._step("attempt", self._attempt, problems, self.plan.serving)

    def verify(self, cases: Rows[Case]) -> Rows[Case]:
        """Where it goes wrong."""
        return cases if self.method.verify is None else self._step("verify", self._verify, cases, self.plan.serving)

    def triage(self, cases: Rows[Case]) -> Rows[Case]:
        """Who gets the teacher's time."""
        self.room.cases, self.room.index = cases, Lookup(cases, "id")
        self.room.answered = self.room.index
        chosen = cases if self.method.triage is None else self._step("triage", self._triage, cases)
        self.room.index = Lookup(chosen, "id")
        return chosen

    def teach(self, cases: Rows[Case]) -> Rows[Lesson]:
        """The policy, case by case."""
        return self._step("teach", self._teach, cases, self.plan.serving)

    def check(self, lessons: Rows[Lesson]) -> Rows[Lesson]:
        """Whether each lesson is sound."""
        return self._step("check", self._check, lessons, self.plan.serving)

    def curate(self, lessons: Rows[Lesson]) -> Rows[Example]:
        """Examples of the sound lessons, filled with rehearsal."""
        earlier = [r.tables.examples for r in self.reports if r.tables]
        return self._step("curate", self._curate, lessons, self.plan.rows, self.plan.fill, self.plan.new, earlier)

    def update(self, examples: Rows[Example]) -> State:
        """The new state; without an example, the one that serves."""
        if not len(examples):
            return self.plan.serving[self.plan.learner]
        return self._step("update", self._update, examples, self.plan.start, self.plan.reference, self.plan.settings)

    # ---- the steps

    def _step(self, slot: str, do: Callable[..., T], *args: Any) -> T:
        return self.book.step(self.plan.key(slot), do, *args)

    def _select(self, practice: Rows[Problem]) -> Rows[Problem]:
        if self.method.select is not None:
            chosen, room = self._whole("select", lambda room: call(self.method.select, practice, room))
            problems = _selected(several(chosen, Problem, "problems"), self.room.problems, room)
            return self.book.table(self.plan.key("select"), Problem, problems)
        turn = self._window(len(practice), min(self.plan.ask or len(practice), len(practice)))
        return self.book.table(self.plan.key("select"), Problem, (practice[i] for i in turn))

    def _window(self, n: int, ask: int) -> list[int]:
        """Whose turn it is: laps over all of them, each in an order of its own, and nobody twice in one round."""
        order: list[int] = []
        while len(order) < self.plan.number * ask:
            begun = set(order[len(order) - len(order) % ask :])  # the round that this lap completes
            order += sorted(self._shuffled(n, len(order) // n), key=lambda i: i in begun)
        return order[(self.plan.number - 1) * ask :][:ask]

    def _shuffled(self, n: int, lap: int) -> list[int]:
        order = list(range(n))
        Random(f"{self.plan.seed}/select/{lap}").shuffle(order)
        return order

    def _attempt(self, problems: Rows[Problem], serving: object) -> Rows[Case]:
        earlier = [Lookup(r.tables.answered, "id") for r in reversed(self.reports) if r.tables]

        async def one(problem: Problem, room: ItemRoom) -> list[Case]:
            before = next((c for table in earlier if (c := table.get(problem.id))), None)
            history = (*before.history, *(grade.label for grade in before.grades[:1])) if before else ()
            case = Case(id=problem.id, problem=problem, history=history)
            if self.method.attempt is None:
                return [case]
            found = await call(self.method.attempt, problem, room)
            attempts = tuple(several(found, Attempt, "an Attempt or several"))
            grades = tuple(room.mark(problem, a) for a in attempts)
            # What the learner never said by itself is not its own, whoever is named: it is not rehearsed.
            own = all((problem.digest, a.text) in room.said and not a.context for a in attempts)
            return [replace(case, attempts=attempts, grades=grades, gold_seen=room.gold_seen or not own)]

        learner = self.plan.learner
        lanes = self.room.cast.lanes(learner, self.plan.serving[learner]) if self.method.attempt else Lanes()
        work = Work(slot="attempt", of=Case, items=problems, one=one, lanes=lanes, room=self.room)
        then = [self._verifying] if self.method.verify else list[Any]()
        return self._each(work, *then, *[] if self.method.triage else [self._teaching])

    def _verify(self, cases: Rows[Case], serving: object) -> Rows[Case]:
        return self._each(self._verifying(cases))

    def _verifying(self, cases: Rows[Case] | Coming[Case]) -> Work[Case, Case]:
        async def one(case: Case, room: ItemRoom) -> list[Case]:
            found = await call(self.method.verify, case, room)
            verdicts = tuple(several(found, Verdict, "a Verdict, several, or None"))
            # Tries are counted slot by slot: with those of the teaching to come, any grade is one too many.
            leaked = room.gold_seen or bool(room.tries)
            return [replace(case, verdicts=case.verdicts + verdicts, gold_seen=case.gold_seen or leaked)]

        return Work(slot="verify", of=Case, items=cases, one=one, lanes=self._ahead(), room=self.room)

    def _triage(self, cases: Rows[Case]) -> Rows[Case]:
        chosen, room = self._whole("triage", lambda room: call(self.method.triage, self.room.cases, room))
        taken, again = Seen(), Counter[str]()

        def kept(case: Case) -> Case:
            before, id = self.room.index.get(case.id, case), case.id
            # A repeated case gets an id that is nobody's: `a#2` may be a problem's own.
            while (id != case.id and id in self.room.index) or taken.before(id) is not None:
                again[case.id] += 1
                id = f"{case.id}#{again[case.id] + 1}"
            return replace(case, id=id, gold_seen=case.gold_seen or before.gold_seen or room.gold_seen)

        return self.book.table(self.plan.key("triage"), Case, map(kept, several(chosen, Case, "cases")))

    def _teach(self, cases: Rows[Case], serving: object) -> Rows[Lesson]:
        return self._each(self._teaching(cases), self._checking)

    def _teaching(self, cases: Rows[Case] | Coming[Case]) -> Work[Case, Lesson]:
        teach = partial(taught, self.method.teach)
        room = self.room if isinstance(cases, Rows) else before_all(self.room)
        return Work(slot="teach", of=Lesson, items=cases, one=teach, sign=signed, lanes=self._ahead(), room=room)

    def _check(self, lessons: Rows[Lesson], serving: object) -> Rows[Lesson]:
        return self._each(self._checking(lessons))

    def _checking(self, lessons: Rows[Lesson] | Coming[Lesson]) -> Work[Lesson, Lesson]:
        check = partial(weighed, self.method.check)
        return Work(slot="check", of=Lesson, items=lessons, one=check, lanes=self._ahead(), room=self.room)

    def _ahead(self) -> Lanes:
        return self.room.cast.ahead(self.plan.serving)

    def _curate(self, lessons: Rows[Lesson], rows: int, by: object, new: float, earlier: object) -> Rows[Example]:
        room = self.room.enter("curate", "", self.room.wave("curate"))
        examples = curated(self.method, list(lessons), room)
        self._note("curate", [room])
        before = chain.from_iterable(r.tables.examples for r in self.reports if r.tables)
        lived = {e.id: e for e in before if e.origin in ("lesson", "gold")}
        filled = fill(
            examples,
            list(lived.values()),
            where(self.room.cases, lambda c: c.right and not c.gold_seen),
            rows=rows,
            share=new,
            by=self.plan.fill,
            rng=room.rng,
        )
        return self.book.table(self.plan.key("curate"), Example, filled, AT_HAND)

    def _update(self, examples: Rows[Example], start: State, reference: State | None, settings: object) -> State:
        room = TrainingRoom(round=self.room, slot="update", item="", wave=self.room.wave("update"), index=0)
        state = self.method.update(list(examples), room)
        self._note("update", [room])
        if not isinstance(state, State):
            raise TypeError(f"`update` returned {type(state).__name__}; a recipe returns the `State` of `room.train`")
        return state

    def _train(self, examples: Sequence[Example], loss: str, *, start: State, reference: State | None = None) -> State:
        """One training as a step of its own: a crash in the DPO does not repeat the SFT."""
        if loss not in ("sft", "dpo"):
            raise ValueError(f"`loss` is 'sft' or 'dpo', got {loss!r}")
        self.trainings += 1
        key = self.plan.key(f"train-{self.trainings}-{loss}")
        job = Job(
            loss="sft" if loss == "sft" else "dpo",
            start=start,
            reference=reference,
            examples=self.book.table(key, Example, examples, AT_HAND),
            name=f"{self.plan.learner}-r{self.plan.number:04d}-{self.trainings}-{loss}",
            settings=self.plan.settings.get(loss, {}),
            lora=self.plan.settings.get("lora", {}),
            rate=self.plan.rate,
            seed=self.plan.seed,
        )
        return self.book.step(key, self.room.cast.train, job).state

    # ---- how a slot is run

    def _each(self, work: Work[A, T], *then: Callable[[Coming[Any]], Work[Any, Any]]) -> Rows[T]:
        """Do it, and begin what comes `then`, if that need not wait."""
        key, parts = self.plan.key(work.slot), work.items.parts
        there: Callable[[int], None] = nobody
        if then and self.room.cast.apart:
            for member, state in self.plan.serving.items():
                self.room.cast.lanes(member, state)  # here, where nobody else starts them
            there = self._early(Coming(self.book.begun(key, work.of), parts, len(work.items)), *then)
        made = self.book.shards(key, work.of, parts, self._making(work), work.lanes, there)
        if made.failed > self.failure_share * len(work.items):  # begun early, it did not know how many there would be
            raise TooManyFailures(_commonest(work.slot, list(made.failures()), len(work.items)))
        return made

    def _early(self, items: Coming[Any], *then: Callable[[Coming[Any]], Work[Any, Any]]) -> Callable[[int], None]:
        """Begin these one after the other; what is returned is to be told of each shard that is there for the first."""
        if not then:
            return nobody
        work = then[0](items)
        key = self.plan.key(work.slot)
        there = self._early(Coming(self.book.begun(key, work.of), items.parts, items.most), *then[1:])
        return self.book.early(key, work.of, items.parts, self._making(work), work.lanes, there).there

    def _making(self, work: Work[A, T]) -> Callable[[int], Sequence[Any]]:
        failed = list(self.book.begun(self.plan.key(work.slot), work.of).failures())
        limit = self.failure_share * len(work.items)  # a run that is resumed may not fail more often

        def make(shard: int) -> Sequence[T | Failure]:
            turn = partial(work.lanes.turn, shard)
            rows, rooms = each(work.room, work.slot, work.items.shard(shard), work.of, work.one, work.sign, turn)
            if isinstance(work.room.cases, NotYet) and work.room.cases.asked_for:
                raise TooEarly
            failed.extend(r for r in rows if isinstance(r, Failure))
            if len(failed) > limit:
                raise TooManyFailures(_commonest(work.slot, failed, len(work.items)))
            self._note(work.slot, rooms)
            return rows

        return make

    def _whole(self, slot: str, do: Callable[[ItemRoom], Coroutine[Any, Any, T]]) -> tuple[T, ItemRoom]:
        wave, rooms = self.room.wave(slot), list[ItemRoom]()

        async def start(_: int) -> T:
            rooms.append(self.room.enter(slot, "", wave))
            return await do(rooms[0])

        (result,) = wave.run([slot], start)
        if isinstance(result, Failure):
            raise TooManyFailures(f"the `{slot}` slot failed: {result.error}")
        self._note(slot, rooms)
        return result, rooms[0]

    def _note(self, slot: str, rooms: Sequence[ItemRoom]) -> None:
        """What was noted, in the order of the items: the last word counts, and threads have no order."""
        if told := {key: value for room in rooms for key, value in room.noted.items()}:
            self.book.note(self.plan.key(slot), told)


def _selected(chosen: Sequence[Problem], known: Mapping[str, Problem], room: ItemRoom) -> list[Problem]:
    """What a `select` slot returned, if every id means one problem and no gold went into a new one."""
    for id, n in Counter(p.id for p in chosen).items():
        if n > 1:
            raise ValueError(f"`select` returned {id!r} {n} times; `attempt` may answer a problem several times")
    written = [p for p in chosen if p != known.get(p.id)]
    for problem in written:
        if problem.id in known:
            raise ValueError(
                f"`select` changed {problem.id!r}; a new problem has an id of its own, and this as `parent`"
            )
    if written and room.gold_seen:
        raise ValueError(
            f"`select` wrote {len(written)} problem(s) in sight of gold; do without, or write them in `teach`"
        )
    return [checked(p, Problem) for p in chosen]


def _commonest(slot: str, failed: Sequence[Failure], n: int) -> str:
    found = Counter(f.error for f in failed).most_common(3)
    told = "; ".join(f"{count} x {error}" for error, count in found)
    return f"`{slot}`: {len(failed)} of {n} items failed, more than `failures` allows. {told}"
