"""An image that a tracking server serves, in this process; writers go through its disk, cycles through its channel."""

from __future__ import annotations

from pathlib import Path

from trackerkit import REPLICA, SIZE, Rig

from secondsite.engine.tracked.control import Control
from secondsite.engine.tracked.disk import TrackedImage
from secondsite.engine.trackers.base import Tracker
from secondsite.engine.trackers.served import ServedTracker


class Served(Rig):
    several = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.source = folder / "disk.raw"
        self.source.write_bytes(b"")
        with self.source.open("r+b") as file:
            file.truncate(SIZE)
        self.served = TrackedImage(str(self.source))
        self.control = Control([self.served])

    def tracker(self, replica_id: str = REPLICA) -> Tracker:
        return ServedTracker(self.source)

    def write(self, offset: int, data: bytes) -> None:
        self.served.disk.write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        self.served.disk.zero(offset, length, False)

    def trim(self, offset: int, length: int) -> None:
        self.served.disk.zero(offset, length, True)

    def flush(self) -> None:
        self.served.disk.flush()

    def content(self) -> bytes:
        return self.source.read_bytes()

    def close(self) -> None:
        self.control.close()
        self.served.close()


RIGS = [("nbd", Served, [])]
