"""The digest is of what a model computes, not of the files that hold it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tutorloop.agents.weights import ADAPTER_CONFIG, ADAPTER_FILE, adapter_digest, adapter_modules, model_digest

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, fill: float = 1.0, layer: str = LAYER, **config: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        tensors = {
            f"{layer}.lora_A.weight": np.full((2, 4), fill, np.float32),
            f"{layer}.lora_B.weight": np.zeros((4, 2), np.float32),
        }
        save_file(tensors, folder / ADAPTER_FILE)
        plain = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "/a"}
        (folder / ADAPTER_CONFIG).write_text(json.dumps({**plain, **config}))
        return folder

    return write


def test_order_of_modules_paths_and_versions_do_not_count(adapter: Callable[..., Path]) -> None:
    first = adapter("first")
    other = adapter("other", target_modules=["v_proj", "q_proj"], base_model_name_or_path="/b", peft_version="9")
    assert adapter_digest(first, "base") == adapter_digest(other, "base")


@pytest.mark.parametrize(
    "change",
    [{"fill": 1.0000001}, {"layer": LAYER.replace("q_proj", "v_proj")}, {"lora_alpha": 8}, {"use_rslora": True}],
)
def test_a_bit_a_name_or_a_setting_that_counts_makes_another_digest(
    adapter: Callable[..., Path], change: dict[str, Any]
) -> None:
    assert adapter_digest(adapter("plain"), "base") != adapter_digest(adapter("changed", **change), "base")


def test_the_same_adapter_on_another_base_is_another_state(adapter: Callable[..., Path]) -> None:
    folder = adapter("plain")
    assert adapter_digest(folder, "base") != adapter_digest(folder, "other base")


def test_a_file_that_was_cut_off_is_named(adapter: Callable[..., Path]) -> None:
    folder = adapter("plain")
    path = folder / ADAPTER_FILE
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is not a whole safetensors file: it is cut off"):
        adapter_digest(folder, "base")


def test_modules_are_named_as_the_base_names_them(adapter: Callable[..., Path]) -> None:
    assert adapter_modules(adapter("plain")) == {"model.layers.0.self_attn.q_proj"}


def test_another_chat_template_is_another_student(tiny: Path, tmp_path: Path) -> None:
    copy = copytree(tiny, tmp_path / "copy")
    assert model_digest(copy) == model_digest(tiny)
    (copy / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert model_digest(copy) != model_digest(tiny)


def test_a_pickled_checkpoint_is_never_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="Only safetensors are loaded"):
        model_digest(tmp_path)


def test_what_the_driver_imports_loads_no_torch() -> None:
    """Torch and transformers would cost the driver four seconds and a gigabyte."""
    code = "import sys, tutorloop.agents.placement, tutorloop.agents.hosts, tutorloop.agents.weights; "
    code += "sys.exit(' '.join({'torch', 'transformers', 'peft', 'trl'} & sys.modules.keys()) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
