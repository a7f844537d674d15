"""Read a delta: in order with every check, or at random through its index. All input is hostile (DESIGN D11)."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator

from secondsite.engine import errors, kernel
from secondsite.engine.delta import format as fmt
from secondsite.engine.images.base import Image

# A header and a table of 80 blocks: with blocks of 4 KiB a frame has 64.
_TABLE_READ = 2048


class Frame:
    """One checked frame. Data: `blocks` ascending, `lengths`, `hashes`; zeros: `runs` of (first, count)."""

    __slots__ = ("blocks", "body", "hashes", "head", "lengths", "offset", "path", "runs")

    def __init__(self, head: fmt.FrameHeader, body: memoryview, header: fmt.Header, path: str, at: int) -> None:
        self.head, self.body, self.path, self.offset = head, body, path, at
        self.blocks: array[int] = array("Q")
        self.lengths: array[int] = array("I")
        self.hashes = memoryview(b"")
        self.runs: array[int] = array("Q")
        end = -(-header.target_size // header.block_size)
        if head.kind == fmt.DATA:
            self._parse_data(header, end)
        elif head.kind == fmt.ZEROS:
            self._parse_zeros(end)

    def _damaged(self, what: str) -> errors.Damaged:
        return errors.Damaged(what, path=self.path, offset=self.offset)

    def _parse_data(self, header: fmt.Header, end: int) -> None:
        count = self.head.entries
        if count == 0 or 24 * count > len(self.body) or self.head.raw > fmt.MAX_RAW:
            raise self._damaged(f"a data frame of {count} blocks does not fit its {len(self.body)} bytes")
        self.blocks.frombytes(self.body[: 8 * count])
        self.hashes = self.body[8 * count : 24 * count]
        if not kernel.entries.ascending(self.blocks, count, end):
            raise self._damaged(f"its block numbers do not ascend below {end}")
        self.lengths = array("I", [header.block_size]) * count
        if self.blocks[-1] == end - 1:
            self.lengths[-1] = header.target_size - (end - 1) * header.block_size
        if sum(self.lengths) != self.head.raw:
            raise self._damaged(f"{self.head.raw} bytes of payload, {sum(self.lengths)} were expected")
        self._check_span(self.blocks[0], self.blocks[-1])

    def _parse_zeros(self, end: int) -> None:
        if self.head.entries == 0 or 16 * self.head.entries != len(self.body):
            raise self._damaged(f"{self.head.entries} runs of zeros do not fit its {len(self.body)} bytes")
        self.runs.frombytes(self.body)
        after = 0
        for first, count in zip(self.runs[0::2], self.runs[1::2], strict=True):
            if first < after or count == 0 or count > end - first:
                raise self._damaged(f"a run of {count} blocks from {first} is out of order or past {end}")
            after = first + count
        self._check_span(self.runs[0], after - 1)

    def _check_span(self, first: int, last: int) -> None:
        if (self.head.first, self.head.last) != (first, last):
            held = f"{first} to {last}"
            raise self._damaged(f"its header says blocks {self.head.first} to {self.head.last}, it holds {held}")

    @property
    def zero_blocks(self) -> int:
        return sum(self.runs[1::2])

    def decode(self, decoder: object) -> bytearray:
        """The data blocks back to back."""
        raw = bytearray(self.head.raw)
        if not decoder.decode(self.head.codec, self.body[24 * self.head.entries :], raw):  # type: ignore[attr-defined]
            raise self._damaged(f"its {fmt.CODECS.get(self.head.codec, 'unknown')} payload does not decode")
        return raw

    @property
    def plain(self) -> memoryview | None:
        """The data blocks as they lie in the frame; None where they are packed, or there are none."""
        stored = self.body[24 * self.head.entries :]
        bare = self.head.kind == fmt.DATA and self.head.codec == fmt.NONE and len(stored) == self.head.raw
        return stored if bare else None

    def payload(self, decoder: object) -> memoryview:
        """As `decode`, without a copy where nothing is packed."""
        plain = self.plain
        return plain if plain is not None else memoryview(self.decode(decoder))


class Table:
    """Which blocks a frame holds, and for each of a data frame that is not packed where it lies and its hash, so that
    a block can be read and proved by itself. `alone` is False where the frame has to be read whole.
    """

    __slots__ = ("_hashes", "_payload_at", "alone", "blocks", "runs")

    def __init__(self, blocks: array[int], runs: array[int], hashes: bytes = b"", payload_at: int = 0) -> None:
        self.blocks, self.runs, self.alone = blocks, runs, bool(hashes)
        self._hashes, self._payload_at = hashes, payload_at

    @property
    def memory(self) -> int:
        return 8 * (len(self.blocks) + len(self.runs)) + len(self._hashes) + 200

    def find(self, block: int, block_size: int) -> tuple[int, bytes]:
        """Where in the file one of `blocks` begins, and its hash. All before it in the frame are whole."""
        at = bisect_left(self.blocks, block)
        return self._payload_at + at * block_size, self._hashes[16 * at : 16 * at + 16]


class DeltaReader:
    """A delta in a file. Opening reads the header alone."""

    def __init__(self, file: Image, path: str) -> None:
        self.file, self.path = file, path
        self.header = fmt.Header.unpack(bytes(file.read(0, min(file.size, fmt.HEADER_BYTES))), path)

    def frame_header(self, offset: int, size: int) -> fmt.FrameHeader:
        """The plausible header of a frame at `offset` of a file of `size` bytes, or Damaged."""
        if size - offset < fmt.FRAME_BYTES:
            raise errors.Damaged("the file ends inside a frame", path=self.path, offset=offset)
        head = fmt.FrameHeader.unpack(self.file.read_bytes(offset, fmt.FRAME_BYTES))
        # An index has 24 bytes for each frame before it, and those take room themselves.
        indexed = (offset - fmt.HEADER_BYTES) // fmt.MIN_FRAME * fmt.INDEX_ENTRY.size
        limit = indexed if head.kind == fmt.INDEX else fmt.MAX_BODY
        if head.magic != fmt.FRAME_MAGIC or head.tag != self.header.tag or not 1 <= head.kind <= 4:
            raise errors.Damaged("expected a frame of this replica", path=self.path, offset=offset)
        if head.stored > min(limit, size - offset - fmt.FRAME_BYTES):
            raise errors.Damaged(
                f"a frame of {head.stored} bytes does not fit the file", path=self.path, offset=offset
            )
        return head

    def frame(self, offset: int, size: int | None = None) -> Frame:
        """The frame at `offset`, its checksum checked."""
        head = self.frame_header(offset, self.file.size if size is None else size)
        data = self.file.read_bytes(offset, fmt.FRAME_BYTES + head.stored)
        if not kernel.codec.check_frame(data):
            raise errors.Damaged("the frame's checksum does not hold", path=self.path, offset=offset)
        return Frame(head, memoryview(data)[fmt.FRAME_BYTES :], self.header, self.path, offset)

    def table(self, offset: int, size: int) -> Table | None:
        """Which blocks the frame at `offset` of a file of `size` bytes holds, where the sum of its table alone proves
        it: of data that is not packed, since version 2. None for a frame that has to be read whole, also where its
        numbers are impossible: then that says what is wrong with it. Raises Damaged.
        """
        start = bytearray(self.file.read_bytes(offset, min(_TABLE_READ, size - offset)))
        head = fmt.FrameHeader.unpack(start) if len(start) >= fmt.FRAME_BYTES else None
        if head is None or head.kind != fmt.DATA or head.codec != fmt.NONE or not head.flags & fmt.TABLE_SUM:
            return None
        held = fmt.FRAME_BYTES + fmt.TABLE_ENTRY * head.entries
        if head.entries == 0 or head.stored != held - fmt.FRAME_BYTES + head.raw or held + head.raw > size - offset:
            return None
        start += self.file.read_bytes(offset + len(start), max(held - len(start), 0))
        fmt.FRAME.pack_into(start, 0, *head._replace(table_sum=0, checksum=bytes(16)))
        digest = kernel.scan.hash_block(memoryview(start)[:held], self.header.tag)
        if int.from_bytes(digest[:4], "little") != head.table_sum:
            raise errors.Damaged("the sum of the frame's table does not hold", path=self.path, offset=offset)
        parsed = Frame(head, memoryview(start)[fmt.FRAME_BYTES : held], self.header, self.path, offset)
        return Table(parsed.blocks, parsed.runs, bytes(parsed.hashes), offset + held)

    def end(self) -> fmt.End:
        """The end marker, read from the file's tail."""
        offset = self.file.size - fmt.END_BYTES
        if offset < fmt.HEADER_BYTES:
            raise errors.Damaged("the delta has no end marker", path=self.path, offset=max(offset, 0))
        frame = self.frame(offset)
        if frame.head.kind != fmt.END or len(frame.body) != fmt.END_BODY.size:
            raise errors.Damaged("expected the end marker", path=self.path, offset=offset)
        return fmt.End(*fmt.END_BODY.unpack(frame.body))

    def index(self) -> memoryview:
        """Three numbers a frame, ordered by the first: first block, last block, offset."""
        offset = self.end().index_offset
        frame = self.frame(offset)
        if frame.head.kind != fmt.INDEX or len(frame.body) != 24 * frame.head.entries:
            raise errors.Damaged("expected the index", path=self.path, offset=offset)
        return frame.body.cast("Q")

    def frames(self) -> Iterator[Frame]:
        """Every data and zero frame of a whole delta in order; at the end the index is compared with them, and the
        digest over all of it is checked."""
        digest = hashlib.sha256(self.header.pack())
        offset, size = fmt.HEADER_BYTES, self.file.size
        count = data = zeros = raw = 0
        spans: list[tuple[int, int, int]] = []
        while True:
            frame = self.frame(offset, size)
            if frame.head.kind == fmt.END:
                break
            digest.update(fmt.FRAME.pack(*frame.head))
            if frame.head.kind == fmt.INDEX:
                self._check_index(frame, spans)
            else:
                spans.append((frame.head.first, frame.head.last, offset))
                count, raw = count + 1, raw + frame.head.raw
                data += len(frame.blocks)
                zeros += frame.zero_blocks
                yield frame
            offset += fmt.FRAME_BYTES + frame.head.stored
        end = self.end()
        held = (count, data, zeros, raw, digest.digest())
        if held != (end.frames, end.data_blocks, end.zero_blocks, end.raw_bytes, end.digest):
            raise errors.Damaged("the digest over the whole delta does not hold", path=self.path, offset=offset)
        if offset + fmt.END_BYTES != size:
            raise errors.Damaged("there are bytes after the end marker", path=self.path, offset=offset)

    def _check_index(self, frame: Frame, spans: list[tuple[int, int, int]]) -> None:
        """Who reads at random finds what who reads in order does."""
        expected = array("Q", [number for span in sorted(spans) for number in span])
        if frame.body != expected.tobytes() or frame.head.entries != len(spans):
            raise errors.Damaged("the index does not name the frames", path=self.path, offset=frame.offset)

    def tables(self) -> Iterator[Frame]:
        """As `frames`, without the check over all of it: for reading where every hash is checked anyway."""
        offset, size = fmt.HEADER_BYTES, self.file.size
        while (frame := self.frame(offset, size)).head.kind in (fmt.DATA, fmt.ZEROS):
            yield frame
            offset += fmt.FRAME_BYTES + frame.head.stored

    def written(self) -> Iterator[Frame]:
        """The whole frames of a delta that a crash may have cut short, up to the first that is not whole."""
        offset, size = fmt.HEADER_BYTES, self.file.size
        while offset < size:
            try:
                frame = self.frame(offset, size)
            except errors.Damaged:
                return
            if frame.head.kind in (fmt.DATA, fmt.ZEROS):
                yield frame
            offset += fmt.FRAME_BYTES + frame.head.stored

    def close(self) -> None:
        self.file.close()
