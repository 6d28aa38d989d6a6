"""The base model of a role: where it lies, and what it thinks of a text.

Shared by the server that answers and the learner that trains, so that both write prompts the same way (`chat.py`) and
read log-probabilities the same way. Each process still loads its own copy: two readings agree because the weights do.

Not covered: models with images or sound; tokenizers without a fast implementation are as slow as they are.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from ..evals.records import State
from .chat import Chat
from .models import find_model
from .roles import Canary, Readings, RoleSpec
from .weights import model_digest

log = logging.getLogger(__name__)


class Base:
    """A base model on disk, verified and ready to be loaded."""

    def __init__(self, spec: RoleSpec) -> None:
        settle(spec)
        self.spec = spec
        self.folder = find_model(spec.model, spec.revision)
        self.device = "cuda" if spec.gpus else "cpu"
        self.dtype = getattr(torch, spec.dtype, None)
        if not isinstance(self.dtype, torch.dtype):
            raise ValueError(f"`dtype` is {spec.dtype!r}; it is one of float32, bfloat16, float16.")
        self.tokenizer = _auto("Tokenizer").from_pretrained(self.folder, trust_remote_code=False)
        """As transformers has it, for its own trainers."""
        self.chat = Chat.of(self.folder)
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.chat.tokenizer.id_to_token(self.chat.pad)
        self._alike()
        member = "teacher" if spec.role == "teacher" else "student"
        self.state = State(member=member, name=f"{member}-base", digest=model_digest(self.folder))

    def load(self) -> Any:
        """A fresh model object, in eval mode."""
        model = _auto("ModelForCausalLM").from_pretrained(
            self.folder, dtype=self.dtype, use_safetensors=True, trust_remote_code=False
        )
        return model.to(self.device).eval()

    def _alike(self) -> None:
        """Warn if transformers has a tokenizer of its own for this kind of model that departs from the files."""
        text = f"12 + 7 =\n{''.join(self.tokenizer.all_special_tokens)} x"
        theirs = self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.special_tokens_map
        if theirs != (self.chat.encode(text), self.chat.special):
            log.warning(
                "transformers has a tokenizer for %s that departs from its `tokenizer.json` and "
                "`tokenizer_config.json`. We go by these, in training and in use.",
                self.folder,
            )

    def weights(self, state: State) -> Path:
        """The adapter folder of a state."""
        return self.spec.root / state.weights


def settle(spec: RoleSpec) -> None:
    """Make this process as repeatable as its device allows."""
    if spec.gpus and not torch.cuda.is_available():
        raise ValueError(f"the {spec.role} asks for {spec.gpus:g} GPU and this process sees none. Set `gpus` to 0.")
    torch.set_num_threads(spec.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic: Any = torch.utils.deterministic
    deterministic.fill_uninitialized_memory = False  # a debugging aid that costs a tenth of a training
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def read(model: Any, chat: Chat, canaries: Sequence[Canary]) -> Readings:
    """Log-probability of each completion token, the stop token included. One canary at a time: no padding."""
    pairs = (chat.pair(c.messages, c.completion) for c in canaries)
    return tuple(logprobs(model, prompt, reply) for prompt, reply in pairs)


@torch.no_grad()
def logprobs(model: Any, prompt: list[int], reply: list[int]) -> tuple[float, ...]:
    ids = torch.tensor([prompt + reply], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    chosen = logits.float().log_softmax(-1).gather(1, ids[0, len(prompt) :, None])
    return tuple(chosen[:, 0].tolist())


@torch.no_grad()
def totals(model: Any, pad: int, pairs: Sequence[tuple[list[int], list[int]]], batch: int) -> list[float]:
    """Log-probability of each reply as a whole, so many in a batch; padding moves it by rounding."""
    found: list[float] = []
    for some in (pairs[i : i + batch] for i in range(0, len(pairs), batch)):
        width = max(len(prompt) + len(reply) for prompt, reply in some)
        rows = [prompt + reply + [pad] * (width - len(prompt) - len(reply)) for prompt, reply in some]
        ids = torch.tensor(rows, device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]  # no token sees the padding behind it
        chosen = logits.float().log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        for row, (prompt, reply) in zip(chosen, some, strict=True):
            found.append(float(row[len(prompt) - 1 : len(prompt) + len(reply) - 1].sum()))
    return found


def _auto(kind: str) -> Any:
    """One of the `Auto` classes, untyped: their stubs are other classes'."""
    return getattr(transformers, f"Auto{kind}")
