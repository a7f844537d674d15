"""Pages of metadata other than the block table: sector bitmaps, items, region tables. All go through the log."""

from __future__ import annotations

from secondsite.engine.images.base import Image
from secondsite.engine.images.vhdx.packing import PAGE

# 4 MiB of bitmaps describe 16 GiB of a disk with 512-byte sectors.
_KEPT = 1024


class Pages:
    """4 KiB pages by their offset in the file: read once, changed in memory, kept until the log has them."""

    def __init__(self, file: Image) -> None:
        self._file = file
        self._pages: dict[int, bytearray] = {}
        self.dirty: set[int] = set()

    def get(self, offset: int) -> bytearray:
        """A page to look at."""
        page = self._pages.get(offset)
        if page is None:
            if len(self._pages) >= _KEPT:
                self._pages = {at: self._pages[at] for at in self.dirty}
            page = self._pages[offset] = self._file.read(offset, PAGE)
        return page

    def change(self, offset: int) -> bytearray:
        """A page to change."""
        page = self.get(offset)
        self.dirty.add(offset)
        return page

    def patch(self, offset: int, data: bytes) -> None:
        """Change bytes wherever they lie; they may go over a page's edge."""
        while data:
            page, at = self.change(offset - offset % PAGE), offset % PAGE
            part = data[: PAGE - at]
            page[at : at + len(part)] = part
            offset, data = offset + len(part), data[len(part) :]
