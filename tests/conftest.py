"""Nothing in a test reaches the network. A tiny random Llama with a tokenizer of characters stands for any student."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is first imported, here and in the actors
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tutorloop.agents.roles import RoleSpec
from tutorloop.evals.records import user
from tutorloop.evals.rows import Rows, record_name, write_part
from tutorloop.policies.records import Example

LETTERS = "0123456789+-*=/ \nabcdefghijklmnopqrstuvwxyz?"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<a>{{ m.content }}<e>"
    "{% else %}<u>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)


def make_model(folder: Path, *, template: str = TEMPLATE, seed: int = 0) -> Path:
    """Write a random Llama of 20,000 parameters and its tokenizer."""
    import torch
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<pad>", "<e>", "<u>", "<a>"]
    words = {word: i for i, word in enumerate([*special, *LETTERS])}
    raw = Tokenizer(WordLevel(words, unk_token="?"))
    raw.pre_tokenizer = Split(Regex("<pad>|<e>|<u>|<a>|[\\s\\S]"), "isolated")
    raw.decoder = Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<e>", unk_token="?", extra_special_tokens=["<u>", "<a>"]
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.2,  # far from uniform, so that a greedy answer is not a tie
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder."""
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def spec(tiny: Path, tmp_path: Path) -> Callable[..., RoleSpec]:
    """`spec("student", ...)`: a role of a run in `tmp_path` with the tiny model."""

    def make(role: Any, **changes: Any) -> RoleSpec:
        known = {"engine": "transformers", "root": tmp_path, "model": str(tiny), "max_tokens": 16, "deadline": 120.0}
        return RoleSpec(role=role, **{**known, **changes})

    return make


def examples(n: int = 24, **changes: Any) -> list[Example]:
    """Sums with a right answer and a wrong one."""
    return [
        Example(
            id=f"e{i}",
            prompt=user(f"{i}+{i + 3}"),
            completion=f"{i} and {i + 3}\n={2 * i + 3}",
            rejected=f"={2 * i + 4}",
            **changes,
        )
        for i in range(n)
    ]


def rows(root: Path, records: Sequence[Example], name: str = "examples") -> Rows[Example]:
    part = write_part(root, f"{name}.parquet", records, Example)
    return Rows(of=record_name(Example), parts=(part,), root=root)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
