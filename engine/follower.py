"""A disk of Azure that follows a replica, step by step: the newest point, and a snapshot of each that it was.

A step writes what differs between the point that the blob holds and the newest one. What it holds is believed where
nobody can have written since we left it: within one process because the lease is ours, from one process to the next
because a snapshot of ours, or a note of this host, names the etag that the blob still has. Else all of it is read.
While a step writes, the blob is no disk, and the newest snapshot is one, of the point before.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from secondsite.engine import errors
from secondsite.engine.chosen import Chosen, Held, Newest, choose, kept, map_of, newest
from secondsite.engine.images.base import Buffer
from secondsite.engine.images.vhd.structures import FOOTER_BYTES
from secondsite.engine.materialization import check_pages, size_warning, written
from secondsite.engine.progress import Monitor
from secondsite.engine.remote.home import Home
from secondsite.engine.replica.point import Point, none_yet
from secondsite.engine.results.outputs import Materialized
from secondsite.engine.store import diskstate
from secondsite.engine.store.again import Again
from secondsite.engine.store.base import Exists, Fence, Fenced
from secondsite.engine.store.blobdisk import BlobDisk, disk_bytes
from secondsite.engine.store.disknote import DiskNote
from secondsite.engine.store.diskstate import WHOLE, WRITING
from secondsite.engine.store.pageblob import Found, PageBlob
from secondsite.engine.store.snapshots import Snapshot, Snapshots

if TYPE_CHECKING:
    from secondsite.engine.store.log.rows import Row

# More blocks than this are not remembered one by one: where such a step was cut, all is read.
_MOST_UNSURE = 1 << 20


class Follower:
    """Holds the blob's lease, and knows what the blob holds. At most `limit` snapshots are kept."""

    _fence: Fence

    def __init__(
        self, replica: str, blob: PageBlob, told: Again, monitor: Monitor, *, workers: int, limit: int | None,
        in_place: bool, state: str | os.PathLike[str] | None,
    ) -> None:  # fmt: skip
        self.replica, self.blob, self.told, self.monitor = replica, blob, told, monitor
        self.workers, self.limit, self.in_place, self.state = workers, limit, in_place, state
        self.snapshots, self.note = Snapshots(blob), DiskNote(Home.of(state).folder / "disks", blob)
        self._kind, self._empty, self._turn, self._count = "standby", False, 0, 0
        self._found: Found | None = None  # until it was looked at
        self._held: Held | None = None
        self._metadata: dict[str, str] = {}
        # Is the blob whole, is there a snapshot or note of it as it is, and was it looked which snapshots are too many?
        self._whole = self._snapped = self._pruned = False

    # -- the lease ----------------------------------------------------------------------------------------------

    @contextmanager
    def holding(self, *, take: bool) -> Iterator[None]:
        """The blob, made where there is none, is ours for a block. Raises Held, unless we `take` it, and Refused."""
        replica, found, made = self._newest(), self.blob.find(), ""
        if found is None:
            made = self._create(replica)
        else:
            self._admit(found, replica)
            if take and found.pinned:
                raise errors.Refused("is held for ever, as by a machine that runs from it", path=self.blob.path)
        with self.blob.held(take=take) as self._fence:
            found = self.blob.find()
            if found is None:
                raise errors.Refused("was deleted meanwhile", path=self.blob.path)
            # With this etag nobody has written it between its creation and the lease.
            self._kind = "new" if found.etag == made else self._admit(found, replica)
            self._empty = self._kind == "new"
            self._found, self._turn, self._metadata = found, found.turn, dict(found.metadata)
            yield

    def still_ours(self) -> bool:
        """Where the lease was found lost: did it run out, and nobody had it or wrote since? Then it is ours again."""
        try:
            self._fence.renew()
            return True
        except Fenced:
            return False

    def _newest(self) -> Newest:
        return newest(self.replica, self.state, self.monitor, self.told)

    def _create(self, replica: Newest) -> str:
        if replica.point is None:
            raise none_yet(self.replica)
        size = disk_bytes(replica.point.virtual_bytes, self.blob.path) + FOOTER_BYTES
        try:
            return self.blob.create(size, diskstate.begun(replica.identity.replica_id.hex()))
        except Exists:
            return ""  # somebody was faster

    def _admit(self, found: Found, replica: Newest) -> str:
        """How the first step is called. Raises Refused for what is not this replica's."""
        check_pages(found, self.blob.path)
        told = diskstate.said(found.metadata, self.blob.path)
        if told.get("replica") == replica.identity.replica_id.hex() and told.get("state") in (WRITING, WHOLE):
            return "continued" if told["state"] == WRITING else "standby"
        if not self.in_place:
            raise diskstate.refused(told, self.blob.path)
        return "in-place"

    # -- what it holds ------------------------------------------------------------------------------------------

    def _look(self, found: Found, replica: Newest) -> None:
        """What the blob held when we came. Raises Refused where somebody wrote to it after it was whole."""
        told = diskstate.said(found.metadata, self.blob.path)
        if self._kind != "standby":
            return
        held, etag = _held(told), found.etag.strip('"')
        noted = self.limit == 0 and self.note.read() == etag
        snapped = any(each.base == etag for each in self._ours(replica))
        self._snapped = noted if self.limit == 0 else snapped
        if held is not None and (noted or snapped or self._reads_as(held, replica)):
            self._held, self._whole = held, True
        elif self.in_place:
            self._kind = "in-place"
        else:
            what = f"was written by somebody since it was whole at point {told.get('point', '')[:20]}"
            raise errors.Refused(f"{what}; --in-place rewrites what differs in it", path=self.blob.path)

    def _reads_as(self, held: Held, replica: Newest) -> bool:
        """Read all of it: has it the seal of the point that it is said to hold?"""
        disk = BlobDisk(self.blob)
        if disk.size < held.bytes:
            return False
        with map_of(disk, replica.identity, held.bytes, self.workers, self.monitor) as have:
            return have.seal().hex() == held.seal

    def _at(self, point: Point | Row | None) -> bool:
        held = self._held if self._whole else None
        return held is not None and point is not None and held.called == (point.generation, point.time)

    # -- steps --------------------------------------------------------------------------------------------------

    def step(self) -> Materialized:
        """Bring the blob to the newest point, and its snapshots to what the replica keeps. After an error the next step
        goes on. Raises what `materialize` does, and Fenced.
        """
        began, replica = time.monotonic(), self._newest()
        self._fence.renew()
        if self._found is not None:
            self._look(self._found, replica)
            self._found = None
        count, kind, warnings = 0, self._kind, list[str]()
        if not self._at(replica.point):
            self._snap()
            count, warnings = self._advance()
        elif kind == "standby":
            kind = "unchanged"
        self._snap()
        self._prune(replica)
        self._kind, held = "standby", self._held
        assert held is not None
        size = disk_bytes(held.bytes, self.blob.path)
        return Materialized(
            str(held.generation), held.bytes, count, time.monotonic() - began, kind, self.blob.path, size,
            [*warnings, *self.told.fresh(), *size_warning(size, self.blob.path)], self._count,
        )  # fmt: skip

    def _advance(self) -> tuple[int, list[str]]:
        with ExitStack() as stack:
            chosen = choose(self.replica, "latest", self.state, self.workers, self.monitor, stack, self._held)
            disk_bytes(chosen.point.virtual_bytes, self.blob.path)
            return self._write(chosen), chosen.warnings

    def _write(self, chosen: Chosen) -> int:
        point, held, disk = chosen.point, self._held, _Noting(self.blob, self._held)
        if held is not None and (point.virtual_bytes < held.bytes or len(held.unsure) > _MOST_UNSURE):
            held = self._held = None  # what is cut off is no longer there, should this be cut short
        self._whole = False
        self.blob.follow()
        self._turn += 1
        self.blob.turn(self._turn)
        kept = diskstate.others(self._metadata)
        self.blob.mark(kept | diskstate.words(point, WRITING))
        disk.fit(point.virtual_bytes)
        count = chosen.follow(disk, held) if held is not None else None
        if count is None:
            self._held = None
            empty, self._empty = self._empty, False
            count = written(chosen, disk, self.workers, self.monitor, empty=empty)
        self.blob.follow()
        disk.finish()
        self._metadata = kept | diskstate.words(point, WHOLE)
        self.blob.mark(self._metadata)
        self._held, self._whole = Held.of(point), True
        self._snapped = self._pruned = False
        return count

    # -- snapshots ----------------------------------------------------------------------------------------------

    def _snap(self) -> None:
        """A snapshot of the blob, or a note where none is wanted, if it is whole and there is none."""
        if self._whole and not self._snapped:
            if self.limit == 0:
                self.note.write(self.blob.etag.strip('"'))
            else:
                self.snapshots.take(self._metadata)
            self._snapped = True

    def _ours(self, replica: Newest) -> list[Snapshot]:
        """Those of points of this replica, the oldest first."""
        owner = replica.identity.replica_id.hex()
        return [each for each in self.snapshots.taken() if each.word("replica") == owner]

    def _prune(self, replica: Newest) -> None:
        """After a step: delete snapshots of points that the replica has no more, doubles, and what is too many."""
        if self._pruned:
            return
        found = self._ours(replica)
        last = {each.point: each for each in found}
        there = kept(self.replica, self.state, self.monitor, self.told, last)
        if self._held is not None:
            there.add(self._held.called)
        rest = [each for each in found if each in last.values() and each.point in there]
        if self.limit is not None:
            rest = rest[max(len(rest) - self.limit, 0) :]
        for each in found:
            if each not in rest:
                self.snapshots.delete(each)
        self._count, self._pruned = len(rest), True


def _held(told: dict[str, str]) -> Held | None:
    """What the metadata of a whole blob say that it holds; None where they make no sense."""
    point, size = told.get("point", ""), told.get("bytes", "")
    if not all(number.isascii() and number.isdigit() and len(number) < 19 for number in (point, size)):
        return None
    return Held(int(point), told.get("time", ""), told.get("seal", ""), int(size))


class _Noting(BlobDisk):
    """Notes which blocks of what the blob held may be there no more, before they are written."""

    def __init__(self, blob: PageBlob, held: Held | None) -> None:
        super().__init__(blob)
        self.held = held

    def write_blocks(
        self, blocks: array[int], lengths: array[int], count: int, block_size: int, image_size: int, payload: Buffer,
        *, punch: bool = True,
    ) -> None:  # fmt: skip
        if self.held is not None and len(self.held.unsure) <= _MOST_UNSURE:
            self.held.unsure.update(blocks[:count])
        super().write_blocks(blocks, lengths, count, block_size, image_size, payload, punch=punch)
