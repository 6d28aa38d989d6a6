"""An existing Ray cluster: who may join it, and whether all of its machines see the run folder.

Who reaches a cluster that asks for no token can run programs on it as whoever started it. That a driver is ready to
show a token says nothing about the cluster: so one knocks without, in a process of its own, and sees whether it opens.

Not covered: what passes between the nodes is not encrypted (Ray's own TLS does that); whether the nodes have the same
versions of torch and transformers as this machine.
"""

import os
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..evals.redact import public

PATIENCE = 60.0
"""Seconds that a cluster may take to answer."""

MODE = "RAY_AUTH_MODE"

_before: list[str | None] = []
"""What the mode was when this process joined a cluster that is open."""

KNOCK = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1]).internal_kv_keys(b"", namespace=b"session", timeout=10)
except AuthenticationError:
    print("asks")
else:
    print("open")
"""


def opens(address: str, *, token: bool = False) -> bool:
    """Whether a cluster lets one in: without a token, or with the one that this process's environment leads to.

    Raises:
        ValueError: nobody answers there, saying what happened.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE / 6).close()
    except OSError as e:  # Ray would try for half a minute
        raise ValueError(f"no Ray cluster answers at {address}: {e}") from None
    told = dict(os.environ) if token else {**public(), MODE: "disabled"}
    command = [sys.executable, "-P", "-c", KNOCK, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=told, timeout=PATIENCE)
        heard, said = done.stdout.strip(), [line for line in done.stderr.splitlines() if line.strip()]
    except subprocess.TimeoutExpired:
        heard, said = "", [f"no answer within {PATIENCE:g} s"]
    if heard in ("open", "asks"):
        return heard == "open"
    raise ValueError(f"no Ray cluster answers at {address}: {said[-1].strip() if said else 'it said nothing'}")


def admit(address: str, *, insecure: bool) -> None:
    """Whether one may join; `leave` when one has left.

    Args:
        insecure: A cluster that does not ask who joins, too.

    Raises:
        ValueError: the cluster is open to everybody, does not take this process's token, or does not answer.
    """
    if opens(address):
        if not insecure:
            raise ValueError(
                f"the Ray cluster at {address} is without authentication: who reaches it can run programs as you. "
                "Start it with RAY_AUTH_MODE=token and one token for all of its nodes; or override with "
                "`cluster.insecure=true`."
            )
        # Its calls to this process will bear no token. In token mode, which a local Ray leaves behind it, they would be
        # turned away, and the cluster would take roles for deserted and end them.
        _before.append(os.environ.get(MODE))
        _set_mode("disabled")
    elif not opens(address, token=True):
        raise ValueError(
            f"the Ray cluster at {address} asks for a token and does not take this process's. Set RAY_AUTH_MODE=token, "
            "and RAY_AUTH_TOKEN_PATH to a file with the cluster's (or put that into ~/.ray/auth_token)."
        )


def leave() -> None:
    """This process asks for a token again, if it did before it joined."""
    while _before:
        _set_mode(_before.pop())


def _set_mode(mode: str | None) -> None:
    os.environ.pop(MODE, None)
    if mode is not None:
        os.environ[MODE] = mode
    # Ray has no public way to let a process see that its mode has changed.
    inside: Any = import_module("ray._raylet")
    inside.Config.initialize("")
    inside.AuthenticationTokenLoader.instance().reset_cache()


def leave_sign(root: Path, name: str) -> str:
    """Write something into a run folder that no other folder holds, for `sees`."""
    sign = uuid4().hex
    file = _sign(root, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(sign)
    return sign


def take_sign(root: Path, name: str) -> None:
    _sign(root, name).unlink(missing_ok=True)


def sees(root: Path, name: str, sign: str) -> bool:
    """Whether this is the folder in which that sign was left."""
    try:
        return _sign(root, name).read_text() == sign
    except OSError:
        return False


def _sign(root: Path, name: str) -> Path:
    return root / "logs" / f".{name.replace('/', '-')}.seen"
