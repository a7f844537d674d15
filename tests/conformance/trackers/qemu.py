"""The disk of a QEMU storage daemon: followed through its monitor, and by the bitmap of a plain export."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "qemu"))

from qemukit import Daemon
from trackerkit import REPLICA, SIZE, Rig

from secondsite.engine.files import LocalFiles
from secondsite.engine.images.nbd import NbdImage
from secondsite.engine.nbd.url import NbdUrl
from secondsite.engine.trackers.base import Tracker
from secondsite.engine.trackers.bitmap import BitmapTracker


class OfDaemon(Rig):
    """Written as a machine would, over an export of its disk."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.daemon = Daemon(folder, (SIZE,))
        self.source = self.daemon.paths[0]
        self.front = NbdImage(NbdUrl("disk0", socket=str(self.daemon.front)), "rw", connections=3)

    def write(self, offset: int, data: bytes) -> None:
        self.front.write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        self.front.zero(offset, length, punch=False)

    def trim(self, offset: int, length: int) -> None:
        self.front.zero(offset, length)

    def flush(self) -> None:
        self.front.flush()

    def content(self) -> bytes:
        return bytes(self.front.read(0, SIZE))

    def close(self) -> None:
        self.front.close()
        self.daemon.stop()


class ThroughMonitor(OfDaemon):
    def tracker(self, replica_id: str = REPLICA) -> Tracker:
        return self.daemon.tracker(replica_id=replica_id)


class ByBitmap(OfDaemon):
    """One bitmap that nobody clears: it names all that was ever written. Nobody writes while a cycle reads."""

    frozen = False
    grain = SIZE

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.daemon.other.run("block-dirty-bitmap-add", {"node": "disk0", "name": "all"})
        export = {"type": "nbd", "id": "back", "node-name": "disk0", "name": "back", "writable": True}
        self.daemon.other.run("block-export-add", {**export, "bitmaps": ["all"]})
        self.opened: list[NbdImage] = []

    def tracker(self, replica_id: str = REPLICA) -> Tracker:
        url = NbdUrl("back", socket=str(self.daemon.front), bitmap="qemu:dirty-bitmap:all")
        self.opened.append(NbdImage(url))
        note = str(self.folder / f"note-{replica_id}")
        return BitmapTracker(self.opened[-1], str(url.bitmap), LocalFiles(), note, next_bitmap="all")

    def close(self) -> None:
        for image in self.opened:
            image.close()
        super().close()


RIGS = [
    ("qemu", ThroughMonitor, ["qemu-storage-daemon"]),
    ("bitmap", ByBitmap, ["qemu-storage-daemon"]),
]
