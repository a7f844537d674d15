"""A file at rest, of which nothing is known."""

from __future__ import annotations

from trackerkit import REPLICA, FileRig

from secondsite.engine.source import Source
from secondsite.engine.trackers.base import Tracker
from secondsite.engine.trackers.scan import ScanTracker


class AtRest(FileRig):
    frozen = knows = False

    def tracker(self, replica_id: str = REPLICA) -> Tracker:
        return ScanTracker(Source(self.source, None))


RIGS = [("scan", AtRest, [])]
