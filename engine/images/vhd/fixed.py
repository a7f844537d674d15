"""Write a fixed VHD in place: the disk is the file but for its last 512 bytes."""

from __future__ import annotations

from array import array
from dataclasses import replace

from secondsite.engine import errors
from secondsite.engine.images.base import Buffer, Image
from secondsite.engine.images.layered import Handles, Layer
from secondsite.engine.images.vhd.create import CREATOR, whole_units
from secondsite.engine.images.vhd.fitting import FittingVhd
from secondsite.engine.images.vhd.geometry import chs_bytes, geometry_of
from secondsite.engine.images.vhd.reader import Link
from secondsite.engine.images.vhd.structures import FOOTER_BYTES


class FixedVhd(FittingVhd):
    """A fixed VHD opened for writing."""

    roundings = (chs_bytes, whole_units)
    wanted = staticmethod(whole_units)

    def __init__(self, path: str, links: list[Link], layers: list[Layer], handles: Handles) -> None:
        super().__init__(path, links, layers, handles)
        self.file: Image = links[0].file

    def write(self, offset: int, data: bytes | Buffer) -> None:
        """As any image; the disk is as large as it is, so that a write past its end is `Full`."""
        if offset + len(data) > self.size:
            raise errors.Full(f"the disk has {self.size} bytes, no room up to {offset + len(data)}", path=self.path)
        self.file.write(offset, data)

    def zero(self, offset: int, length: int, *, punch: bool = True) -> None:
        if offset + length > self.size:
            raise ValueError(f"{self.path}: zeros to {offset + length} of {self.size}")
        self.file.zero(offset, length, punch=punch)

    def resize(self, size: int) -> None:
        """Cut the disk, or grow it by zeros. There is a good footer at the end of the file at every moment.

        Growing: the new footer is durable at the new end before the old one becomes zeros of the disk. A crash in
        between may show the old footer's bytes in the new part.
        """
        size = whole_units(size, rounding="exact")
        old_size, old_end = self.size, self.file.size
        if size == old_size:
            return
        footer = replace(
            self.footer, current_size=size, original_size=size, geometry=geometry_of(size), creator=CREATOR
        )
        self.file.write(size, footer.pack())
        self.file.flush()
        if size > old_size:
            self.file.zero(old_size, min(old_end, size) - old_size, punch=False)
        if self.file.size != size + FOOTER_BYTES:
            self.file.resize(size + FOOTER_BYTES)
        self.links[0].footer, self.links[0].footer_at = footer, size
        self._size = self.layers[0].size = self.links[0].size = size

    def flush(self) -> None:
        self.file.flush()

    def start_writeback(self, offset: int, length: int) -> None:
        self.file.start_writeback(offset, length)

    # -- a block of the disk is a block of the file, so that whole batches pass through ----------------------

    def read_blocks(
        self, blocks: array[int], lengths: array[int], count: int, block_size: int, payload: Buffer
    ) -> int:
        return self.file.read_blocks(blocks, lengths, count, block_size, payload)

    def write_blocks(
        self,
        blocks: array[int],
        lengths: array[int],
        count: int,
        block_size: int,
        image_size: int,
        payload: Buffer,
        *,
        punch: bool = True,
    ) -> None:
        if image_size > self.size:
            raise errors.Full(f"the disk has {self.size} bytes, {image_size} are needed", path=self.path)
        self.file.write_blocks(blocks, lengths, count, block_size, image_size, payload, punch=punch)

    def check_blocks(
        self,
        blocks: array[int],
        lengths: array[int],
        hashes: Buffer,
        count: int,
        block_size: int,
        image_size: int,
        seed: int,
    ) -> int:
        return self.file.check_blocks(blocks, lengths, hashes, count, block_size, image_size, seed)
