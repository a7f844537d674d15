"""Logs as the source of a cycle: over the head of the replica that they go to.

The replica remembers the last log that it took, so that the next chain must go on from there, and so that a folder of
logs can be given again and again. `hrl.json` is a record (FORMAT.md, section 1) of `generation`, `seal`, `unique_id`
and `replica_id`. It is written after the commit: a crash in between applies the same logs once more, to the same bytes.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from uuid import UUID

from secondsite.engine import errors
from secondsite.engine.hrl.applied import overlay
from secondsite.engine.hrl.chain import open_chain
from secondsite.engine.images import Image, Stamp
from secondsite.engine.replica import record
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.point import Point
from secondsite.engine.source import Source


class HrlSource(Source):
    """Open it while the replica is held as the writer, since it reads the head. It follows what the replica follows.

    Its image is an HrlOverlay, whose `changed_ranges` are all that a cycle has to look at. After the commit call
    `remember`. Raises Refused where there is no point to go on from or the chain is broken, and Damaged.
    """

    def __init__(self, replica: Replica, logs: Sequence[str | os.PathLike[str]]) -> None:
        self._replica = replica
        point = replica.newest()
        if point is None:
            raise errors.Refused("has no point for logs to go on from; replicate the disk first", path=_root(replica))
        self._last = last_applied(replica, point)
        readers = open_chain(logs, after=self._last, files=replica.files)
        self._head: Image | None = None
        try:
            self._proved = [reader.file.stamps() for reader in readers]
            self._head = replica.open_head()
            self.overlay = image = overlay(self._head, readers)
        except BaseException:
            for reader in readers:
                reader.close()
            if self._head is not None:
                self._head.close()
            raise
        super().__init__(image, None)
        self.name, self.format = replica.identity.source, replica.identity.source_format
        if readers and self._last is None:
            replica.warn(
                f"{readers[0].path}: nothing tells that this first log goes on from point {point.name} of this disk; "
                "verify --source would"
            )
        if readers:
            self._last = readers[-1].unique_id
        if len(readers) < len(logs):
            replica.warn(f"{len(logs) - len(readers)} of {len(logs)} logs were applied before")
        if image.unproved_bytes:
            replica.warn(f"{image.path}: the logs keep no checksum of {image.unproved_bytes} bytes of their data")

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

    def remember(self, point: Point) -> None:
        """The newest point is what the last log leads to: note it, durably."""
        if self._last is None:
            return
        fields = {
            "generation": point.generation,
            "seal": point.seal,
            "unique_id": str(self._last),
            "replica_id": self._replica.identity.replica_id.hex(),
        }
        record.write(self._replica.files, _path(self._replica), fields)
        self._replica.files.flush_dir(_root(self._replica))

    def close(self) -> None:
        self.image.close()
        if self._head is not None:
            self._head.close()


def last_applied(replica: Replica, point: Point) -> UUID | None:
    """The identifier of the log that the newest point ends with; None where it was not made of logs.

    Raises Refused where the replica has gone back behind it (R7.1f), and Damaged.
    """
    path = _path(replica)
    if replica.files.size(path) < 0:
        return None
    try:
        fields, _ = record.read(replica.files, path)
    except errors.Damaged as error:
        what = f"{error.message}; which log was the last is lost (replicate the disk itself, then remove this file)"
        raise errors.Damaged(what, path=path) from None
    generation = record.field(fields, "generation", int, path)
    if record.field(fields, "replica_id", str, path) != replica.identity.replica_id.hex():
        raise errors.Damaged("it is of another replica", path=path, offset=0)
    try:
        last = UUID(record.field(fields, "unique_id", str, path))
    except ValueError:
        raise errors.Damaged("'unique_id' is no identifier", path=path, offset=0) from None
    if generation > point.generation:
        raise errors.Refused(
            f"went back to point {point.name}; log {last} was applied in point {generation} (replicate --resync)",
            path=_root(replica),
        )
    # Otherwise a scan has looked at the disk itself since: whatever chain comes now begins anew.
    same = generation == point.generation and record.field(fields, "seal", str, path) == point.seal
    return last if same else None


def _root(replica: Replica) -> str:
    return replica.layout.root


def _path(replica: Replica) -> str:
    return posixpath.join(replica.layout.root, "hrl.json")
