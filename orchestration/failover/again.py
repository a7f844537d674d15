"""A machine that went down where it has to run is started there again: its host came up anew, its QEMU was killed, or
the server of its disks is gone. Nothing is decided by that, and what it wrote is on its disks. A machine that its user
started is his.
"""

from __future__ import annotations

from collections.abc import Callable

from secondsite.engine import errors
from secondsite.orchestration.failover import holding, looking
from secondsite.orchestration.failover.intent import Placed
from secondsite.orchestration.failover.machines import Known
from secondsite.orchestration.failover.renewing import Lease
from secondsite.orchestration.protection import lookup
from secondsite.orchestration.protection.item import Held
from secondsite.orchestration.vault.database import Database


def rests(item: Held) -> bool:
    """Is it to run where it is, and nothing else to be done for it first?"""
    return item.failover is None or item.failover.phase == "running"


def where(known: Known, item: Held) -> Placed | None:
    """Where it has to run by the vault."""
    if item.failover is not None:
        return item.failover.there if rests(item) else None
    return item.away if item.active == "target" else known.home()


def start(
    database: Database, holder: str, known: Known, now: Callable[[], float], stops: Callable[[], bool]
) -> Held:  # fmt: skip
    """It is up afterwards, as it was before where it was. Nobody fails it over meanwhile. Raises Refused where the
    other side is seen running, or another vault knows that it went there (R9.9), or a disk is gone that it wrote on;
    Busy, Cancelled, and what its start raises.
    """
    with holding.held(database, holder, known.machine.name, now, stops) as (item, lease):
        _start(known, item, lease)
    return lookup.load(database, known.machine.name)[0]


def _start(known: Known, item: Held, lease: Lease) -> None:
    placed = where(known, item)
    if placed is None:
        raise errors.Busy(f"what is under way of {item.machine!r} has changed")
    if placed.spec is None:
        raise errors.Refused(f"R9.14: {item.machine!r} runs in Azure, and is started there")
    other = _other(known, item)
    if other is not None and _runs(known, other, lease):
        raise errors.Refused(f"R9.9: {item.machine!r} runs at {other.host}, where it must not; stop it there first")
    found = known.ask(placed, "status", cancel=lease.cancelled)
    if not found["ours"]:
        if item.failover is not None or item.active == "target":
            text = f"the folder of {item.machine!r} in {placed.spec.folder} is not there; is its file system mounted?"
            raise errors.Unreachable(text, path=placed.host)
        raise errors.Refused(f"R9.6: no failover of {item.machine!r} is prepared, and it was not started from here")
    for disk in found["disks"]:
        if not disk.get("there", True):
            raise errors.Refused("the disk that it wrote on is gone; nothing was started", path=disk["path"])
    if item.failover is None and item.active == "source":
        looking.not_gone(known, item, lease.cancelled)
    lease.check()
    known.ask(placed, "start", cancel=lease.cancelled)


def _runs(known: Known, placed: Placed, lease: Lease) -> bool:
    """Is it seen running? A side that does not answer keeps nobody from a start at the other, which is not new."""
    try:
        return bool(known.ask(placed, "status", cancel=lease.cancelled)["state"] == "running")
    except errors.Unreachable:
        return False


def _other(known: Known, item: Held) -> Placed | None:
    """The side at which it must not run; None where it cannot."""
    way = item.failover
    if (way.to if way is not None else item.active) == "target":
        return known.home()
    other = way.here if way is not None else item.away
    return other if other is not None and other.spec is not None else None
