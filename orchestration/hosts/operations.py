"""The operations of a host: where each is, and how long it may take.

An operation is a function of the arguments and of `cancel`, which says whether the caller is gone. It may be called
again at any time, after it was killed half way too, and then does what is left to do. Modules are imported when needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from secondsite.engine import errors

Json = dict[str, Any]
Cancel = Callable[[], bool]
Run = Callable[[Json, Cancel], Json]
_DAY = 24 * 3600.0


@dataclass(frozen=True)
class Operation:
    """`seconds` is its limit, beside those that its arguments name as `seconds`. `keyed`: it opens replicas, which may
    take the caller's key (R9.14).
    """

    module: str
    function: str
    seconds: float = 60.0
    keyed: bool = False

    def load(self) -> Run:
        found: Run = getattr(import_module(f"secondsite.orchestration.{self.module}"), self.function)
        return found


OPERATIONS = {
    "host.describe": Operation("hosts.description", "describe"),
    "host.room": Operation("hosts.room", "room", keyed=True),
    "host.data": Operation("hosts.room", "data", keyed=True),
    "machine.prepare": Operation("hypervisors.machines", "prepare", 300.0, keyed=True),
    "machine.start": Operation("hypervisors.machines", "start", 300.0, keyed=True),
    "machine.stop": Operation("hypervisors.machines", "stop", 180.0),
    "machine.status": Operation("hypervisors.machines", "status"),
    "machine.remove": Operation("hypervisors.machines", "remove", 300.0, keyed=True),
    "machine.screenshot": Operation("hypervisors.machines", "screenshot"),
    "machine.console": Operation("hypervisors.machines", "console"),
    "machine.configure": Operation("hypervisors.machines", "configure", 120.0),
    "machine.wait": Operation("hypervisors.machines", "wait"),
    "replica.fence": Operation("hosts.replicas", "fence", keyed=True),
    "replica.adopt": Operation("hosts.replicas", "adopt", _DAY, keyed=True),
    "replica.replicate": Operation("hosts.replicas", "replicate", _DAY, keyed=True),
    "replica.go-on": Operation("hosts.replicas", "go_on", 300.0),
    "replica.prune": Operation("hosts.replicas", "prune", 3600.0, keyed=True),
    "replica.delete": Operation("hosts.replicas", "delete", 3600.0, keyed=True),
    "replica.points": Operation("hosts.replicas", "points", keyed=True),
    "replica.prove": Operation("hosts.proving", "prove", _DAY, keyed=True),
    "disk.place": Operation("hosts.homes", "place", _DAY, keyed=True),
    "disk.keep": Operation("hosts.homes", "keep"),
    "disk.put-back": Operation("hosts.homes", "put_back"),
    "network.bridges": Operation("networks.operations", "bridges"),
    "network.list": Operation("networks.operations", "listed"),
    "network.probe": Operation("networks.operations", "probe"),
    "network.sweep": Operation("networks.operations", "sweep", 600.0),
}


def find(name: str) -> Operation:
    """Raises Usage: the two sides may be of different versions."""
    found = OPERATIONS.get(name)
    if found is None:
        raise errors.Usage(f"this version knows no operation {name!r}; it has {', '.join(OPERATIONS)}")
    return found


def limit(operation: Operation, arguments: Json) -> float:
    """Seconds after which its caller gives up."""
    asked = arguments.get("seconds", 0)
    return operation.seconds + (float(asked) if isinstance(asked, int | float) and asked > 0 else 0.0)
