"""The methods that ship. A method of one's own is named by import path, `my_methods:METHOD`; nothing registers."""

from . import gold, tailored, uniform
from .slots import Stages

METHODS: dict[str, Stages] = {m.name: (m,) for m in (tailored.METHOD, gold.METHOD, uniform.METHOD)}
