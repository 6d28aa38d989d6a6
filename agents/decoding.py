"""How the next token is chosen: fields of transformers' `GenerationConfig` under their own names.

Our decoding loop honours those of `HONOURED`, and does with them what `generate` does; the others are refused, each
with a reason. Of a model's own `generation_config.json` only the stop tokens are used: an answer is what the experiment
says.

Nothing heavy is imported.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..policies.records import Json
from .declared import generation_fields
from .settings import known


@dataclass(frozen=True)
class Bounds:
    """What a field may be."""

    least: float
    most: float
    nothing: float | None
    """With this value nothing is done; `None`: another field of ours says it too."""
    whole: bool = False


HONOURED: Mapping[str, Bounds] = {
    "max_new_tokens": Bounds(1, math.inf, None, whole=True),  # `max_tokens` of the role
    "min_new_tokens": Bounds(0, math.inf, 0, whole=True),
    "do_sample": Bounds(0, 1, None, whole=True),  # `temperature` 0 is none
    "temperature": Bounds(0, math.inf, None),
    "top_k": Bounds(0, math.inf, 0, whole=True),
    "top_p": Bounds(0, 1, 1.0),
    "min_p": Bounds(0, 1, 0.0),
    "typical_p": Bounds(0, 1, 1.0),
    "epsilon_cutoff": Bounds(0, 1, 0.0),
    "eta_cutoff": Bounds(0, 1, 0.0),
    "repetition_penalty": Bounds(0, math.inf, 1.0),
    "no_repeat_ngram_size": Bounds(0, math.inf, 0, whole=True),
}
"""What `options` of a role with the engine `transformers`, and `State.decoder`, may set."""

SCRIPTED: Mapping[str, tuple[str, ...]] = {"teacher": ("error_rate",), "student": ("rows_to_unlearn",)}
"""What `options` of a role with the engine `scripted` may set."""

_WHY = {
    ("max_length", "min_length"): "it counts the question too. `max_new_tokens` and `min_new_tokens` count the answer",
    ("max_time",): "an answer must not depend on how fast a machine is",
    ("stop_strings", "eos_token_id", "bos_token_id", "pad_token_id", "forced_bos_token_id", "forced_eos_token_id"): (
        "an answer begins and ends as the model's own files say, like the rows that it is trained on"
    ),
    ("num_return_sequences",): "the method's `attempt` says how often a problem is tried",
    ("num_beams", "num_beam_groups", "early_stopping", "length_penalty", "diversity_penalty", "constraints"): (
        "one token is chosen after another; there is no search"
    ),
    ("output_attentions", "output_hidden_states", "output_logits", "output_scores", "return_dict_in_generate"): (
        "every token's log-probability is kept, and nothing else"
    ),
    ("use_cache", "cache_implementation", "cache_config", "max_cache_len", "compile_config", "disable_compile"): (
        "how an answer is computed is the engine's"
    ),
}


def refused(name: str) -> str:
    """Why a field of `GenerationConfig` may not be set. Empty: it may."""
    if name in HONOURED:
        return ""
    found = next((why for names, why in _WHY.items() if name in names), "our decoding loop does not have it")
    return f"{found}. What may be set is {', '.join(HONOURED)}"


def decoder(told: Mapping[str, Json]) -> dict[str, float]:
    """Fields of a generation config as numbers, of which `temperature` alone says whether tokens are drawn.

    >>> decoder({"temperature": 0.0, "do_sample": True, "top_k": 5})
    {'temperature': 1.0, 'top_k': 5.0}

    Raises:
        ValueError: a field that does not exist (names the nearest) or is not honoured, or a value that it cannot have.
    """
    numbers: dict[str, float] = {}
    for name, value in told.items():
        known([name], generation_fields(), "setting of how a model answers")
        if why := refused(name):
            raise ValueError(f"`{name}` cannot be set: {why}.")
        numbers[name] = _number(name, value)
    drawn = numbers.pop("do_sample", None)
    if drawn is not None:
        numbers["temperature"] = (numbers.get("temperature") or 1.0) if drawn else 0.0
    return numbers


def said(options: Mapping[str, Json]) -> dict[str, Json]:
    """Of a role's options, those that say how the next token is chosen: an engine may have others."""
    return {name: value for name, value in options.items() if name in HONOURED}


def scripted(role: str, told: Mapping[str, Json]) -> None:
    """
    Raises:
        ValueError: an option that a scripted role has not; names the nearest.
    """
    known(told, SCRIPTED[role], f"option of a scripted {role}")


def idle(told: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Fields that have no effect beside the others: name, reason."""
    for name in ("top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"):
        if name in told and not told.get("temperature"):
            yield name, "`temperature` is 0: the likeliest token is taken, and none is drawn"


def _number(name: str, value: Json) -> float:
    bounds = HONOURED[name]
    kind = "true or false" if name == "do_sample" else "a whole number" if bounds.whole else "a number"
    if isinstance(value, int | float) and isinstance(value, bool) == (name == "do_sample"):
        number = float(value)
        if math.isfinite(number) and bounds.least <= number <= bounds.most and not (bounds.whole and number % 1):
            return number
    most = "" if bounds.most == math.inf else f" and at most {bounds.most:g}"
    limits = "" if name == "do_sample" else f" of at least {bounds.least:g}{most}"
    raise ValueError(f"`{name}` is {value!r}; it takes {kind}{limits}.")
