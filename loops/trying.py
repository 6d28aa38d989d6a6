"""Trying a teaching policy on the recorded cases of a run, which stays as it is to the byte.

    with TriedRound.open(Path("runs/a")) as round:
        trial = round.trial(policy, round.cases(20))

What is shown is what a run with this policy would do in that round (`trial.py`), up to the training. Neither
Ray nor a trainer is loaded; the student of that round answers in this process, if a policy asks it, once it has shown
by the evidence that the run has stored that it is the one that answered then.

What is asked is kept in a cache of the user's (`XDG_CACHE_HOME`), by run: tried again, only what has changed is asked.

Not covered: slots beside `teach`; a policy's helpers in other files, which are read once; a policy that holds Python's
own lock without end.
"""

import difflib
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

from ..agents.build import build
from ..agents.cast import Cast
from ..agents.chat import Chat, render
from ..agents.models import find_model
from ..agents.roles import WITH_MODEL, PublishError, RoleSpec
from ..evals.lookup import Lookup
from ..evals.pools import Course
from ..evals.rows import Rows
from ..policies.gate import next_round
from ..policies.records import Case, Example, Json
from ..policies.room import Room
from ..policies.rounds import Budget, Plan, RoundReport
from ..policies.slots import Method, Teaching
from ..policies.triage import wrong
from .catching import Heard, printing
from .company import Company, cast_of
from .config import ConfigError, parsed
from .documents import JournalError
from .history import told
from .launch import Prepared, configured, role_specs
from .methods import policy, stages_of
from .show import RunFolder, first_wrong, printed
from .trial import Estimate, Row, Trial, TriedCase, TriedRoom, Work, known_asks
from .watching import Blocked, saves


@dataclass
class TriedRound:
    """One round, with all that a slot may reach in it. What was loaded for one trial is at hand for the next."""

    run: RunFolder
    method: Method
    plan: Plan
    course: Course
    answered: Rows[Case]
    picked: Sequence[Case]
    """The cases of this round, in triage's order."""
    index: Mapping[str, Case]
    """The same by id."""
    known: Mapping[str, Case]
    """What was answered, by id."""
    cast: Cast
    spec: RoleSpec
    """The student's."""
    seed: int
    reports: Sequence[RoundReport]
    folder: Path
    """From which relative paths of the experiment are taken."""
    _chat: Chat | None = None

    @classmethod
    @contextmanager
    def open(cls, root: Path, number: int | None = None, seconds: float = 10.0) -> Iterator["TriedRound"]:
        """
        Args:
            number: Of the round; `None`: the first that has cases.
            seconds: Without any movement, after which a policy is given up.

        Raises:
            JournalError: there is no run, or no such round, or it has no cases.
            ConfigError: what the run was begun with is not there any more.
        """
        run = RunFolder(root)
        number, answered, picked = _round(run, number)
        # Another policy takes the place of the run's own, whose file may be gone.
        experiment, folder = configured(root, ['teacher.policy=""', "teacher.policy_options={}"])
        stages, _ = stages_of(experiment, folder)
        reports = _reports(run, number)
        plan, course = next_round(stages, reports, seed=experiment.seed), run.course
        if plan is None or course is None:
            raise JournalError(f"{root}: the schedule that it has by now knows no round {number}.")
        specs = role_specs(Prepared(experiment=experiment, stages=stages, sources={}, folder=folder), root.resolve())
        company = Company(specs=[replace(s, replicas=1) for s in specs.values()], placement="local", factory=build)
        nothing = cast(Any, None)  # nothing is made that would be kept
        with cast_of(company, root.resolve(), nothing, seconds) as playing:
            yield cls(
                run=run,
                method=stages[plan.stage],
                plan=plan,
                course=course,
                answered=answered,
                picked=picked,
                index=Lookup(picked, "id") if isinstance(picked, Rows) else {case.id: case for case in picked},
                known=Lookup(answered, "id"),
                cast=playing,
                spec=specs["student"],
                seed=experiment.seed,
                reports=reports,
                folder=folder,
            )

    def cases(self, n: int, ids: Sequence[str] = ()) -> list[Case]:
        """The first `n`, or those that are named.

        Raises:
            ConfigError: there is no such case; names the nearest.
        """
        if not ids:
            return list(islice(self.picked, n))
        known = {id: i for i, id in enumerate(_ids(self.picked))}
        for id in ids:
            if id not in known:
                near = ", ".join(difflib.get_close_matches(id, known, n=3, cutoff=0.0))
                raise ConfigError(
                    f"round {self.plan.number} of {self.run.root} has no case {id!r} among its {len(known)}. "
                    f"{_elsewhere(self.run, id) or f'The nearest: {near}'}"
                )
        return [self.picked[known[id]] for id in dict.fromkeys(ids)]

    def trial(self, teach: Teaching, cases: Sequence[Case], name: str = "", said: str = "") -> Trial:
        """Let a policy teach these cases, and see what would be learnt. Nothing is trained.

        Args:
            name: Of the policy, to be told.
            said: What it printed before.

        Raises:
            JournalError: the student or the teacher cannot be had as it was; or another try goes on for too long.
        """
        began = time.perf_counter()
        method = replace(self.method, teach=teach)
        with known_asks(self.run.record["run"]) as ledger:
            room = TriedRoom(
                plan=self.plan,
                course=self.course,
                cast=self.cast,
                ledger=ledger,
                history=[r.practice for r in self.reports],
                run_seed=self.seed,
                budget=Budget(),
                cases=self.answered,
                index=self.index,
                answered=self.known,
            )
            work = Work(method=method, room=room, heard=defaultdict(Heard), pulse=room.pulse)
            try:
                room.pulse.watched(partial(work.through, cases), self.cast.policy_seconds)
            except Blocked as e:
                work.blocked(cases, str(e))
            except (PublishError, FileNotFoundError) as e:
                raise JournalError(f"round {self.plan.number} of {self.run.root} cannot be had as it was: {e}") from e
            finally:
                room.closed = True
        seconds = round(time.perf_counter() - began, 3)
        return replace(self._told(work, cases), policy=name, printed=said, seconds=seconds)

    def _told(self, work: Work, cases: Sequence[Case]) -> Trial:
        by = Counter(x.verdict.by if x.verdict else "not checked" for x in work.lessons if not x.sound)
        teacher = [e for es in work.room.exchanges.values() for e in es if e.member == "teacher"]
        others = sum(len(es) for es in work.room.exchanges.values()) - len(teacher)
        new = [e for e in teacher if not e.reused]
        distinct = work.room.distinct
        rate = len(self.picked) / max(1, len(cases))
        return Trial(
            run=printed(self.run.root),
            round=self.plan.number,
            cases=len(cases),
            accepted=sum(x.sound for x in work.lessons),
            rejected=dict(sorted(by.items())),
            failures=sum(len(why) for why in work.failed.values()),
            asks=len(new),
            reused=len(teacher) - len(new),
            tokens=sum(e.tokens for e in new),
            student_asks=others,
            whole_round=Estimate(
                cases=len(self.picked),
                asks=round(len(distinct) * rate),
                tokens=round(sum(distinct.values()) * rate),
            ),
            tried=[self._case(case, work) for case in cases],
            fault=work.fault,
        )

    def _case(self, case: Case, work: Work) -> TriedCase:
        lessons = [x for x in work.lessons if x.case == case.id]
        heard = work.heard[case.id]
        return TriedCase(
            case=case.id,
            question=case.question,
            label=case.grades[0].label if case.grades else "",
            work=case.work,
            first_wrong=first_wrong(case),
            reason=case.reason,
            asks=[e for id in (case.id, *(x.id for x in lessons)) for e in work.room.exchanges.get(id, ())],
            lessons=[told(lesson) for lesson in lessons],
            rows=[self._row(e) for e in work.examples if e.lesson in {x.id for x in lessons}],
            printed=heard.beginning,
            printed_characters=heard.n,
            failures=work.failed.get(case.id, []),
        )

    def _row(self, example: Example) -> Row:
        pieces, tokens, fault = None, 0, ""
        try:
            if (chat := self._chat_of_student()) is not None:
                row = render(example, chat)
                pieces, tokens = row.pieces(chat), len(row.ids)
        except ValueError as e:
            fault = str(e)
        limit = self.plan.settings.get("sft", {}).get("max_length")
        if isinstance(limit, int) and tokens > limit:
            fault = f"it has {tokens} tokens, and `max_length` is {limit}"
        return Row(
            id=example.id,
            pieces=pieces,
            tokens=tokens,
            prompt=next((t.content for t in reversed(example.prompt) if t.role == "user"), ""),
            completion=example.completion,
            rejected=example.rejected,
            fault=fault,
        )

    def _chat_of_student(self) -> Chat | None:
        if self.spec.engine not in WITH_MODEL:
            return None
        self._chat = self._chat or Chat.of(find_model(self.spec.model, self.spec.revision))
        return self._chat


def trials(
    name: str,
    root: Path,
    options: Sequence[str] = (),
    *,
    number: int | None = None,
    n: int = 20,
    ids: Sequence[str] = (),
    seconds: float = 10.0,
    watch: bool = False,
) -> Iterator[Trial | Exception]:
    """A trial of a policy; with `watch` one more whenever its file was saved, or what is wrong with it then.

    Args:
        name: `FILE.py:NAME`, or a module's name in place of the file.
        options: Of a policy that is a dataclass: `practice=2`.
        number, n, ids, seconds: See `TriedRound`.

    Raises:
        ConfigError, JournalError: see `TriedRound`; without `watch` also what is wrong with the policy.
    """
    file = Path(name.rpartition(":")[0])
    if watch and file.suffix != ".py":
        raise ConfigError(f"only a file can be watched, and {name!r} names none; write it as my_course.py:first_error.")
    given = dict(map(_option, options))
    with TriedRound.open(root, number, seconds) as opened:
        cases = opened.cases(n, ids)
        for _ in saves(file) if watch else [None]:
            try:
                teach, said = _load(name, given, opened.folder)
                yield opened.trial(teach, cases, name, said)
            except (ConfigError, JournalError) as e:
                if not watch:
                    raise
                yield e


def _option(told: str) -> tuple[str, Any]:
    key, sign, value = told.partition("=")
    if not sign:
        raise ConfigError(f"{told!r} is no option of a policy; write option=value, e.g. practice=2.")
    return key.strip(), parsed(value)


def _load(name: str, options: Mapping[str, Json], folder: Path) -> tuple[Teaching, str]:
    """The policy, and what its file printed. A file is looked for from here."""
    sys.dont_write_bytecode = True  # a file that is saved twice in a second must not be taken for the first
    file, _, attribute = name.rpartition(":")
    if file.endswith(".py") and Path(file).is_file():
        name = f"{Path(file).resolve()}:{attribute}"
    heard = Heard()
    with printing(heard):
        found: Teaching = policy(name, options, folder, {}, "policy")
    return found, heard.beginning


def _reports(run: RunFolder, number: int) -> list[RoundReport]:
    """Those of the rounds before. Where a fork has another teacher than what it shares, that one is asked."""
    reports = list(run.reports[:number])
    shared = (run.record.get("fork") or {}).get("round")
    if (joined := run.step(f"fork/{shared}", RoundReport)) is not None:
        serving = {**reports[-1].serving, "teacher": joined.serving["teacher"]}
        reports[-1] = replace(reports[-1], serving=serving)
    return reports


def _round(run: RunFolder, number: int | None) -> tuple[int, Rows[Case], Sequence[Case]]:
    """A round that has cases, what was answered in it, and the cases."""
    found = {}
    for n, answered in run.answered():
        if number in (None, n):
            picked = run.step(f"{n}/triage", Rows[Case])
            unheard = cast(Room, None)  # it goes by the cases alone
            cases: Sequence[Case] = wrong(answered, unheard) if picked is None else picked
            if len(cases):
                return n, answered, cases
        found[n] = answered
    if not found:
        raise JournalError(f"{run.root} has no round yet in which the student has answered.")
    if number is None:
        raise JournalError(f"no round of {run.root} has cases: whatever was asked was right.")
    if number in found:
        raise JournalError(f"round {number} of {run.root} has no cases: triage picked none. Take another --round.")
    raise JournalError(f"{run.root} has no round {number}; it has {min(found)} to {max(found)}.")


def _elsewhere(run: RunFolder, id: str) -> str:
    """Where a problem that is no case of one round is one; empty: nobody knows the problem, or it is a case nowhere."""
    rounds, asked = list[int](), False
    for n, answered in run.answered():
        asked = asked or id in _ids(answered)
        picked = run.step(f"{n}/triage", Rows[Case])
        rounds += [n] if picked is not None and id in _ids(picked) else []
    if rounds:
        return f"It is one of round {' and '.join(map(str, rounds))}: --round {rounds[0]}"
    return f"It was right, or triage left it out: tutorloop show {run.root} {id}" if asked else ""


def _ids(cases: Sequence[Case]) -> Iterator[str]:
    return cases.column("id") if isinstance(cases, Rows) else (case.id for case in cases)
