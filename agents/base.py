"""The base model of a role: where it lies, how its chat template writes, what it thinks of a text.

Shared by the server that answers and the learner that trains, so that both write prompts with the same template and
read log-probabilities the same way. Each process still loads its own copy: two readings agree because the weights do.

Not covered: models with images or sound; tokenizers without a fast implementation are as slow as they are.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import transformers

from ..evals.records import Messages, State
from .models import NO_TEMPLATE, model_folder
from .roles import Canary, Readings, RoleSpec
from .weights import model_digest

Spans = Sequence[tuple[int, int, float]]
"""Characters (start, end) of a text, and their weight."""

_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


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
        tokenizer = _auto("Tokenizer").from_pretrained(self.folder, trust_remote_code=False)
        if (self.folder / "generation_config.json").exists():
            stops = transformers.GenerationConfig.from_pretrained(self.folder).eos_token_id
        else:
            stops = _auto("Config").from_pretrained(self.folder, trust_remote_code=False).eos_token_id
        self.chat = Chat(tokenizer, stops if isinstance(stops, list) else [stops])
        member = "teacher" if spec.role == "teacher" else "student"
        self.state = State(member=member, name=f"{member}-base", digest=model_digest(self.folder))

    def load(self) -> Any:
        """A fresh model object, in eval mode."""
        model = _auto("ModelForCausalLM").from_pretrained(
            self.folder, dtype=self.dtype, use_safetensors=True, trust_remote_code=False
        )
        return model.to(self.device).eval()

    def weights(self, state: State) -> Path:
        """The adapter folder of a state."""
        return self.spec.root / state.weights


class Chat:
    """A tokenizer with its chat template: conversations as token ids."""

    def __init__(self, tokenizer: Any, stops: Iterable[int | None] = ()) -> None:
        if not tokenizer.chat_template:
            raise ValueError(NO_TEMPLATE.format(model=tokenizer.name_or_path))
        self.tokenizer = tokenizer
        self.stops = {i for i in (*stops, tokenizer.eos_token_id) if i is not None}
        if not self.stops:
            raise ValueError(f"{tokenizer.name_or_path} names no stop token; set `eos_token` in its tokenizer config.")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(min(self.stops))

    @property
    def pad(self) -> int:
        return int(self.tokenizer.pad_token_id)

    def prompt(self, messages: Messages, prefix: str = "") -> list[int]:
        """Ids up to where the model begins to answer, or goes on after `prefix`."""
        return self._encode(self._written(messages) + prefix)

    def pair(self, messages: Messages, reply: str) -> tuple[list[int], list[int]]:
        """Ids of the prompt, and of the reply with the stop token that ends it.

        Raises:
            ValueError: the template writes the reply so that it cannot be learnt; says how.
        """
        before, whole = self._written(messages), self._written(messages, reply)
        if not whole.startswith(before):
            raise ValueError(
                f"the chat template writes the conversation differently once it is answered: {before[-60:]!r} is not "
                f"the beginning of {whole[: len(before)][-60:]!r}. A model trained on the one would be asked in the "
                "other. Use a template that only appends."
            )
        prompt, both = self._encode(before), self._encode(whole)
        # Asked, the model sees the prompt encoded by itself; where a token would straddle the border, so must we.
        rest = both[len(prompt) :] if both[: len(prompt)] == prompt else self._encode(whole[len(before) :])
        end = next((i for i, token in enumerate(rest) if token in self.stops), None)
        if end is None:
            stops = ", ".join(repr(self.tokenizer.convert_ids_to_tokens(i)) for i in sorted(self.stops))
            raise ValueError(
                f"the chat template writes no stop token ({stops}) after a reply: {whole[len(before) :][-60:]!r}. "
                "A student trained on it would never learn to stop. End the assistant's turn in the template with it."
            )
        return prompt, rest[: end + 1]

    def weigh(self, messages: Messages, reply: str, spans: Spans) -> list[float]:
        """A weight for each token of `pair`'s reply: that of the last span that it touches, else 1.

        Raises:
            ValueError: a span lies outside the reply, or the template does not write the reply as it is.
        """
        _, ids = self.pair(messages, reply)
        if not spans:
            return [1.0] * len(ids)
        text, at = self._written(messages, reply), len(self._written(messages))
        begins = text.find(reply, at)
        wrong = [span for span in spans if not 0 <= span[0] < span[1] <= len(reply)]
        if wrong or begins < 0:
            what = f"the span {wrong[0]} is not inside it" if wrong else "the chat template changes it"
            raise ValueError(f"`spans` cannot be honoured in the reply {reply[:60]!r}: {what}.")
        # Encoded from the border on: a token that straddles it belongs to no span.
        offsets = self.tokenizer(text[at:], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        weights = [1.0] * len(ids)
        for start, end, weight in spans:
            for i, (a, b) in enumerate(offsets[: len(ids)]):
                if a < end + begins - at and b > start + begins - at:
                    weights[i] = weight
        return weights

    def text(self, ids: Sequence[int]) -> str:
        decoded: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return decoded

    def _written(self, messages: Messages, reply: str | None = None) -> str:
        turns = [{"role": t.role, "content": t.content} for t in messages]
        if reply is not None:
            turns.append({"role": "assistant", "content": reply})
        text: str = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=reply is None)
        return text

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]  # the template wrote them
        return ids


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


def find_model(model: str, revision: str = "") -> Path:
    """The folder of a model: a path, a repository of the Hugging Face hub, or empty for the shipped student.

    Raises:
        ValueError: there is no such model, or it is not safetensors.
    """
    if (folder := model_folder(model)) is not None:
        return folder
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, revision=revision or None, allow_patterns=_FILES))


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
