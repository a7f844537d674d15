"""When an item needs a resync (R7.1), and when that begins by itself (R7.2, R7.3).

What the engine finds while it reads or applies comes as an error; here is what only the vault can tell. A tracker that
was lost is no reason: the cycle reads the whole disk, and sends what differs (D7).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from secondsite.engine import errors
from secondsite.engine.units import format_size
from secondsite.orchestration.protection import window
from secondsite.orchestration.protection.item import Made
from secondsite.orchestration.protection.leases import NEVER
from secondsite.orchestration.protection.said import Protected
from secondsite.orchestration.protection.worker import Pending

# R7.1b. Of the machine's disks together, as the article on resyncs has it, and not of each.
MOST_PENDING = 0.5


class Required(errors.Refused):
    """Nothing is sent until the replica was compared with its source (R7.2)."""


def begins(said: Protected, now: float) -> float:
    """UTC seconds from `now` on; NEVER where an operator begins it."""
    hours = said.policy.resync_window
    return NEVER if hours == "never" else window.opens(now, hours or window.DEFAULT, said.zone)


def overfull(pending: Pending | None) -> Required | None:
    """R7.1b, R7.8. None where nothing tells how much has changed."""
    if pending is None or pending.marked <= MOST_PENDING * pending.total:
        return None
    told = f"{format_size(pending.marked)} of {format_size(pending.total)} changed since the last cycle"
    return Required(f"R7.1b: {told}, more than half")


def void(
    points: Iterable[Made], cut: Mapping[str, int], fresh: Container[str] = (), others: Container[str] = ()
) -> list[int]:
    """Numbers of points whose generations the replicas do not have any more, or have with another content: a replica
    that was put back to an older state counts on from there (R7.1f). `cut` are the generations of the last cycle, by
    path of the disk; what an older point calls by the number of a `fresh` one is not that. Of `others` the replica is
    not the one any more that the points are of.
    """
    gone = {path: -1 if path in others else made - (path in fresh) for path, made in cut.items()}
    return [one.number for one in points if any(one.generations.get(path, -1) > kept for path, kept in gone.items())]
