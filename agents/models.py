"""A model's folder, looked at without loading it: whether a run with it could work, before anything is begun.

    chat template   nobody knows how to ask a model without one
    safetensors     the only weights that are ever opened
    modules         those that LoRA is put on must be there, and be layers
    context         a question must fit in as the chat template writes it, with some room to answer

Nothing here loads torch or transformers; of a model of the hub nothing is known until a role loads it.

Not covered: `exclude_modules` and `layers_to_transform` that leave nothing, and PEFT's own choice of modules (null);
tokenizers without a `tokenizer.json`; what a policy puts around a question (what does not fit then fails one by one).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path

from ..evals.arithmetic import shipped
from ..evals.records import Problem, Turn, user
from ..policies.records import Json
from .chat import special_tokens, stored, template_of, tokenizer_of, writer
from .decoding import HONOURED
from .weights import model_weights, tensors

_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def model_folder(model: str) -> Path | None:
    """Where a model lies; empty: the shipped student. `None`: it is named as on the Hugging Face hub.

    Raises:
        ValueError: there is no such folder, or no model in it; or nothing can have this name.
    """
    if "\0" in model:
        raise ValueError(f"`model` is {model!r}; no file's name and none of the hub's has a NUL. Write it without.")
    folder = Path(model).expanduser() if model else shipped()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise ValueError(f"{folder} is no model folder: it has no `config.json`.")
        return folder
    if not model or model.startswith((".", "/", "~")):
        raise ValueError(f"there is no model folder {folder}.")
    return None


def placed(folder: Path, model: str) -> str:
    """A model's name as it stands in an experiment: a path is taken from `folder`, if something lies there."""
    return str(folder / model) if model and (folder / model).exists() else model


def find_model(model: str, revision: str = "") -> Path:
    """The folder of a model: a path, a repository of the Hugging Face hub, or empty for the shipped student.

    Raises:
        ValueError: there is no such model, or it is not safetensors.
    """
    if (folder := model_folder(model)) is not None:
        return folder
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, revision=revision or None, allow_patterns=_FILES))


WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number."""


def weight(folder: Path, dtype: str) -> int:
    """Bytes of a model's tensors once they are loaded in this dtype, and of nothing else that running it takes."""
    return WIDTH[dtype] * sum(prod(shape) for path in model_weights(folder) for _, _, shape, _ in tensors(path))


def can_be_asked(folder: Path) -> None:
    """
    Raises:
        ValueError: there are no weights that are ever opened, or they are cut off; or there is no chat template.
    """
    for path in model_weights(folder):
        for _ in tensors(path):
            pass
    template_of(folder)


def can_be_trained(folder: Path, lora: Mapping[str, Json]) -> None:
    """
    Args:
        lora: Fields of `LoraConfig`, as the training will have them.

    Raises:
        ValueError: the model has none of the `target_modules`, or one of them is no layer; names some that it has.
    """
    targets = lora.get("target_modules")
    if targets is None or (isinstance(targets, str) and targets.lower() == "all-linear"):
        return
    layers, others = _modules(folder)
    if not any(_aimed(targets, prefix + name) for name in layers for prefix in PREFIXES):
        there = sorted({name.rpartition(".")[2] for name in layers})
        how = "A text is a regular expression for a module's whole name. " if isinstance(targets, str) else ""
        raise ValueError(
            f"`target_modules` is {targets!r}, and {folder} has none of these. It has {', '.join(there[:12])}. {how}"
            "Set `update.lora.target_modules` to a list of some of them, or to `all-linear`."
        )
    wrong = sorted(name for name in others if _aimed(targets, name))
    if wrong and not lora.get("exclude_modules"):
        raise ValueError(
            f"`target_modules` is {targets!r}, which names `{wrong[0]}` of {folder} too, and that is no layer for an "
            "adapter. Set `update.lora.target_modules` to a list of names of layers, or to `all-linear`."
        )


def _modules(folder: Path) -> tuple[set[str], set[str]]:
    """Names of the modules that have a matrix, and of those around them or with less.

    `model.norm.weight` of one dimension is of the other kind, and so is `model`.
    """
    layers, others = set[str](), set[str]()
    for path in model_weights(folder):
        for tensor, _, shape, _ in tensors(path):
            name = tensor.rpartition(".")[0]
            (layers if len(shape) > 1 else others).add(name)
            while "." in name:
                name, _, child = name.rpartition(".")
                if not child.isdigit():  # a list of experts on disk may be one layer in memory
                    others.add(name)
    return layers, others - layers


def _aimed(targets: Json, name: str) -> bool:
    """Whether PEFT puts an adapter on the module of this name (`check_target_module_exists`)."""
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return isinstance(targets, list) and any(f".{name}".endswith(f".{target}") for target in targets)


PREFIXES = ("", "model.", "transformer.")
"""Of modules' names: some checkpoints leave out what the class that loads them puts before."""


def fits(folder: Path, problems: Iterable[Problem], answer: int) -> str:
    """Whether the model can be asked these problems, with so many tokens for an answer.

    Returns:
        What to warn of: that an answer has less room than that. Empty: nothing.

    Raises:
        ValueError: a question is longer than the model's context; names the first.
    """
    config = stored(folder / "config.json")
    window = (config.get("text_config") or config).get("max_position_embeddings")
    if not isinstance(window, int) or not (folder / "tokenizer.json").exists():
        return ""
    written, tokenizer = _written(folder), None
    short, room, tightest = 0, answer, ""
    for problem in problems:
        text = written(problem)
        if len(text.encode()) + answer <= window:
            continue  # a token is a byte at least, so hardly any has to be counted
        tokenizer = tokenizer or tokenizer_of(folder)
        count = len(tokenizer.encode(text, add_special_tokens=False).ids)
        if count >= window:
            raise ValueError(
                f"problem {problem.id!r} is {count} tokens long as the chat template writes it, and the context of "
                f"{folder} is {window}, the answer included. Shorten it, leave it out, or take a model with a longer "
                "context."
            )
        short += window - count < answer
        if window - count < room:
            room, tightest = window - count, problem.id
    if not short:
        return ""
    return (
        f"in {short} of the problems an answer has less room than `max_tokens` ({answer}), as the context of {folder} "
        f"is {window}: {tightest!r} leaves {room} tokens, to itself and to all of its shard. Shorten what is long, or "
        "take a model with a longer context; a larger `max_tokens` does not help."
    )


def sampling(folder: Path) -> Mapping[str, Json]:
    """What the model's makers say of how to decode it, which is not used unless an experiment says so too."""
    told = stored(folder / "generation_config.json")
    return {name: told[name] for name in HONOURED if told.get(name) is not None}


def without_system(folder: Path) -> str:
    """What the chat template does with a system turn instead of writing it: nothing, or `drops` or `refuses` it."""
    said = "Words of a system turn."
    try:
        write = writer(template_of(folder), special_tokens(folder))
        plain = write(user("1+1"))
    except Exception:  # whatever a template may do
        return ""
    try:
        whole = write((Turn(role="system", content=said), *user("1+1")))
    except Exception:
        return "refuses"
    return "" if said in whole and whole != plain else "drops"


def _written(folder: Path) -> Callable[[Problem], str]:
    """How the chat template writes a problem. One that fails here leaves the bare question."""

    def bare(problem: Problem) -> str:
        return "".join(turn.content for turn in problem.messages)

    try:
        write = writer(template_of(folder), special_tokens(folder))
    except Exception:  # whatever a template may do
        return bare

    def written(problem: Problem) -> str:
        try:
            return write(problem.messages)
        except Exception:
            return bare(problem)

    return written
