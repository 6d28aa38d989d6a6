"""Scripted roles: the whole loop without torch, in milliseconds. A feature, and what most tests run on.

The student is the embedded world's exact one: it works as its misconceptions say, and a misconception is gone once
the training set has shown the right line often enough where it would have written the wrong one. A state is the list
of what is gone. The teacher is `tutor.Tutor`. Both show every mechanism of the loop, and say nothing about language
models.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from pydantic_core import to_json

from ..evals.arithmetic import profile, read, shipped, slips, work
from ..evals.files import atomic_write
from ..evals.records import State
from ..policies.teaching import Diagnosis, Hint, Practice, Task
from .roles import Canary, Evidence, Hello, Job, PublishError, Readings, Reply, Request, RoleSpec, Trained, Unproven
from .roles import largest_difference as difference
from .tutor import Tutor, find

FILLS = ("Diagnosis", "Practice", "Hint")
SURPRISED = -10.0
"""Nats: the log-probability that a scripted student gives to work that it would not write."""


class ScriptedStudent:
    """Serves; as the evaluator's replica too."""

    def __init__(self, spec: RoleSpec) -> None:
        self.spec = spec
        self.bugs = profile(Path(spec.model) if spec.model else shipped())
        self.me = Hello(incarnation=uuid4().hex, pid=os.getpid(), base=_state("student-base", "", self.bugs, ()))
        self.proven: dict[str, tuple[str, ...]] = {}
        """What is gone, by name of a proven state."""

    def hello(self) -> Hello:
        return self.me

    def read(self, state: State, canaries: Sequence[Canary]) -> Readings:
        return _read(self.bugs, _gone(self.spec.root, state), canaries)

    def prove(self, evidence: Evidence) -> float:
        state, gone = evidence.state, _gone(self.spec.root, evidence.state)
        if _state(state.name, state.library, self.bugs, gone).digest != state.digest:
            raise PublishError(f"{state.name}: {state.library or 'the base'} holds another state than was trained.")
        apart = difference(_read(self.bugs, gone, evidence.canaries), evidence.after)
        if apart > evidence.tolerance:
            raise PublishError(f"{state.name}: the student's answers differ from the trainer's by {apart:.2g} nats.")
        self.proven[state.name] = gone
        return apart

    def generate(self, state: State, requests: Sequence[Request]) -> list[Reply]:
        if state.name not in self.proven:
            raise Unproven(f"{state.name} has not been proven to this student.")
        return [self._reply(request, self.proven[state.name]) for request in requests]

    def _reply(self, request: Request, gone: Sequence[str]) -> Reply:
        question, _, hint = next(t.content for t in reversed(request.messages) if t.role == "user").partition("\n")
        if read(question) is None:
            return Reply(text="?", tokens_in=_tokens(question), tokens_out=1)
        # What it has written already is there to be read, as a hint is.
        text = work(question, [b for b in self.bugs if b not in gone], hint=f"{hint}\n{request.prefix}")
        return Reply(
            text=text.removeprefix(request.prefix), tokens_in=_tokens(question + hint), tokens_out=_tokens(text)
        )


class ScriptedLearner:
    """Trains a scripted student: counts, for each misconception, the rows that contradict it."""

    def __init__(self, spec: RoleSpec) -> None:
        self.spec = spec
        self.bugs = profile(Path(spec.model) if spec.model else shipped())
        self.needed = int(str(spec.options.get("rows_to_unlearn", 4)))
        self.me = Hello(incarnation=uuid4().hex, pid=os.getpid(), base=_state("student-base", "", self.bugs, ()))

    def hello(self) -> Hello:
        return self.me

    def read(self, state: State, canaries: Sequence[Canary]) -> Readings:
        return _read(self.bugs, _gone(self.spec.root, state), canaries)

    def train(self, job: Job) -> Trained:
        gone = _gone(self.spec.root, job.start)
        seen: Counter[str] = Counter()
        rows = tokens = 0
        for example in job.examples:
            if job.loss == "dpo" and not example.rejected:
                continue
            question = next(t.content for t in reversed(example.prompt) if t.role == "user")
            seen.update(self._contradicted(question, example.completion, gone))
            rows, tokens = rows + 1, tokens + _tokens(question) + _tokens(example.completion)
        gone = tuple(b for b in self.bugs if b in gone or seen[b] >= self.needed)
        digest = _state(job.name, "", self.bugs, gone).digest
        name = f"{job.name}-{digest[:8]}"
        file = f"states/{name}.json"
        atomic_write(self.spec.root / file, to_json({"base": self.me.base.digest, "gone": gone}, indent=1))
        return Trained(state=_state(name, file, self.bugs, gone), steps=rows, tokens=tokens, notes={"seen": dict(seen)})

    def _contradicted(self, question: str, completion: str, gone: Sequence[str]) -> list[str]:
        """The misconceptions that would have written other lines than this work has, each in view of those before."""
        if read(question) is None:
            return []
        active, told, found = [b for b in self.bugs if b not in gone], "", list[str]()
        lines = completion.splitlines()
        while slip := next(iter(slips(question, active, hint=told)), None):
            if slip.bug in found or slip.step >= len(lines) or lines[slip.step] in told.splitlines():
                break
            told += lines[slip.step] + "\n"
            found.append(slip.bug)
        return found


class ScriptedTeacher:
    """The embedded world's teacher, as a server: answers prose with corrected work, and fills records."""

    def __init__(self, spec: RoleSpec) -> None:
        self.tutor = Tutor(error_rate=float(str(spec.options.get("error_rate", 0.0))), seed=spec.seed)
        digest = hashlib.sha256(to_json(["scripted teacher", self.tutor.error_rate, spec.seed])).hexdigest()
        base = State(member="teacher", name="teacher-base", digest=digest)
        self.me = Hello(incarnation=uuid4().hex, pid=os.getpid(), base=base)

    def hello(self) -> Hello:
        return self.me

    def read(self, state: State, canaries: Sequence[Canary]) -> Readings:
        raise NotImplementedError("the scripted teacher has no log-probabilities")

    def prove(self, evidence: Evidence) -> float:
        if evidence.state.digest != self.me.base.digest:
            raise PublishError(f"the scripted teacher has only its base state, not {evidence.state.name}.")
        return 0.0

    def generate(self, state: State, requests: Sequence[Request]) -> list[Reply]:
        return [self._reply(request) for request in requests]

    def _reply(self, request: Request) -> Reply:
        prompt = request.messages[-1].content
        if request.schema and request.schema not in FILLS:
            why = f"the scripted teacher fills {', '.join(FILLS)}, not {request.schema!r}"
            return Reply(text=why, finish="error", tokens_in=_tokens(prompt))
        text = self._fill(request.schema, prompt) if request.schema else self.tutor.reply(prompt) or ""
        return Reply(text=text, tokens_in=_tokens(prompt), tokens_out=_tokens(text))

    def _fill(self, schema: str, prompt: str) -> str:
        question, work = find(prompt) or ("", "")
        found = self.tutor.diagnose(question, work) if question else None
        if schema == "Diagnosis":
            return to_json(Diagnosis(bug=(found and found.bug) or "", step=found.step if found else None)).decode()
        if schema == "Practice":
            count = re.search(r"(\d+) new problems", prompt)
            tasks = self._practice(question, work, int(count[1]) if count else 3)
            return to_json(Practice(tasks=tuple(Task(question=q, work=w) for q, w in tasks))).decode()
        return to_json(Hint(line=self.tutor.hint(question, work) if question else "")).decode()

    def _practice(self, question: str, work: str, n: int) -> list[tuple[str, str]]:
        if not question:
            return []
        bug = self.tutor.diagnose(question, work).bug
        return self.tutor.practice(bug, n, f"{question}\n{work}") if bug else self.tutor.drill(question, work, n)


def _tokens(text: str) -> int:
    """A scripted role counts words."""
    return len(text.split())


def _state(name: str, library: str, bugs: Sequence[str], gone: Sequence[str]) -> State:
    digest = hashlib.sha256(to_json(["scripted student", bugs, gone])).hexdigest()
    return State(member="student", name=name, digest=digest, library=library)


def _gone(root: Path, state: State) -> tuple[str, ...]:
    return tuple(json.loads((root / state.library).read_bytes())["gone"]) if state.library else ()


def _read(bugs: Sequence[str], gone: Sequence[str], canaries: Sequence[Canary]) -> Readings:
    active = [b for b in bugs if b not in gone]

    def reading(canary: Canary) -> float:
        question = next(t.content for t in reversed(canary.messages) if t.role == "user")
        return 0.0 if read(question) is not None and work(question, active) == canary.completion else SURPRISED

    return tuple((reading(c),) for c in canaries)
