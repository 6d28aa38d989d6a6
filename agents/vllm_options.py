"""What `options` of a role with the engine `vllm` may say: how it decodes, and fields of vLLM's `EngineArgs`.

    student:
      engine: vllm
      options: { temperature: 0.7, max_model_len: 2048, kv_cache_memory_bytes: 1073741824 }

Both under their libraries' own names. What is refused is refused with a reason, when the experiment is read: neither
vLLM nor torch is imported here, as the driver need not have it.

Not covered: several devices for one replica, quantization, speculative decoding, images and sound.
"""

from collections.abc import Mapping

from ..policies.records import Json
from .declared import generation_fields
from .decoding import decoder, said
from .settings import LORA, known

DECODED = (
    *("max_new_tokens", "min_new_tokens", "do_sample", "temperature", "top_k", "top_p", "min_p"),
    "repetition_penalty",
)
"""Of our decoding's fields, those that vLLM has too."""

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for `max_lora_rank`."""

Kinds = tuple[type, ...]

ENGINE: Mapping[str, Kinds] = {
    "attention_config": (dict,),
    "block_size": (int,),
    "compilation_config": (int, dict),
    "cpu_offload_gb": (int, float),
    "cudagraph_capture_sizes": (list,),
    "enable_chunked_prefill": (bool,),
    "enable_prefix_caching": (bool,),
    "enforce_eager": (bool,),
    "gpu_memory_utilization": (int, float),
    "kv_cache_dtype": (str,),
    "kv_cache_memory_bytes": (int,),
    "long_prefill_token_threshold": (int,),
    "max_cudagraph_capture_size": (int,),
    "max_lora_rank": (int,),
    "max_model_len": (int,),
    "max_num_batched_tokens": (int,),
    "max_num_seqs": (int,),
    "max_num_scheduled_tokens": (int,),
    "num_gpu_blocks_override": (int,),
    "safetensors_load_strategy": (str,),
    "scheduling_policy": (str,),
    "watermark": (int, float),
}
"""Fields of `EngineArgs` that say how the engine works, and not what it answers with."""

_ROLE = "the role says it"
_OURS = "it is decided here"
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("model", "model_weights", "revision", "dtype", "tokenizer"), f"{_ROLE}: `model`, `dtype`"),
    "seed": "the experiment's `seed` says it",
    "trust_remote_code": "code that comes with a model is never run",
    "tensor_parallel_size": "a replica has one device; `replicas` says how many there are",
    "pipeline_parallel_size": "a replica has one device; `replicas` says how many there are",
    "data_parallel_size": "`replicas` says how many there are",
    "quantization": "the learner trains on the weights as they are, and the handshake compares the two",
    "enable_lora": f"{_OURS}: the student's updates are adapters, unless `publish` is merged",
    "max_loras": f"{_OURS}: as many as stay loaded, and a spare one that hides a fault of vLLM's on a CPU",
    "max_cpu_loras": f"{_OURS}: as many as `max_loras`, or an adapter would be loaded anew without a proof",
    "lora_target_modules": f"{_OURS}: every linear layer but the head, which breaks prompt log-probabilities",
    "lora_dtype": f"{_OURS}: that of the model",
    "generation_config": "of a model's own generation config only the stop tokens are used",
    "skip_tokenizer_init": "records that must fit a schema need the tokenizer",
    "logprobs_mode": "the log-probabilities are those of the model, before any setting bends them",
    "speculative_config": "it is not tried",
    "load_format": "only safetensors are loaded",
    "enable_sleep_mode": "nobody would wake it",
    "worker_cls": "no foreign code is run",
    "worker_extension_cls": "no foreign code is run",
    "scheduler_cls": "no foreign code is run",
    "hf_token": "a secret is not for an experiment; the environment holds it",
}
"""Fields that somebody might set, and why not. What stands in neither table is refused too."""


def split(told: Mapping[str, Json]) -> tuple[dict[str, Json], dict[str, Json]]:
    """How to decode, and fields of `EngineArgs`.

    >>> split({"temperature": 1.0, "max_model_len": 512})
    ({'temperature': 1.0}, {'max_model_len': 512})

    Raises:
        ValueError: an option that is unknown (names the nearest), may not be set (says why), or has a wrong value.
    """
    decoding = said(told)
    engine = {name: value for name, value in told.items() if name not in decoding}
    for name, value in engine.items():
        if why := REFUSED.get(name):
            raise ValueError(f"`{name}` cannot be set: {why}.")
        if name in generation_fields():
            decoder({name: value})  # says why not
        known([name], [*ENGINE, *DECODED], "option of the engine vllm")
        kinds = ENGINE[name]
        if not isinstance(value, kinds) or isinstance(value, bool) != (bool in kinds):
            raise ValueError(f"`{name}` is {value!r}; it takes {' or '.join(k.__name__ for k in kinds)}.")
    only_theirs(decoding)
    decoder(decoding)
    if (rank := engine.get("max_lora_rank")) is not None and rank not in RANKS:
        raise ValueError(f"`max_lora_rank` is {rank!r}; vLLM takes one of {', '.join(map(str, RANKS))}.")
    return decoding, engine


def only_theirs(decoding: Mapping[str, object]) -> None:
    """
    Raises:
        ValueError: vLLM does not decode by one of these.
    """
    for name in decoding:
        if name not in DECODED:
            raise ValueError(
                f"`{name}` cannot be set: vLLM does not have it. What may be set is {', '.join(DECODED)}; the engine "
                "transformers has it."
            )


def rank_of(lora: Mapping[str, Json]) -> int:
    """The largest rank of an adapter with these fields of `LoraConfig`."""
    pattern = lora.get("rank_pattern") or {}
    ranks = [lora.get("r", LORA["r"]), *(pattern.values() if isinstance(pattern, dict) else ())]
    return max(int(str(rank)) for rank in ranks)


def room_for(rank: int) -> int:
    """The smallest `max_lora_rank` for adapters of this rank.

    >>> room_for(32), room_for(5)
    (32, 8)

    Raises:
        ValueError: vLLM has none.
    """
    for allowed in RANKS:
        if rank <= allowed:
            return allowed
    raise ValueError(
        f"an adapter of rank {rank} cannot be served by vLLM, whose largest is {RANKS[-1]}. Set a lower `lora.r` "
        "(and `lora.rank_pattern`), or `student.publish: merged`."
    )


def servable(lora: Mapping[str, Json], engine: Mapping[str, Json]) -> None:
    """Whether vLLM serves adapters with these fields of `LoraConfig`, beyond what every engine must (`settings.py`).

    Raises:
        ValueError: it does not; says why.
    """
    rank = rank_of(lora)
    limit = engine.get("max_lora_rank", room_for(rank))
    if isinstance(limit, int) and rank > limit:
        raise ValueError(f"an adapter of rank {rank} does not fit into `max_lora_rank` {limit} of `student.options`.")
    targets = lora.get("target_modules")
    named = targets if isinstance(targets, list) else [targets]
    wrong = [name for name in named if isinstance(name, str) and any(part in name for part in ("embed", "wte"))]
    if wrong:
        raise ValueError(
            f"`target_modules` names {wrong[0]!r}: adapters on embeddings are not served by vLLM here. Leave it out, "
            "or set `student.publish: merged`."
        )
