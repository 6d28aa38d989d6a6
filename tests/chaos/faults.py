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
    from tutorloop.evals.files import atomic

    def enter(self: atomic) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.path

    swap(atomic, "__enter__", enter)
    swap(atomic, "__exit__", lambda *_: None)


def incarnation() -> None:
    from tutorloop.agents.scripted import ScriptedStudent
    from tutorloop.agents.seats import Replica

    class Base(dict[str, Any]):
        """What is proven: everything, and what was not is the base."""

        def __contains__(self, name: object) -> bool:
            return True

        def __missing__(self, name: str) -> tuple[str, ...]:
            return ()

    init, surviving = ScriptedStudent.__init__, Replica.surviving

    def forgetful(self: ScriptedStudent, *args: Any) -> None:
        init(self, *args)
        self.proven = Base()

    def trusting(self: Replica, ask: Callable[[], Any]) -> Any:
        known = self.proven

        def asked() -> Any:
            self.proven |= known
            return ask()

        return surviving(self, asked)

    swap(ScriptedStudent, "__init__", forgetful)
    swap(Replica, "surviving", trusting)


def handshake() -> None:
    from tutorloop.agents import scripted
    from tutorloop.agents.scripted import ScriptedStudent

    def prove(self: ScriptedStudent, evidence: Any) -> float:
        self.proven[evidence.state.name] = scripted._gone(self.spec.root, evidence.state)
        return 0.0

    swap(ScriptedStudent, "prove", prove)
