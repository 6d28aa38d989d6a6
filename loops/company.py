"""The roles' hosts, in actors or in this process, from when there is something for them to do."""

import gc
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..agents.cast import Cast, Shelf
from ..agents.hosts import InProcess
from ..agents.roles import Host, RoleSpec
from ..agents.seats import Replica, Seat
from .config import ConfigError
from .parts import ClusterConfig, Placement


@dataclass
class Late:
    """Implements `Host`. Every role is started when the first one is called (`shared`: of those whose turn it is): a
    finished run starts nothing.
    """

    name: str
    company: "Company"
    greeted: bool = False
    """Whether this incarnation has been built."""
    known: bool = False

    def call(self, method: str, *args: Any) -> Any:
        host = self.company.host(self.name)
        if not self.greeted:
            try:
                host.call("hello")
            except (ValueError, OSError) as e:  # what its constructor raised
                role = self.name.partition("/")[0]
                raise ConfigError(f"the {role} cannot be built as it is configured: {e}") from e
            if not self.known:
                gc.freeze()  # the libraries' objects stay; looking through them is a sixth of the driver's work
            self.greeted = self.known = True
        return host.call(method, *args)

    def restart(self) -> None:
        self.greeted = False
        if self.name in self.company.hosts:
            self.company.hosts[self.name].restart()

    def close(self) -> None:
        if self.name in self.company.hosts:
            self.company.hosts[self.name].close()


@dataclass
class Company:
    """The roles' hosts, in actors or in this process, once there is something to do."""

    specs: Sequence[RoleSpec]
    placement: Placement
    factory: Callable[[RoleSpec], Any]
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    hosts: dict[str, Host] = field(default_factory=dict)
    on_ray: bool = False

    def host(self, name: str) -> Host:
        if name not in self.hosts:
            kind: Callable[..., Host] = InProcess if self.placement == "local" else self._actor()
            specs, learns = list(self.specs), name.startswith("learner/")
            if self.placement == "local":
                specs = [replace(spec, workers=1) for spec in specs]
            if self.shared:
                kind, specs = partial(kind, in_turn=True), [s for s in specs if (s.role == "learner") is learns]
            self.hosts |= _seated(specs, kind, self.factory)
        return self.hosts[name]

    @property
    def shared(self) -> bool:
        return self.placement == "shared"

    def muster(self) -> None:
        """Whether there are the GPUs that roles ask for, and the cluster. Where they ask for none, nothing is started.

        Raises:
            ConfigError: there are not.
        """
        gpus = any(spec.gpus for spec in self.specs)
        if self.placement != "local":
            if gpus or self.cluster.address:
                self._actor()
            return
        if not gpus:
            return
        from ..agents.base import settle

        try:
            for spec in self.specs:
                settle(spec)
        except ValueError as e:
            raise ConfigError(str(e)) from None

    def _actor(self) -> Callable[..., Host]:
        """The class of hosts on Ray, which is running."""
        from ..agents import placement

        terminate = signal.getsignal(signal.SIGTERM)
        self.on_ray = True
        try:
            placement.start(
                specs=self.specs, shared=self.shared, address=self.cluster.address, insecure=self.cluster.insecure
            )
            return placement.Actor
        except ValueError as e:
            raise ConfigError(str(e)) from e
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, terminate)  # Ray has put its own in place, which just exits

    def close(self) -> None:
        gc.unfreeze()
        if self.on_ray:
            from ..agents import placement

            placement.stop()


def _seated(
    specs: Sequence[RoleSpec], kind: Callable[..., Host], factory: Callable[[RoleSpec], Any]
) -> dict[str, Host]:
    # Who needs most goes first: parts of a GPU that lie scattered are no whole one.
    most = sorted(specs, key=lambda spec: -spec.gpus)
    return {name: kind(spec, name, factory) for spec in most for name in spec.names}


@contextmanager
def cast_of(company: Company, root: Path, shelf: Shelf, policy_seconds: float) -> Iterator[Cast]:
    """The cast, in actors or in this process; closed whatever happens."""
    seats: dict[str, Seat] = {}
    for spec in company.specs:
        seats[spec.role] = Seat(spec, [Replica(Late(name, company)) for name in spec.names])
    apart = company.placement != "local" or any(spec.calls for spec in company.specs)
    cast = Cast(root=root, seats=seats, shelf=shelf, policy_seconds=policy_seconds, shared=company.shared, apart=apart)
    with closing(cast):
        yield cast
