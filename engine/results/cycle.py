"""What a cycle made, and what dropping points did."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Replicated:
    """`kind`: initial, delta, unchanged or resync. Sizes in bytes; `sent_bytes` are the data blocks given to the
    replica, zeros and unchanged blocks not counted.

    `tracker` is what named the blocks that were read, and `why` says why it was this one; `scanned`: all of them were
    read. `sampled` blocks that it did not name were looked at, and `caught` is the probability with which a tracker
    that hides 0.1 % of the changes is caught within 100 cycles like this one, see distrust.caught (None where nothing
    changed, or all was read). The source's writer may have stood still for `stall_seconds` (None: nothing stopped it).
    `application`: file systems or databases were at rest. `kept_bytes`: what the tracking had taken beside the source.

    `read_bytes` are this call's. A cycle that goes on where another call was cut short has changed what both did.
    To another host `over_bytes` were given to the link in `attempts`, of which `again_bytes` had been lost and went
    another time; the last attempt used up to so many `connections` at once.
    Of what changed `looked` pieces were looked at, of which `dense` do not pack and replace other data: nearly all of
    them where somebody encrypts a disk in place (density.py).
    `cut_at`: its bytes were what they are when it was cut, or read, and not later; by the clock of this call.
    `moment` is the time of the point that was SOURCE, where it was one: the replica is as old as that.
    """

    kind: str
    generation: int
    point: str
    tracker: str
    virtual_bytes: int
    read_bytes: int
    changed_bytes: int
    sent_bytes: int
    seconds: float
    history: str
    pruned: int = 0
    warnings: list[str] = field(default_factory=list)
    why: str = ""
    scanned: bool = True
    sampled: int = 0
    caught: float | None = None
    stall_seconds: float | None = None
    application: bool = False
    kept_bytes: int = 0
    over_bytes: int = 0
    again_bytes: int = 0
    attempts: int = 1
    moment: str | None = None
    connections: int = 1
    looked: int = 0
    dense: int = 0
    cut_at: str | None = None


@dataclass(frozen=True, slots=True)
class Pruned:
    """So many points were dropped. Of a replica in a store `freed_bytes` were removed by this call, and
    `condemned_bytes` wait until a later one, as somebody may be reading them.
    """

    points: int
    freed_bytes: int = 0
    condemned_bytes: int = 0
    warnings: list[str] = field(default_factory=list)
