"""vLLM as the engine of a student, a teacher, or the evaluator's replica: one engine, in this process.

    publish: adapter   each state is an adapter in the running engine, under a name and a number that are never reused
    publish: merged    each state is merged into the base, written, and read by the running engine in the base's place

The engine lives in the role's own process and starts no other, so that nothing outlives the role. Prompts are token ids
as `chat.py` writes them; vLLM's own chat template and sampling defaults are not used. An adapter answers only after
`add_lora` took it: asked with one that it cannot load, the engine would be lost. Prefix caching is off, unless an
option turns it on: an answer does not depend on what was asked before.

Found by trying vLLM 0.32 on a CPU. Rows without an adapter get the last slot's: no batch mixes states, and the last
slot stays empty. An adapter on the head breaks prompt log-probabilities: no adapter is put there. `dtype` "auto" makes
bfloat16 of float32, and without a size for its cache it wants nearly all memory: both are always said.

Not covered: several devices for one replica; adapters on embeddings and experts; multimodal models.
"""

import gc
import os
import shutil
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ..evals.pools import SHARD
from ..evals.records import State
from .base import Base
from .roles import Canary, PublishError, Readings, Request, RoleDied, RoleSpec
from .serving import KEPT, ModelServer, Said, adapted, same_modules, seed_of, taken
from .vllm_heads import heads_of
from .vllm_options import only_theirs, split
from .weights import ADAPTER_FILE, adapter_modules

CACHE = 256 << 20
"""Bytes for keys and values on a CPU, unless `kv_cache_memory_bytes` says otherwise."""

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine is in this process, and ends with it
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


class VllmServer(ModelServer):
    """Implements `Server`; a state is an adapter."""

    def __init__(self, spec: RoleSpec) -> None:
        decoding, self.options = split(spec.options)
        super().__init__(spec, decoding)
        self.heads = heads_of(self.base.folder) if self.base.device == "cpu" else None
        with self.served(self.base.folder) as folder:
            self.llm = started(self.base, folder, {**self.lora(), **self.options})
        self.requests: dict[str, Any] = {}  # by digest: what vLLM calls a loaded adapter
        self.numbers = count(1)
        _keep(self, self.llm.llm_engine.engine_core)

    def lora(self) -> dict[str, Any]:
        """Fields of `EngineArgs` by which it takes adapters: a student's. A teacher has none."""
        if self.base.state.member != "student":
            return {}
        slots = self.kept + 1  # those that stay, and the one that comes
        slots += self.base.device == "cpu"  # and the last, which stays empty
        return {
            "enable_lora": True,
            "max_loras": slots,
            "max_cpu_loras": slots,
            "max_lora_rank": 32,
            "lora_target_modules": linear_names(self.base),
        }

    @contextmanager
    def served(self, folder: Path) -> Iterator[Path]:
        """A folder of a model or an adapter as vLLM can read it, as long as it does."""
        if self.heads is None:
            yield folder
            return
        is_adapter = (folder / ADAPTER_FILE).exists()
        with TemporaryDirectory(prefix="tutorloop-vllm-") as place:
            write = self.heads.adapter if is_adapter else self.heads.model
            yield write(folder, Path(place) / folder.name)

    @property
    def window(self) -> int:
        return int(self.llm.llm_engine.model_config.max_model_len)

    def readings(self, state: State, canaries: Sequence[Canary]) -> Readings:
        params: Any = import_module("vllm").SamplingParams
        rows = [self.base.chat.pair(c.messages, c.completion) for c in canaries]
        if longest := max((len(p) + len(r) for p, r in rows if len(p) + len(r) > self.window), default=0):
            raise PublishError(f"{state.name}: a canary has {longest} tokens, and the engine's context {self.window}.")
        # Of all but the last token by the prompt; of that one as the only answer there may be, as one must be given.
        asks = [
            params(max_tokens=1, prompt_logprobs=0, logprobs=0, allowed_token_ids=r[-1:], detokenize=False)
            for _, r in rows
        ]
        found = []
        outputs = self._complete(state, [(p + r)[:-1] for p, r in rows], asks)
        for (prompt, reply), output in zip(rows, outputs, strict=True):
            told = [*output.prompt_logprobs[len(prompt) :], *output.outputs[0].logprobs]
            found.append(tuple(float(at[token].logprob) for at, token in zip(told, reply, strict=True)))
        return tuple(found)

    def answers(
        self,
        state: State,
        requests: Sequence[Request],
        prompts: Sequence[list[int]],
        settings: Mapping[str, float],
        limit: int,
    ) -> list[Said]:
        asks = [self._sampling(request, settings, limit) for request in requests]
        said = []
        for output in self._complete(state, prompts, asks):
            (answer,) = output.outputs
            ids = list(answer.token_ids)
            said.append((ids, [float(at[token].logprob) for at, token in zip(answer.logprobs, ids, strict=True)]))
        return said

    def _sampling(self, request: Request, settings: Mapping[str, float], limit: int) -> Any:
        only_theirs(settings)
        sampling: Any = import_module("vllm.sampling_params")
        form = sampling.StructuredOutputsParams(json=request.json_schema) if request.json_schema else None
        return sampling.SamplingParams(
            structured_outputs=form,
            max_tokens=limit,
            min_tokens=min(int(settings.get("min_new_tokens", 0)), limit),
            temperature=settings["temperature"],
            top_k=int(settings.get("top_k", 0)),
            top_p=settings.get("top_p", 1.0),
            min_p=settings.get("min_p", 0.0),
            repetition_penalty=settings.get("repetition_penalty", 1.0),
            seed=seed_of(self.base.spec.seed, request),
            stop_token_ids=sorted(self.base.chat.stops),
            ignore_eos=True,  # the stop tokens are ours
            logprobs=0,
            detokenize=False,
        )

    def _complete(self, state: State, prompts: Sequence[list[int]], asks: Sequence[Any]) -> list[Any]:
        lora = self._in_force(state)
        try:
            outputs: list[Any] = self.llm.generate(
                [{"prompt_token_ids": prompt} for prompt in prompts], list(asks), lora_request=lora, use_tqdm=False
            )
        except Exception as e:  # what it was at stays in its queue, and the next call might wait for ever
            raise RoleDied(f"vLLM failed in a batch of the {self.base.spec.role}: {type(e).__name__}: {e}") from e
        return outputs

    def _in_force(self, state: State) -> Any:
        """The adapter to answer with, which is loaded."""
        if not state.weights:
            return None
        self.names[state.digest] = self.names.pop(state.digest)  # the last used one last
        request = self.requests[state.digest]
        if request.lora_int_id not in self.llm.llm_engine.list_loras():
            raise PublishError(f"{state.name}: vLLM has dropped the adapter; it would be read anew without a proof.")
        return request

    def load(self, state: State) -> None:
        self.unload(state.digest)
        taken(state.name, self.names)
        folder = self.base.weights(state).absolute()
        number, engine = next(self.numbers), self.llm.llm_engine
        try:
            if not folder.is_dir():
                raise OSError("there is no such folder")
            with self.served(folder) as place:
                request = import_module("vllm.lora.request").LoRARequest(f"{state.name}#{number}", number, str(place))
                accepted = engine.add_lora(request)
        except Exception as e:
            engine.remove_lora(number)  # of wrong shapes it keeps the number
            raise PublishError(f"{state.name}: vLLM does not load {folder} on this base: {e}") from e
        if not accepted:
            raise PublishError(f"{state.name}: vLLM has not taken the adapter in {folder}.")
        self.names[state.digest], self.requests[state.digest] = state.name, request

    def unload(self, digest: str) -> None:
        self.names.pop(digest, None)
        if (request := self.requests.pop(digest, None)) is not None:
            self.llm.llm_engine.remove_lora(request.lora_int_id)

    def same_tensors(self, state: State) -> None:
        from safetensors.torch import load_file

        folder, number = self.base.weights(state), self.requests[state.digest].lora_int_id
        scales = scalings(self.base, folder)
        same_modules(state.name, scales.keys(), adapter_modules(folder))
        with self.served(folder) as place:
            disk = load_file(place / ADAPTER_FILE)
        ((slot, memory),) = self.llm.apply_model(lambda model: _slot(model, number))
        if slot is None:
            raise PublishError(f"{state.name}: the adapter is in none of vLLM's slots; the base would answer.")
        if self.base.device == "cpu" and slot == KEPT + 1:
            raise PublishError(f"{state.name}: the adapter is in vLLM's last slot, which leaks into other rows.")
        if lost := sorted(scales.keys() - memory.keys()):
            raise PublishError(f"{state.name}: vLLM puts no adapter on {', '.join(lost[:3])}, which has tensors.")
        for module, (a, b) in memory.items():
            whole = f"base_model.model.{module}"
            key_a, key_b = f"{whole}.lora_A.weight", f"{whole}.lora_B.weight"
            if module in scales:
                on_disk = disk[key_a].to(a), (disk[key_b].to(b.dtype) * scales[module]).to(b)
            else:
                on_disk = a[:0], b[:, :0]
            if not (_padded(on_disk[0], a) and _padded(on_disk[1].T, b.T)):
                raise PublishError(f"{state.name}: {module} in memory is not what lies in {folder}.")


class MergedServer(VllmServer):
    """Implements `Server`; a state is a whole model, read by the running engine in the place of the one before."""

    kept = 1

    def __init__(self, spec: RoleSpec) -> None:
        super().__init__(spec)
        self.names[self.base.state.digest] = self.base.state.name

    def lora(self) -> dict[str, Any]:
        return {}

    def holds(self, state: State) -> bool:
        return state.digest in self.names

    def load(self, state: State) -> None:
        self.names.clear()  # whatever comes of it, what was there is there no more
        place = self.base.spec.root / "states" / f".{self._hello.incarnation}.merged"
        try:
            with self.served(merge(self.base, state, place) if state.weights else self.base.folder) as folder:
                self._read_in(folder)
        except PublishError:
            raise
        except Exception as e:
            raise PublishError(f"{state.name}: vLLM does not read the merged model: {e}") from e
        finally:
            shutil.rmtree(place, ignore_errors=True)
        self.names[state.digest] = state.name

    def _read_in(self, folder: Path) -> None:
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        self.llm.reset_prefix_cache()

    def unload(self, digest: str) -> None:
        self.names.pop(digest, None)

    def same_tensors(self, state: State) -> None:
        """Nothing of an adapter is in memory: it was merged from the file, module by module (`merge`)."""

    def _in_force(self, state: State) -> Any:
        if state.digest not in self.names:
            raise PublishError(f"{state.name} is not the model that vLLM holds.")
        return None


def started(base: Base, folder: Path, options: Mapping[str, Any]) -> Any:
    """A vLLM engine in this process, with the model in `folder`.

    Raises:
        ValueError: vLLM is not installed, or does not take this model or these options; says why.
    """
    os.environ.update(ENVIRONMENT)
    try:
        engine: Any = import_module("vllm").LLM
    except (ImportError, AttributeError) as e:
        raise ValueError(
            f"the {base.spec.role} has the engine vllm, and this Python has no vLLM that works ({e}). Install it "
            "(`tutorloop doctor`), or name a Python that has it: `python` of the role."
        ) from e
    on_cpu = base.device == "cpu"
    plain = {
        "max_num_seqs": SHARD,  # so that the batch is the shard
        "enable_prefix_caching": False,
        "enforce_eager": on_cpu,
        **({"kv_cache_memory_bytes": CACHE} if on_cpu else {"gpu_memory_utilization": 0.9 * min(1.0, base.spec.gpus)}),
    }
    try:
        return engine(
            model=str(folder),
            dtype=base.spec.dtype,
            seed=base.spec.seed,
            trust_remote_code=False,
            generation_config="vllm",  # its own defaults, not those of the model's makers
            load_format="safetensors",
            disable_log_stats=True,
            **{**plain, **options},
        )
    except Exception as e:
        raise ValueError(f"vLLM does not start with {base.folder}: {e}") from e


_alive = 0


def _keep(server: object, core: Any) -> None:
    """Let an engine end with its server, but for what it shares with others in this process, which the last one ends.

    Of itself vLLM tears down the groups of processes of all engines, once it is no longer referred to. And it freezes
    what there is for Python's collector, itself included: its memory would never come back.
    """
    global _alive
    gc.unfreeze()
    _alive += 1
    core._finalizer.detach()
    weakref.finalize(server, _ended, core)


def _ended(core: Any) -> None:
    global _alive
    _alive -= 1
    if not _alive:
        core.shutdown()


def linear_names(base: Base) -> list[str]:
    """Last names of the modules that an adapter may be on: every linear layer but the head."""
    from transformers.pytorch_utils import Conv1D

    net = skeleton(base)
    head = net.get_output_embeddings()
    layers = (torch.nn.Linear, Conv1D)
    return sorted(
        {name.rpartition(".")[2] for name, m in net.named_modules() if isinstance(m, layers) and m is not head}
    )


def skeleton(base: Base) -> Any:
    """The model as transformers builds it, without weights."""
    import transformers

    auto: Any = transformers
    config = auto.AutoConfig.from_pretrained(base.folder, trust_remote_code=False)
    with torch.device("meta"):
        return auto.AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def scalings(base: Base, folder: Path) -> dict[str, float]:
    """What PEFT multiplies an adapter's product by, by the name of each module that its config puts one on."""
    from peft import LoraConfig, inject_adapter_in_model

    config: Any = LoraConfig.from_pretrained(str(folder))
    net: Any = inject_adapter_in_model(config, skeleton(base), "it", low_cpu_mem_usage=True)
    return {name: float(net.get_submodule(name).scaling["it"]) for name in adapted(net, "it")}


def merge(base: Base, state: State, folder: Path) -> Path:
    """Write the model of a state, adapter and base in one.

    Raises:
        PublishError: the adapter's file and its config do not fit each other.
    """
    from peft import PeftModel

    source = base.weights(state)
    try:
        net = PeftModel.from_pretrained(base.load(), source, adapter_name="it")
    except (ValueError, RuntimeError, KeyError, OSError) as e:
        raise PublishError(f"{state.name}: PEFT does not load {source} on this base: {e}") from e
    same_modules(state.name, adapted(net.get_base_model(), "it"), adapter_modules(source))
    net.merge_and_unload().save_pretrained(folder, safe_serialization=True)
    return folder


def _slot(model: Any, number: int) -> tuple[int | None, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """In which slot of vLLM's buffers an adapter lies, and its two matrices there by PEFT's name of each module."""
    manager = model.lora_manager
    if number not in manager.lora_index_to_id:
        return None, {}
    slot, found = manager.lora_index_to_id.index(number), {}
    for name, layer in manager.modules.items():
        parts = manager.packed_modules.get(name, [name])
        for part, a, b in zip(parts, layer.lora_a_stacked, layer.lora_b_stacked, strict=False):
            found[part] = a[slot, 0], b[slot, 0]
    return slot, found


def _padded(tensor: torch.Tensor, whole: torch.Tensor) -> bool:
    """Whether a buffer holds these rows, and nothing below them."""
    n = len(tensor)
    return n <= len(whole) and torch.equal(whole[:n], tensor) and not whole[n:].any()
