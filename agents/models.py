"""A model's folder, looked at without loading it: whether a run with it could work, before anything is begun.

    chat template   nobody knows how to ask a model without one
    safetensors     the only weights that are ever opened
    modules         those that LoRA is put on must be there
    context         a question must fit in, with some room to answer

Nothing here loads torch or transformers; of a model of the hub nothing is known until a role loads it.

Not covered: `target_modules` as a regular expression, which PEFT reads in its own way; questions that fit by
themselves and not with what the chat template puts around them (they fail one by one, as an answer that is none).
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..evals.arithmetic import shipped
from ..evals.records import Problem
from ..policies.records import Json
from .weights import model_weights, tensors


def model_folder(model: str) -> Path | None:
    """Where a model lies; empty: the shipped student. `None`: it is named as on the Hugging Face hub.

    Raises:
        ValueError: there is no such folder, or no model in it.
    """
    folder = Path(model).expanduser() if model else shipped()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise ValueError(f"{folder} is no model folder: it has no `config.json`.")
        return folder
    if not model or model.startswith((".", "/", "~")):
        raise ValueError(f"there is no model folder {folder}.")
    return None


def can_be_asked(folder: Path) -> None:
    """
    Raises:
        ValueError: there are no weights that are ever opened, or they are cut off; or there is no chat template.
    """
    for path in model_weights(folder):
        for _ in tensors(path):
            pass
    written = (folder / name for name in ("chat_template.jinja", "chat_template.json"))
    if not any(path.exists() for path in written) and not _json(folder / "tokenizer_config.json").get("chat_template"):
        raise ValueError(NO_TEMPLATE.format(model=folder))


def can_be_trained(folder: Path, targets: Json) -> None:
    """
    Args:
        targets: `target_modules` of `LoraConfig`, as the experiment has it.

    Raises:
        ValueError: the model has none of these modules; names some that it has.
    """
    if not isinstance(targets, list):
        return  # all linear ones, or a regular expression
    found = (tensor for path in model_weights(folder) for tensor in tensors(path))
    names = {name.rpartition(".")[0] for name, _, shape, _ in found if len(shape) > 1}
    if any(name == target or name.endswith(f".{target}") for name in names for target in targets):
        return
    there = sorted({name.rpartition(".")[2] for name in names})
    raise ValueError(
        f"`update.lora.target_modules` is {targets}, and {folder} has none of these. It has {', '.join(there[:12])}. "
        "Name some of them, or leave the field out: all linear layers."
    )


def fits(folder: Path, problems: Iterable[Problem]) -> None:
    """
    Raises:
        ValueError: a question alone is longer than the model's context; names the first.
    """
    config = _json(folder / "config.json")
    window = (config.get("text_config") or config).get("max_position_embeddings")
    if not isinstance(window, int):
        return
    # A token is a byte at least, so hardly any has to be counted.
    long = [p for p in problems if sum(len(t.content.encode()) for t in p.messages) >= window]
    if not long or not (folder / "tokenizer.json").exists():
        return
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for problem in long:
        count = sum(len(tokenizer.encode(t.content, add_special_tokens=False).ids) for t in problem.messages)
        if count >= window:
            raise ValueError(
                f"problem {problem.id!r} is {count} tokens long, and the context of {folder} is {window}, the answer "
                "included. Shorten it, leave it out, or take a model with a longer context."
            )


NO_TEMPLATE = (
    "the tokenizer of {model} has no chat template, so nobody knows how a question is written for this model. Use an "
    "instruction-tuned model, or put a `chat_template.jinja` beside it."
)


def _json(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError as e:
        raise ValueError(f"{path} is no JSON ({e}). Get the model anew.") from None
    return told if isinstance(told, dict) else {}
