"""One protection of the product, switched off: with it the grid must fail, or the grid shows nothing.

    rename       a file is written where it will stand, not beside it and renamed when it is whole
    incarnation  who was started again is taken for who had proven a state, and answers as the base
    handshake    a server takes every state for the one that was trained
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

FAULTS = ("rename", "incarnation", "handshake")

swap: Callable[..., None] = setattr


def plant(fault: str) -> None:
    """In this process, for good."""
    if fault:
        globals()[fault]()


def rename() -> None:
    from tutorloop.evals.rows import atomic

    def enter(self: atomic) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.path

    swap(atomic, "__enter__", enter)
    swap(atomic, "__exit__", lambda *_: None)


def incarnation() -> None:
    from tutorloop.agents.placement import Actor
    from tutorloop.agents.scripted import ScriptedStudent

    class Base(dict[str, Any]):
        """What is proven: everything, and what was not is the base."""

        def __contains__(self, name: object) -> bool:
            return True

        def __missing__(self, name: str) -> tuple[str, ...]:
            return ()

    init, call = ScriptedStudent.__init__, Actor.call
    proven: set[tuple[str, str]] = set()

    def forgetful(self: ScriptedStudent, *args: Any) -> None:
        init(self, *args)
        self.proven = Base()

    def trusting(actor: Actor, method: str, *args: Any) -> Any:
        if method == "prove":
            if (actor.name, args[0].state.name) in proven:
                return 0.0
            proven.add((actor.name, args[0].state.name))
        return call(actor, method, *args)

    swap(ScriptedStudent, "__init__", forgetful)
    swap(Actor, "call", trusting)


def handshake() -> None:
    from tutorloop.agents import scripted
    from tutorloop.agents.scripted import ScriptedStudent

    def prove(self: ScriptedStudent, evidence: Any) -> float:
        self.proven[evidence.state.name] = scripted._gone(self.spec.root, evidence.state)
        return 0.0

    swap(ScriptedStudent, "prove", prove)
