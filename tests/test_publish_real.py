"""The most damaging bug of the field: a student that is silently the base, or last round's. Each way in is planted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tutorloop.agents.build import build
from tutorloop.agents.hosts import InProcess
from tutorloop.agents.roles import (
    Canary,
    Evidence,
    Job,
    PublishError,
    Readings,
    Reply,
    Request,
    RoleSpec,
    Trained,
    Unproven,
    largest_difference,
)
from tutorloop.agents.transformers_server import TransformersServer
from tutorloop.agents.trl_learner import TrlLearner
from tutorloop.agents.weights import ADAPTER_FILE, adapter_digest
from tutorloop.evals.records import State, user

REQUESTS = [Request(messages=user(f"{i}+{i + 3}")) for i in range(4)]


@dataclass
class World:
    """A run folder with a learner that has trained two rounds, and a server that knows nothing yet."""

    root: Path
    learner: TrlLearner
    server: Any
    canaries: tuple[Canary, ...]
    first: Trained
    second: Trained
    jobs: tuple[Job, Job]

    def read(self, state: State) -> Readings:
        return self.learner.read(state, self.canaries)

    def evidence(self, state: State, before: State, after: State | None = None) -> Evidence:
        noise = largest_difference(self.read(self.base), self.server.read(self.base, self.canaries))
        return Evidence(
            state=state,
            canaries=self.canaries,
            before=self.read(before),
            after=self.read(after or state),
            noise=noise,
        )

    @property
    def base(self) -> State:
        return self.learner.hello().base

    def posing(self, folder: Path, as_: State) -> State:
        """A state that names the tensors of `folder` by their right digest: only behaviour can tell."""
        digest = adapter_digest(folder, self.base.digest)
        return replace(as_, digest=digest, weights=str(folder.relative_to(self.root)))


@pytest.fixture
def world(
    taught: Any, spec: Callable[..., RoleSpec], canaries: tuple[Canary, ...], tmp_path: Path, engine: str
) -> World:
    copytree(taught[0], tmp_path, dirs_exist_ok=True)
    learner, server = TrlLearner(spec("learner")), build(spec("student", engine=engine))
    first, second = taught[1]
    return World(tmp_path, learner, server, canaries, first, second, taught[2])


def refused(world: World, evidence: Evidence, why: str) -> None:
    with pytest.raises(PublishError, match=why):
        world.server.prove(evidence)
    with pytest.raises(Unproven):
        world.server.generate(evidence.state, REQUESTS)


def test_an_honest_update_is_proven_and_answers_differently(world: World) -> None:
    state = world.first.state
    evidence = world.evidence(state, world.base)
    assert evidence.effect > 100 * evidence.tolerance
    assert world.server.prove(evidence) <= evidence.tolerance
    world.server.prove(world.evidence(world.base, world.base))
    assert world.server.generate(state, REQUESTS) != world.server.generate(world.base, REQUESTS)


def test_states_that_were_proven_answer_side_by_side(world: World) -> None:
    first, second = world.first.state, world.second.state
    world.server.prove(world.evidence(first, world.base))
    alone = world.server.generate(first, REQUESTS)
    world.server.prove(world.evidence(second, first))
    assert world.server.generate(second, REQUESTS) != alone
    assert world.server.generate(first, REQUESTS) == alone


@pytest.mark.parametrize("engine", ["transformers"])  # of vLLM an answer comes whole
def test_a_stream_goes_on_in_its_own_state_whatever_is_answered_or_unloaded_meanwhile(world: World) -> None:
    first, second = world.first.state, world.second.state
    world.server.prove(world.evidence(first, world.base))
    world.server.prove(world.evidence(second, first))
    alone, steps = list(world.server.stream(first, REQUESTS[0])), list[Reply]()
    for step in world.server.stream(first, REQUESTS[0]):
        steps.append(step)
        world.server.generate(second, REQUESTS)
        world.server.unload(first.digest)
    assert len(steps) > 3 and steps == alone


def test_last_rounds_weights_in_the_new_folder_are_refused(world: World) -> None:
    new = world.second.state
    evidence = world.evidence(new, world.first.state)
    old = world.root / world.first.state.weights / ADAPTER_FILE
    (world.root / new.weights / ADAPTER_FILE).write_bytes(old.read_bytes())
    refused(world, evidence, "changed after the training")


def test_last_rounds_weights_under_a_digest_that_fits_are_refused(world: World) -> None:
    copy = copytree(world.root / world.first.state.weights, world.root / "states" / "stale")
    stale = world.posing(copy, world.second.state)
    evidence = replace(world.evidence(world.second.state, world.first.state), state=stale)
    refused(world, evidence, "reads like the state before the training")


def test_an_adapter_of_zeros_is_refused(world: World) -> None:
    """The base in place of the adapter: every tensor is there and does nothing."""
    state = world.first.state
    copy = copytree(world.root / state.weights, world.root / "states" / "zeros")
    tensors = load_file(copy / ADAPTER_FILE)
    save_file({name: t * 0 for name, t in tensors.items()}, copy / ADAPTER_FILE)
    evidence = replace(world.evidence(state, world.base), state=world.posing(copy, state))
    refused(world, evidence, "reads like the state before the training")


def test_an_engine_that_forgets_to_switch_the_adapter_on_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    @contextmanager
    def forgetful(server: TransformersServer, state: State) -> Iterator[None]:
        with server.peft.disable_adapter():
            yield

    evidence = world.evidence(world.first.state, world.base)
    if engine == "vllm":
        monkeypatch.setattr(type(world.server), "_in_force", lambda server, state: None)
    else:
        monkeypatch.setattr(TransformersServer, "_active", forgetful)
    refused(world, evidence, "reads like the state before the training")


def test_layers_that_were_switched_off_behind_our_back_are_noticed_when_asked(world: World, engine: str) -> None:
    state = world.first.state
    world.server.prove(world.evidence(state, world.base))
    if engine == "vllm":
        world.server.llm.llm_engine.remove_lora(1)
    else:
        layer: Any = next(m for m in world.server.net.modules() if hasattr(m, "lora_A"))
        layer.enable_adapters(False)
    with pytest.raises(PublishError, match=r"not in force on every layer|vLLM has dropped the adapter"):
        world.server.generate(state, REQUESTS)


def test_a_file_that_is_overwritten_after_the_proof_is_noticed_by_the_next_proof(world: World) -> None:
    state = world.first.state
    evidence = world.evidence(state, world.base)
    world.server.prove(evidence)
    path = world.root / state.weights / ADAPTER_FILE
    path.write_bytes((world.root / world.second.state.weights / ADAPTER_FILE).read_bytes())
    refused(world, evidence, "changed after the training")


def test_tensors_that_change_in_memory_are_noticed_by_the_next_proof(world: World, engine: str) -> None:
    state = world.first.state
    evidence = world.evidence(state, world.base)
    world.server.prove(evidence)

    def touch(net: Any) -> None:
        if engine == "vllm":
            layer = net.get_submodule("model.layers.1.self_attn.qkv_proj")
            layer.lora_b_stacked[1][0, 0, 0, 0] += 1e-6
        else:
            layer = next(m for m in net.modules() if hasattr(m, "lora_B"))
            layer.lora_B[world.server.names[state.digest]].weight.data[0, 0] += 1e-6

    world.server.llm.apply_model(touch) if engine == "vllm" else touch(world.server.net)
    refused(world, evidence, "in memory is not what lies in")


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_an_adapter_that_lacks_a_module_is_refused_by_name(world: World) -> None:
    """PEFT would put a module that does nothing in its place, and load it without an error."""
    state = world.first.state
    copy = copytree(world.root / state.weights, world.root / "states" / "short")
    tensors = load_file(copy / ADAPTER_FILE)
    save_file({n: t for n, t in tensors.items() if "layers.1.mlp.up_proj" not in n}, copy / ADAPTER_FILE)
    evidence = replace(world.evidence(state, world.base), state=world.posing(copy, state))
    refused(world, evidence, "without tensors: model.layers.1.mlp.up_proj")


def test_an_adapter_with_a_module_that_its_config_does_not_name_is_refused(world: World) -> None:
    state = world.first.state
    copy = copytree(world.root / state.weights, world.root / "states" / "long")
    tensors = load_file(copy / ADAPTER_FILE)
    extra = {n.replace("layers.1", "layers.2"): t.clone() for n, t in tensors.items() if "layers.1" in n}
    save_file({**tensors, **extra}, copy / ADAPTER_FILE)
    evidence = replace(world.evidence(state, world.base), state=world.posing(copy, state))
    refused(world, evidence, "unexpected: model.layers.2")


def test_a_state_of_another_base_is_refused(
    world: World, spec: Callable[..., RoleSpec], make_model: Callable[..., Path], tmp_path: Path, engine: str
) -> None:
    evidence = world.evidence(world.first.state, world.base)
    at_home = world.evidence(world.base, world.base)
    other = str(make_model(tmp_path / "other", seed=1))
    world.server = build(spec("student", engine=engine, model=other))
    refused(world, evidence, "belongs to another base")
    refused(world, at_home, "belongs to another base")


def test_a_name_is_never_used_twice(world: World) -> None:
    world.server.prove(world.evidence(world.first.state, world.base))
    twin = replace(world.second.state, name=world.first.state.name)
    refused(world, world.evidence(twin, world.base), "never reused")


def test_a_refused_state_leaves_the_one_before_it_in_service(world: World) -> None:
    world.server.prove(world.evidence(world.first.state, world.base))
    alone = world.server.generate(world.first.state, REQUESTS)
    (world.root / world.second.state.weights / ADAPTER_FILE).write_bytes(b"")
    refused(world, replace(world.evidence(world.first.state, world.base), state=world.second.state), "not a whole")
    assert world.server.generate(world.first.state, REQUESTS) == alone


@pytest.mark.parametrize("loss", ["sft", "dpo"])
def test_a_training_that_changes_nothing_has_an_effect_within_the_tolerance(world: World, loss: Any) -> None:
    """It is published all the same; the loop says `effect below noise` aloud."""
    start = world.first.state
    job = replace(world.jobs[1], loss=loss, name=f"student-r0003-{loss}", settings={"learning_rate": 1e-12})
    trained = world.learner.train(replace(job, start=start, reference=start if loss == "dpo" else None))
    evidence = world.evidence(trained.state, start)
    assert evidence.effect <= evidence.tolerance
    assert world.server.prove(evidence) <= evidence.tolerance


def test_what_diverged_is_never_proven(world: World) -> None:
    """A comparison with not-a-number is false, so it would pass for equal."""
    evidence = world.evidence(world.first.state, world.base)
    nan = tuple(tuple(float("nan") for _ in row) for row in evidence.after)
    refused(world, replace(evidence, after=nan), "not a finite number")


def test_an_old_adapter_is_unloaded_and_loaded_and_proven_anew_when_it_is_asked_for(world: World, engine: str) -> None:
    state = world.first.state
    world.server.prove(world.evidence(state, world.base))
    alone = world.server.generate(state, REQUESTS)
    before = state
    for n in range(3, 6):
        job = replace(world.jobs[1], start=before, name=f"student-r000{n}-sft")
        after = world.learner.train(job).state
        world.server.prove(world.evidence(after, before))
        before = after
    loaded = world.server.llm.llm_engine.list_loras() if engine == "vllm" else world.server.peft.peft_config
    assert len(world.server.names) == len(loaded) == 3
    assert state.digest not in world.server.names
    assert world.server.generate(state, REQUESTS) == alone
    world.server.unload(state.digest)
    (world.root / state.weights / ADAPTER_FILE).unlink()
    for error in (PublishError, Unproven):
        with pytest.raises(error):
            world.server.generate(state, REQUESTS)


def test_a_restarted_role_has_proven_nothing_and_proves_itself_with_the_same_evidence(
    world: World, spec: Callable[..., RoleSpec], engine: str
) -> None:
    host = InProcess(spec("student", engine=engine))
    evidence = world.evidence(world.first.state, world.base)
    host.call("prove", evidence)
    replies = host.call("generate", world.first.state, REQUESTS)
    before = host.call("hello").incarnation
    host.restart()
    assert host.call("hello").incarnation != before
    with pytest.raises(Unproven):
        host.call("generate", world.first.state, REQUESTS)
    host.call("prove", evidence)
    assert host.call("generate", world.first.state, REQUESTS) == replies
