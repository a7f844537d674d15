"""Images that nobody writes."""

from __future__ import annotations

from typing import NoReturn

from secondsite.engine import errors
from secondsite.engine.images.base import Buffer, Image


class ReadOnly(Image):
    """Whatever would change it is Refused, with `refusal`."""

    refusal: str

    def _refuse(self) -> NoReturn:
        raise errors.Refused(self.refusal, path=self.path)

    def write(self, offset: int, data: bytes | Buffer) -> None:
        self._refuse()

    def zero(self, offset: int, length: int, *, punch: bool = True) -> None:
        self._refuse()

    def resize(self, size: int) -> None:
        self._refuse()
