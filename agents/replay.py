"""Recorded answers in a student's place: examined, graded, triaged and taught like any other, without its weights.

    student: { engine: replay, model: answers.jsonl }       # `evals/answers.py` says what stands in the file

A question that is put as it was is answered with what was recorded; sample i with the i-th text. Whatever else is asked
(a sample more than there is, a retry with a hint, a reply that is begun for it) was never answered: the reply is an
error that says so, and nothing is made up or repeated in its place. So every round, quiz and exam meets the same
student: there is nothing to train. Its learner says so and hands back the state that it was given, which is then
published as `unchanged`. The one state's digest is over the file of answers.

When a run begins, the answers to its own problems are laid down beside these (`lay_down`): ids mean something only in a
course, and a run that is resumed is answered by what it began with.

Not covered: log-probabilities; a student of which several states were recorded (a run for each).
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import uuid4

from pydantic_core import from_json, to_json

from ..evals.files import atomic_write
from ..evals.records import State, content_digest
from .roles import Canary, Evidence, Hello, Job, PublishError, Readings, Reply, Request, RoleSpec, Trained, Unproven

PLACE = "course/answers.jsonl"
"""In a run's folder."""


def lay_down(root: Path, sha256: str, texts: Mapping[str, Sequence[str]]) -> Path:
    """Write the answers to a run's problems into its folder.

    Args:
        sha256: Of the file that they are from.
        texts: By content digest of the problem.
    """
    lines = [to_json({"sha256": sha256}), *(to_json({"problem": d, "answers": said}) for d, said in texts.items())]
    atomic_write(root / PLACE, b"\n".join(lines))
    return root / PLACE


class ReplayStudent:
    """Serves; as the evaluator's replica too."""

    def __init__(self, spec: RoleSpec) -> None:
        first, *rest = (spec.root / PLACE).read_bytes().split(b"\n")
        self.answers: dict[str, list[str]] = {(row := from_json(line))["problem"]: row["answers"] for line in rest}
        digest = hashlib.sha256(to_json(["recorded answers", from_json(first)["sha256"]])).hexdigest()
        base = State(member="student", name="student-base", digest=digest)
        self.me = Hello(incarnation=uuid4().hex, pid=os.getpid(), base=base)
        self.proven = False

    def hello(self) -> Hello:
        return self.me

    def read(self, state: State, canaries: Sequence[Canary]) -> Readings:
        """None: what was written tells nothing of how likely it was."""
        return tuple(() for _ in canaries)

    def prove(self, evidence: Evidence) -> float:
        if evidence.state.digest != self.me.base.digest:
            raise PublishError(f"{evidence.state.name}: recorded answers are of one state, and this is another.")
        self.proven = True
        return 0.0

    def generate(self, state: State, requests: Sequence[Request]) -> list[Reply]:
        if not self.proven:
            raise Unproven(f"{state.name} has not been proven to this student.")
        return [self._reply(request) for request in requests]

    def _reply(self, request: Request) -> Reply:
        said = self.answers.get(content_digest(request.messages), [])
        asked = sum(len(turn.content.split()) for turn in request.messages)
        why = _unanswered(request, len(said))
        if why:
            return Reply(text=why, finish="error", tokens_in=asked)
        text = said[request.sample]
        return Reply(text=text, tokens_in=asked, tokens_out=len(text.split()))


class ReplayLearner(ReplayStudent):
    """Implements `Learner` without learning."""

    def train(self, job: Job) -> Trained:
        why = "a student of recorded answers cannot be trained"
        return Trained(state=job.start, notes={"nothing was trained": why, "unused_rows": len(job.examples)})


def _unanswered(request: Request, recorded: int) -> str:
    """Why there is no answer to a request; empty if there is one."""
    if request.schema:
        return "a student of recorded answers fills no records"
    if request.prefix:
        return "no answer was recorded that goes on from a beginning (`prefix`); only plain questions were"
    if not recorded:
        question = next((turn.content for turn in reversed(request.messages) if turn.role == "user"), "")
        return (
            f"no answer was recorded to {json.dumps(question[:80])}: recorded answers are to the course's problems as "
            "they are put, without a hint. To let it try again takes a student that answers"
        )
    if request.sample >= recorded:
        were = "answers were" if recorded > 1 else "answer was"
        return f"{recorded} {were} recorded to this problem, and sample {request.sample} was asked (the first is 0)"
    return ""
