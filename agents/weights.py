"""What a version of a model *is*: a digest over tensors and the config that matters, never over files.

Two processes that train the same adapter write the same tensors, but not the same `adapter_config.json`: the order of
`target_modules` follows the hash seed, and the base's path is in it. So a digest is taken over the base's digest, the
canonical config, and by name each tensor's name, dtype, shape and bytes. Nothing here loads torch: a safetensors file
is a length, a JSON header, and bytes.

Not covered: weights in another format. A pickled checkpoint runs code when it is opened, and is never opened.
"""

import hashlib
import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"

ADAPTER_FIELDS = (
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "fan_in_fan_out",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_bias",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "target_parameters",
    "use_dora",
    "use_rslora",
)
"""Of PEFT's config, what changes the function that the tensors compute. Dropout, paths and versions do not."""

_MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
_VOLATILE = {"_name_or_path", "name_or_path", "transformers_version", "_commit_hash", "torch_dtype", "dtype"}


def adapter_digest(folder: Path, base_digest: str) -> str:
    """The digest of an adapter on a base: 64 hex digits.

    Raises:
        ValueError: the folder does not hold a readable adapter; says which file.
    """
    total = hashlib.sha256(f"adapter\0{base_digest}\0".encode())
    total.update(_canonical(adapter_config(folder)))
    _add_tensors(total, [folder / ADAPTER_FILE])
    return total.hexdigest()


def adapter_config(folder: Path) -> dict[str, Any]:
    """The fields of an adapter's config that matter; those that are empty are left out.

    Lists of module names are sorted: PEFT keeps them as sets.
    """
    path = folder / ADAPTER_CONFIG
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ValueError(f"{path} is not a readable adapter config ({e}). Was the folder written whole?") from e
    config = {name: stored[name] for name in ADAPTER_FIELDS if stored.get(name) not in (None, False, [], {}, "none")}
    return {k: sorted(v, key=str) if isinstance(v, list) else v for k, v in config.items()}


def adapter_modules(folder: Path) -> set[str]:
    """Names of the base's modules that the adapter has tensors for.

    `base_model.model.model.layers.0.mlp.up_proj.lora_A.weight` is of `model.layers.0.mlp.up_proj`.
    """
    names = [name for name, *_ in tensors(folder / ADAPTER_FILE)]
    return {n.removeprefix("base_model.model.").partition(".lora_")[0] for n in names}


def model_digest(folder: Path) -> str:
    """The digest of a base model with its tokenizer and chat template: another template is another student."""
    files = model_weights(folder)
    total = hashlib.sha256(b"model\0")
    for name in _MODEL_FILES:
        path = folder / name
        if path.exists():
            content = path.read_bytes()
            if name.endswith("config.json"):
                settings = json.loads(content)
                content = _canonical({k: v for k, v in settings.items() if k not in _VOLATILE})
            total.update(f"{name}\0{len(content)}\0".encode() + content)
    _add_tensors(total, files)
    return total.hexdigest()


def model_weights(folder: Path) -> list[Path]:
    """The files of a base model's tensors.

    Raises:
        ValueError: there are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(
            f"{folder} holds no `*.safetensors`. Only safetensors are loaded (a pickle runs code when it is opened): "
            "convert the weights, e.g. with `model.save_pretrained(folder)`."
        )
    return files


def tensors(path: Path) -> Iterator[tuple[str, str, tuple[int, ...], memoryview]]:
    """Name, dtype, shape and bytes of each tensor of a safetensors file, by name. The bytes live until the next one.

    Raises:
        ValueError: the file is missing, cut off, or no safetensors.
    """
    try:
        with path.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
            start = 8 + int.from_bytes(content[:8], "little")
            header = json.loads(content[8:start])
            header.pop("__metadata__", None)
            if any(start + entry["data_offsets"][1] > len(content) for entry in header.values()):
                raise ValueError("it is cut off")
            with memoryview(content) as view:
                for name in sorted(header):
                    begin, end = header[name]["data_offsets"]
                    with view[start + begin : start + end] as data:
                        yield name, header[name]["dtype"], tuple(header[name]["shape"]), data
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"{path} is not a whole safetensors file: {e}") from e


def _add_tensors(total: Any, files: list[Path]) -> None:
    """By file, then by name. (Which shard a tensor lies in is part of the digest.)"""
    for path in files:
        for name, dtype, shape, data in tensors(path):
            total.update(f"{name}\0{dtype}\0{shape}\0{len(data)}\0".encode())
            total.update(data)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
