"""A VHD's blocks as one layer of a chain: fixed, or with a block table and, in a child, sector bitmaps."""

from __future__ import annotations

from array import array

from secondsite.engine import errors, kernel
from secondsite.engine.images.base import Image, Segments
from secondsite.engine.images.layered import HOLE, ZEROS, Layer
from secondsite.engine.images.vhd.structures import HEADER_BYTES, MAX_ENTRIES, NO_BLOCK, SECTOR, DynamicHeader


class FixedLayer(Layer):
    """The disk as it is, from the first byte of the file."""

    plain = True

    def __init__(self, file: Image, handle: int, size: int) -> None:
        self.file, self.handle, self.size = file, handle, size

    def map(self, start: int, length: int) -> Segments:
        return Segments(array("i", (self.handle,)), array("q", (start,)), array("q", (length,)))

    def descriptors(self) -> list[int]:
        return [self.handle]

    def allocated(self) -> int:
        return self.size


class BlockLayer(Layer):
    """A table of blocks. With `sparse`, a block of a child, whose bitmap says which sectors it holds itself.

    In a dynamic disk the bitmap is not looked at: a block that is present is present whole (formats section 2).
    `table` is the bytes of the file, big-endian, which a writer changes in place.
    """

    def __init__(self, file: Image, handle: int, size: int, header: DynamicHeader, *, sparse: bool) -> None:
        self.file, self.handle, self.size, self.header = file, handle, size, header
        self.sparse = sparse
        self.hole = HOLE if sparse else ZEROS
        self.table = _read_table(file, header, size)
        self._check()

    def _check(self) -> None:
        """No block may lie in the header or the table, past the end of the file, or in another block."""
        header, path = self.header, self.file.path
        reserved = array("q", (0, SECTOR, header.offset, header.offset + HEADER_BYTES))
        reserved.extend((header.table_offset, header.table_offset + 4 * header.entries))
        with memoryview(self.table) as table, table[: 4 * header.entries] as entries:
            bad = kernel.tables.vhd_check(
                entries, header.block_size, header.bitmap_bytes, self.size, self.file.size, reserved
            )
            if bad >= 0:
                raise errors.Damaged(
                    f"block {bad} is said to lie at sector {self.entry(bad)}, which is not in the data part "
                    f"of a file of {self.file.size} bytes",
                    path=path, offset=header.table_offset + 4 * bad,
                )  # fmt: skip
            stride = (header.bitmap_bytes + header.block_size) // SECTOR
            self.present, self.highest, clash = kernel.tables.vhd_survey(entries, stride)
        if clash >= 0:
            raise errors.Damaged(
                f"two blocks overlap at sector {clash}; each block has a place of its own",
                path=path, offset=header.table_offset,
            )  # fmt: skip

    def entry(self, block: int) -> int:
        """The sector at which a block's bitmap begins, or NO_BLOCK."""
        return int.from_bytes(self.table[4 * block : 4 * block + 4], "big")

    def map(self, start: int, length: int) -> Segments:
        header = self.header
        bitmaps = self._bitmaps(start, length) if self.sparse else None
        return Segments(
            *kernel.tables.vhd_map(
                self.table, bitmaps, self.handle, header.block_size, header.bitmap_bytes, start, length, self.hole
            )
        )

    def _bitmaps(self, start: int, length: int) -> bytearray:
        """The bitmaps of the blocks of a range, one after another; zeros for a block that is not there."""
        head, block_size = self.header.bitmap_bytes, self.header.block_size
        first, past = start // block_size, -(-(start + length) // block_size)
        found = bytearray((past - first) * head)
        with memoryview(found) as view:
            for block in range(first, past):
                if (entry := self.entry(block)) != NO_BLOCK:
                    at = (block - first) * head
                    self.file.read_into(entry * SECTOR, view[at : at + head])
        return found

    def descriptors(self) -> list[int]:
        return [self.handle]

    def allocated(self) -> int:
        return self.present * self.header.block_size


def _read_table(file: Image, header: DynamicHeader, size: int) -> bytearray:
    """The block table, checked against the sizes of the disk and the file before it is read."""
    needed = -(-size // header.block_size)
    at = header.table_offset
    if header.entries < needed:
        raise errors.Damaged(
            f"a table of {header.entries} blocks of {header.block_size} bytes for a disk of {size}; "
            f"at least {needed} were expected",
            path=file.path,
        )
    if header.entries > MAX_ENTRIES:
        raise errors.Refused(
            f"a table of {header.entries} blocks; this program reads tables of up to {MAX_ENTRIES}", path=file.path
        )
    length = 4 * header.entries
    if at % SECTOR or at < SECTOR or at + length > file.size:
        raise errors.Damaged(
            f"a table of {length} bytes at byte {at} of a file of {file.size}", path=file.path, offset=16
        )
    # To the end of its sector: a writer writes whole sectors back.
    return file.read(at, min(-(-length // SECTOR) * SECTOR, file.size - at))
