"""When an item's next cycle is due: a grid of whole copy frequencies, so that a late cycle does not move the others.

A cycle that is due while another one of its item runs begins when that ends and counts as missed, as do all that were
due meanwhile; of several one begins (R6.2). After errors that may pass the grid gives way to R6.4's pauses.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

# R6.4: 1, 2, 4, 8, 10 minutes, then every 30.
RETRY_SECONDS = (60.0, 120.0, 240.0, 480.0, 600.0, 1800.0)


class Next(NamedTuple):
    """When, and how many cycles were missed until now."""

    due: float
    missed: int


def following(due: float, every: float, ended: float) -> Next:
    """After a cycle that was due at `due` and ended at `ended`, both UTC seconds. A clock that was set back begins a
    grid anew, or the item would wait for the time that it knows.
    """
    if ended < due:
        return Next(ended + every, 0)
    late = int((ended - due) // every)
    return Next(due + every if late == 0 else due + late * every, late)


def first(item: str, every: float, ended: float) -> Next:
    """After the first copy of an item: at a time of its own, so that those enabled together are not due together."""
    share = zlib.crc32(item.encode()) / 2**32
    return Next(ended + every * (1 - share), 0)


def after_failure(failures: int, every: float, ended: float) -> float:
    """The time of the next try, after so many failures one behind the other (at least 1). Never sooner than a cycle."""
    pause = RETRY_SECONDS[min(failures, len(RETRY_SECONDS)) - 1]
    return ended + max(min(pause, 60 * every), every)
