"""What is looked at between cycles: how much waits for the next one, and whether a kept clone takes too much room."""

from __future__ import annotations

import os
import time

from secondsite.engine import errors
from secondsite.engine.replica.directory import Replica
from secondsite.engine.trackers import clone, served
from secondsite.engine.trackers.clone import CloneTracker

# A kept clone is weighed by its extent map, which is long where an image is torn; nobody fills a disk in less.
TRIM_SECONDS = 5.0


class Between:
    """Looks after the source at `path`, whose replica is in the folder `root`, or None where it is elsewhere. No look
    raises what may pass.
    """

    def __init__(self, path: str, root: str | None) -> None:
        self.path, self.root = path, root
        self._looked = time.monotonic()

    def pending(self, tracker: str | None) -> int | None:
        """Bytes that the source's tracking server marked since the newest cut; None where there is none."""
        if tracker != served.NAME:
            return None
        try:
            return int(served.tracking_status(self.path)["marked_bytes"])
        except (errors.Error, OSError, KeyError, ValueError):
            return None  # the next cycle says what is wrong

    def trim(self, tracker: str | None) -> str | None:
        """Drop a kept clone that holds more than is free; then the line that says so. Looks every few seconds. For
        another host's replica the next cycle does it.
        """
        now = time.monotonic()
        if self.root is None or tracker != clone.NAME or now - self._looked < TRIM_SECONDS:
            return None
        self._looked = now
        try:
            return CloneTracker(self.path, Replica.open(self.root).identity.replica_id.hex()).trim()
        except (errors.Error, OSError):
            return None


def between(source: object, replica: str | os.PathLike[str], *, local: bool, elsewhere: bool) -> Between | None:
    """None for sources that are no path, and for replicas in files that only the caller knows."""
    if not isinstance(source, str | os.PathLike) or not (local or elsewhere):
        return None
    return Between(os.fspath(source), None if elsewhere else os.fspath(replica))
