"""Segments: deltas of a few MiB, each followed by the tables of its frames (../FORMAT.md, section 3)."""

from __future__ import annotations

import hashlib
import secrets
import struct
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from secondsite.engine import errors
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.reader import Frame
from secondsite.engine.delta.writer import DeltaWriter, FrameBuffer
from secondsite.engine.images.base import Buffer, Extent
from secondsite.engine.replica.pointimage import PointImage
from secondsite.engine.store.base import Store
from secondsite.engine.store.log import layout
from secondsite.engine.units import MIB

MAGIC = b"2SITESEG"
VERSION = 1
_TRAILER = struct.Struct("<8sIIQ16s")
TRAILER_BYTES = _TRAILER.size
# What a fault may cost to be sent again, and what one request carries.
SEGMENT_BYTES = 8 * MIB
# Of index, tables and trailer, for most.
_SPARE_BYTES = 256 * 1024
_NO_SEAL = bytes(32)
# One question brings the tables of most segments: 24 bytes for each block of 4 KiB of 8 MiB.
_TAIL_BYTES = 64 * 1024


class _Memory(PointImage):
    """What a delta is written into: bytes that grow at their end, in memory that serves one segment after another. It
    is the next one's when nobody looks at the one before any more. (New memory for each took a tenth of the processor
    time of an upload.)
    """

    def __init__(self) -> None:
        self.path, self._held, self._used = "a segment", bytearray(SEGMENT_BYTES + _SPARE_BYTES), 0

    @property
    def size(self) -> int:
        return self._used

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        if length:
            yield Extent(start, length, False)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        memoryview(buffer)[:] = self._held[offset : offset + len(buffer)]

    def write(self, offset: int, data: bytes | Buffer) -> None:
        assert offset == self._used
        self._used += len(data)
        if self._used > len(self._held):
            self._held.extend(bytes(max(self._used - len(self._held), _SPARE_BYTES)))
        self._held[offset : self._used] = data

    def taken(self) -> memoryview:
        """All that was written, without a copy."""
        return memoryview(self._held)[: self._used]

    def begin(self) -> bool:
        """Begin anew, unless somebody still looks at what was taken."""
        try:
            self._held.append(self._held.pop())  # refused as long as there is a view
        except BufferError:
            return False
        self._used = 0
        return True

    def close(self) -> None:
        return None


class Packed(NamedTuple):
    """Where a buffer's frames went: in the object with this number, from this offset."""

    number: int
    offset: int


class Packer:
    """Frames of several threads become segments; a full one is handed to `send` (name, bytes) and another is begun.
    Memory is used again once `send` and whom it told have forgotten the bytes.
    """

    def __init__(self, kind: str, header: fmt.Header, taken: set[int], send: Callable[[str, memoryview], None]) -> None:
        self.kind, self.header, self.taken, self.send = kind, header, taken, send
        self.bytes = 0
        self._writer: DeltaWriter | None = None
        self._memories = [_Memory()]
        self._memory, self._tables, self._number = self._memories[0], bytearray(), 0
        self._lock = threading.Lock()

    def add(self, buffer: FrameBuffer) -> Packed:
        """The frames of one batch, which stay together."""
        with self._lock:
            if self._writer is not None and self._writer.offset + buffer.used > SEGMENT_BYTES:
                self._end()
            if self._writer is None:
                self._begin()
            assert self._writer is not None
            at = self._writer.offset
            self._writer.append(buffer)
            self._tables += b"".join(_tables(buffer))
            self.bytes += buffer.used
            return Packed(self._number, at)

    def _begin(self) -> None:
        self._memory, self._tables = self._room(), bytearray()
        self._writer = DeltaWriter(self._memory, self.header)
        self._number = layout.number(self.header.target_generation, secrets.randbelow(layout.RANDOM))
        while self._number in self.taken:
            self._number = layout.number(self.header.target_generation, secrets.randbelow(layout.RANDOM))
        self.taken.add(self._number)

    def _room(self) -> _Memory:
        for memory in self._memories:
            if memory.begin():
                return memory
        self._memories.append(_Memory())
        return self._memories[-1]

    def _end(self) -> None:
        assert self._writer is not None
        self._writer.finish(_NO_SEAL, _NO_SEAL)
        self._writer = None
        delta = self._memory.size
        head = _TRAILER.pack(MAGIC, VERSION, len(self._tables), delta, bytes(16))[:-16]
        self._memory.write(delta, self._tables + head + hashlib.sha256(self._tables + head).digest()[:16])
        self.send(layout.name(self.kind, self._number), self._memory.taken())

    def finish(self) -> None:
        """Send what is left."""
        with self._lock:
            if self._writer is not None:
                self._end()


def spans(buffer: FrameBuffer) -> Iterator[tuple[int, int, fmt.FrameHeader]]:
    """Each frame of a buffer: where it begins and ends in it, and its header."""
    for frame in range(buffer.frames):
        start = buffer.table[3 * frame + 2]
        end = buffer.table[3 * frame + 5] if frame + 1 < buffer.frames else buffer.used
        yield start, end, fmt.FrameHeader.unpack(buffer.data[start : start + fmt.FRAME_BYTES])


def _tables(buffer: FrameBuffer) -> Iterator[memoryview]:
    for start, _, head in spans(buffer):
        yield buffer.data[start : start + fmt.FRAME_BYTES + _table_bytes(head)]


def _table_bytes(head: fmt.FrameHeader) -> int:
    return (fmt.TABLE_ENTRY if head.kind == fmt.DATA else 16) * head.entries


def parse(head: fmt.FrameHeader, body: memoryview, header: fmt.Header, path: str, offset: int) -> Frame:
    """A frame of any generation: the length of its last block is what its payload says. Raises Damaged."""
    if head.kind not in (fmt.DATA, fmt.ZEROS):
        raise errors.Damaged("a frame of blocks was expected", path=path, offset=offset)
    if head.kind == fmt.DATA:
        tail = head.raw - (head.entries - 1) * header.block_size
        if not 0 < tail <= header.block_size or head.last >= 1 << 40:
            raise errors.Damaged("a frame whose blocks have no length", path=path, offset=offset)
        header = header._replace(target_size=head.last * header.block_size + tail)
    return Frame(head, body, header, path, offset)


class Table(NamedTuple):
    """What a segment holds: of each frame what it names, without the payload, and where it lies."""

    header: fmt.Header
    frames: list[tuple[Frame, int, int]]


def payload_end(trailer: bytes, size: int) -> int | None:
    """Where the tables of a segment of `size` bytes begin, by its last bytes; None where it is none."""
    if len(trailer) < TRAILER_BYTES:
        return None
    magic, _, tables, delta, _ = _TRAILER.unpack(trailer[-TRAILER_BYTES:])
    return delta if magic == MAGIC and delta + tables + TRAILER_BYTES == size else None


def table(store: Store, name: str, size: int) -> Table:
    """Read a segment's header and tables. Raises Damaged, NewerFormat."""
    path = store.path(name)
    start = max(size - _TAIL_BYTES, 0)
    tail = store.get(name, start).data
    if start + len(tail) != size or size < TRAILER_BYTES + fmt.HEADER_BYTES:
        raise errors.Damaged("a segment was cut", path=path, offset=size)
    magic, version, tables, delta, checksum = _TRAILER.unpack(tail[-TRAILER_BYTES:])
    if magic != MAGIC:
        raise errors.Damaged("a segment ends with a trailer", path=path, offset=size - TRAILER_BYTES)
    if version > VERSION:
        raise errors.NewerFormat(f"segment version {version}; this program knows {VERSION}", path=path)
    if delta + tables + TRAILER_BYTES != size or delta < fmt.HEADER_BYTES:
        raise errors.Damaged("a trailer that does not fit its segment", path=path, offset=size - TRAILER_BYTES)
    held = tail[delta - start :] if start <= delta else store.get(name, delta).data
    if hashlib.sha256(held[: tables + 24]).digest()[:16] != checksum:
        raise errors.Damaged("the checksum of a segment's tables does not hold", path=path, offset=delta)
    first = tail[: fmt.HEADER_BYTES] if start == 0 else store.get(name, 0, fmt.HEADER_BYTES).data
    header = fmt.Header.unpack(first, path)
    return Table(header, list(_frames(memoryview(held)[:tables], header, path)))


def _frames(tables: memoryview, header: fmt.Header, path: str) -> Iterator[tuple[Frame, int, int]]:
    at, offset = 0, fmt.HEADER_BYTES
    while at < len(tables):
        if len(tables) - at < fmt.FRAME_BYTES:
            raise errors.Damaged("a segment's tables do not parse", path=path, offset=offset)
        head = fmt.FrameHeader.unpack(tables[at:])
        end = at + fmt.FRAME_BYTES + _table_bytes(head)
        length = fmt.FRAME_BYTES + head.stored
        if end > len(tables) or _table_bytes(head) > head.stored:
            raise errors.Damaged("a segment's tables do not parse", path=path, offset=offset)
        yield parse(head, tables[at + fmt.FRAME_BYTES : end], header, path, offset), offset, length
        at, offset = end, offset + length

