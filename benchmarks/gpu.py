"""The whole loop on one CUDA GPU: tokens a second, what publishing takes, how busy the GPU is, what FLOPs it gives.

    python benchmarks/gpu.py --out benchmarks/gpu.md               minutes, on a machine with one CUDA GPU
    python benchmarks/gpu.py --students tiny 0.5b --engines transformers
    python benchmarks/gpu.py --device cpu --students tiny --quick  shows that it runs; its figures are no GPU's

Student, evaluator and learner share the GPU, each in an actor of its own; the method is `gold`, so no teacher is waited
for. Two rounds: the first warms up, the second is measured. `tiny` is the student that ships. The others are Llamas of
random numbers with its tokenizer, so nothing is downloaded: they answer nonsense up to the last token that they may,
which is as much work as sense.

    tokens a second   of the answers to practice and quiz, by the seconds within `generate`
    publish           the step in which student and evaluator both load the state and prove it
    GPU busy          the driver's own figure, ten times a second over the whole round: the share of time in which any
                      kernel ran, be it a small one
    FLOPs used        of the update: 4 x parameters x tokens of SFT and 6 x those of DPO, by the seconds of `train` and
                      the GPU's peak in bfloat16 (`tiny` is in float32, whose peak is lower). A LoRA needs no gradient
                      of the base's weights (2 forward, 2 back), DPO one more pass for its reference; activations that
                      are computed twice do not count

Not covered: attention's own FLOPs (texts are short); several GPUs; models of the hub.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

from machine import machine
from overhead import Watch, Watched, watching
from scale import questions
from timeline import Recorder, Span, read_spans

from tutorloop.agents.weights import model_weights, tensors
from tutorloop.evals.arithmetic import shipped, solve
from tutorloop.loops.launch import launch
from tutorloop.policies.rounds import Report, RoundReport

SIZES = {"0.5b": (1024, 30), "3b": (2560, 30)}
"""Width and layers of the random students."""
PEAKS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.0}
"""Dense bfloat16 TFLOP/s, as their makers state them; by what the GPU's name holds."""
EVERY = 100
"""Milliseconds between two looks at the GPU."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One student on one engine, in the second round."""

    student: str
    engine: str
    parameters: int
    wall: float
    """Seconds of the round."""
    answered: int
    """Tokens that student and evaluator have emitted."""
    answering: float
    """Seconds within `generate`."""
    sft: int
    """Tokens, over all epochs; `dpo` likewise."""
    dpo: int
    training: float
    """Seconds within TRL's `train`."""
    publish: float
    """Seconds."""
    busy: float | None
    """Share of the round; `None`: nobody could tell."""
    memory: float | None
    """GiB in use on the GPU, at most."""

    @property
    def flops(self) -> float:
        return self.parameters * (4.0 * self.sft + 6.0 * self.dpo)


@dataclass
class Gpu:
    """What `nvidia-smi` says while it is watched."""

    seen: list[tuple[float, float, float]] = field(default_factory=list)
    """Clock, percent busy, MiB in use."""

    @contextmanager
    def watched(self) -> Iterator[None]:
        asked = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
        with subprocess.Popen([*asked, f"--loop-ms={EVERY}"], stdout=subprocess.PIPE, text=True) as smi:
            thread = threading.Thread(target=self._read, args=(smi.stdout,), daemon=True)
            thread.start()
            try:
                yield
            finally:
                smi.terminate()
                thread.join()

    def _read(self, lines: Any) -> None:
        for line in lines:
            busy, memory = line.splitlines()[0].split(",")
            self.seen.append((time.monotonic(), float(busy), float(memory)))

    def between(self, start: float, end: float) -> tuple[float | None, float | None]:
        """Mean share busy, and the most memory in GiB. `None`: nobody looked."""
        here = [(busy, memory) for at, busy, memory in self.seen if start <= at <= end]
        if not here:
            return None, None
        return fmean(busy for busy, _ in here) / 100, max(memory for _, memory in here) / 1024


# ---- what is run


def student(name: str, folder: Path) -> Path:
    """The folder of a student; a random one is drawn there."""
    if name == "tiny":
        return shipped()
    import torch
    import transformers

    width, layers = SIZES[name]
    config: Any = transformers.AutoConfig.from_pretrained(shipped())
    config.update({"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers})
    config.update({"num_attention_heads": width // 64, "num_key_value_heads": width // 64, "head_dim": 64})
    torch.manual_seed(0)
    out = folder / name
    auto: Any = transformers.AutoModelForCausalLM
    auto.from_config(config, dtype=torch.bfloat16).save_pretrained(out)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (out / file).write_bytes((shipped() / file).read_bytes())
    return out


def experiment(folder: Path, model: Path, engine: str, quick: bool) -> dict[str, Any]:
    """Sums and differences with their right work."""
    n = 64 if quick else 512
    rows = [{"question": q, "answer": a, "solution": solve(q)} for q, a in questions(3 * n)]
    for i, pool in enumerate(("practice", "quiz", "exam")):
        lines = (json.dumps(row) + "\n" for row in rows[i * n : (i + 1) * n])
        (folder / f"{pool}.jsonl").write_text("".join(lines), encoding="utf-8")
    course = {pool: str(folder / f"{pool}.jsonl") for pool in ("practice", "quiz", "exam")}
    return {
        "course": {"kind": "jsonl", **course},
        "method": "gold",
        "check": ["gold"],
        "triage": "tutorloop.policies.triage:unsolved",
        "rounds": 2,
        "schedule": {"rows": n, "new": 1.0},
        "student": {"engine": engine, "model": str(model), "dtype": "float32" if model == shipped() else "bfloat16"},
        "teacher": {"engine": "scripted"},
    }


def measure(name: str, engine: str, device: str, quick: bool) -> Measured:
    with tempfile.TemporaryDirectory(prefix="tutorloop-") as scratch:
        folder = Path(scratch)
        model = student(name, folder)
        told = experiment(folder, model, engine, quick)
        settings = [f"{role}.gpus={0.3 if device == 'cuda' else 0}" for role in ("student", "evaluator", "learner")]
        watch, gpu = Watch(Recorder(folder / "spans")), Gpu()
        with gpu.watched() if device == "cuda" else nullcontext(), watching(watch.record, "ray"):
            report = launch(told, folder / "run", settings, tick=watch, factory=Watched((folder / "spans").resolve()))
        (start, *_), (end, *_) = watch.ends[-2:]
        here = [s for s in read_spans(folder / "spans") if start <= s.start and s.end <= end]
        busy, memory = gpu.between(start, end)
        return Measured(
            student=name,
            engine=engine,
            parameters=parameters(model),
            wall=end - start,
            answered=emitted(report.rounds[-1]),
            answering=_seconds(here, "generation"),
            training=_seconds(here, "training"),
            publish=_seconds(here, "driver: publish"),
            busy=busy,
            memory=memory,
            **trained(folder / "run", report),
        )


def _seconds(spans: Sequence[Span], kind: str) -> float:
    return sum((s.end - s.start for s in spans if s.kind == kind), 0.0)


def parameters(model: Path) -> int:
    """Without the table of embeddings, which is looked up and not multiplied.

    >>> parameters(shipped())
    652928
    """
    found = ((name, shape) for path in model_weights(model) for name, _, shape, _ in tensors(path))
    return sum(math.prod(shape) for name, shape in found if "embed_tokens" not in name)


def emitted(done: RoundReport) -> int:
    """Tokens of the answers to practice and quiz."""
    assert done.tables is not None, "a round after round 0"
    answers = [a for case in done.tables.answered for a in case.attempts] + [row.attempt for row in done.quiz.rows]
    return sum(len(a.token_ids) for a in answers)


def trained(run: Path, report: Report) -> dict[str, int]:
    """Tokens that the last round's trainings have seen, by loss."""
    tokens = {"sft": 0, "dpo": 0}
    for step in run.glob(f"steps/{report.rounds[-1].number}/train-*.json"):
        tokens[step.stem.rpartition("-")[2]] += json.loads(step.read_bytes())["value"]["tokens"]
    return tokens


# ---- what comes out


def table(found: Sequence[Measured], peak: float | None) -> Iterator[str]:
    """
    Args:
        peak: Of the GPU, in TFLOP/s; `None`: not known.
    """
    head = "student | parameters | engine | round, s | tokens/s answered | tokens/s trained | publish, s | GPU busy"
    yield f"| {head} | FLOPs used | memory, GiB |"
    yield "|---|---:|---|" + "---:|" * 7
    for m in found:
        used = None if peak is None or not m.training else m.flops / m.training / (peak * 1e12)
        cells = [m.student, f"{m.parameters / 1e6:,.1f} M", m.engine, f"{m.wall:.1f}"]
        cells += [_rate(m.answered, m.answering), _rate(m.sft + m.dpo, m.training), f"{m.publish:.2f}"]
        cells += [_share(m.busy), _share(used), "" if m.memory is None else f"{m.memory:.1f}"]
        yield f"| {' | '.join(cells)} |"


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds:,.0f}" if seconds else ""


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def peak_of(gpu: str) -> float | None:
    return next((tflops for name, tflops in PEAKS.items() if name in gpu), None)


def gpu_name() -> str:
    """
    Raises:
        SystemExit: there is none.
    """
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        raise SystemExit("nvidia-smi names no GPU here. With `--device cpu` the loop runs without one.") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--students", nargs="+", choices=("tiny", *SIZES), default=["tiny", "0.5b"])
    parser.add_argument("--engines", nargs="+", choices=("transformers", "vllm"), default=["transformers", "vllm"])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--peak", type=float, metavar="TFLOPS", help="of this GPU, where its name is not known here")
    parser.add_argument("--quick", action="store_true", help="toy size")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there as well")
    chosen = parser.parse_args()
    on, peak = "No GPU: on the CPU, to show that it runs.", chosen.peak
    if chosen.device == "cuda":
        name = gpu_name()
        on, peak = f"One {name}.", peak or peak_of(name)
        on += f" Its peak is taken to be {peak:g} TFLOP/s." if peak else " Its peak is not known here (`--peak`)."
    where, found, left_out = machine("torch", "transformers", "trl", "peft", "ray"), list[Measured](), list[str]()
    for engine in chosen.engines:
        if engine == "vllm" and find_spec("vllm") is None:
            left_out.append("vLLM is not installed here, and was not run.")
            continue
        for name in chosen.students:
            found.append(measure(name, engine, chosen.device, chosen.quick))
            print(list(table(found, peak))[-1], file=sys.stderr, flush=True)
    text = "\n".join(["# The loop on one GPU", "", where, "", on, "", *table(found, peak), "", *left_out]).rstrip()
    print(text)
    if chosen.out:
        chosen.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
