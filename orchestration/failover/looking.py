"""What forbids a failover and is seen before anything is stopped for it: a point that is gone, damaged or too large."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from secondsite.engine import errors
from secondsite.orchestration import hosts
from secondsite.orchestration.estate.model import Host
from secondsite.orchestration.failover.machines import Known, lies
from secondsite.orchestration.hosts.spec import MachineSpec
from secondsite.orchestration.hypervisors.disks import SOCKET
from secondsite.orchestration.hypervisors.folder import Folder, short
from secondsite.orchestration.protection.item import Held, Made

_HERE = Host("this host")


def point(
    host: Host | None, made: Made | None, replicas: Mapping[str, str], cancel: Callable[[], bool],
    state: str | None = None, *, epoch: int | None = None, ids: Mapping[str, str | None] | None = None,
) -> None:  # fmt: skip
    """As `whole`, of every disk, by its path, whose replica this host has; one in a store is asked by ourselves.
    Without a point they are only opened: R9.14, with the key that is theirs. `epoch` is the one that they come to,
    `ids` are those that the vault knows. Raises what asking does, too.
    """
    for path, replica in replicas.items():
        told = _told(host, replica, cancel, state)
        found, known = told["info"]["replica_id"], (ids or {}).get(path)
        if known not in (None, found):
            wrong = f"is replica {found}, and not {known}, which its points are of"
            way = "a resync goes on with it, and `secondsite vault rebuild` learns of its points"
            raise errors.Refused(f"{wrong}; {way}", path=replica)
        if epoch is not None:
            _fenced(replica, told["info"]["epoch"], epoch)
        if made is not None:
            whole(made, path, replica, told["points"])


def _told(host: Host | None, replica: str, cancel: Callable[[], bool], state: str | None) -> dict[str, Any]:
    arguments = {"replica": replica, "state": state} if host is None else {"replica": lies(replica, host)}
    return hosts.reach(host or _HERE).call("replica.points", arguments, cancel=cancel)


def at_target(
    known: Known, item: Held, made: Made | None, cancel: Callable[[], bool], state: str | None, *,
    epoch: int | None = None,
) -> None:  # fmt: skip
    """Of the replicas that it would run from there. Raises as `point`."""
    ids = item.ids if item.direction == "forward" else None
    point(_target(known, item), made, item.homes, cancel, state, epoch=epoch, ids=ids)


def not_gone(known: Known, item: Held, cancel: Callable[[], bool]) -> None:
    """R9.9, of one that is to run at home: as `point`. What does not answer, or cannot be read, tells nothing."""
    host = _target(known, item)
    for replica in item.homes.values():
        try:
            found = _told(host, replica, cancel, None)["info"]["epoch"]
        except errors.Error:
            continue
        _fenced(replica, found, item.epoch + 1)


def _target(known: Known, item: Held) -> Host | None:
    return None if known.pair.target.account is not None else known.target(item)


def _fenced(replica: str, found: int, epoch: int) -> None:
    """R9.9: each failover has an epoch of its own. One that the replica has already is of a vault that knows where the
    machine went; an old copy of it does not. Raises Refused.
    """
    if found >= epoch:
        raise errors.Refused(
            f"R9.9: its machine failed over already, in epoch {found}, and may run there; this vault does not know of "
            "that: `secondsite vault rebuild` makes one that does",
            path=replica,
        )


def whole(made: Made, path: str, replica: str, told: Sequence[Mapping[str, Any]]) -> None:
    """Is the point of this disk among those that its replica tells of? One that is from before a disk was shrunk is
    none to run from (R3.8). Raises Refused, Damaged.
    """
    found = {one["generation"]: one for one in told}.get(made.generations[path])
    if found is None:
        raise errors.Refused(f"point {made.number} is gone", path=replica)
    if found["damaged"]:
        raise errors.Damaged(f"point {made.number} does not restore: {found['problem']}", path=replica)
    later = [one["virtual_bytes"] for one in told if one["generation"] > found["generation"]]
    if later and min(later) < found["virtual_bytes"]:
        raise errors.Refused(f"R3.8: point {made.number} is from before {path} was shrunk", path=replica)


def sockets(host: Host, name: str, folder: str) -> None:
    """A hypervisor that is not ours opens the socket of a machine's disks by its path. Raises Usage where the folder
    that the machine is to have is too deep for that.
    """
    if host.hypervisor != "qemu":
        short(Folder(MachineSpec(name=name, folder=folder)).file(SOCKET))
