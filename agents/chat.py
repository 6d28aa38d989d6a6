"""How a conversation is written for a model: its chat template and its tokenizer, with neither torch nor transformers.

    render(example, chat)    a training example as token ids, with what is trained and what is not

The server asks by it, the learner trains by it, and what is shown to a person is rendered by it: so what is shown is
what is trained. It writes as transformers does, whose own class for a model takes seconds to load; a model without a
`tokenizer.json` borrows its tokenizer from there.

Not covered: images and sound; tokenizers without a fast implementation; a tokenizer class of transformers that departs
from the model's own `tokenizer.json` (`agents/base.py` warns of it).
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..evals.records import Messages
from ..policies.records import Example

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Spans = Sequence[tuple[int, int, float]]
"""Characters (start, end) of a text, and their weight."""

NO_TEMPLATE = (
    "the tokenizer of {model} has no chat template, so nobody knows how a question is written for this model. Use an "
    "instruction-tuned model, or put a `chat_template.jinja` beside it."
)


class Chat:
    """A tokenizer with its chat template: conversations as token ids.

    Args:
        template: Source of the chat template, in Jinja.
        special: The special tokens by the names that templates know: `eos_token`, `pad_token` ...
        stops: Ids of tokens that end a reply, beside the `eos_token`.
        name: Of the model, for messages.
    """

    def __init__(
        self,
        tokenizer: "Tokenizer",
        template: str,
        special: Mapping[str, str],
        stops: Iterable[int | None] = (),
        name: str = "this model",
    ) -> None:
        if not template:
            raise ValueError(NO_TEMPLATE.format(model=name))
        self.tokenizer, self.special = tokenizer, special
        self._written = writer(template, special)
        self.stops = {i for i in (*stops, self._id("eos_token")) if i is not None}
        if not self.stops:
            raise ValueError(f"{name} names no stop token; set `eos_token` in its tokenizer config.")
        pads = (self._id("pad_token"), self._id("eos_token"), min(self.stops))
        self.pad = next(i for i in pads if i is not None)

    @classmethod
    def of(cls, folder: Path) -> Self:
        """That of a model's folder.

        Raises:
            ValueError: there is no chat template, no tokenizer, or no stop token.
        """
        tokenizer, special = tokenizer_of(folder), special_tokens(folder)
        path = folder / "generation_config.json"
        stops = stored(path if path.exists() else folder / "config.json").get("eos_token_id")
        stops = stops if isinstance(stops, list) else [stops]
        return cls(tokenizer, template_of(folder), special, stops, str(folder))

    def prompt(self, messages: Messages, prefix: str = "") -> list[int]:
        """Ids up to where the model begins to answer, or goes on after `prefix`."""
        return self.encode(self._written(messages) + prefix)

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
        prompt, both = self.encode(before), self.encode(whole)
        # Asked, the model sees the prompt encoded by itself; where a token would straddle the border, so must we.
        rest = both[len(prompt) :] if both[: len(prompt)] == prompt else self.encode(whole[len(before) :])
        end = next((i for i, token in enumerate(rest) if token in self.stops), None)
        if end is None:
            stops = ", ".join(repr(self.tokenizer.id_to_token(i)) for i in sorted(self.stops))
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
        offsets = self.tokenizer.encode(text[at:], add_special_tokens=False).offsets
        weights = [1.0] * len(ids)
        for start, end, weight in spans:
            for i, (a, b) in enumerate(offsets[: len(ids)]):
                if a < end + begins - at and b > start + begins - at:
                    weights[i] = weight
        return weights

    def text(self, ids: Sequence[int], *, special: bool = False) -> str:
        """What ids say; with the special tokens among them, or without."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=not special)

    def encode(self, text: str) -> list[int]:
        """Ids of a text with nothing around it."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids  # the template writes special tokens

    def _id(self, name: str) -> int | None:
        word = self.special.get(name)
        return None if word is None else self.tokenizer.token_to_id(word)


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A training example as the model gets it: the prompt, which is masked, and what it is trained to write."""

    prompt: Sequence[int]
    completion: Sequence[int]
    """Up to the stop token, which is learnt too."""
    weights: Sequence[float]
    """Of each token of the completion in the loss; 0: it is in view and not learnt."""
    rejected: Sequence[int] = ()
    """What a pair prefers the completion over."""

    @property
    def ids(self) -> list[int]:
        return [*self.prompt, *self.completion]

    @property
    def mask(self) -> list[float]:
        """One for each of `ids`: its weight in the loss, 0 in the prompt."""
        return [0.0] * len(self.prompt) + [*self.weights]

    def pieces(self, chat: Chat) -> list[tuple[str, float]]:
        """The text, special tokens and all, cut where the weight changes."""
        runs = groupby(zip(self.ids, self.mask, strict=True), key=lambda token: token[1])
        return [(chat.text([i for i, _ in run], special=True), weight) for weight, run in runs]


def render(example: Example, chat: Chat) -> Rendered:
    """An example as it is trained on.

    Raises:
        ValueError: the chat template writes it so that it cannot be learnt, or a span lies outside the completion.
    """
    prompt, completion = chat.pair(example.prompt, example.completion)
    weights = [1.0] * len(completion)
    if example.spans:
        weights = chat.weigh(example.prompt, example.completion, example.spans)
    return Rendered(
        prompt=prompt,
        completion=completion,
        weights=[example.weight * w for w in weights],
        rejected=chat.pair(example.prompt, example.rejected)[1] if example.rejected else (),
    )


# ---- the template


def writer(template: str, special: Mapping[str, str]) -> Callable[..., str]:
    """`write(messages)`: the conversation up to where the model begins to answer; `write(messages, reply)`: answered.

    >>> write = writer("{% for m in messages %}<{{ m.content }}>{% endfor %}{{ '<' if add_generation_prompt }}", {})
    >>> from tutorloop.evals.records import user
    >>> write(user("1+1")), write(user("1+1"), "=2")
    ('<1+1><', '<1+1><=2>')
    """
    compiled = _jinja().from_string(template)

    def write(messages: Messages, reply: str | None = None) -> str:
        turns = [{"role": t.role, "content": t.content} for t in messages]
        if reply is not None:
            turns.append({"role": "assistant", "content": reply})
        text: str = compiled.render(
            messages=turns, tools=None, documents=None, add_generation_prompt=reply is None, **special
        )
        return text

    return write


@cache
def _jinja() -> Any:
    """The world that transformers gives to a template (`chat_template_utils.py`)."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """A tag around what the assistant writes, by which others find it again."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def fails(why: str) -> None:
        raise TemplateError(why)

    def as_json(value: Any, **style: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **style})  # Jinja's own is for web pages

    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    env.globals.update(raise_exception=fails, strftime_now=lambda style: datetime.now().strftime(style))
    env.filters["tojson"] = as_json
    return env


def template_of(folder: Path) -> str:
    """Source of a model's chat template; of several, the default.

    Raises:
        ValueError: there is none.
    """
    path = folder / "chat_template.jinja"
    source = path.read_text(encoding="utf-8") if path.exists() else _config(folder).get("chat_template")
    if isinstance(source, list):
        source = next((one["template"] for one in source if one["name"] == "default"), None)
    if not source:
        raise ValueError(NO_TEMPLATE.format(model=folder))
    return str(source)


# ---- the tokenizer


def tokenizer_of(folder: Path) -> "Tokenizer":
    """A model's tokenizer, with whatever its config adds to it.

    Raises:
        ValueError: there is none, or its file is none.
    """
    from tokenizers import AddedToken, Tokenizer

    path = folder / "tokenizer.json"
    if not path.exists():
        return _borrowed(folder)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as e:  # it raises no other
        raise ValueError(f"{path} is no tokenizer ({e}). Get the model anew.") from None
    tokenizer.no_truncation()  # a file may have been saved with one
    tokenizer.no_padding()
    there = {repr(token): token.content for token in tokenizer.get_added_tokens_decoder().values()}
    told = sorted(_config(folder).get("added_tokens_decoder", {}).items(), key=lambda item: int(item[0]))
    tokenizer.add_tokens([t for _, fields in told if repr(t := AddedToken(**fields)) not in there])
    known = {*there.values(), *(fields["content"] for _, fields in told)}
    tokenizer.add_special_tokens([word for word in _special_words(folder) if word not in known])
    return tokenizer


def _borrowed(folder: Path) -> "Tokenizer":
    from transformers import AutoTokenizer

    auto: Any = AutoTokenizer
    tokenizer = getattr(auto.from_pretrained(folder, trust_remote_code=False), "backend_tokenizer", None)
    if tokenizer is None:
        raise ValueError(f"the tokenizer of {folder} has no fast implementation. Save it with a `tokenizer.json`.")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    found: Tokenizer = tokenizer
    return found


def special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens of a model by the names that its template knows.

    `{"eos_token": {"content": "<e>", ...}, "add_bos_token": true}` is `{"eos_token": "<e>"}`.
    """
    told = _config(folder)
    extra = told.get("extra_special_tokens")
    named = {name: token for name, token in told.items() if name.endswith("_token")}
    words = {name: _word(token) for name, token in {**named, **(extra if isinstance(extra, dict) else {})}.items()}
    return {name: word for name, word in words.items() if isinstance(word, str)}


def _special_words(folder: Path) -> list[str]:
    told = _config(folder)
    extra = told.get("extra_special_tokens") or told.get("additional_special_tokens") or []
    unnamed = map(_word, extra if isinstance(extra, list) else ())
    return list(dict.fromkeys([*special_tokens(folder).values(), *unnamed]))


def _word(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _config(folder: Path) -> dict[str, Any]:
    """What is told of a tokenizer beside its own file. The older of two files counts if it is not outdated."""
    told = stored(folder / "tokenizer_config.json")
    return told if "added_tokens_decoder" in told else told | stored(folder / "special_tokens_map.json")


def stored(path: Path) -> dict[str, Any]:
    """A file of JSON that a model has, or may have: empty if it is not there.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        told = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError as e:
        raise ValueError(f"{path} is no JSON ({e}). Get the model anew.") from None
    return told if isinstance(told, dict) else {}
