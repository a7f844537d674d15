"""One pass over an image: which blocks differ from a block map, with their bytes, in bounded batches.

Workers share only the iterator of spans; each owns its batch. The consumer is called from the worker's thread with a
full batch and must be done with it when it returns, so nothing queues up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from secondsite.engine import ahead, kernel
from secondsite.engine.batch import Batch
from secondsite.engine.images import Image
from secondsite.engine.progress import Monitor
from secondsite.engine.units import KIB, MIB

if TYPE_CHECKING:
    from secondsite.engine.blockmap import BlockMap

# One boundary crossing reads this much (DESIGN D2).
SPAN_BYTES = 32 * MIB
# Holes shorter than this are read through, rather than cut a span in two.
SMALL_HOLE = 256 * KIB
PIECE_BYTES = 1 * MIB
# So many short spans, of so many bytes, are asked for at once, of an image that gathers: its server reads them beside
# each other. 128 MiB in pieces of 1 MiB, half of them from the disk, took 0.67, 1.62 and 1.72 s, and with 1 MiB at once
# 0.97, 1.85 and 2.63 s, in turn on a busy machine.
GATHERED, GATHERED_BYTES = 64, 4 * MIB


class Span(NamedTuple):
    """`blocks` blocks from `first`; `zero` where the image says that they hold nothing."""

    first: int
    blocks: int
    zero: bool


class Range(NamedTuple):
    """Bytes of an image that are not what they should be."""

    offset: int
    length: int


def spans(image: Image, size: int, block_size: int, runs: Iterable[tuple[int, int]] | None = None) -> Iterator[Span]:
    """The image in pieces, in order: data in spans of at most SPAN_BYTES, holes in one.

    All of it without gaps, or only `runs` of blocks (first, behind the last): then no block beside them is read.
    """
    join = 0 if runs is not None else max(SMALL_HOLE // block_size, 1)
    for first, end in runs if runs is not None else [(0, -(-size // block_size))]:
        at = first
        for start, stop in _data_runs(image, size, block_size, first, end, join):
            if start > at:
                yield Span(at, start - at, True)
            step = max(SPAN_BYTES // block_size, 1)
            for piece in range(start, stop, step):
                yield Span(piece, min(step, stop - piece), False)
            at = stop
        if at < end:
            yield Span(at, end - at, True)


def _data_runs(
    image: Image, size: int, block_size: int, begin: int, end: int, join: int
) -> Iterator[tuple[int, int]]:
    """Runs of blocks that hold data, widened to whole blocks and joined over holes of up to `join` blocks."""
    start = stop = begin
    offset = begin * block_size
    for extent in image.scan_extents(offset, min(end * block_size, size) - offset):
        if extent.zero:
            continue
        first, last = extent.start // block_size, -(-(extent.start + extent.length) // block_size)
        if stop > start and first <= stop + join:
            stop = max(stop, last)
            continue
        if stop > start:
            yield start, stop
        start, stop = first, last
    if stop > start:
        yield start, stop


class Sink(Protocol):
    """What takes the batches; called from several threads, each with its own batch and worker number."""

    def put(self, batch: Batch, worker: int) -> None: ...


@dataclass
class Tally:
    """What a pass did, in bytes. So many pieces were `looked` at, and are `dense` (density.py)."""

    read_bytes: int = 0
    changed_bytes: int = 0
    sent_bytes: int = 0
    zeroed_blocks: int = 0
    looked: int = 0
    dense: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Scan:
    """`image` against `previous` (None: against zeros), its changes to `sink`. `runs`: look at these blocks alone."""

    def __init__(
        self,
        image: Image,
        previous: BlockMap | None,
        sink: Sink,
        *,
        size: int,
        block_size: int,
        seed: int,
        workers: int,
        batch_bytes: int,
        monitor: Monitor,
        runs: Iterable[tuple[int, int]] | None = None,
    ) -> None:
        self.image, self.previous, self.sink, self.size = image, previous, sink, size
        self.block_size, self.seed, self.workers = block_size, seed, workers
        self.batch_bytes, self.monitor = batch_bytes, monitor
        self.tally = Tally()
        self._spans = spans(image, size, block_size, runs)
        if runs is not None:
            self._spans = ahead.asked(image, self._spans, self._place)
        self._ahead: Span | None = None
        self._lock = threading.Lock()

    def run(self) -> Tally:
        """Scan everything; the first error of any worker ends all of them and is raised."""
        run_workers(self.workers, self._work)
        return self.tally

    def _next(self) -> list[Span]:
        """The next span, or several short ones of data whose bytes are worth asking for together; none at the end."""
        group: list[Span] = []
        room = GATHERED_BYTES // self.block_size
        with self._lock:
            while (span := self._ahead or next(self._spans, None)) is not None:
                alone = span.zero or span.blocks > room or not self.image.gathers
                self._ahead = span if group and alone else None
                if self._ahead is not None:
                    break
                group.append(span)
                room -= span.blocks
                if alone or len(group) == GATHERED:
                    break
        return group

    def _work(self, worker: int, stopping: Callable[[], bool]) -> None:
        batch = Batch(self.block_size, self.batch_bytes)
        while not stopping() and (group := self._next()):
            self.monitor.check()
            if group[0].zero:
                self._zero_span(group[0], batch, worker)
                self.monitor.advance(group[0].blocks * self.block_size)
            elif len(group) == 1:
                self._data_span(group[0], batch, worker)
            else:
                self._gathered(group, batch, worker)
        if not stopping():
            self._flush(batch, worker)

    def _flush(self, batch: Batch, worker: int) -> None:
        if batch.count:
            self.monitor.take(batch.used)
            self._density(batch)
            self.sink.put(batch, worker)
            changed = changed_bytes(batch, self.size)
            with self.tally.lock:
                self.tally.changed_bytes += changed
                self.tally.sent_bytes += batch.used
            self.monitor.found(changed)
        batch.reset()

    def _density(self, batch: Batch) -> None:
        """Before the sink has it, whose map may be the one that says what was there."""
        if self.previous is None or not batch.used:
            return
        from secondsite.engine import density

        looked, dense = density.look(batch, self.previous, self.tally.looked)
        with self.tally.lock:
            self.tally.looked += looked
            self.tally.dense += dense

    def _zero_span(self, span: Span, batch: Batch, worker: int) -> None:
        if self.previous is None:
            return
        end = min(span.first + span.blocks, self.previous.blocks)
        for blocks in self.previous.nonzero(span.first, end):
            at = 0
            while at < len(blocks):
                if not batch.free:
                    self._flush(batch, worker)
                part = min(len(batch.blocks) - batch.count, len(blocks) - at)
                batch.add_zeros(blocks, at, at + part)
                at += part

    def _previous(self, span: Span) -> memoryview | None:
        """The span's hashes; blocks past the end of the previous generation are zero."""
        if self.previous is None or span.first >= self.previous.blocks:
            return None
        held = min(span.blocks, self.previous.blocks - span.first)
        hashes = self.previous.read(span.first, held)
        if hashes is None or held == span.blocks:
            return hashes
        return memoryview(bytes(hashes) + bytes(16 * (span.blocks - held)))

    def _gathered(self, group: list[Span], batch: Batch, worker: int) -> None:
        lengths = [self._length(span) for span in group]
        data, at = memoryview(bytearray(sum(lengths))), 0
        parts: list[tuple[int, memoryview]] = []
        for span, length in zip(group, lengths, strict=True):
            parts.append((span.first * self.block_size, data[at : at + length]))
            at += length
        self.image.read_parts(parts)
        for span, (_, view) in zip(group, parts, strict=True):
            self._data_span(span, batch, worker, view)

    def _place(self, span: Span) -> tuple[int, int]:
        return span.first * self.block_size, 0 if span.zero else self._length(span)

    def _length(self, span: Span) -> int:
        """Bytes of a span; the image may end in the middle of its last block."""
        return min(span.blocks * self.block_size, self.size - span.first * self.block_size)

    def _data_span(self, span: Span, batch: Batch, worker: int, data: memoryview | None = None) -> None:
        """Scan a span, whose bytes may be there already."""
        previous = self._previous(span)
        done = 0
        while done < span.blocks:
            rest = previous[16 * done :] if previous is not None else None
            left = Span(span.first + done, span.blocks - done, False)
            if data is None:
                step = self._step(left, rest, batch)
            else:
                step = self._step_held(left, data[done * self.block_size :], rest, batch)
            done += step
            self.monitor.advance(step * self.block_size)
            if done < span.blocks:
                self._flush(batch, worker)
        with self.tally.lock:
            self.tally.read_bytes += self._length(span)

    def _step(self, span: Span, previous: memoryview | None, batch: Batch) -> int:
        """Scan as much of a span as the batch has room for; the number of blocks."""
        start = span.first * self.block_size
        length = min(span.blocks * self.block_size, self.size - start)
        segments = self.image.segments(start, length)
        if segments is None:
            return self._step_buffer(span, previous, batch)
        try:
            done, batch.count, batch.used = kernel.scan.scan_segments(
                *segments, span.first, self.block_size, self.size, span.blocks, self.seed, previous,
                batch.blocks, batch.lengths, batch.hashes, batch.payload, batch.count, batch.used,
            )  # fmt: skip
        except EOFError as error:
            raise short(self.image, str(error)) from None
        except OSError as error:
            raise unreadable(self.image, error) from None
        return done

    def _step_buffer(self, span: Span, previous: memoryview | None, batch: Batch) -> int:
        done = 0
        piece = max(PIECE_BYTES // self.block_size, 1)
        while done < span.blocks and batch.free:
            count = min(span.blocks - done, piece, batch.free)
            start = (span.first + done) * self.block_size
            data = self.image.read(start, min(count * self.block_size, self.size - start))
            rest = previous[16 * done :] if previous is not None else None
            done += self._step_held(Span(span.first + done, count, False), data, rest, batch)
        return done

    def _step_held(
        self, span: Span, data: bytearray | memoryview, previous: memoryview | None, batch: Batch
    ) -> int:
        """Scan as much of a span's bytes as the batch has room for; the number of blocks."""
        count = min(span.blocks, batch.free)
        step, batch.count, batch.used = kernel.scan.scan_buffer(
            data, span.first, self.block_size, self.size, count, self.seed, previous,
            batch.blocks, batch.lengths, batch.hashes, batch.payload, batch.count, batch.used,
        )  # fmt: skip
        return int(step)


def short(image: Image, what: str) -> Exception:
    """The error for an image that ends too early."""
    from secondsite.engine.images import ShortImage

    return ShortImage(what, path=image.path)


def unreadable(image: Image, error: OSError) -> Exception:
    from secondsite.engine import errors

    return errors.from_os(error, image.path, "read it")


def changed_bytes(batch: Batch, size: int) -> int:
    """The true length of a batch's blocks, zeros included."""
    total = batch.count * batch.block_size
    if batch.count and (batch.blocks[batch.count - 1] + 1) * batch.block_size > size:
        total -= (batch.blocks[batch.count - 1] + 1) * batch.block_size - size
    return total


def run_workers(workers: int, work: Callable[[int, Callable[[], bool]], None]) -> None:
    """Run `work(number, stopping)` in threads (one worker: in this one); raise the first error of any."""
    if workers <= 1:
        work(0, lambda: False)
        return
    failed: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number, lambda: bool(failed))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(n,), daemon=True) for n in range(workers)]
    try:
        for thread in threads:
            thread.start()
    except BaseException as error:
        failed.append(error)
    for thread in threads:
        _join(thread, failed)
    if failed:
        raise failed[0]


# How late a signal may be noticed that woke another thread.
_LOOK_SECONDS = 0.25


def _join(thread: threading.Thread, failed: list[BaseException]) -> None:
    """Wait for a thread. An interrupt lets all of them end at their next span, and is raised only then: who raised
    it again and again must not find the caller taking back what a worker still writes.
    """
    while thread.is_alive():
        try:
            # Not for ever: a signal that came while the process was stopped may wake another thread than this one, the
            # only one that runs handlers.
            thread.join(_LOOK_SECONDS)
        except BaseException as error:
            failed.insert(0, error)


class _Collect:
    """A sink that remembers where the differing blocks are."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.ranges: list[Range] = []
        self._lock = threading.Lock()

    def put(self, batch: Batch, worker: int) -> None:
        found = join(
            [
                Range(block * batch.block_size, min(batch.block_size, self.size - block * batch.block_size))
                for block in batch.blocks[: batch.count]
            ]
        )
        with self._lock:
            self.ranges += found


def differing(
    image: Image,
    block_map: BlockMap,
    seed: int,
    *,
    workers: int = 1,
    monitor: Monitor | None = None,
) -> list[Range]:
    """Where an image is not what a map says, as ranges in order; sizes must be equal."""
    sink = _Collect(block_map.image_size)
    Scan(
        image, block_map, sink, size=block_map.image_size, block_size=block_map.block_size, seed=seed,
        workers=workers, batch_bytes=1 * MIB, monitor=monitor or Monitor(),
    ).run()  # fmt: skip
    return join(sorted(sink.ranges))


class _Store:
    """A sink that writes the hashes of what it gets into a map."""

    def __init__(self, block_map: BlockMap) -> None:
        self.block_map = block_map

    def put(self, batch: Batch, worker: int) -> None:
        self.block_map.store(batch.blocks, batch.hashes, batch.count)


def rebuild(
    image: Image, block_map: BlockMap, seed: int, *, workers: int = 1, monitor: Monitor | None = None,
    runs: Iterable[tuple[int, int]] | None = None,
) -> None:  # fmt: skip
    """Fill an empty map with the hashes of an image, or of these runs of its blocks (first, behind the last)."""
    Scan(
        image, None, _Store(block_map), size=block_map.image_size, block_size=block_map.block_size, seed=seed,
        workers=workers, batch_bytes=1 * MIB, monitor=monitor or Monitor(), runs=runs,
    ).run()  # fmt: skip


def join(ranges: list[Range]) -> list[Range]:
    """Neighbouring ranges as one."""
    joined: list[Range] = []
    for offset, length in ranges:
        if joined and joined[-1].offset + joined[-1].length == offset:
            joined[-1] = Range(joined[-1].offset, joined[-1].length + length)
        else:
            joined.append(Range(offset, length))
    return joined
