"""Logs as the source of a cycle: over the head of the replica that they go to."""

from __future__ import annotations

import os
from collections.abc import Sequence

from secondsite.engine import errors
from secondsite.engine.hrl import history
from secondsite.engine.hrl.applied import overlay
from secondsite.engine.hrl.chain import check_chain, open_logs
from secondsite.engine.hrl.reader import HrlReader
from secondsite.engine.images import Image, Stamp
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.point import Point
from secondsite.engine.source import Source


class HrlSource(Source):
    """Open it while the replica is held as the writer, since it reads the head. It follows what the replica follows.

    Its image is an HrlOverlay, whose `changed_ranges` are all that a cycle has to look at. Call `announce` before the
    cycle and `remember` after its commit. Raises Refused where there is no point to go on from or the chain is broken,
    and Damaged.
    """

    def __init__(self, replica: Replica, logs: Sequence[str | os.PathLike[str]]) -> None:
        self._replica, self._point = replica, replica.newest()
        point = self._point
        if point is None:
            raise errors.Refused(
                "has no point for logs to go on from; replicate the disk first", path=replica.layout.root
            )
        given = open_logs(logs, replica.files)
        self._head: Image | None = None
        try:
            self._last = history.where(replica, point, given)
            readers = check_chain(given, after=self._last)
            self._proved = [reader.file.stamps() for reader in readers]
            self._head = replica.open_head()
            self.overlay = image = overlay(self._head, readers)
        except BaseException:
            for reader in given:
                reader.close()
            if self._head is not None:
                self._head.close()
            raise
        for reader in given:
            if reader not in readers:
                reader.close()
        super().__init__(image, None)
        self.name, self.format = replica.identity.source, replica.identity.source_format
        self._tell(point, given, readers)
        self._next = readers[-1].unique_id if readers else None

    def _tell(self, point: Point, given: Sequence[HrlReader], readers: Sequence[HrlReader]) -> None:
        """The warnings: what is not applied, and what is applied unproved."""
        warn = self._replica.warn
        if readers and self._last is None:
            warn(
                f"{readers[0].path}: nothing tells that this first log goes on from point {point.name} of this disk; "
                "verify --source would"
            )
        if len(readers) < len(given):
            warn(
                f"{len(given) - len(readers)} of {len(given)} logs are left out: they lead up to {self._last}, "
                f"with which point {point.name} ends"
            )
        if self.overlay.unproved_bytes:
            warn(f"{self.overlay.path}: the logs keep no checksum of {self.overlay.unproved_bytes} bytes of their data")

    def follows(self, name: str) -> bool:
        """That the logs belong to this disk, their chain has to say."""
        return True

    def settled(self) -> tuple[Stamp, ...] | None:
        """The stamps with which the logs were proved: one that was written since is refused, at each attempt."""
        found = super().settled()
        proved = None if None in self._proved else tuple(stamp for stamps in self._proved for stamp in stamps or ())
        if found != (proved or None):
            raise errors.SourceChanged("a log was written after it was read", path=self.path)
        return found

    def announce(self) -> None:
        """Note, durably, where a cycle from here will lead."""
        if self._next is not None and self._point is not None:
            history.remember(self._replica, self._point, self._last, self._next)

    def remember(self, point: Point) -> None:
        """The newest point is what the last log leads to: note it, durably."""
        if self._next is not None:
            history.remember(self._replica, point, self._next)

    def close(self) -> None:
        self.image.close()
        if self._head is not None:
            self._head.close()
