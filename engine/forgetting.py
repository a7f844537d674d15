"""What followed a source for a replica, and is needed no more once nobody replicates it (R1.10)."""

from __future__ import annotations

import os

from secondsite.engine.qemu import nodes
from secondsite.engine.qemu.machine import Qemu
from secondsite.engine.qemu.qmp import Monitor
from secondsite.engine.trackers.clonefile import Spot, remove


def stop_following(source: str | os.PathLike[str], replica_id: str, *, qemu: Qemu | None = None) -> None:
    """Remove the clones that were kept beside a source for this replica, and with `qemu` the dirty bitmaps in it. A
    source that is gone has none. Should the replica be followed again, its next cycle scans.
    """
    spot = Spot.of(os.fspath(source), replica_id)
    if os.path.isdir(spot.folder):
        spot.forget()
        remove(spot.at("next"))
    if qemu is not None:
        _remove_bitmaps(os.fspath(source), replica_id, qemu)


def _remove_bitmaps(source: str, replica_id: str, qemu: Qemu) -> None:
    with Monitor.connect(qemu.qmp) as monitor:
        node = nodes.find(monitor, source, qemu.node)
        for bitmap in node.bitmaps:
            if bitmap.name.startswith(f"{nodes.PREFIX}{replica_id[:8]}-"):
                monitor.run("block-dirty-bitmap-remove", {"node": node.name, "name": bitmap.name})
