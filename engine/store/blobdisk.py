"""A disk of Azure: a fixed VHD in a page blob, as an image that is written in place.

Its last sector is the footer, and whoever opens a VHD begins there: while the disk is written it is zeros, and no disk
is to be had of the blob. The metadata say the same in words (FORMAT.md, section 5).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from secondsite.engine import errors
from secondsite.engine.images.base import Buffer, Extent, Image, ShortImage
from secondsite.engine.images.vhd.create import AZURE_UNIT, make_footer
from secondsite.engine.images.vhd.structures import FIXED, FOOTER_BYTES
from secondsite.engine.store.pageblob import MAX_BYTES, MAX_PUT, SECTOR, PageBlob


def disk_bytes(size: int, path: str) -> int:
    """Of the disk that holds `size` bytes: whole MiB, and with its footer no more than a page blob has. Raises Full."""
    made = max(-(-size // AZURE_UNIT), 1) * AZURE_UNIT
    if made + FOOTER_BYTES > MAX_BYTES:
        raise errors.Full(f"a page blob has at most 8 TiB, a disk of {size} bytes and its footer do not fit", path=path)
    return made


class BlobDisk(Image):
    """The disk in a page blob whose lease is held. What was written is durable."""

    check_bytes = MAX_PUT

    def __init__(self, blob: PageBlob) -> None:
        self.blob, self.path = blob, blob.path

    @property
    def size(self) -> int:
        return max(self.blob.size - FOOTER_BYTES, 0)

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        if start < 0 or length < 0 or start + length > self.size:
            raise ShortImage(f"no {length} bytes at {start}", path=self.path)
        at, end = start, start + length
        for first, last in self.blob.ranges(start, length) if length else ():
            if first > at:
                yield Extent(at, first - at, True)
            yield Extent(first, last - first, False)
            at = last
        if at < end:
            yield Extent(at, end - at, True)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        if offset < 0 or offset + view.nbytes > self.size:
            raise ShortImage(f"the disk ends before {offset + view.nbytes}", path=self.path, offset=offset)
        for at in range(0, view.nbytes, MAX_PUT):
            part = view[at : at + MAX_PUT]
            data = self.blob.read(offset + at, part.nbytes)
            if len(data) != part.nbytes:
                raise ShortImage("the blob was cut", path=self.path, offset=offset + at + len(data))
            part[:] = data

    def write(self, offset: int, data: bytes | Buffer) -> None:
        """Whole sectors, but for the end of a disk that has none: there what is more of the last one becomes zeros."""
        view = memoryview(data).cast("B")
        if offset % SECTOR:
            raise ValueError(f"{self.path}: a write at {offset}")
        if offset + view.nbytes > self.size:
            raise errors.Full(f"the disk has {self.size} bytes, no room up to {offset + view.nbytes}", path=self.path)
        for at in range(0, view.nbytes, MAX_PUT):
            part = bytes(view[at : at + MAX_PUT])
            self.blob.put(offset + at, part + bytes(-len(part) % SECTOR))

    def zero(self, offset: int, length: int, *, punch: bool = True) -> None:
        """Whole sectors, as `write` takes them."""
        if offset % SECTOR or offset + length > self.size:
            raise ValueError(f"{self.path}: zeros from {offset} to {offset + length} of {self.size}")
        if length:
            self.blob.clear(offset, -(-length // SECTOR) * SECTOR)

    def write_blocks(
        self, blocks: array[int], lengths: array[int], count: int, block_size: int, image_size: int, payload: Buffer,
        *, punch: bool = True,
    ) -> None:  # fmt: skip
        """As any image; neighbours of one sort go together, which saves requests."""
        used = at = 0
        with memoryview(payload) as view:
            while at < count:
                end = at + 1
                while end < count and blocks[end] == blocks[end - 1] + 1 and bool(lengths[end]) == bool(lengths[at]):
                    end += 1
                offset, length = blocks[at] * block_size, sum(lengths[at:end])
                if length:
                    self.write(offset, view[used : used + length])
                else:
                    self.zero(offset, min((end - at) * block_size, image_size - offset))
                used, at = used + length, end

    def resize(self, size: int) -> None:
        """To whole MiB that hold `size` bytes. The footer's place is zeros, before and after."""
        made = disk_bytes(size, self.path)
        if self.size != made:
            self.blob.resize(made + FOOTER_BYTES)

    def fit(self, size: int) -> None:
        """Hold a disk of `size` bytes with nothing but zeros behind it, and no footer."""
        start, end = -(-size // SECTOR) * SECTOR, self.blob.size
        if size < start <= end and any(self.blob.read(size, start - size)):
            start -= SECTOR  # the sector in which the disk ends: it is found to differ, and written again
        if start < end and any(self.blob.ranges(start, end - start)):
            self.blob.clear_last(start)
        self.resize(size)

    def finish(self) -> None:
        """Write the footer, which makes it a disk, and read it back."""
        footer = make_footer(FIXED, self.size).pack()
        self.blob.put_last(self.size, footer)
        if self.blob.read(self.size, FOOTER_BYTES) != footer:
            raise errors.Damaged("the footer reads back differently", path=self.path, offset=self.size)

    def flush(self) -> None:
        """Each write is durable when it is answered."""

    def close(self) -> None:
        """The lease is its holder's to release."""
