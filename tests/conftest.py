"""Nothing in a test reaches the network. A tiny random Llama with a tokenizer of characters stands for any student."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is first imported, here and in the actors

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tutorloop.agents.roles import Canary, Job, RoleSpec, Trained
from tutorloop.evals.records import user
from tutorloop.evals.rows import Rows, write_rows
from tutorloop.policies.records import Example
from tutorloop.tests.provider import Provider, running

LETTERS = "0123456789+-*=/ \nabcdefghijklmnopqrstuvwxyz?"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<a>{{ m.content }}<e>"
    "{% else %}<u>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)


ENGINES = ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)]
"""Those that hold a model."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_spec("vllm") is None:
        for item in items:
            if item.get_closest_marker("vllm"):
                item.add_marker(pytest.mark.skip("vLLM is not installed here; `make test-vllm` sets it up"))


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """A test that asks for it is run with each engine."""
    return str(request.param)


@pytest.fixture(scope="module")
def no_power_cuts() -> Iterator[None]:
    """Nobody pulls the plug: what is written survives the end of a process, and need not wait for the disk."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    """One that answers on this machine, and counts."""
    with running() as found:
        yield found


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Path]:
    """`make_model(folder)`: write a random Llama of 25,000 parameters and its tokenizer."""

    def make(folder: Path, template: str = TEMPLATE, seed: int = 0, letters: str = LETTERS) -> Path:
        import torch
        from tokenizers import Regex, Tokenizer
        from tokenizers.decoders import Fuse
        from tokenizers.models import WordLevel
        from tokenizers.pre_tokenizers import Split
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        words = {word: i for i, word in enumerate(["<pad>", "<e>", "<u>", "<a>", *letters])}
        raw: Any = Tokenizer(WordLevel(words, unk_token="?"))
        raw.pre_tokenizer = Split(Regex("<pad>|<e>|<u>|<a>|[\\s\\S]"), "isolated")
        raw.decoder = Fuse()
        tokenizer: Any = PreTrainedTokenizerFast(
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

    return make


@pytest.fixture(scope="session")
def tiny(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder."""
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def spec(tiny: Path, tmp_path: Path) -> Callable[..., RoleSpec]:
    """`spec("student", ...)`: a role of a run in `tmp_path` with the tiny model."""

    def make(role: Any, **changes: Any) -> RoleSpec:
        plain = RoleSpec(
            role=role, engine="transformers", root=tmp_path, model=str(tiny), max_tokens=16, deadline=120.0
        )
        return replace(plain, **changes)

    return make


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where Ray's folders of this test are: a path short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


KILLED = """
import os
from tutorloop.agents.leftovers import Claim
claim = Claim()
claim.room.mkdir()
print(claim.folder, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def dead(place: Path) -> Path:
    """The folder of a process that claimed it for its Ray, and was killed."""
    done = subprocess.run([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
    assert done.returncode == -9
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def lessons() -> Callable[..., list[Example]]:
    """`lessons(n)`: sums with a right answer and a wrong one."""

    def make(n: int = 24, **changes: Any) -> list[Example]:
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

    return make


@pytest.fixture(scope="session")
def rows() -> Callable[[Path, Sequence[Example]], Rows[Example]]:
    """`rows(root, examples)`: the same on disk."""

    def write(root: Path, records: Sequence[Example]) -> Rows[Example]:
        return write_rows(root, f"examples-{len(list(root.iterdir()))}", Example, records)

    return write


@pytest.fixture(scope="session")
def canaries(lessons: Callable[..., list[Example]]) -> tuple[Canary, ...]:
    return tuple(Canary(messages=e.prompt, completion=e.completion) for e in lessons(4))


@pytest.fixture(scope="session")
def taught(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory, lessons: Callable[..., Any], rows: Callable[..., Any]
) -> tuple[Path, tuple[Trained, Trained], tuple[Job, Job]]:
    """The folder of a run whose learner has trained two rounds, what came out, and the jobs."""
    from tutorloop.agents.trl_learner import TrlLearner

    root = tmp_path_factory.mktemp("taught")
    learner = TrlLearner(RoleSpec(role="learner", engine="transformers", root=root, model=str(tiny)))
    base = learner.hello().base
    one = Job(loss="sft", start=base, reference=None, examples=rows(root, lessons()), name="student-r0001-sft")
    first = learner.train(one)
    two = replace(one, start=first.state, name="student-r0002-sft", rate=3.0)
    return root, (first, learner.train(two)), (one, two)
