"""What goes from the replicas of a machine: points of theirs that none of the machine's needs.

Those are of points that no rule keeps any more, and of cycles that were killed or failed between the replicas' commit
and the vault's: nobody knows them. What lies before the oldest point that the vault knows is not touched: it may be of
a vault that was lost (D8), or of a protection before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from secondsite.engine import errors
from secondsite.orchestration.protection.item import Made
from secondsite.orchestration.protection.worker import Worker


def sweep(worker: Worker, disks: Mapping[str, str], kept: Sequence[Made], spent: Sequence[Made]) -> list[int]:
    """Leave in the replicas (by path of the disk) what the points `kept`, oldest first, need; the numbers of those of
    `spent` that are gone. What is busy or away now is asked again after the next cycle.
    """
    between, swept = _between(kept), True
    for path, replica in disks.items() if spent or between else ():
        wanted, spare = _generations(kept, path), _generations(spent, path)
        try:
            if wanted and between:
                low = min(wanted | spare)
                spare |= {one for one in worker.generations(replica) if low <= one < max(wanted)}
            if spare - wanted:
                worker.drop(replica, sorted(spare - wanted))
        except errors.Error:
            swept = False
    return [one.number for one in spent] if swept else []


def _generations(points: Sequence[Made], path: str) -> set[int]:
    return {one.generations[path] for one in points if path in one.generations}


def _between(kept: Sequence[Made]) -> bool:
    """Whether a replica has a point between the machine's newest two."""
    if len(kept) < 2:
        return False
    before, now = kept[-2].generations, kept[-1].generations
    return any(path in before and generation > before[path] + 1 for path, generation in now.items())
