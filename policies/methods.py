"""The methods that ship. A method of one's own is named by import path, `my_methods:METHOD`; nothing registers."""

from . import contrast, explain, gold, retry, socratic, tailored, uniform
from .slots import Stages

SHIPPED = (tailored, retry, socratic, contrast, explain, gold, uniform)
METHODS: dict[str, Stages] = {m.METHOD.name: (m.METHOD,) for m in SHIPPED}
