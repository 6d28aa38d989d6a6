"""What the libraries' config classes declare: fields, defaults and what each takes, read from their source.

Nothing heavy is imported: TRL takes seconds and torch to import, and an experiment with a mistyped field should be
refused at once, before anything is started.

Not covered: fields that are no annotated assignments (none so far), and types that are classes of the libraries: a
value for one of these is the library's to judge.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Literal

Kind = Literal["sft", "dpo", "lora"]

_TRAINING = (
    ("trl", "trl/trainer/base_config.py", "_BaseConfig"),
    ("transformers", "transformers/training_args.py", "TrainingArguments"),
)
CLASSES: Mapping[Kind, tuple[tuple[str, str, str], ...]] = {
    "sft": (("trl", "trl/trainer/sft_config.py", "SFTConfig"), *_TRAINING),
    "dpo": (("trl", "trl/trainer/dpo_config.py", "DPOConfig"), *_TRAINING),
    "lora": (
        ("peft", "peft/tuners/lora/config.py", "LoraConfig"),
        ("peft", "peft/config.py", "PeftConfig"),
        ("peft", "peft/config.py", "PeftConfigMixin"),
    ),
}
"""The class and its bases: package, file, name."""
_ENUMS = {
    "SchedulerType": "transformers/trainer_utils.py",
    "IntervalStrategy": "transformers/trainer_utils.py",
    "SaveStrategy": "transformers/trainer_utils.py",
    "HubStrategy": "transformers/trainer_utils.py",
    "OptimizerNames": "transformers/training_args.py",
}
_GENERATION = "transformers/generation/configuration_utils.py"


@dataclass(frozen=True)
class Field:
    """One field of a config class."""

    default: str
    """As the source writes it; empty: computed."""
    takes: str
    """Its type, as the source writes it."""
    among: Sequence[str]
    """The texts that it may be; empty: any."""


@cache
def declared(kind: Kind) -> Mapping[str, Field]:
    """Every field of the library's config class.

    >>> declared("dpo")["beta"]
    Field(default='0.1', takes='float', among=())
    """
    found: dict[str, Field] = {}
    for package, file, name in CLASSES[kind]:
        for node in _body(package, file, name):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                takes, among = node.annotation, _choices(node.value) or tuple(_values(node.annotation))
                found.setdefault(node.target.id, Field(_default(node.value), ast.unparse(takes), among))
    return found


@cache
def generation_fields() -> frozenset[str]:
    """The fields of transformers' `GenerationConfig`: those that its `__init__` takes by name."""
    init = next(
        node
        for node in _body("transformers", _GENERATION, "GenerationConfig")
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    return frozenset(
        node.targets[0].attr
        for node in ast.walk(init)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Attribute)
        and not node.targets[0].attr.startswith("_")
    )


def takes(kind: Kind, name: str, value: Any) -> str:
    """What a field takes instead of this value. Empty: it takes it.

    >>> takes("sft", "learning_rate", "fast"), takes("sft", "learning_rate", 1)
    ('float', '')
    >>> takes("sft", "lr_scheduler_type", "cosin")[:19]
    'one of linear, cosi'
    """
    field = declared(kind)[name]
    if field.among and isinstance(value, str) and value not in field.among:
        return f"one of {', '.join(field.among)}"
    return "" if _is(value, ast.parse(field.takes, mode="eval").body) else field.takes


_PLAIN: Mapping[str, Any] = {"int": int, "float": (int, float), "str": str, "bool": bool, "dict": dict}


def _is(value: Any, told: ast.expr) -> bool:
    """Whether a value from YAML is of a written type. Classes of the libraries take anything."""
    if isinstance(told, ast.Constant) and isinstance(told.value, str):  # a type in quotes
        return _is(value, ast.parse(told.value, mode="eval").body)
    if isinstance(told, ast.Constant):
        return value is told.value
    if isinstance(told, ast.BinOp):
        return _is(value, told.left) or _is(value, told.right)
    if isinstance(told, ast.Subscript):
        return _is_one_of(value, ast.unparse(told.value), _parts(told.slice))
    name = ast.unparse(told)
    if name in _PLAIN:
        return isinstance(value, _PLAIN[name]) and (name == "bool" or not isinstance(value, bool))
    return name not in _ENUMS or isinstance(value, str)


def _is_one_of(value: Any, outer: str, inner: Sequence[ast.expr]) -> bool:
    """`Optional[int]`, `Union[str, int]`, `Literal["a", "b"]`, `list[str]`, `tuple[int, int]`, `dict[str, Any]`."""
    if outer == "Literal":
        return value in [x.value for x in inner if isinstance(x, ast.Constant)]
    if outer in ("Optional", "Union"):
        return (outer == "Optional" and value is None) or any(_is(value, x) for x in inner)
    if outer == "list":
        alone = isinstance(value, str) and _is(value, inner[0])  # a text stands for a list of one
        return alone or (isinstance(value, list) and all(_is(x, inner[0]) for x in value))
    if outer == "tuple":
        return isinstance(value, list) and len(value) == len(inner) and all(map(_is, value, inner))
    return outer != "dict" or isinstance(value, dict)


def _parts(told: ast.expr) -> Sequence[ast.expr]:
    return told.elts if isinstance(told, ast.Tuple) else [told]


def _values(told: ast.expr) -> Iterator[str]:
    """Of the enumerations that a type names."""
    for node in ast.walk(told):
        if isinstance(node, ast.Name) and node.id in _ENUMS:
            for line in _body("transformers", _ENUMS[node.id], node.id):
                if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant):
                    yield str(line.value.value)


def _choices(value: ast.expr | None) -> tuple[str, ...]:
    """`field(metadata={"choices": ["fork", "spawn"]})`."""
    for node in ast.walk(value) if value is not None else ():
        if isinstance(node, ast.Dict):
            for key, told in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "choices" and isinstance(told, ast.List):
                    return tuple(str(x.value) for x in told.elts if isinstance(x, ast.Constant))
    return ()


def _default(value: ast.expr | None) -> str:
    if isinstance(value, ast.Call):  # field(default=..., metadata=...)
        value = next((k.value for k in value.keywords if k.arg == "default"), None)
    return "" if value is None else ast.unparse(value)


def _body(package: str, file: str, name: str) -> list[ast.stmt]:
    return next(n.body for n in _tree(package, file).body if isinstance(n, ast.ClassDef) and n.name == name)


@cache
def _tree(package: str, file: str) -> ast.Module:
    return ast.parse(Path(str(distribution(package).locate_file(file))).read_text(encoding="utf-8"))
