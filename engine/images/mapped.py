"""Images whose bytes are ranges of files, told by `segments`: what every container format shares. Read-only."""

from __future__ import annotations

from abc import abstractmethod

from secondsite.engine import errors, kernel
from secondsite.engine.images.base import Buffer, Image, Segments, ShortImage

# One request for segments; a reader with a larger buffer comes back for more.
_STEP_BYTES = 32 << 20


class MappedImage(Image):
    """Give it `size`, `extents`, `segments` and `close`; it reads. Writing is refused until a format overrides it."""

    @abstractmethod
    def segments(self, start: int, length: int) -> Segments:
        """The file ranges that hold a range of the disk. Raises ShortImage past its end."""

    def within(self, start: int, length: int) -> None:
        """Raise ShortImage unless the range lies inside the disk."""
        if start < 0 or length < 0 or start + length > self.size:
            raise ShortImage(
                f"the disk has {self.size} bytes, {start + length} were expected", path=self.path, offset=start
            )

    def read_into(self, offset: int, buffer: Buffer) -> None:
        with memoryview(buffer) as plain, plain.cast("B") as view:
            self.within(offset, view.nbytes)
            for at in range(0, view.nbytes, _STEP_BYTES):
                with view[at : at + _STEP_BYTES] as part:
                    self._fill(offset + at, part)

    def _fill(self, offset: int, part: memoryview) -> None:
        try:
            kernel.files.read_segments(*self.segments(offset, part.nbytes), part)
        except EOFError as error:
            raise ShortImage(str(error), path=self.path) from None
        except OSError as error:
            raise errors.from_os(error, self.path, f"read {part.nbytes} bytes at {offset}") from None

    def _read_only(self) -> errors.Error:
        return errors.Refused("this image was opened for reading", path=self.path)

    def write(self, offset: int, data: bytes | Buffer) -> None:
        raise self._read_only()

    def zero(self, offset: int, length: int, *, punch: bool = True) -> None:
        raise self._read_only()

    def resize(self, size: int) -> None:
        raise self._read_only()

    def flush(self) -> None:
        """Nothing was written."""
