"""What is known already of a disk that is adopted: the map of the replica that followed it, and what changed since.

After a failover the old disk is the last point of its replica that a tracker knows, and what was written behind that
and never sent (a change map that a tracking server left, or a clone beside the disk). So its own map is that point's,
and only where it changed the disk is read.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from secondsite.engine import distrust, errors, mapcopy, scan
from secondsite.engine.batch import Batch
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.images import Image, RawImage
from secondsite.engine.progress import Monitor
from secondsite.engine.relatives import in_turn, open_map
from secondsite.engine.remote import reach
from secondsite.engine.remote.url import is_remote
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.identity import Identity
from secondsite.engine.source import Source
from secondsite.engine.store.place import finding_logs, is_place
from secondsite.engine.tracked.mapfile import beside
from secondsite.engine.trackers.base import Have
from secondsite.engine.tracking import Marked

if TYPE_CHECKING:
    from secondsite.engine.trackers.clonefile import Spot

# Pages of a far map are asked for by so many at once: each waits for its answer.
_ASKERS = 8
State = str | os.PathLike[str] | None
Ranges = list[tuple[int, int]]
Written = list[tuple[int, int]]


@finding_logs
def identity_of(replica: str, state: State) -> Identity:
    """What a replica is, wherever it lies. Raises what opening it does."""
    if is_place(replica):
        from secondsite.engine.store.log.reading import Replica as StoredReplica
        from secondsite.engine.store.log.session import Opened

        with Opened(replica, None, state) as opened:
            return StoredReplica.open(opened.store).identity
    with reach.files_of(replica, None, state) as found:
        return Replica.open(*found).identity


@dataclass(frozen=True)
class Like:
    """The replica that followed the disk. What is made after it has its block size and the secret of its hashes."""

    replica: str
    identity: Identity
    state: State

    @classmethod
    def of(cls, replica: str, state: State) -> Like:
        return cls(replica, identity_of(replica, state), state)

    def shape(self, made: Identity) -> Identity:
        return replace(made, block_size=self.identity.block_size, seed=self.identity.seed)

    def since(self, origin: Source) -> Since | None:
        """A point that the disk was, and what tells where it changed since, of a tracker that is at rest; or None."""
        raw = isinstance(origin.image, RawImage) and not origin.image.device
        if not raw and origin.format != "vhdx":
            return None
        before = written(origin)
        return self._served(origin, before) or (self._cloned(origin.path, before) if raw else None)

    def _served(self, origin: Source, before: Written) -> Since | None:
        """By the change map of a tracking server that has ended."""
        path = origin.path
        if not os.path.exists(beside(path, "map")):
            return None
        from secondsite.engine.tracked.disk import TrackedImage

        image = TrackedImage(path, format=origin.format)
        try:
            have, flat = image.have, image.changes.ranges(False)
        finally:
            image.close()
        if have is None or have.replica_id != self.identity.replica_id.hex():
            return None
        return Since(path, have, before, ranges=list(zip(flat[::2], flat[1::2], strict=True)))

    def _cloned(self, path: str, before: Written) -> Since | None:
        """By the clone that was kept of the last point."""
        from secondsite.engine.trackers.clonefile import Spot, kept_as

        spot = Spot.of(path, self.identity.replica_id.hex())
        for kept in spot.kept():
            have = kept_as(kept)
            if have is not None and have.replica_id == self.identity.replica_id.hex():
                return Since(path, have, before, spot=spot)
        return None

    def lay(self, known: Since, head: Image, block_map: BlockMap, workers: int, monitor: Monitor) -> Laid:
        """The map of a disk in an empty one, where what is known of it bears it out."""
        try:
            ranges = known.named(head)
            named = in_turn(lambda lazily: self._taken(known, ranges, head, block_map, lazily=lazily))
        except (errors.Error, OSError, ValueError) as error:
            size = block_map.image_size
            block_map.resize(0)
            block_map.resize(size)
            return Laid(scan.Tally(), f"{self.replica}: {error}; all of the disk is read")
        tally = scan.Scan(
            head, block_map, _Store(block_map), size=block_map.image_size, block_size=block_map.block_size,
            seed=self.identity.seed, workers=workers, batch_bytes=1 << 20, monitor=monitor, runs=named.runs(),
        ).run()  # fmt: skip
        return Laid(tally, "")

    def _taken(self, known: Since, ranges: Ranges, head: Image, block_map: BlockMap, *, lazily: bool) -> Marked:
        """The point's map in an empty one, and what is left to be read. Raises Refused where a sample of the other
        blocks is not what that map says.
        """
        with ExitStack() as stack:
            _, base = open_map(self.replica, known.have, self.state, stack, lazily=lazily)
            named = Marked(ranges, block_map.image_size, block_map.block_size, base.image_size)
            near = stack.enter_context(self._near()) if is_remote(self.replica) else None
            mapcopy.take(block_map, base, near, _ASKERS if is_remote(self.replica) else 1)
            drawn = distrust.draw(base.blocks, distrust.SAMPLED_BLOCKS, random.SystemRandom())
        looked = named.look(head, block_map, self.identity.seed, drawn, distrust.SAMPLED_BLOCKS)
        if looked.wrong is not None:
            told = f"the bytes at {looked.wrong} changed since point {known.have.generation}, which nobody named"
            raise errors.Refused(told, path=known.path)
        return named

    @contextmanager
    def _near(self) -> Iterator[BlockMap | None]:
        """What this host, which sent to the far replica until the failover, remembers of its map: a block's 16 bytes
        need not come over the network again.
        """
        from secondsite.engine.files import LocalFiles
        from secondsite.engine.remote.home import Home
        from secondsite.engine.remote.sending.mapcache import MapCache

        maps = MapCache(str(Home.of(self.state).maps), LocalFiles())
        found = maps.cached(self.identity.replica_id, self.identity.block_size)
        try:
            yield found
        finally:
            if found is not None:
                found.close()


@dataclass(frozen=True)
class Since:
    """The disk was the point `have`; it was last `written` then. Where it may have changed since a change map said in
    `ranges`, or the clone at `spot` tells.
    """

    path: str
    have: Have
    written: Written
    ranges: Ranges | None = None
    spot: Spot | None = None

    def named(self, head: Image) -> Ranges:
        """Where the disk, now a `head`, may have changed. Raises Refused where the clone does not tell it any more,
        OSError and ValueError.
        """
        if self.ranges is not None:
            return self.ranges
        from secondsite.engine.trackers.clonefile import apart

        # The head itself is compared, and not a clone of its own for that: to clone a disk of 16 GiB in 5,000 pieces
        # takes 0.1 s.
        found = apart(self.spot, head.fd, self.have) if self.spot is not None and isinstance(head, RawImage) else None
        if found is None:
            raise errors.Refused(f"what was kept of point {self.have.generation} tells nothing", path=self.path)
        return list(zip(*found.ranges, strict=True))


def written(origin: Source) -> Written:
    """Size and time of the last write of each file. (A second name moves ctime.)"""
    return [(one.size, one.mtime_ns) for one in origin.stamp() or ()]


class _Store:
    """A sink that writes the hashes of what it gets into a map."""

    def __init__(self, block_map: BlockMap) -> None:
        self.block_map = block_map

    def put(self, batch: Batch, worker: int) -> None:
        self.block_map.store(batch.blocks, batch.hashes, batch.count)


@dataclass(frozen=True)
class Laid:
    """What was read for a map that is whole; with a `warning` it is as it was, and all is to be read."""

    tally: scan.Tally
    warning: str
