"""Toy models on vLLM's CPU kernels: heads that are too narrow for them are served in wider ones, filled up with zeros.

vLLM's attention on a CPU has heads of 32 numbers and more; the student that ships has 16. A head of width d fits into
one of width D without a change of what it computes: what is added to queries, keys and values is zero, the queries are
multiplied by sqrt(D / d) as attention divides by the root of the width, and number i of a rotated half goes where the
wider head turns by the same angle. Base and adapters are rewritten alike, into files of the engine's own; the handshake
then compares the outcome with the learner, who knows nothing of it.

    d = 4, D = 8:    0 1 | 2 3    ->    0 . 1 . | 2 . 3 .

Not covered: anything but Llama's attention with plain rotary positions; a real model's heads are wide enough.
"""

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .chat import stored
from .weights import ADAPTER_FILE, model_weights

if TYPE_CHECKING:
    import torch

WIDTHS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Of heads, in vLLM 0.32's attention on a CPU."""


@dataclass(frozen=True)
class Heads:
    """Of `narrow` numbers each, to be served in heads of `wide`."""

    narrow: int
    wide: int

    def model(self, folder: Path, target: Path) -> Path:
        """Write the model that answers like that in `folder`."""
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
        for file in model_weights(folder):
            self._rewrite(file, target / file.name)
        told = stored(target / "config.json")
        (target / "config.json").write_text(json.dumps({**told, "head_dim": self.wide}))
        return target

    def adapter(self, folder: Path, target: Path) -> Path:
        """Write the adapter that does to the wider model what that in `folder` does to the other."""
        shutil.copytree(folder, target)
        self._rewrite(folder / ADAPTER_FILE, target / ADAPTER_FILE)
        return target

    def _rewrite(self, file: Path, target: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = {name: self._widened(name, tensor).contiguous() for name, tensor in load_file(file).items()}
        save_file(tensors, target, metadata={"format": "pt"})

    def _widened(self, name: str, tensor: "torch.Tensor") -> "torch.Tensor":
        if ".o_proj." in name:  # its input is what the heads say: the last matrix, or an adapter's first
            return tensor if "lora_B" in name else self._rows(tensor.T).T
        if not any(f".{part}_proj." in name for part in "qkv") or "lora_A" in name:
            return tensor
        rows = self._rows(tensor)
        return rows * math.sqrt(self.wide / self.narrow) if ".q_proj." in name else rows

    def _rows(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """Rows of narrow heads as rows of wide ones."""
        half, step = self.narrow // 2, self.wide // self.narrow
        places = [i % half * step + i // half * (self.wide // 2) for i in range(self.narrow)]
        narrow = tensor.reshape(-1, self.narrow, *tensor.shape[1:])
        wide = narrow.new_zeros(len(narrow), self.wide, *tensor.shape[1:])
        wide[:, places] = narrow
        return wide.reshape(-1, *tensor.shape[1:])


def heads_of(folder: Path) -> Heads | None:
    """How a model's heads are to be served on a CPU; `None`: as they are.

    Raises:
        ValueError: vLLM has no attention for them, and they cannot be widened.
    """
    told: dict[str, Any] = stored(folder / "config.json")
    told = told.get("text_config") or told
    heads, width = told.get("num_attention_heads"), told.get("head_dim")
    if not isinstance(heads, int) or not (width := width or told["hidden_size"] // heads) or width in WIDTHS:
        return None
    rope = told.get("rope_parameters") or {}
    wide = next((w for w in WIDTHS if w % width == 0), 0)
    plain = told.get("model_type") == "llama" and rope.get("rope_type", "default") == "default"
    if width % 2 or not wide or not plain:
        raise ValueError(
            f"the attention heads of {folder} have {width} numbers, and vLLM's attention on a CPU has "
            f"{', '.join(map(str, WIDTHS))}. Use the engine transformers, or a GPU."
        )
    return Heads(width, wide)
