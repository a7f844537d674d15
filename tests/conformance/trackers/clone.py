"""Clones of a file that others write: on XFS, on Btrfs, and there compressed or written in place."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from trackerkit import REPLICA, SIZE, FileRig

from secondsite.engine.trackers.base import Tracker
from secondsite.engine.trackers.clone import CloneTracker


class OnXfs(FileRig):
    wants = "xfs_dir"

    def tracker(self, replica_id: str = REPLICA) -> Tracker:
        return CloneTracker(self.source, replica_id)


class OnBtrfs(OnXfs):
    wants = "btrfs_dir"


class Compressed(OnBtrfs):
    """What is compressed has no address that tells its bytes: all of it is named."""

    grain = SIZE

    def __init__(self, folder: Path) -> None:
        subprocess.run(["btrfs", "property", "set", str(folder), "compression", "zstd"], check=True)
        super().__init__(folder)


class InPlace(OnBtrfs):
    """As images of machines often are there: written in place, where no clone shares what is written."""

    def __init__(self, folder: Path) -> None:
        subprocess.run(["chattr", "+C", str(folder)], check=True)
        super().__init__(folder)
        os.posix_fallocate(self.fd, 0, SIZE)


RIGS = [
    ("xfs", OnXfs, ["xfs"]),
    ("btrfs", OnBtrfs, ["btrfs"]),
    ("btrfs-zstd", Compressed, ["btrfs"]),
    ("btrfs-nocow", InPlace, ["btrfs", "e2fsprogs"]),
]
