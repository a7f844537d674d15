"""A disk image in a file beside its model, a bytearray, changed at random in every way a guest or a tool does."""

from __future__ import annotations

import random
from pathlib import Path

from secondsite.engine.images.raw import RawImage

SECTOR = 512
MAX_BYTES = 2 << 20
_KINDS = ("write", "write", "write", "rewrite", "zero", "trim", "append", "truncate", "replace", "extend")


class Disk:
    """`data` is what the file at `path` holds."""

    def __init__(self, path: Path, chance: random.Random, block_size: int) -> None:
        self.path, self.chance, self.block_size = path, chance, block_size
        self.data = bytearray()
        path.write_bytes(b"")
        self._resize(chance.randrange(0, 40 * max(block_size, 16384)))
        self._write()

    def change(self) -> str:
        """One random change; what it was."""
        kind = self.chance.choice(_KINDS)
        getattr(self, f"_{kind}")()
        return f"{kind} -> {len(self.data)} bytes"

    def _range(self) -> tuple[int, int]:
        """Somewhere in the disk: sectors, whole blocks, or any bytes."""
        unit = self.chance.choice((1, SECTOR, self.block_size, self.block_size))
        size = len(self.data)
        start = self.chance.randrange(size + 1) // unit * unit
        length = min(self.chance.randrange(1, 12) * unit * self.chance.choice((1, 1, 7)), size - start)
        return start, length

    def _bytes(self, length: int) -> bytes:
        if self.chance.random() < 0.3:
            # Runs of one value, which pack well, and zeros written as data.
            return bytes([self.chance.choice((0, 0, 65))]) * length
        return self.chance.randbytes(length)

    def _put(self, start: int, data: bytes) -> None:
        self.data[start : start + len(data)] = data
        with self.path.open("r+b") as file:
            file.seek(start)
            file.write(data)

    def _write(self) -> None:
        start, length = self._range()
        self._put(start, self._bytes(length))

    def _rewrite(self) -> None:
        """What is there already: no change of content."""
        start, length = self._range()
        self._put(start, bytes(self.data[start : start + length]))

    def _zero(self) -> None:
        start, length = self._range()
        self._put(start, bytes(length))

    def _trim(self) -> None:
        """Punch a hole."""
        start, length = self._range()
        if length:
            with RawImage(self.path, "rw") as image:
                image.zero(start, length, punch=True)
            self.data[start : start + length] = bytes(length)

    def _resize(self, size: int) -> None:
        size = min(size, MAX_BYTES)
        with RawImage(self.path, "rw") as image:
            image.resize(size)
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))

    def _append(self) -> None:
        length = self.chance.choice((1, 511, SECTOR, self.block_size, 5 * self.block_size + SECTOR))
        if len(self.data) + length <= MAX_BYTES:
            self._put(len(self.data), self._bytes(length))

    def _extend(self) -> None:
        self._resize(len(self.data) + self.chance.choice((1, SECTOR, 3 * self.block_size, 9 * self.block_size + 7)))

    def _truncate(self) -> None:
        unit = self.chance.choice((1, SECTOR, self.block_size))
        self._resize(self.chance.randrange(len(self.data) + 1) // unit * unit)

    def _replace(self) -> None:
        """Another inode at the same path, as a restore or an editor leaves it."""
        other = self.path.with_suffix(".new")
        other.write_bytes(self.data)
        other.replace(self.path)
