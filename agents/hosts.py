"""Where a role lives: here, or (`placement.py`) in a Ray actor. The loop cannot tell which.

A role is built at its host's first call, or behind it, so that several are built at once; that call raises what went
wrong. `restart` drops the object: what comes after is another incarnation and has proven nothing.

Not covered: in-process, a deadline is not kept. A call that hangs hangs the run.
"""

from collections.abc import Callable
from threading import Lock
from typing import Any

from .build import build
from .roles import RoleSpec


class InProcess:
    """Implements `Host` in this process: no Ray, no pickling, the plainest traceback."""

    def __init__(self, spec: RoleSpec, name: str = "", factory: Callable[[RoleSpec], Any] = build) -> None:
        self.name = name or f"{spec.role}/0"
        self.spec, self.factory = spec, factory
        self.role: Any = None
        self.turn = Lock()

    def call(self, method: str, *args: Any) -> Any:
        # One at a time, as in an actor: a second thread would switch the adapter under the first one's feet.
        with self.turn:
            if self.role is None:
                self.role = self.factory(self.spec)
            role = self.role
            if not self.spec.calls:
                return getattr(role, method)(*args)
        return getattr(role, method)(*args)

    def restart(self) -> None:
        self.close()

    def close(self) -> None:
        role, self.role = self.role, None
        if role is not None and self.spec.calls:
            role.close()  # its connections
