"""Teach one language model with another, in rounds.

The public names are resolved lazily: `import tutorloop` loads neither torch nor ray.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "Attempt": ".evals.records",
    "Failure": ".evals.records",
    "Gold": ".evals.records",
    "Problem": ".evals.records",
    "State": ".evals.records",
    "Turn": ".evals.records",
    "Verdict": ".evals.records",
}
__all__ = [*_WHERE]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
