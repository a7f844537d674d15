"""A point that stays as it is, and of which nothing is read that its block map does not bear out."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from secondsite.engine import errors, kernel
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.images import Extent
from secondsite.engine.images.base import Buffer
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.pointimage import PointImage
from secondsite.engine.replica.steady import SteadyPoint
from secondsite.engine.replica.view import point_map

_READ = 1 << 20


class ProvedPoint(PointImage):
    """For who copies a point to where its rot would pass for what the source wrote. `at` as `Replica.choose` takes it;
    reads raise Damaged for a block that is not what it was. The block map is kept in a temporary file, since cycles go
    on.
    """

    def __init__(self, replica: Replica, at: str = "latest") -> None:
        with replica.reading():
            steady = SteadyPoint(replica, at)
            try:
                self._map = _own_map(replica, steady)
            except BaseException:
                steady.close()
                raise
        self._steady, self.point, self.path = steady, steady.point, steady.path
        self._block, self._seed = replica.identity.block_size, replica.identity.seed

    @property
    def size(self) -> int:
        return self._steady.size

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        for extent in self._steady.extents(start, length):
            if extent.zero:
                self._prove_hole(extent.start, extent.start + extent.length)
            yield extent

    def _prove_hole(self, start: int, end: int) -> None:
        """Of blocks that are holes in part the rest is data, with which they are read whole."""
        first, stop = -(-start // self._block), end // self._block if end < self.size else self._map.blocks
        for blocks in self._map.nonzero(first, stop):
            raise self._damaged(blocks[0])

    def read_into(self, offset: int, buffer: Buffer) -> None:
        with memoryview(buffer).cast("B") as view:
            step = max(_READ // self._block, 1) * self._block
            at = 0
            while at < view.nbytes:
                end = min((offset + at) // step * step + step - offset, view.nbytes)
                self._read(offset + at, view[at:end])
                at = end

    def _read(self, offset: int, view: memoryview) -> None:
        """Whole blocks are read, wherever `view` begins and ends in them."""
        first, end = offset // self._block, -(-(offset + view.nbytes) // self._block)
        low, high = first * self._block, min(end * self._block, max(self.size, offset + view.nbytes))
        whole = (low, high) == (offset, offset + view.nbytes)
        data = view if whole else memoryview(bytearray(high - low))
        self._steady.read_into(low, data)
        self._prove(first, end - first, data)
        if not whole:
            view[:] = data[offset - low : offset - low + view.nbytes]

    def _prove(self, first: int, count: int, data: memoryview) -> None:
        want = self._map.read(first, count) or bytes(16 * count)
        lengths, found = array("I", (self._block,)) * count, bytearray(16 * count)
        lengths[-1] = data.nbytes - (count - 1) * self._block
        kernel.scan.hash_blocks(data, lengths, count, self._seed, found)
        places = array("Q", bytes(8 * count))
        for index in places[: kernel.entries.differing_entries(want, found, 0, places)]:
            at = index * self._block
            if any(want[16 * index : 16 * index + 16]) or not kernel.scan.is_zero(data[at : at + self._block]):
                raise self._damaged(first + index)

    def _damaged(self, block: int) -> errors.Damaged:
        told = "a block is not what its block map says; verify tells what is whole, replicate --resync there mends it"
        return errors.Damaged(told, path=self.path, offset=block * self._block)

    def close(self) -> None:
        self._map.close()
        self._steady.close()


def _own_map(replica: Replica, steady: SteadyPoint) -> BlockMap:
    with point_map(replica, steady.point) as held:
        return held.copy_to(replica.files.temporary(replica.layout.root), held.path)
