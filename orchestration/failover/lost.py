"""A side that a machine cannot go back to: its host does not answer, or what the machine has there is gone."""

from __future__ import annotations

from secondsite.engine import errors
from secondsite.orchestration.failover.intent import Intent, Placed
from secondsite.orchestration.failover.machines import Known
from secondsite.orchestration.protection.item import Held

_MOVED = ("starting", "running", "changing")


def why(known: Known, placed: Placed) -> str | None:
    """What keeps a machine from going on there with what it had; None where nothing does. An overlay that is gone is
    not to be made anew for it: that would be the point from which it began, without all that it wrote.
    """
    if placed.spec is None or placed.host is None:
        return None
    try:
        told = known.ask(placed, "status")
    except errors.Unreachable as error:
        return str(error)
    gone = [one["path"] for one in told["disks"] if not one.get("there", True)]  # an older version there tells less
    return f"{placed.host}: {gone[0]} is gone" if gone else None


def look(known: Known, item: Held) -> None:
    """R9.10: what runs is not given up for a side that is lost. Raises Refused, before anything is stopped."""
    way = item.failover
    if way is None or way.here is None or way.phase not in _MOVED or not (way.ran or way.kind == "failback"):
        return
    found = why(known, way.here)
    if found is not None:
        raise errors.Refused(
            f"R9.10: {item.machine!r} cannot go back: {found}; it stays where it is, and `secondsite failover commit "
            f"{item.machine}` keeps it there{_left(way)}"
        )


def _left(way: Intent) -> str:
    found = left(way.here)
    return f"; what stays behind is {found}" if found else ""


def left(placed: Placed | None) -> str:
    """What a machine has on a host, in words: for whoever clears that away once it is there again."""
    if placed is None or placed.spec is None or placed.host is None:
        return ""
    return f"the folder of {placed.spec.name} in {placed.spec.folder} on {placed.host}"
