"""Roles in Ray actors. But for `ray_learner.py`, and `cluster.py` at its door, the only file that imports Ray; the rest
of the package cannot tell.

    driver ── Ray ──┬── student/0    one role, one actor, one process: a `Holder`
                    ├── learner/0
                    └── evaluator/0

Actors are never restarted by Ray: it would answer with a fresh object and say nothing. A dead or hung role is an
exception here, and `restart` is the driver's decision. Each process logs to `<run>/logs/<role>.log`, where a crash or
a hang leaves its traceback, and dies with the process that started it; no actor is detached. When one of Ray's own
servers dies the run ends (`RayDied`): a client of Ray notices late, or never, and then ends the driver without a word.

On an existing cluster (`cluster.py`) roles go to whichever node has the devices, and every one looks whether the run
folder is there what it is here. A node that is lost is a role that died: it comes up on another one.

Not covered: a local Ray on Windows; a cluster whose head is lost ends the driver.
"""

import ctypes
import faulthandler
import gc
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any, cast

# Else Ray's servers listen on every interface, even where its node is asked to be 127.0.0.1. Read on import.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # a role without GPUs sees none

import psutil
import ray
from ray import exceptions as failed

from ..evals.redact import without_secrets
from ..evals.terminal import inert
from . import cluster, leftovers
from .build import build
from .devices import await_memory, devices, scraps
from .roles import RayDied, RoleDied, RoleHung, RoleSpec

PASSED_ON = ("HF_HUB_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT")
"""Variables of the driver's environment that a role sees wherever it runs; none of them is a secret."""

OF_AN_API = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE")
"""The same for a role that calls one, beside its key."""

OF_THE_HUB = ("HF_TOKEN", "HTTPS_PROXY", "https_proxy")
"""The same for a role whose model lies on the Hugging Face hub, and may be gated; these may be secrets."""

SERVERS = ("gcs_server", "raylet")
"""Ray's own processes that a run cannot do without. (A raylet ends itself when one of its two agents has died.)"""
GLANCE = 1.0
"""Seconds of waiting after which one looks whether they are still there."""

_claims: list[leftovers.Claim] = []
_servers: dict[str, int] = {}
"""Process ids of those that were started here."""


def start(
    cpus: int | None = None,
    *,
    specs: Sequence[RoleSpec] = (),
    shared: bool = False,
    address: str = "",
    insecure: bool = False,
) -> None:
    """Start a local Ray on the loopback interface, without dashboard, telemetry or secrets; or join a cluster.

    First it tidies up after runs that are dead.

    Args:
        cpus: Cores that Ray counts; all. Roles take none of them: there may be more roles than cores.
        specs: The roles to come; their GPUs are counted before anything waits for one.
        shared: The learner has them in turn with the others.
        address: HOST:PORT of an existing cluster's head. This machine is one of its nodes, with devices or without.
        insecure: Join a cluster that does not ask who joins.

    Raises:
        ValueError: there are not as many GPUs as the roles ask for; the cluster is open to everybody, or not there.
    """
    if not ray.is_initialized():
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "critical", "configure_logging": True}
        if address:
            cluster.admit(address, insecure=insecure)
            try:
                ray.init(address=address, **quiet)
            except (RuntimeError, ConnectionError, failed.RayError) as e:
                stop()
                raise ValueError(
                    f"the Ray cluster at {address} cannot be joined from here: {e} This machine has to be one of its "
                    f"nodes: `ray start --address={address}`."
                ) from e
        else:
            leftovers.sweep()
            _claims.append(leftovers.Claim())
            with without_secrets():
                ray.init(
                    address="local",  # whatever cluster RAY_ADDRESS names
                    num_cpus=cpus,
                    include_dashboard=False,
                    object_store_memory=200 << 20,  # records travel, not tensors
                    _temp_dir=str(_claims[-1].room),  # sockets of this run, for this user
                    **quiet,
                )
            _servers.update((p.name(), p.pid) for p in psutil.Process().children() if p.name() in SERVERS)
            node = ray.util.get_node_ip_address()
            if node != "127.0.0.1":
                stop()
                raise RuntimeError(
                    f"Ray was imported before tutorloop and would listen on {node}, for everybody who reaches this "
                    "machine. Import tutorloop.agents.placement first, or set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0."
                )
    try:
        _enough_gpus(specs, shared)
    except ValueError:
        stop()
        raise


def stop() -> None:
    """Shut Ray down and remove what it left in the temporary folder."""
    _servers.clear()
    ray.shutdown()
    cluster.leave()
    while _claims:
        _claims.pop().release()


def answer() -> str:
    """Start a local Ray, let it run something, stop it; where it listened. For `doctor`, in a process of its own."""
    start(1)
    try:
        where: str = ray.get(ray.remote(_where).options(num_cpus=0).remote())
    finally:
        stop()
    return where


def _where() -> str:
    node: str = ray.util.get_node_ip_address()
    return node


class Actor:
    """Implements `Host` with one Ray actor.

    The role is built in the background; the first call waits for it, and raises what its constructor raised. `in_turn`:
    other roles have had its devices, and it is not built before their memory is free.
    """

    def __init__(
        self,
        spec: RoleSpec,
        name: str = "",
        factory: Callable[[RoleSpec], Any] = build,
        runtime_env: Mapping[str, Any] | None = None,
        *,
        in_turn: bool = False,
    ) -> None:
        self.name = name or f"{spec.role}/0"
        self.spec = replace(spec, root=spec.root.absolute())  # the actor may stand elsewhere
        self.factory, self.in_turn = factory, in_turn
        self.runtime_env = runtime_env or ({"py_executable": spec.python} if spec.python else None)
        self.log = self.spec.root / "logs" / f"{self.name.replace('/', '-')}.log"
        self.pid, self.handle = 0, cast(Any, None)
        self._ready: Any = None  # the first two answers, until they are there
        self._starting = Lock()
        _enough_gpus([spec])
        self._start()

    def call(self, method: str, *args: Any) -> Any:
        if self.handle is None:
            raise RoleDied(f"{self.name} is gone; `restart` it before `{method}`.")
        with self._starting:
            if self._ready is not None:
                self._begin()
                self._wait(self._ready[1], "build")
                self._ready = None
        return self._wait(self.handle.call.remote(method, args), method)

    def _begin(self) -> None:
        """Wait for its process. One that a cluster sent to a lost node, which Ray notices late, is sent once more."""
        try:
            self._host, self.pid = self._wait(self._ready[0], "start")
        except RoleDied:
            if _servers:
                raise
            self._start()
            self._host, self.pid = self._wait(self._ready[0], "start")
        cluster.take_sign(self.spec.root, self.name)

    def restart(self) -> None:
        self.close()
        self._start()

    def close(self) -> None:
        # Taken first: a thread that waits for an answer forgets the pid as soon as it hears of the death.
        handle, pid, self.handle, self.pid = self.handle, self.pid, None, 0
        cluster.take_sign(self.spec.root, self.name)
        if handle is not None:
            ray.kill(handle, no_restart=True)
            if pid and self._host == socket.gethostname():
                _end(pid)  # one that is stopped, or stuck in C, would not hear Ray

    def _start(self) -> None:
        _ray_lives()
        remote: Any = ray.remote(Holder)
        from_hub = self.spec.model and not Path(self.spec.model).expanduser().exists()
        passed = [*PASSED_ON]
        if self.spec.calls:
            passed += [*OF_AN_API, self.spec.key]
        elif from_hub:
            passed += OF_THE_HUB
        environment = {name: os.environ[name] for name in passed if name in os.environ}
        self._mark = self.log.stat().st_size if self.log.exists() else 0
        self._host = ""
        # Where Ray was not started here there may be other machines.
        sign = "" if _servers else cluster.leave_sign(self.spec.root, self.name)
        self.handle = remote.options(
            num_cpus=0,
            num_gpus=self.spec.own_gpus,
            max_concurrency=2 if self.spec.calls else 1,  # it takes calls while one waits for what came of others
            max_restarts=0,
            max_task_retries=0,
            runtime_env=dict(self.runtime_env) if self.runtime_env else None,
        ).remote(self.spec, self.name, self.log, environment, sign)
        self._ready = self.handle.start.remote(), self.handle.build.remote(self.factory, self.in_turn)

    def _wait(self, answer: Any, method: str) -> Any:
        try:
            return _answer(answer, self.spec.deadline)
        except failed.GetTimeoutError:
            why = " A signal had stopped it." if self._awake() else ""
            self.close()
            where = self._left("It hung here:")
            if method == "start":
                where = f" It had no process yet; Ray has {ray.available_resources()} free."
            raise RoleHung(
                f"{self.name} did not answer `{method}` within {self.spec.deadline:g} s and was ended.{why}{where}"
            ) from None
        except failed.RayTaskError as e:
            if isinstance(e.cause, Exception):
                raise e.cause from None
            raise
        except (failed.RayActorError, failed.ObjectLostError) as e:  # the second: an answer, with the node it lay on
            pid, self.pid, self.handle = self.pid, 0, None
            detail = next((line for line in str(e).splitlines() if "exit detail" in line), str(e))
            where = f" on {self._host}" if self._host not in ("", socket.gethostname()) else ""
            raise RoleDied(
                f"{self.name} (pid {pid or 'unknown'}{where}) died in `{method}`. Ray says: {detail.strip()}"
                + self._left("Its last words:")
            ) from None

    def _awake(self) -> bool:
        """Let a process that was stopped go on for a moment, so that it writes where it is; whether it was stopped."""
        if not self.pid or self._host != socket.gethostname() or _status(self.pid) != psutil.STATUS_STOPPED:
            return False
        written = self.log.stat().st_size
        os.kill(self.pid, signal.SIGCONT)
        for _ in range(20):
            if self.log.stat().st_size > written:
                break
            time.sleep(0.05)
        return True

    def _left(self, title: str) -> str:
        """What this incarnation wrote to its log, the end of it."""
        try:
            with self.log.open("rb") as f:
                f.seek(self._mark)
                lines = f.read().decode(errors="replace").splitlines()
        except OSError:
            lines = []
        if not lines:
            return f" Its log {self.log} is empty."
        return f"\n{title} (the end of {self.log})\n  " + "\n  ".join(lines[-40:])


class Holder:
    """In the actor: one role, its log, and a watch over the time that a call takes."""

    def __init__(self, spec: RoleSpec, name: str, log: Path, environment: Mapping[str, str], sign: str = "") -> None:
        _die_with_parent()
        self.root, self.astray = spec.root, bool(sign) and not cluster.sees(spec.root, name, sign)
        if self.astray:
            return  # nothing is written to a folder that is not the run's
        os.environ.update(environment)
        if not spec.own_gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a cluster's Ray lets it see all of them
        os.environ["OMP_NUM_THREADS"] = str(spec.threads)  # before torch is imported, which happens in `build`
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log.open("ab", buffering=0)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(self.log.fileno(), stream.fileno())
        sys.stdout, sys.stderr = inert(sys.stdout), inert(sys.stderr)
        faulthandler.enable(self.log)
        self.spec, self.name, self.role = spec, name, None

    def start(self) -> tuple[str, int]:
        if self.astray:
            raise ValueError(
                f"on {socket.gethostname()}, where Ray put it, {self.root} is not the folder that it is here. All "
                "nodes of a cluster must see the run folder under one path: choose a --run-dir on a shared file system."
            )
        return socket.gethostname(), os.getpid()

    def build(self, factory: Callable[[RoleSpec], Any], in_turn: bool = False) -> None:
        if in_turn:
            self._watched(lambda: await_memory(self.spec.own_gpus))
        self.role = self._watched(lambda: factory(self.spec))
        gc.freeze()  # the libraries' objects stay; looking through them costs each training 0.4 s

    def call(self, method: str, args: tuple[Any, ...]) -> Any:
        return self._watched(lambda: getattr(self.role, method)(*args))

    def _watched(self, do: Callable[[], Any]) -> Any:
        # Shortly before the driver gives up, write where we are: from a thread of its own, even if C code hangs.
        faulthandler.dump_traceback_later(max(self.spec.deadline - 1.0, 0.8 * self.spec.deadline), file=self.log)
        try:
            return do()
        except Exception as e:
            e.add_note(f"In {self.name} (pid {os.getpid()}):\n{''.join(traceback.format_exception(e))}")
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()


def _answer(answer: Any, deadline: float) -> Any:
    """What Ray's reference comes to.

    Raises:
        RayDied: Ray is gone.
    """
    end = time.monotonic() + deadline
    while True:
        _ray_lives()
        try:
            return ray.get(answer, timeout=max(0.0, min(GLANCE, end - time.monotonic())))
        except failed.GetTimeoutError:
            if time.monotonic() >= end:
                raise
        except failed.RayActorError:
            _ray_lives()
            raise


def _ray_lives() -> None:
    """
    Raises:
        RayDied: one of the servers that were started here has ended.
    """
    for name, pid in _servers.items():
        if _status(pid) in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            raise RayDied(f"the {name} of this run's Ray (pid {pid}) has died, and Ray cannot go on without it.")


def _status(pid: int) -> str:
    """Of a process: `running`, `stopped` ...; `dead`, too, when there is none."""
    try:
        return str(psutil.Process(pid).status())
    except psutil.NoSuchProcess:
        return str(psutil.STATUS_DEAD)


def _enough_gpus(specs: Iterable[RoleSpec], shared: bool = False) -> None:
    wanted = [s for s in specs if s.gpus]
    told = ", ".join(f"{s.role} {f'{n} x ' if (n := s.replicas * s.workers) > 1 else ''}{s.gpus:g}" for s in wanted)
    needed, nodes = devices(wanted, shared=shared), [n["Resources"].get("GPU", 0.0) for n in ray.nodes() if n["Alive"]]
    if needed > sum(nodes):
        raise ValueError(
            f"the roles ask for {needed} GPUs ({told}) and Ray has {sum(nodes):g}. Ask for less, e.g. 0.3 of one each "
            "(parts share a GPU where they fit), for fewer `replicas`, or for none: `gpus` 0."
        )
    if (most := max((s.gpus for s in wanted), default=0.0)) > max(nodes, default=0.0):
        raise ValueError(
            f"a role asks for {most:g} GPUs ({told}), and no node has more than {max(nodes):g}. A role lives on one "
            "node: ask for less."
        )
    parts = [*sorted({s.gpus for s in wanted if s.gpus < 1}), 1.0]
    if sum(map(bool, nodes)) > 1 and any(scraps(a, b) * max(nodes) >= a for a, b in pairwise(parts)):
        raise ValueError(
            f"on several nodes parts of a GPU must fill it ({told}): Ray counts what is free on a node as one heap, "
            "and would let a role wait where only scraps are left. Ask for 1, 0.5, 0.25 ..."
        )


def _die_with_parent() -> None:
    """SIGKILL to this process when the raylet dies, which dies with the driver."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _end(pid: int) -> None:
    for _ in range(20):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
