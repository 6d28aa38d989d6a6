"""vLLM on a CPU, for real: what is said of every engine is tested beside the other one; here is what is vLLM's own."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any, Literal

import psutil
import pytest
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file

from tutorloop.agents.build import build
from tutorloop.agents.placement import Actor, start, stop
from tutorloop.agents.roles import Canary, Evidence, PublishError, Request, RoleDied, RoleSpec, Unproven
from tutorloop.agents.transformers_server import TransformersServer
from tutorloop.agents.vllm_options import DECODED, ENGINE, REFUSED
from tutorloop.agents.weights import ADAPTER_CONFIG, ADAPTER_FILE, adapter_digest
from tutorloop.evals.records import State, user

pytestmark = pytest.mark.vllm

REQUESTS = [Request(messages=user(f"{i}+{i + 3}")) for i in range(4)]
Specs = Callable[..., RoleSpec]


class World:
    """A run folder with two trained states, vLLM, and the engine transformers as the trainer's readings."""

    def __init__(self, taught: Any, spec: Specs, canaries: tuple[Canary, ...], root: Path, **changes: Any) -> None:
        copytree(taught[0], root, dirs_exist_ok=True)
        self.root, self.canaries = root, canaries
        self.first, self.second = (trained.state for trained in taught[1])
        self.server = build(spec("student", engine="vllm", **changes))
        self.trainer = TransformersServer(spec("student"))
        self.base: State = self.server.hello().base

    def evidence(self, state: State, before: State | None = None) -> Evidence:
        of = [self.trainer.read(s, self.canaries) for s in (before or self.base, state)]
        return Evidence(state=state, canaries=self.canaries, before=of[0], after=of[1], noise=1e-5)

    def scaled(self, n: int) -> State:
        """A state of its own, a little other than the first."""
        copy = copytree(self.root / self.first.weights, self.root / "states" / f"scaled-{n}")
        tensors = load_file(copy / ADAPTER_FILE)
        save_file({name: t * (1 + n / 100) for name, t in tensors.items()}, copy / ADAPTER_FILE)
        return self.named(copy)

    def named(self, folder: Path) -> State:
        digest = adapter_digest(folder, self.base.digest)
        state: State = replace(self.first, name=folder.name, digest=digest, weights=str(folder.relative_to(self.root)))
        return state


@pytest.fixture
def world(taught: Any, spec: Specs, canaries: tuple[Canary, ...], tmp_path: Path) -> World:
    return World(taught, spec, canaries, tmp_path)


@pytest.fixture
def merging(taught: Any, spec: Specs, canaries: tuple[Canary, ...], tmp_path: Path) -> World:
    return World(taught, spec, canaries, tmp_path, publish="merged")


def prove_all(world: World, *states: State) -> None:
    for state in states:
        world.server.prove(world.evidence(state))


def sums(n: int) -> list[Request]:
    return [Request(messages=user(f"{i % 10}+{i // 10}")) for i in range(n)]


def same(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """Share of the answers that are the same, token by token."""
    equal = [bool(a.token_ids == b.token_ids) for a, b in zip(ours, theirs, strict=True)]
    return sum(equal) / len(equal)


# ---- what it answers


@pytest.mark.parametrize("publish", ["adapter", "merged"])
def test_greedy_answers_are_those_of_transformers_with_peft(
    taught: Any, spec: Specs, canaries: tuple[Canary, ...], tmp_path: Path, publish: str
) -> None:
    world, asked = World(taught, spec, canaries, tmp_path, publish=publish), sums(200)
    said = []
    for state in (world.base, world.first, world.second):
        evidence = world.evidence(state)
        world.trainer.prove(evidence)
        assert world.server.prove(evidence) <= evidence.tolerance
        ours, theirs = (engine.generate(state, asked) for engine in (world.server, world.trainer))
        assert same(ours, theirs) >= 0.99
        told = [x for a in ours for x in a.logprobs]
        assert len(told) == sum(a.tokens_out for a in ours) and max(told) <= 0
        said.append([a.text for a in ours])
    assert said[0] != said[1] != said[2]


def test_the_base_is_the_base_with_every_slot_but_the_spare_one_taken(world: World) -> None:
    """vLLM on a CPU gives rows without an adapter what lies in the last slot."""
    prove_all(world, world.base)
    alone = world.server.generate(world.base, REQUESTS)
    for n in range(5):
        prove_all(world, world.scaled(n))
    assert world.server.generate(world.base, REQUESTS) == alone


@pytest.mark.parametrize("name, value", [("typical_p", 0.5), ("no_repeat_ngram_size", 2)])
def test_a_state_that_decodes_by_what_vllm_does_not_have_is_refused(world: World, name: str, value: float) -> None:
    prove_all(world, world.base)
    with pytest.raises(ValueError, match=rf"`{name}` cannot be set: vLLM does not have it"):
        world.server.generate(replace(world.base, decoder={name: value}), REQUESTS)


def test_a_canary_longer_than_the_context_is_no_proof(world: World) -> None:
    long = Canary(messages=user("1+1"), completion="1" * 200)
    with pytest.raises(PublishError, match=r"a canary has \d+ tokens, and the engine's context 128"):
        world.server.read(world.base, [long])


def test_a_canary_that_fills_the_context_is_read(world: World) -> None:
    full = Canary(messages=user("1+1"), completion="1" * (128 - 6))
    (mine,), (theirs,) = (engine.read(world.base, [full]) for engine in (world.server, world.trainer))
    assert len(mine) == 123 and mine == pytest.approx(theirs, abs=1e-4)


def test_an_engine_that_fails_in_a_batch_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was at stays in its queue; asked again it might wait for ever."""
    prove_all(world, world.base)
    monkeypatch.setattr(world.server.llm, "generate", lambda *a, **k: 1 / 0)
    with pytest.raises(RoleDied, match="vLLM failed in a batch of the student: ZeroDivisionError"):
        world.server.generate(world.base, REQUESTS)


# ---- adapters


def told(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / ADAPTER_CONFIG).read_bytes())
        (folder / ADAPTER_CONFIG).write_text(json.dumps({**config, **changes}))

    return change


def high(folder: Path) -> None:
    import torch

    told(r=40)(folder)
    grown = {
        name: torch.cat([t, t.new_zeros(8, t.shape[1])]) if "lora_A" in name else torch.cat([t, t[:, :8]], 1)
        for name, t in load_file(folder / ADAPTER_FILE).items()
    }
    save_file(grown, folder / ADAPTER_FILE)


def misshapen(folder: Path) -> None:
    tensors = load_file(folder / ADAPTER_FILE)
    wide = {n: t.repeat(1, 2) if "up_proj.lora_A" in n else t for n, t in tensors.items()}
    save_file(wide, folder / ADAPTER_FILE)


UNSERVABLE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "DoRA": (told(use_dora=True), "vLLM does not yet support DoRA"),
    "bias": (told(lora_bias=True), "does not support LoRA bias"),
    "PiSSA": (told(init_lora_weights="pissa"), "does not support init_lora_weights='pissa'"),
    "saved modules": (told(modules_to_save=["lm_head"]), "modules_to_save"),
    "rank": (high, "rank 40 is greater than max_lora_rank 32"),
    "shape": (misshapen, "vLLM does not load"),
    "cut off": (lambda folder: os.truncate(folder / ADAPTER_FILE, 4000), "vLLM does not load"),
    "gone": (rmtree, "there is no such folder"),
}


@pytest.mark.parametrize("fault", UNSERVABLE)
def test_an_adapter_that_cannot_be_served_is_refused_and_leaves_the_engine_serving(world: World, fault: str) -> None:
    spoil, why = UNSERVABLE[fault]
    prove_all(world, world.base, world.first)
    before = [world.server.generate(state, REQUESTS) for state in (world.base, world.first)]
    copy = copytree(world.root / world.first.weights, world.root / "states" / "spoilt")
    spoil(copy)
    bad = replace(world.first, name="spoilt", digest="0" * 64, weights="states/spoilt")
    with pytest.raises(PublishError, match=why):
        world.server.load(bad)
    with pytest.raises(PublishError):
        world.server.prove(replace(world.evidence(world.first), state=bad))
    with pytest.raises(Unproven):
        world.server.generate(bad, REQUESTS)
    assert len(world.server.llm.llm_engine.list_loras()) == 1
    assert [world.server.generate(state, REQUESTS) for state in (world.base, world.first)] == before


def test_a_number_is_never_used_twice(world: World) -> None:
    evidence = world.evidence(world.first)
    numbers = set()
    for _ in range(3):
        world.server.prove(evidence)
        numbers |= world.server.llm.llm_engine.list_loras()
        world.server.unload(world.first.digest)
    assert numbers == {1, 2, 3}


def test_an_adapter_on_modules_that_vllm_leaves_out_is_refused_by_name(world: World) -> None:
    """vLLM drops them without a word."""
    copy = copytree(world.root / world.first.weights, world.root / "states" / "head")
    config = json.loads((copy / ADAPTER_CONFIG).read_bytes())
    told(target_modules=[*config["target_modules"], "lm_head"])(copy)
    tensors = load_file(copy / ADAPTER_FILE)
    a = tensors["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"]
    head = {"lora_A.weight": a.clone(), "lora_B.weight": a.new_ones(48, len(a))}
    save_file({**tensors, **{f"base_model.model.lm_head.{n}": t for n, t in head.items()}}, copy / ADAPTER_FILE)
    state = world.named(copy)
    with pytest.raises(PublishError, match="vLLM puts no adapter on lm_head"):
        world.server.prove(replace(world.evidence(world.first), state=state))


# ---- merged


def test_merged_states_take_turns_and_each_answers_as_its_adapter_does(merging: World) -> None:
    world, states = merging, (merging.base, merging.first, merging.second)
    prove_all(world, *states)
    rounds = [[world.server.generate(state, REQUESTS) for state in states] for _ in range(2)]
    assert rounds[0] == rounds[1]
    assert rounds[0][0] != rounds[0][1] != rounds[0][2]
    assert not list((world.root / "states").glob(".*"))


def test_a_model_that_was_not_read_in_is_refused(merging: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = merging
    read_in = type(world.server)._read_in
    prove_all(world, world.base)
    alone = world.server.generate(world.base, REQUESTS)
    with monkeypatch.context() as patched:
        patched.setattr(type(world.server), "_read_in", lambda server, folder: None)
        with pytest.raises(PublishError, match="reads like the state before the training"):
            world.server.prove(world.evidence(world.first))
    assert type(world.server)._read_in is read_in
    with pytest.raises(Unproven):
        world.server.generate(world.first, REQUESTS)
    assert world.server.generate(world.base, REQUESTS) == alone


def test_an_adapter_that_lacks_a_module_is_not_merged(merging: World) -> None:
    copy = copytree(merging.root / merging.first.weights, merging.root / "states" / "short")
    tensors = load_file(copy / ADAPTER_FILE)
    save_file({n: t for n, t in tensors.items() if "layers.1.mlp.up_proj" not in n}, copy / ADAPTER_FILE)
    with pytest.raises(PublishError, match=r"without tensors: model\.layers\.1"):
        merging.server.prove(replace(merging.evidence(merging.first), state=merging.named(copy)))
    prove_all(merging, merging.first)


# ---- its options


def test_every_option_is_a_field_of_vllm() -> None:
    vllm: Any = import_module("vllm")
    theirs = {field.name for field in fields(vllm.EngineArgs)}
    assert theirs >= set(ENGINE) | set(REFUSED)
    assert not set(ENGINE) & set(DECODED)
    renamed = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "do_sample": "temperature"}
    assert all(hasattr(vllm.SamplingParams(), renamed.get(name, name)) for name in DECODED)


def test_an_option_reaches_the_engine(spec: Specs) -> None:
    server = build(spec("student", engine="vllm", options={"max_model_len": 64, "max_num_seqs": 7}))
    assert server.window == 64


def test_a_teacher_has_no_room_for_adapters(spec: Specs) -> None:
    server = build(spec("teacher", engine="vllm"))
    assert server.llm.llm_engine.vllm_config.lora_config is None
    base = server.hello().base
    server.prove(Evidence(state=base, canaries=(), before=(), after=(), noise=0.0))
    assert len(server.generate(base, REQUESTS)) == 4


def test_an_engine_outlives_another_one_in_its_process(world: World, spec: Specs) -> None:
    """Of itself vLLM would end what all of them share."""
    prove_all(world, world.base)
    alone = world.server.generate(world.base, REQUESTS)
    other = build(spec("evaluator", engine="vllm"))
    del other
    gc.collect()
    assert world.server.generate(world.base, REQUESTS) == alone


# ---- its process


def gone(pids: Sequence[int], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while any(map(running, pids)) and time.monotonic() < end:
        time.sleep(0.1)
    return not any(map(running, pids))


def running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.ray
def test_fifty_publishes_leave_memory_flat_and_no_process_behind(
    world: World, spec: Specs, place: Path, canaries: tuple[Canary, ...]
) -> None:
    start(1)
    try:
        host = Actor(spec("student", engine="vllm"))
        host.call("hello")
        process = psutil.Process(host.pid)
        memory = []
        for n in range(60):
            state = world.scaled(n)
            evidence = world.evidence(state)
            host.call("prove", evidence)
            host.call("generate", state, REQUESTS)
            memory.append(process.memory_info().rss)
        family = [host.pid, *(child.pid for child in process.children(recursive=True))]
        host.close()
        assert gone(family)
    finally:
        stop()
    assert memory[-1] <= 1.05 * memory[9], [m >> 20 for m in memory]


DRIVER = """
import os, sys
from importlib import import_module
from pathlib import Path
import psutil
from tutorloop.agents.placement import Actor, start
from tutorloop.agents.roles import RoleSpec
if __name__ == "__main__":
    start(1)
    host = Actor(RoleSpec(role="student", engine="vllm", root=Path(sys.argv[1]), model=sys.argv[2]))
    host.call("hello")
    pids = [host.pid, *(child.pid for child in psutil.Process(host.pid).children(recursive=True))]
    print(*pids, flush=True)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.ray
def test_an_engine_ends_with_the_driver_that_is_killed(tiny: Path, tmp_path: Path, place: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DRIVER, tmp_path, tiny], stdout=subprocess.PIPE, text=True)
    assert done.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in done.stdout.split()]
    assert pids and gone(pids)


@dataclass(frozen=True, kw_only=True)
class Told:
    """A record whose every field is one of a few."""

    first: Literal["yes", "no"]
    second: Literal[7, 12]


def test_a_record_is_filled_in_the_form_of_its_json_schema_by_whatever_model_there_is(
    make_model: Callable[..., Path], spec: Specs, tmp_path: Path
) -> None:
    """Random weights say nothing of the kind by themselves, and beside it are asked in one batch as ever."""
    letters = "".join(map(chr, range(32, 127))) + "\n"
    model = make_model(tmp_path / "json", letters=letters)
    server = build(spec("teacher", engine="vllm", model=str(model), max_tokens=80))
    base = server.hello().base
    server.prove(Evidence(state=base, canaries=(), before=(), after=(), noise=1e-4))
    plain = Request(messages=user("1+1"))
    form = TypeAdapter(Told)
    told = replace(plain, schema="Told", json_schema=json.dumps(form.json_schema()))
    (alone,) = server.generate(base, [plain])
    beside, filled = server.generate(base, [plain, told])
    assert beside.text == alone.text and filled.finish == "stop"
    assert form.validate_json(filled.text).first in ("yes", "no")
    with pytest.raises(ValidationError):
        form.validate_json(alone.text)


def test_an_engine_that_nobody_has_any_more_gives_its_memory_back(spec: Specs) -> None:
    server = build(spec("student", engine="vllm"))
    held = weakref.ref(server.llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker)
    assert held() is not None
    del server
    gc.collect()
    assert held() is None
