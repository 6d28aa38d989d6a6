"""One trial of a policy: who asked what, what came of it, and what is known from the trials before.

The room, the waves, the check and the curator are a run's own; what is kept beside them is for who looks on.
"""

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..agents.asking import Ask
from ..agents.roles import Reply
from ..agents.room import RoundRoom
from ..agents.waves import call
from ..evals.files import DamagedFile
from ..evals.records import Failure
from ..policies.records import Case, Cost, Example, Json, Lesson
from ..policies.slots import Method
from .asks import Asks
from .catching import Heard, printing
from .documents import JournalError
from .history import Told
from .items import curated, each, signed, taught, weighed
from .watching import Pulse

SHARD = 64
"""Cases in one wave, as in a run."""
WAIT = 60.0
"""Seconds that another trial on the same run may take before this one gives up."""
LARGEST = 64 << 20
"""Bytes of what the tries of one run have asked, which each try reads: 48 MiB in 0.4 s on two shared cores. Above it is
begun anew."""
OLDEST = 90 * 24 * 3600
"""Seconds without a try on a run, after which what its tries have asked is removed."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One ask, and its answer."""

    slot: str
    """`teach`, or `check`: for evidence."""
    member: str
    prompt: Sequence[Mapping[str, str]]
    """Its turns: role and content."""
    prefix: str
    schema: str
    reply: str
    finish: str
    tokens: int
    reused: bool
    """Known from an earlier try, or asked before in this one."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A training example, as it would be trained on."""

    id: str
    pieces: Sequence[tuple[str, float]] | None
    """The exact text, special tokens and all, cut where the weight in the loss changes; 0 is masked. `None`: a student
    that is no model of tokens."""
    tokens: int
    prompt: str
    """The last user turn."""
    completion: str
    rejected: str
    fault: str = ""
    """Why it could not be trained on."""


@dataclass(frozen=True, kw_only=True)
class TriedCase:
    """What came of one case."""

    case: str
    question: str
    label: str
    """Of the recorded attempt; empty: nobody was asked."""
    work: str
    first_wrong: int | None
    reason: str
    """Why triage picked it."""
    asks: Sequence[Exchange]
    lessons: Sequence[Told]
    rows: Sequence[Row]
    printed: str
    """Beginning of what the policy printed."""
    printed_characters: int
    failures: Sequence[str]
    """Of the policy, or of the check of one of its lessons."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the whole round would cost at this rate, to teach and to check; what a verifier asks comes on top."""

    cases: int
    asks: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What `try --json` prints."""

    run: str
    round: int
    policy: str = ""
    cases: int
    accepted: int
    """Lessons."""
    rejected: Mapping[str, int]
    """Lessons that were not accepted, by what was missing."""
    failures: int
    asks: int
    """That the teacher was asked now."""
    reused: int
    """That it had answered before."""
    tokens: int
    """Of `asks`, in and out."""
    student_asks: int
    """The same of the student: tries, and its own answers."""
    whole_round: Estimate
    seconds: float = 0.0
    tried: Sequence[TriedCase]
    printed: str = ""
    """By the policy's file when it was read; the beginning."""
    fault: str = ""
    """Of the curator: why there are no rows."""

    @property
    def in_vain(self) -> bool:
        """The policy failed in every case."""
        return all(tried.failures and not tried.lessons for tried in self.tried)


# ---- a trial at work


@dataclass
class TriedRoom(RoundRoom):
    """The round's room, which remembers who asked what."""

    exchanges: dict[str, list[Exchange]] = field(default_factory=lambda: defaultdict(list))
    """By item."""
    distinct: dict[str, int] = field(default_factory=dict)
    """Tokens of what a run would pay the teacher for, by key."""
    pulse: Pulse = field(default_factory=Pulse)
    closed: bool = False

    def _send(self, step: str, asks: list[Ask]) -> list[tuple[Reply, Cost]]:
        if self.closed:
            raise RuntimeError("this try is over")
        known = {ask.key for ask in asks if self.ledger.recall(ask.key) is not None}
        self.pulse.asking.add(step)
        try:
            answers = super()._send(step, asks)
        finally:
            self.pulse.at = time.monotonic()
            self.pulse.asking.discard(step)
            self.pulse.move()
        for ask, (reply, _) in zip(asks, answers, strict=True):
            self._heard(step, ask, reply, reused=ask.key in known)
            known.add(ask.key)
        return answers

    def _call(self, step: str, ask: Ask) -> "Future[tuple[Reply, Cost]] | None":
        if self.closed:
            raise RuntimeError("this try is over")
        known = self.ledger.recall(ask.key) is not None
        if (called := super()._call(step, ask)) is None:
            return None
        self.pulse.asking.add(ask.key)

        def through(done: "Future[tuple[Reply, Cost]]") -> None:
            self.pulse.asking.discard(ask.key)
            self.pulse.move()
            if not done.cancelled() and done.exception() is None:
                reply, cost = done.result()
                self._heard(step, ask, reply, reused=known or bool(cost.reused))

        called.add_done_callback(through)
        return called

    def _heard(self, step: str, ask: Ask, reply: Reply, *, reused: bool) -> None:
        request, tokens = ask.request, reply.tokens_in + reply.tokens_out
        if ask.member == "teacher":
            self.distinct[ask.key] = tokens
        self.exchanges[ask.item].append(
            Exchange(
                slot=step.partition("/")[2],
                member=ask.member,
                prompt=[{"role": t.role, "content": t.content} for t in request.messages],
                prefix=request.prefix,
                schema=request.schema,
                reply=reply.text,
                finish=reply.finish,
                tokens=tokens,
                reused=reused,
            )
        )


@dataclass
class Work:
    """Teach, check, curate: what they come to."""

    method: Method
    room: TriedRoom
    heard: dict[str, Heard]
    pulse: Pulse
    lessons: list[Lesson] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    failed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By case."""
    done: set[str] = field(default_factory=set)
    """Cases that are through."""
    fault: str = ""

    def through(self, cases: Sequence[Case]) -> None:
        for at in range(0, len(cases), SHARD):
            some = cases[at : at + SHARD]
            rows, _ = each(self.room, "teach", some, Lesson, partial(taught, self._caught), signed)
            lessons = self._whole(rows, {case.id: case.id for case in some})
            rows, _ = each(self.room, "check", lessons, Lesson, partial(weighed, self.method.check))
            self.lessons += self._whole(rows, {lesson.id: lesson.case for lesson in lessons})
            self.done |= {case.id for case in some}
        try:
            room = self.room.enter("curate", "", self.room.wave("curate"))
            self.examples = curated(self.method, self.lessons, room)
        except Exception as e:  # a user's code
            self.fault = f"`curate` failed: {type(e).__name__}: {e}".encode(errors="backslashreplace").decode()

    def blocked(self, cases: Sequence[Case], why: str) -> None:
        """The cases that are not through say so."""
        self.failed |= {case.id: [why] for case in cases if case.id not in self.done}

    def _whole(self, rows: Sequence[Lesson | Failure], whose: Mapping[str, str]) -> list[Lesson]:
        """Those that did not fail."""
        for row in rows:
            if isinstance(row, Failure):
                self.failed[whose[row.item]].append(row.error)
        return [row for row in rows if not isinstance(row, Failure)]

    async def _caught(self, case: Case, room: Any) -> Any:
        self.pulse.begin(room.loop)
        try:
            with printing(self.heard[case.id]):
                return await call(self.method.teach, case, room)
        finally:
            self.pulse.move()


# ---- what was asked before


class Known(Asks):
    """The asks of all tries of a run. Only what was paid counts, not who used it again."""

    def record(self, step: str, **what: Any) -> None:
        super().record(step, **{**what, "reused": ()})

    def note(self, step: str, notes: Mapping[str, Json]) -> None:
        return None


@contextmanager
def known_asks(run: str) -> Iterator[Known]:
    """What the tries of a run have asked. Held by one at a time: two that write at once would damage it.

    Args:
        run: Its identity.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tutorloop" / "tries"
    folder = base / run[:32]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    (folder / "lock").touch()  # it is in use
    try:
        lock.acquire(timeout=WAIT, poll_interval=0.05)
    except Timeout:
        raise JournalError(f"another try of this run has gone on for {WAIT:g} s. Wait for it, or end it.") from None
    try:
        _tidy(base)
        if sum(path.stat().st_size for path in (folder / "asks").glob("*")) > LARGEST:
            shutil.rmtree(folder / "asks")
        try:
            known = Known(folder / "asks", run)
        except DamagedFile:  # it is only a cache
            shutil.rmtree(folder / "asks")
            known = Known(folder / "asks", run)
        yield known
    finally:
        lock.release()


def _tidy(base: Path) -> None:
    """Remove what the tries of runs have asked that nobody tries on any more."""
    for used in base.glob("*/lock"):
        with suppress(OSError):  # another try tidies up too
            if time.time() - used.stat().st_mtime > OLDEST:
                shutil.rmtree(used.parent)
