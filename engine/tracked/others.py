"""Others at a served image: a file that took its place, and writers beside the server. Neither is in the change map."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from secondsite.engine.images import Image, RawImage
from secondsite.engine.tracked.mapfile import stamp

if TYPE_CHECKING:
    from secondsite.engine import _nbd


class Others:
    """Watches the file of an open image from beside; `path` is the image's.

    While no region is active and none becomes so, no guest writes: a file whose times move all the same was written by
    somebody else. Writers beside a guest that writes too are not noticed, and of containers only who takes their place:
    they write their own headers.
    """

    def __init__(self, path: str, image: Image, changes: _nbd.ChangeMap) -> None:
        self._path, self._raw, self._changes = path, isinstance(image, RawImage), changes
        self._opened = os.fstat(image.fd) if isinstance(image, RawImage) else os.stat(path)
        self._rest: tuple[int, str] | None = None
        self.wrote()

    @property
    def inode(self) -> int:
        """Of the file that was opened."""
        return self._opened.st_ino

    def replaced(self) -> bool:
        """Does another file, or none, lie at the path now?"""
        try:
            return not os.path.samestat(os.stat(self._path), self._opened)
        except OSError:
            return True

    def resized(self) -> bool:
        """Has a raw image not the size that it is served with?"""
        return self._raw and os.stat(self._path).st_size != self._opened.st_size

    def wrote(self) -> bool:
        """Did somebody else write since the last call?"""
        before, self._rest = self._rest, self._look() if self._raw else None
        return before is not None and self._rest is not None and before[0] == self._rest[0] and before != self._rest

    def _look(self) -> tuple[int, str] | None:
        """The number of activations and the file's times, or None where a guest may be writing."""
        count = self._changes.activations
        if self._changes.active_regions:
            return None
        try:
            found = stamp([self._path])
        except OSError:
            return None
        return (count, found) if self._changes.activations == count else None
