"""What the images of a recovery point have in common: nobody writes them."""

from __future__ import annotations

from typing import NoReturn

from secondsite.engine import errors
from secondsite.engine.images import Image
from secondsite.engine.images.base import Buffer


class PointImage(Image):
    """A point's bytes, which are what they were."""

    def _refuse(self) -> NoReturn:
        raise errors.Refused("a recovery point is read-only", path=self.path)

    def write(self, offset: int, data: bytes | Buffer) -> None:
        self._refuse()

    def zero(self, offset: int, length: int, *, punch: bool = True) -> None:
        self._refuse()

    def resize(self, size: int) -> None:
        self._refuse()

    def flush(self) -> None:
        return None
