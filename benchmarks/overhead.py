"""What a round costs beside the models' work, in this loop and in the way it is done today (`by_phase.py`).

    python benchmarks/overhead.py --out benchmarks/overhead.md    minutes
    python benchmarks/overhead.py --quick --ways local phases     seconds, on scripted roles; its figures mean nothing

A round's wall time is shared out by `timeline.py`: what lies inside generation, teacher calls, building trainers and
training is the same work in any way of doing it; the rest is orchestration. Both ways answer the same problems with the
same student, and train on as many rows and pairs with the same settings.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from json import dumps, loads
from pathlib import Path
from typing import Any
from unittest.mock import patch

from by_phase import PHASES
from machine import machine
from timeline import INSIDE, Recorder, Span, cpu_outside, read_spans, shares

from tutorloop.agents.build import build
from tutorloop.agents.cast import BATCH
from tutorloop.agents.hosts import InProcess
from tutorloop.agents.roles import RoleSpec
from tutorloop.agents.settings import DPO, LORA, SFT
from tutorloop.evals.arithmetic import shipped, solve
from tutorloop.loops.config import load
from tutorloop.loops.journal import Tick
from tutorloop.loops.launch import launch
from tutorloop.policies.rounds import Report, RoundReport

HERE = Path(__file__).parent
LIMIT, SHARE = 1.0, 0.2
"""Seconds of orchestration a round; and at most this share of the other way's."""

WAYS = {"ray": "tutorloop on Ray", "local": "tutorloop in one process", "phases": "a process per phase"}

METHODS = {
    "hello": "handshake",
    "read": "handshake",
    "prove": "handshake",
    "sit": "grading",
    "train": "around the training: model, what DPO changes, save, digest",
}
"""Methods of a role, and what they do beside the models' work."""


@dataclass(frozen=True)
class Round:
    """One round of one way."""

    shares: Mapping[str, float]
    cpu: float
    """Seconds outside the models' work, in all processes that were watched."""
    load: float
    """Load average of the machine over the last minute, at the round's end."""
    quiz: float
    """Accuracy after it: that something was learnt."""

    @property
    def wall(self) -> float:
        return sum(self.shares.values())

    @property
    def outside(self) -> Mapping[str, float]:
        return {kind: seconds for kind, seconds in self.shares.items() if kind not in INSIDE}

    @property
    def orchestration(self) -> float:
        return sum(self.outside.values())


Findings = Mapping[str, Sequence[Round]]
"""The rounds of each way."""


# ---- this loop


@dataclass(frozen=True)
class Watched:
    """A factory: the role that `build` makes, with a span for each of its methods."""

    folder: Path

    def __call__(self, spec: RoleSpec) -> Any:
        record = Recorder(self.folder)
        if not hasattr(os.fsync, "__wrapped__"):  # in a process of its own; here it is watched already
            os.fsync = record.timed("fsync", os.fsync)
        role = build(spec)
        for name, kind in METHODS.items():
            if hasattr(role, name):
                setattr(role, name, record.timed(kind, getattr(role, name)))
        server = getattr(role, "server", role)  # the evaluator's own replica
        if spec.role != "learner":
            kind = "teacher" if spec.role == "teacher" else "generation"
            server.generate = record.timed(kind, server.generate)
        elif spec.engine == "scripted":
            role.train = record.timed("training", role.train)
        else:
            from tutorloop.agents import trl_learner
            from tutorloop.agents.trl_rows import TokenRows

            # TRL's constructor would turn rows into token ids itself, and does so in a process per phase.
            patch.object(trl_learner, "TokenRows", record.timed("construction", TokenRows)).start()
            built = record.timed("construction", role.trainer)

            def trainer(*args: Any) -> Any:
                made = built(*args)
                made.train = record.timed("training", made.train)
                return made

            role.trainer = trainer
        return role


class Watch(Tick):
    """Records the driver's steps; a round lasts from the end of the step before it to the end of its gate."""

    def __init__(self, record: Recorder) -> None:
        self.record = record
        self.ends: list[tuple[float, float, float]] = []
        """Clock, CPU seconds of this process and load, before round 1 and after each round."""

    def step(self, name: str, seconds: float, replayed: bool) -> None:
        now, slot = time.monotonic(), name.partition("/")[2]
        self.record.add(Span(kind=f"driver: {slot}", start=now - seconds, end=now, pid=os.getpid()))
        if name == "final/0" or slot == "gate":
            self.ends.append((now, time.process_time(), os.getloadavg()[0]))

    def rounds(self, spans: Sequence[Span], report: Report) -> Iterator[Round]:
        for done, (start, cpu, _), (end, used, busy) in zip(
            report.rounds[1:], self.ends[:-1], self.ends[1:], strict=True
        ):
            whole = Span(kind="driver: between steps", start=start, end=end, cpu=used - cpu, pid=os.getpid())
            yield Round(shares(spans, whole), cpu_outside(spans, whole), busy, done.quiz.accuracy)


@contextmanager
def watching(record: Recorder, placement: str) -> Iterator[None]:
    """Spans for the driver's calls of roles, and for what it forces to disk."""
    host: Any = InProcess
    if placement == "ray":
        from tutorloop.agents.placement import Actor as host
    with ExitStack() as stack:
        stack.enter_context(patch.object(host, "call", record.timed("calls of roles", host.call)))
        stack.enter_context(patch.object(os, "fsync", record.timed("fsync", os.fsync)))
        yield


def ours(experiment: Path, settings: Sequence[str], placement: str, folder: Path) -> tuple[Report, list[Round]]:
    record = Recorder(folder / "spans")
    watch = Watch(record)
    with watching(record, placement):
        report = launch(
            experiment,
            folder / "run",
            [*settings, f"placement={placement}"],
            tick=watch,
            factory=Watched((folder / "spans").resolve()),
        )
    return report, list(watch.rounds(read_spans(folder / "spans"), report))


# ---- the way it is done today


def by_phase(task: Mapping[str, Any], phases: Sequence[str], report: Report, folder: Path) -> list[Round]:
    """As many rounds as the report has, each on as many problems, cases, rows and pairs."""
    rounds, student = [], str(shipped())
    for done in report.rounds[1:]:
        place = folder / str(done.number)
        place.mkdir(parents=True)
        _write(place / "practice.jsonl", [c.question for c in _tables(done).answered])
        _write(place / "quiz.jsonl", [m.problem.question for m in done.quiz.rows])
        counts = {"cases": len(_tables(done).cases), "rows": len(_tables(done).examples)}
        pairs = sum(bool(e.rejected) for e in _tables(done).examples)
        (place / "task.json").write_text(dumps({**task, **counts, "pairs": pairs, "student": student}))
        start, spans = time.monotonic(), [_process(phase, place) for phase in phases]
        whole = Span(kind="between processes", start=start, end=time.monotonic(), pid=os.getpid())
        spans += read_spans(place / "spans")
        told = loads((place / "report.json").read_text())
        quiz = told["right"] / told["n"]
        rounds.append(Round(shares(spans, whole), cpu_outside(spans, whole), os.getloadavg()[0], quiz))
        student = str(place / "dpo")
    return rounds


def _process(phase: str, folder: Path) -> Span:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}  # threads: as our roles
    log, command = folder / f"{phase}.log", [sys.executable, str(HERE / "by_phase.py"), phase, str(folder)]
    with log.open("w") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out) as process:
        if process.wait():
            raise SystemExit(f"the phase `{phase}` failed:\n{log.read_text()}")
    end, after = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Span(kind=f"{phase}: start and end of its process", start=start, end=end, cpu=cpu, pid=process.pid)


def _tables(report: RoundReport) -> Any:
    assert report.tables is not None, "a round after round 0"
    return report.tables


def _write(path: Path, questions: Iterable[str]) -> None:
    path.write_text("".join(dumps({"question": q, "answer": solve(q).rpartition("=")[2]}) + "\n" for q in questions))


# ---- what comes out


def middle(rounds: Sequence[Round]) -> Round:
    """The round of the median."""
    return sorted(rounds, key=lambda r: r.orchestration)[(len(rounds) - 1) // 2]


def every_round(found: Findings) -> Iterator[str]:
    yield "| | round | wall | " + " | ".join(INSIDE) + " | **orchestration** | its CPU | load | quiz |"
    yield "|---|---" + "|---:" * (len(INSIDE) + 5) + "|"
    for way, rounds in found.items():
        for n, r in enumerate(rounds, 1):
            inside = " | ".join(f"{r.shares.get(kind, 0.0):.2f}" for kind in INSIDE)
            cells = f"{r.wall:.2f} | {inside} | **{r.orchestration:.2f}** | {r.cpu:.2f} | {r.load:.1f} | {r.quiz:.3f}"
            yield f"| {WAYS[way]} | {n} | {cells} |"


def verdicts(found: Findings) -> Iterator[str]:
    for way, rounds in found.items():
        cost, cpu = middle(rounds).orchestration, middle(rounds).cpu
        told = f"- **{WAYS[way]}**: {cost:.2f} s of orchestration a round (median of {len(rounds)}; {cpu:.2f} s of CPU)"
        if way != "phases":
            told += f", {'within' if cost <= LIMIT else 'OVER'} the limit of {LIMIT:g} s"
        if way != "phases" and "phases" in found:
            share = cost / middle(found["phases"]).orchestration
            told += f"; {share:.1%} of {WAYS['phases']}, {'within' if share <= SHARE else 'OVER'} that of {SHARE:.0%}"
        yield told + "."


def where_it_goes(way: str, chosen: Round) -> Iterator[str]:
    yield from (f"Where it goes, {WAYS[way]}, in the round of the median:", "", "| | s |", "|---|---:|")
    large = {kind: seconds for kind, seconds in chosen.outside.items() if seconds >= 0.01}
    for kind in sorted(large, key=lambda k: -large[k]):
        yield f"| {kind} | {large[kind]:.2f} |"
    yield f"| {len(chosen.outside) - len(large)} smaller | {chosen.orchestration - sum(large.values()):.2f} |"


def document(found: Findings, where: str, size: str) -> str:
    tables = [line for way, rounds in found.items() for line in ("", *where_it_goes(way, middle(rounds)))]
    head = ("# Orchestration a round, in seconds", "", where, "", size, "")
    return "\n".join([*head, *every_round(found), "", *verdicts(found), *tables, NOTES])


NOTES = """
*Counted as orchestration*: everything from the end of one round to the end of the next that is not inside one of the
four. So: the journal and what it forces to disk, grading, checks of lessons, curation, loading the student for a
training, saving and digesting it, the handshake (all of `read` and `prove`, forward passes included), calls through
Ray, pickling. For a process per phase: interpreter, imports, loading, files, merging and saving. Rows become token ids
inside TRL's constructor there and just before it here; both count as construction.

*Not counted*: starting the actors, the course, round 0 and the exam (once a run). `its CPU` adds up CPU seconds outside
the four in driver and roles, or in the phases' processes; Ray's daemons are not in it. It is the steadier figure when
others use the machine; `load` says whether they did. Above the number of cores, everything waited for its turn, and the
seconds are not those of a machine that has nothing else to do: the ratio of two ways in one run is."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="toy size, scripted roles")
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=list(WAYS), help="`phases` follows one of the others"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--problems", type=int, default=700, help="practice problems a round (700)")
    parser.add_argument("--rows", type=int, default=800, help="examples trained on a round (800)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the tables there as well")
    chosen = parser.parse_args()
    first = [way for way in chosen.ways if way != "phases"]
    if not first:
        parser.error("`phases` does again what one of the other ways has done; name one of them too")
    experiment = HERE.parent / "examples" / ("scripted.yaml" if chosen.quick else "arithmetic.yaml")
    rounds, problems, rows, quiz = chosen.rounds, chosen.problems, chosen.rows, 300
    if chosen.quick:
        rounds, problems, rows, quiz = 1, 64, 32, 64
    settings = [f"rounds={rounds}", f"course.practice={problems}", f"course.quiz={quiz}", f"schedule.rows={rows}"]
    settings += ["course.exam=64", "course.twins=0", "course.retention=0"]  # sat once a run, not in a round
    if chosen.device == "cuda":
        settings += [f"{role}.gpus=0.3" for role in ("student", "evaluator", "learner")]
    config = load(experiment, settings)
    common = {"seed": 0, "use_cpu": chosen.device == "cpu", "bf16": False}
    task = {
        "scripted": chosen.quick,
        "device": chosen.device,
        "batch": BATCH,
        "max_tokens": config.student.max_tokens,
        "seed": 0,
        "sft": {**SFT, **config.update.sft, **common},
        "dpo": {**DPO, **config.update.dpo, **common},
        "lora": {**LORA, **config.update.lora},
    }
    where, found = machine("torch", "transformers", "trl", "peft", "ray"), dict[str, Sequence[Round]]()
    with tempfile.TemporaryDirectory() as scratch:
        for placement in first:
            report, found[placement] = ours(experiment, settings, placement, Path(scratch) / placement)
            if placement == first[-1] and "phases" in chosen.ways:
                phases = [p for p in PHASES if p not in ("sft", "dpo")] if chosen.quick else PHASES
                found["phases"] = by_phase(task, phases, report, Path(scratch) / "phases")
    size = f"{problems} practice problems, {rows} rows, a quiz of {quiz}, {rounds} rounds, on the {chosen.device}."
    text = document(found, where, size)
    print(text)
    if chosen.out:
        chosen.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
