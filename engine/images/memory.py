"""An image in memory, which forgets at a power loss what was not flushed."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

from secondsite.engine.images.base import Buffer, Extent, Image, ShortImage

_SECTOR = 512
_PAGE = 4096


class MemoryImage(Image):
    """Bytes in memory with the promises of a file: only `flush` makes writes durable.

    `power_loss(random)` leaves what was flushed, and of each later write nothing, all, or some sectors.
    """

    def __init__(self, data: bytes | bytearray = b"", path: str = "memory") -> None:
        self.path = path
        self._data = bytearray(data)
        self._durable = bytes(data)
        self._pending: list[tuple[int, bytes] | int] = []
        self._lock = threading.RLock()

    @property
    def size(self) -> int:
        return len(self._data)

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        if start + length > self.size:
            raise ShortImage(f"no {length} bytes at {start}", path=self.path)
        end, begin, state = start + length, start, None
        for page in range(start, end, _PAGE):
            zero = not any(self._data[page : min(page + _PAGE, end)])
            if state is not None and zero != state:
                yield Extent(begin, page - begin, state)
                begin = page
            state = zero
        if state is not None:
            yield Extent(begin, end - begin, state)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        length = memoryview(buffer).nbytes
        with self._lock:
            if offset + length > len(self._data):
                raise ShortImage(f"the image ends before {offset + length}", path=self.path, offset=offset)
            memoryview(buffer)[:] = self._data[offset : offset + length]

    def write(self, offset: int, data: bytes | Buffer) -> None:
        with self._lock:
            if offset > len(self._data):
                self._data.extend(bytes(offset - len(self._data)))
            self._data[offset : offset + len(data)] = data
            self._pending.append((offset, bytes(data)))

    def zero(self, offset: int, length: int, *, punch: bool = True) -> None:
        if offset + length > self.size:
            raise ValueError(f"{self.path}: zeros to {offset + length} of {self.size}")
        self.write(offset, bytes(length))

    def resize(self, size: int) -> None:
        with self._lock:
            del self._data[size:]
            self._data.extend(bytes(size - len(self._data)))
            self._pending.append(size)

    def flush(self) -> None:
        with self._lock:
            self._durable = bytes(self._data)
            self._pending.clear()

    def close(self) -> None:
        return None

    def power_loss(self, chance: random.Random) -> None:
        """Fall back to what is durable plus a random part of what was pending."""
        with self._lock:
            data = bytearray(self._durable)
            for change in self._pending:
                if isinstance(change, int):
                    if chance.random() < 0.5:
                        del data[change:]
                        data.extend(bytes(change - len(data)))
                    continue
                offset, written = change
                keep = chance.choice(("none", "all", "some"))
                for at in range(0, len(written), _SECTOR):
                    if keep == "all" or (keep == "some" and chance.random() < 0.5):
                        part = written[at : at + _SECTOR]
                        if offset + at > len(data):
                            data.extend(bytes(offset + at - len(data)))
                        data[offset + at : offset + at + len(part)] = part
            self._data, self._durable = data, bytes(data)
            self._pending.clear()
