"""The engine's kernels in this process, each over the same bytes as its peer; none of it through the engine above.

Taken together the rows are an ablation: read alone; read, zero test and hash (a scan in which nothing changed); hash
alone; encode with no codec; encode with each codec.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

from secondsite.engine import kernel
from secondsite.engine.units import KIB, MIB
from secondsite.orchestration.bench.workload import BLOCK, extents

# The engine's own sizes: what one call reads, a worker's batch, and the data that is compressed in one piece.
SPAN = 32 * MIB
BATCH = 8 * MIB
GROUP = 256 * KIB
READ_SIZES = (128 * KIB, 256 * KIB, 512 * KIB, 1 * MIB)
SEED = 0x5EC0


class Room:
    """One worker's batch: flat arrays that the kernels fill (see `engine/batch.py`)."""

    def __init__(self, size: int = BATCH) -> None:
        places = size // BLOCK
        self.blocks = array("Q", bytes(8 * places))
        self.lengths = array("I", bytes(4 * places))
        self.hashes = bytearray(16 * places)
        self.payload = memoryview(mmap.mmap(-1, size))
        self.count = self.used = 0


def timed(threads: int, work: Callable[[], None]) -> float:
    """Seconds until `work`, called in so many threads, has ended in all of them. An error of one is raised."""
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    workers = [threading.Thread(target=guarded) for _ in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - began
    if failed:
        raise failed[0]
    return seconds


class Pieces:
    """(offset, length) pieces of a file, taken by several threads."""

    def __init__(self, ranges: list[tuple[int, int]], piece: int) -> None:
        self._next = iter(
            [
                (at, min(piece, start + length - at))
                for start, length in ranges
                for at in range(start, start + length, piece)
            ]
        )
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return self

    def __next__(self) -> tuple[int, int]:
        with self._lock:
            return next(self._next)


def read(path: Path, ranges: list[tuple[int, int]], threads: int, buffer_size: int) -> float:
    """The bare loop: every byte read into one small buffer a thread, again and again, and nothing done with it.

    One `preadv` reads up to a span: the same buffer as many times over as the span is long, so that neither
    Python nor the return from the kernel is in the way.
    """
    pieces = Pieces(ranges, SPAN)
    fd = os.open(path, os.O_RDONLY)

    def work() -> None:
        buffer = memoryview(mmap.mmap(-1, buffer_size))
        for offset, length in pieces:
            while length > 0:
                whole, rest = divmod(length, buffer_size)
                got = os.preadv(fd, [buffer] * whole + [buffer[:rest]] * (rest > 0), offset)
                if not got:
                    break
                offset, length = offset + got, length - got

    try:
        return timed(threads, work)
    finally:
        os.close(fd)


def best_read_size(path: Path, threads: int) -> int:
    """The buffer size with which the bare loop is fastest here, each tried three times."""
    ranges = extents(path)
    return min(READ_SIZES, key=lambda size: min(read(path, ranges, threads, size) for _ in range(3)))


def _blocks(path: Path, size: int) -> list[tuple[int, int]]:
    """What a file holds, widened to whole blocks."""
    found: list[tuple[int, int]] = []
    for start, length in extents(path):
        first, end = start // BLOCK * BLOCK, min(-(-(start + length) // BLOCK) * BLOCK, size)
        if found and first <= found[-1][0] + found[-1][1]:
            first = found.pop()[0]
        found.append((first, end - first))
    return found


def scan(path: Path, threads: int, hashes: bytearray | None, changed: Callable[[Room], None] | None = None) -> float:
    """Read, zero test, hash and compare with `hashes` (16 bytes a block; None: with zeros); the changed blocks are
    handed out in full batches, under a lock."""
    size = path.stat().st_size
    pieces = Pieces(_blocks(path, size), SPAN)
    fd = os.open(path, os.O_RDONLY)
    lock = threading.Lock()

    def flush(room: Room) -> None:
        if changed is not None and room.count:
            with lock:
                changed(room)
        room.count = room.used = 0

    def work() -> None:
        room = Room()
        for offset, length in pieces:
            first, count = offset // BLOCK, -(-length // BLOCK)
            while count:
                at = min(count * BLOCK, size - first * BLOCK)
                known = memoryview(hashes)[16 * first : 16 * (first + count)] if hashes is not None else None
                done, room.count, room.used = kernel.scan.scan_segments(
                    array("i", [fd]), array("q", [first * BLOCK]), array("q", [at]),
                    first, BLOCK, size, count, SEED, known,
                    room.blocks, room.lengths, room.hashes, room.payload, room.count, room.used,
                )  # fmt: skip
                first, count = first + done, count - done
                if count:
                    flush(room)
        flush(room)

    try:
        return timed(threads, work)
    finally:
        os.close(fd)


def block_hashes(path: Path, threads: int) -> bytearray:
    """The hash of every block, as a scan compares with them."""
    out = bytearray(16 * -(-path.stat().st_size // BLOCK))

    def keep(room: Room) -> None:
        for entry in range(room.count):
            block = room.blocks[entry]
            out[16 * block : 16 * block + 16] = room.hashes[16 * entry : 16 * entry + 16]

    scan(path, threads, None, keep)
    return out


def sample(path: Path, target: Path, limit: int) -> int:
    """Write the first blocks that are not zero to `target`, whole ones back to back; bytes written."""
    written = 0
    with target.open("wb") as file:

        def keep(room: Room) -> None:
            nonlocal written
            take = min(room.used, limit - written) // BLOCK * BLOCK
            file.write(room.payload[:take])
            written += take

        scan(path, 1, None, keep)
    return written


def hashing(size: int, threads: int) -> float:
    """Hash `size` bytes that lie in memory, a batch at a time."""
    pieces = Pieces([(0, size)], BATCH)

    def work() -> None:
        room = Room()
        for _, length in pieces:
            count = length // BLOCK
            room.lengths[:count] = array("I", [BLOCK]) * count
            kernel.scan.hash_blocks(room.payload, room.lengths, count, SEED, room.hashes)

    return timed(threads, work)


def encoding(path: Path, threads: int, codec: int, level: int) -> tuple[float, int]:
    """Read a sample and pack it into frames; the seconds, and the bytes of the frames."""
    pieces = Pieces([(0, path.stat().st_size)], BATCH)
    fd = os.open(path, os.O_RDONLY)
    stored: list[int] = []

    def work() -> None:
        room, encoder = Room(), kernel.codec.Encoder(codec, level, GROUP)
        places = len(room.blocks)
        out = memoryview(bytearray(encoder.bound(places, BATCH, BLOCK)))
        table = array("Q", bytes(24 * (2 * places + 2)))
        for offset, length in pieces:
            count = length // BLOCK
            os.preadv(fd, [room.payload[:length]], offset)
            room.blocks[:count] = array("Q", range(offset // BLOCK, offset // BLOCK + count))
            room.lengths[:count] = array("I", [BLOCK]) * count
            kernel.scan.hash_blocks(room.payload, room.lengths, count, SEED, room.hashes)
            used, _ = encoder.encode(
                room.blocks, room.lengths, room.hashes, count, room.payload[:length], 1, out, table
            )
            stored.append(used)

    try:
        return timed(threads, work), sum(stored)
    finally:
        os.close(fd)
