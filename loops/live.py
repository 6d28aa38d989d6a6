"""Teaching by hand: one correction, now, on top of a run that stays as it is.

    with tutorloop.open("runs/arithmetic") as live:          # roles are loaded once
        print(live.work("sub-0163").work)                    # what the student says now
        taught = live.teach("sub-0163", "3-8 take 13 put 5\\n5-1-5 take 15 put 9\\n9-1-2 put 6\\n=695")
        print(taught.twins, taught.mastered)
        live.undo()

What is taught goes into a fork of the run (`RUN-taught`), a round for each correction, made by the same cycle as any
other round: the state is trained, proven and examined, and every row is on record. `undo` takes the last round back.

Not covered: a run whose last round is of a later stage than its method's first; several devices (all roles live in this
process).
"""

import difflib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..agents.build import build
from ..agents.cast import Cast
from ..agents.roles import Request, RoleSpec
from ..agents.settings import SFT
from ..evals.graders import grade
from ..evals.lookup import Lookup
from ..evals.pools import Course
from ..evals.records import Attempt, Gold, Problem, State
from ..evals.rows import adapter
from ..evals.statistics import mcnemar, transitions
from ..evals.steps import check_steps
from ..policies.by_hand import by_hand
from ..policies.records import Case
from ..policies.rounds import Report, Sheet
from ..policies.slots import Method
from .book import Book
from .company import Company, cast_of
from .config import ConfigError
from .documents import Fork, run_record
from .fork import begin
from .journal import Tick
from .launch import Prepared, prepare, record_of, role_specs
from .listing import BY_HAND
from .show import RunFolder
from .slots import TooManyFailures
from .tutoring import run as cycle

log = logging.getLogger(__name__)

BARE = ("schedule={}", "check=[]", 'triage=""', 'teacher.policy=""', "teacher.policy_options={}", "budget={}")
"""What an experiment may have put in place of its method's own."""

GENTLY = 0.125
"""Factor on the run's learning rate, in a single epoch: more of either costs mastered skills (docs/workbench.md)."""


class Refused(ConfigError):
    """A correction that is not taught: nothing was changed. Says why."""


@dataclass(frozen=True, kw_only=True)
class BeforeAfter:
    """The same problems before and after."""

    n: int
    before: int
    """Right."""
    after: int
    fixed: int
    regressed: int
    p: float
    """Two-sided exact McNemar."""


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What one correction did."""

    problem: str
    before: Case
    """The student's work before, graded; `after` likewise."""
    after: Case
    about: str
    """The misconception that would have written the wrong line, where the world can tell."""
    origins: Mapping[str, int]
    """What was trained on."""
    twins: BeforeAfter | None
    """Problems of the probe that need the same knowledge and were never taught; `None`: there are none."""
    mastered: BeforeAfter | None
    """Of retention: skills that the student had before any teaching."""
    quiz: BeforeAfter | None
    was: State
    state: State
    proof: str
    run: str
    """Folder of the fork."""


@dataclass
class Live:
    """An open session. Use `open`."""

    ready: Prepared
    book: Book
    cast: Cast
    course: Course
    record: Mapping[str, Any]
    """What `run.json` holds."""
    report: Report
    """Of all rounds, those that the fork shares among them."""

    @property
    def state(self) -> State:
        """The student that serves now."""
        return self.report.rounds[-1].serving["student"]

    @cached_property
    def problems(self) -> Mapping[str, Problem]:
        """Those of the practice pool: no other is taught from."""
        return Lookup(self.course.practice.problems, "id")

    @cached_property
    def gold(self) -> Mapping[str, Gold]:
        return Lookup(self.course.practice.gold, "problem")

    def work(self, id: str) -> Case:
        """What the student writes now on a practice problem, graded.

        Raises:
            Refused: there is no such practice problem.
        """
        problem = practised(self.problems, id)
        (reply,) = self.cast.generate("student", self.state, [Request(messages=problem.messages)])
        attempt = Attempt(problem=id, text=reply.text, finish=reply.finish, state=self.state.digest)
        return Case(id=id, problem=problem, attempts=(attempt,), grades=(grade(problem, self.gold[id], attempt),))

    def check(self, case: Case, work: str) -> None:
        """Whether this can be taught as a correction of the student's work.

        Raises:
            Refused: that work is right already, or the correction is not: in which step, where that can be known.
        """
        if case.right:
            raise Refused(
                f"the student's work on {case.id} is right now: there is nothing to correct.{self._wrong(case.id)}"
            )
        check_work(case.problem, self.gold[case.id], work)

    def _wrong(self, id: str) -> str:
        """What else could be taught: what was wrong in the run's last round. Its training may have cured some since."""
        assert self.book.fork is not None
        report = self.report.rounds[self.book.fork.round]  # a later one asks a single problem
        if report.tables is None:
            return ""
        answered = report.tables.answered
        ids = [c.id for c in answered if not c.right and c.id != id]
        some = ", ".join(ids[:: max(1, len(ids) // 5)][:5])
        others = f"{len(ids)} others were wrong, e.g. {some}" if ids else "no other one was wrong"
        return f" In round {report.number}, before its training, {others}."

    def teach(self, id: str, work: str) -> Taught:
        """Teach a correction: the state is trained, proven, and examined beside the one before.

        Args:
            work: The whole work on the problem, as the student should have written it.

        Raises:
            Refused: see `check`; or the round failed. Nothing was changed.
        """
        before, earlier, was = self.work(id), self.report, self.state
        self.check(before, work.strip())
        try:
            self._go(by_hand(id, work.strip()), earlier.rounds[-1].number + 1)
        except BaseException as e:  # else the next correction would go on with this one's round
            _settled(self.book, earlier.rounds[-1].number)
            if isinstance(e, TooManyFailures):
                raise Refused(f"the correction of {id} could not be taught: {e}. Nothing was taught.") from e
            raise
        last, twins = self.report.rounds[-1], self.gold[id].twins
        assert last.tables is not None and last.proof is not None, "of a round that was just taught"
        finals = {name: (earlier.after or {}).get(name) for name in ("probe", "retention")}
        after = self.report.after or {}
        return Taught(
            problem=id,
            before=before,
            after=self.work(id),
            about=next((lesson.about for lesson in last.tables.lessons), ""),
            origins=last.origins,
            twins=_before_after(finals["probe"], after.get("probe"), twins) if twins else None,
            mastered=_before_after(finals["retention"], after.get("retention")),
            quiz=_before_after(earlier.rounds[-1].quiz, last.quiz),
            was=was,
            state=self.state,
            proof=last.proof.status,
            run=str(self.book.root),
        )

    def undo(self) -> State:
        """Take the last correction back.

        Returns:
            The state that serves from here on: the one that served before that correction.

        Raises:
            Refused: nothing was taught here.
        """
        number = self.report.rounds[-1].number
        if self.book.fork is None or number == self.book.fork.round:
            raise Refused(f"nothing was taught in {self.book.root}, so there is nothing to undo.")
        _settled(self.book, number - 1)
        self._go(by_hand("", ""), number - 1)
        return self.state

    def _go(self, method: Method, rounds: int) -> None:
        """Run the cycle up to so many rounds; those that are on record are not done again."""
        config = {**self.record["config"], "rounds": rounds}
        self.record = {**self.record, "config": config, "rounds": rounds}
        self.book.documents.write("run.json", self.record)
        schedule = replace(self.ready.stages[0].rounds, times=rounds)
        self.report = cycle(self.course, (replace(method, rounds=schedule),), self.cast, self.book)


def practised(problems: Mapping[str, Problem], id: str) -> Problem:
    """
    Raises:
        Refused: there is no such practice problem; names the nearest.
    """
    if (problem := problems.get(id)) is None:
        near = ", ".join(difflib.get_close_matches(id, list(problems), n=3, cutoff=0.0))
        raise Refused(f"{id!r} is no practice problem, and nothing else is taught from. The nearest: {near}")
    return problem


def check_work(problem: Problem, gold: Gold, work: str) -> None:
    """Whether this is right work on a problem. Needs no model.

    Raises:
        Refused: it is not: in which step, where that can be known.
    """
    found = check_steps(problem, work)
    if found is not None and not found.sound:
        lines = [line for line in work.splitlines() if line.strip()]
        at = found.step
        where = f"step {at + 1} is wrong ({lines[at].strip()!r}): " if at is not None and at < len(lines) else ""
        raise Refused(f"the correction of {problem.id} is not right: {where}{found.why}. Nothing was taught.")
    label = grade(problem, gold, Attempt(problem=problem.id, text=work, finish="stop", state="")).label
    if label != "right":
        raise Refused(f"the correction of {problem.id} is not right: its answer is {label}. Nothing was taught.")


@contextmanager
def open(
    run: Path | str,
    run_dir: Path | str | None = None,
    *,
    tick: Tick | None = None,
    factory: Callable[[RoleSpec], Any] = build,
) -> Iterator[Live]:
    """A session on a run, and on what earlier sessions have taught on top of it. Nobody else may write meanwhile.

    Args:
        run: A run, or the folder of such a fork.
        run_dir: The fork's folder; by default that of the run with `-taught` at its end.

    Raises:
        ConfigError, JournalError: there is no such run, it has no finished round, or another session is open.
    """
    root = _fork_of(Path(run), run_dir)
    ready, before = prepare(root, begun=True), run_record(root)
    record = record_of(ready, before)
    company = Company(list(role_specs(ready, root.resolve()).values()), "local", factory)
    book = Book.open(root, run=before["run"], seed=ready.experiment.seed, tick=tick)
    with ExitStack() as stack:
        stack.callback(book.release)
        stack.enter_context(closing(company))
        book.fork, book.failures = adapter(Fork).validate_python(record["fork"]), ready.experiment.failures
        gates = (name for name in book.documents.steps() if name.endswith("/gate"))
        done = max((int(name.partition("/")[0]) for name in gates), default=0)
        _settled(book, done)  # a correction that was under way when a session was killed
        book.check()
        course = RunFolder(root).course
        assert course is not None, "the first step of every run"
        cast = stack.enter_context(cast_of(company, book.root, book, ready.experiment.policy_seconds))
        live = Live(ready, book, cast, course, record, Report(before={}, rounds=[]))
        live._go(by_hand("", ""), done)
        yield live


def folder_of(run: Path, run_dir: Path | str | None = None) -> Path:
    """The folder in which a run is taught; it may not be there yet.

    Raises:
        JournalError: there is no such run.
    """
    if RunFolder(run).record["config"]["method"] == BY_HAND:
        return run
    return Path(run_dir) if run_dir else run.with_name(f"{run.name}-taught")


def _fork_of(run: Path, run_dir: Path | str | None) -> Path:
    """The folder that is taught in; made if it is not there."""
    folder, root = RunFolder(run), folder_of(run, run_dir)
    if folder.record["config"]["method"] == BY_HAND:
        return root
    if folder.record["config"]["student"]["engine"] == "replay":
        raise ConfigError(
            f"{run} has a student of recorded answers, which nothing can be taught; take one that answers."
        )
    if not (root / "run.json").exists():
        last = max((report.number for report in folder.reports), default=0)
        given = prepare(run, BARE, begun=True).stages[-1].rounds.settings.get("sft", {})
        rate = float(str(given.get("learning_rate", SFT["learning_rate"]))) * GENTLY
        gently = [f"update.sft.learning_rate={rate}", "update.sft.num_train_epochs=1"]
        if "max_steps" in given:  # it would have the last word
            gently.append("update.sft.max_steps=-1")
        begin(root, run, last, [f"method={BY_HAND}", *BARE, f"rounds={last}", *gently])
    else:
        _taught_on(root, folder)
    return root


def _taught_on(root: Path, run: RunFolder) -> None:
    """
    Raises:
        ConfigError: what lies there was not taught on top of this run.
    """
    record = run_record(root)
    if record["config"]["method"] != BY_HAND or record["fork"] is None:
        raise ConfigError(f"{root} is a run, and none that was taught by hand. Choose another --run-dir.")
    parent, since = Path(record["fork"]["parent"]), max((report.number for report in run.reports), default=0)
    moved = not parent.exists()
    if record["run"] != run.record["run"] or not (moved or parent == run.root.resolve()):
        raise ConfigError(
            f"{root} was taught on top of {parent}, as it was, and not of {run.root}. Choose another --run-dir."
        )
    if since > (shared := record["fork"]["round"]):
        log.warning(
            "%s has gone on to round %d, and what is taught in %s stands on its round %d. To teach what it is now: "
            "--run-dir NEW",
            *(run.root, since, root, shared),
        )


def _settled(book: Book, number: int) -> None:
    """Nothing is on record after this round, but what is sat at its end."""
    assert book.fork is not None
    last = f"{number}/gate"
    if number == book.fork.round and book.done(f"fork/{number}"):
        last = f"fork/{number}"
    if book.done(f"final/{number}"):
        last = f"final/{number}"
    book.take_back(last)


def _before_after(before: Sheet | None, after: Sheet | None, ids: Collection[str] = ()) -> BeforeAfter | None:
    """Two sheets of one pool, problem by problem; of `ids` alone, if any are given."""
    if before is None or after is None:
        return None
    was, now = ({id: right for id, right in x.marks.items() if not ids or id in ids} for x in (before, after))
    counts = transitions(was, now).counts
    fixed, regressed = counts["fixed"], counts["regressed"]
    p = mcnemar(fixed, regressed, tail="two-sided")
    return BeforeAfter(
        n=len(now), before=sum(was.values()), after=sum(now.values()), fixed=fixed, regressed=regressed, p=p
    )
