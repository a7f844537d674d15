"""The delta between two recovery points as a log, so that Hyper-V's own format carries what a replica holds.

A log writes, and that is all it can do: blocks of zeros travel as zeros, and a disk that changed its size cannot.
"""

from __future__ import annotations

import os
import posixpath
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

from secondsite.engine import errors, kernel
from secondsite.engine.batch import BATCH_BYTES, Batch
from secondsite.engine.blockmap import PAGE_BLOCKS, BlockMap, differing_blocks
from secondsite.engine.files import Files, LocalFiles
from secondsite.engine.hrl import format as fmt
from secondsite.engine.hrl.history import log_id
from secondsite.engine.hrl.writer import ENTRY_BYTES, HrlWriter
from secondsite.engine.images.raw import real_path
from secondsite.engine.progress import Monitor, Progress
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.point import Point, parse_time
from secondsite.engine.replica.view import PointView, point_map


@dataclass(frozen=True, slots=True)
class Exported:
    """`data_bytes` in `entries` writes lead from point `base` to `point`."""

    output: str
    point: str
    base: str
    unique_id: str
    previous_id: str
    entries: int
    data_bytes: int
    seconds: float
    warnings: list[str] = field(default_factory=list)


def export_hrl(
    replica: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    at: str | None = None,
    base: str | None = None,
    unique_id: UUID | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    files: Files | None = None,
) -> Exported:
    """Write to the new file `output` what leads from point `base` (default: the one before) to `at` (the latest).

    Each block is checked against its point's sealed map. `unique_id` is for tests; see `log_id`. Raises Refused where
    the output exists, there is no older point, or the disk's size differs between the two, and Damaged.
    """
    began = time.monotonic()
    opened = Replica.open(os.fspath(replica), files)
    target = os.fspath(output)
    _refuse_inside(opened, target)
    with opened.reading(proving=True):
        older, newer = _choose(opened, "latest" if at is None else at, base)
        job = _Job(opened, older, newer, Monitor(progress, cancel))
        header, entries, data_bytes = job.write(target, unique_id)
    return Exported(
        target, newer.name, older.name, str(header.unique_id), str(header.previous_id), entries, data_bytes,
        time.monotonic() - began, opened.warnings,
    )  # fmt: skip


def _refuse_inside(replica: Replica, target: str) -> None:
    root, path = real_path(replica.layout.root), real_path(target)
    if isinstance(replica.files, LocalFiles) and posixpath.commonpath([root, path]) == root:
        raise errors.Refused("lies inside the replica; export to another folder", path=target)


def _choose(replica: Replica, at: str, base: str | None) -> tuple[Point, Point]:
    """The older and the newer point."""
    newer, root = replica.choose(at), replica.layout.root
    if base is not None:
        older = replica.choose(base)
        if older.generation >= newer.generation:
            raise errors.Usage(f"point {older.name} is not older than point {newer.name}", path=root)
    else:
        before = [point for point in replica.points() if point.generation < newer.generation]
        if not before:
            raise errors.Refused(f"there is no point before {newer.name} to start from", path=root)
        older = before[-1]
    if older.virtual_bytes != newer.virtual_bytes:
        raise errors.Refused(
            f"the disk has {older.virtual_bytes} bytes in point {older.name} and {newer.virtual_bytes} in point "
            f"{newer.name}; a log cannot say that (restore the whole point)",
            path=root,
        )
    return older, newer


class _Job:
    def __init__(self, replica: Replica, older: Point, newer: Point, monitor: Monitor) -> None:
        self.replica, self.older, self.newer, self.monitor = replica, older, newer, monitor
        self._time = fmt.seconds(parse_time(newer.time))
        self._zeros = memoryview(bytes(ENTRY_BYTES))

    def write(self, target: str, unique_id: UUID | None) -> tuple[fmt.Header, int, int]:
        """Under another name first: a log appears when it is whole and durable."""
        files = self.replica.files
        if files.exists(target):
            raise errors.Refused("exists; name another file", path=target)
        folder, name = posixpath.split(target)
        partial = posixpath.join(folder, f".{name}.secondsite-partial")
        try:
            with files.open(partial, "create") as file:
                replica_id = self.replica.identity.replica_id
                writer = HrlWriter(
                    file, unique_id or log_id(replica_id, self.newer), log_id(replica_id, self.older),
                    created=fmt.seconds(parse_time(self.older.time)),
                )  # fmt: skip
                self._copy(writer)
                header = writer.finish(self._time)
            if files.exists(target):
                raise errors.Refused("appeared meanwhile; it is left alone", path=target)
            files.replace(partial, target)
            files.flush_dir(folder or ".")
        except BaseException:
            try:
                files.unlink(partial)
            except errors.Error:
                pass  # the first error is the one to tell
            raise
        return header, writer.entries, writer.data_bytes

    def _copy(self, writer: HrlWriter) -> None:
        with (
            point_map(self.replica, self.newer) as want,
            point_map(self.replica, self.older) as have,
            PointView(self.replica, self.newer) as view,
        ):
            batch = Batch(want.block_size, BATCH_BYTES)
            room = len(batch.payload) // batch.block_size
            self.monitor.begin("export", want.image_size)
            for page in range(want.pages):
                self.monitor.check()
                for blocks in differing_blocks(want, have, page):
                    for start in range(0, len(blocks), room):
                        self._load(view, want, blocks[start : start + room], batch)
                        for offset, data in self._runs(batch, want.image_size):
                            writer.add(offset, data, self._time)
                self.monitor.advance(PAGE_BLOCKS * want.block_size)

    def _load(self, view: PointView, want: BlockMap, blocks: array[int], batch: Batch) -> None:
        """Read some blocks of the newer point and prove them."""
        batch.name(blocks, want.load_hashes(blocks, len(blocks)), len(blocks), want.image_size)
        view.read_blocks(batch.blocks, batch.lengths, batch.count, batch.block_size, batch.payload)
        found = batch.rehash(self.replica.identity.seed)
        if found != batch.hashes[: 16 * batch.count]:
            places = array("Q", bytes(8 * batch.count))
            kernel.entries.differing_entries(found, batch.hashes[: 16 * batch.count], 0, places)
            raise errors.Damaged(
                "a block is not what it was; verify tells which points are whole",
                path=view.path,
                offset=batch.blocks[places[0]] * batch.block_size,
            )

    def _runs(self, batch: Batch, size: int) -> Iterator[tuple[int, memoryview]]:
        """Runs of neighbouring blocks of one sort: their place on the disk and their bytes."""
        used, first = 0, 0
        for index in range(1, batch.count + 1):
            if index < batch.count and _joins(batch, index):
                continue
            start = batch.blocks[first] * batch.block_size
            length = min((batch.blocks[index - 1] + 1) * batch.block_size, size) - start
            if batch.lengths[first]:
                yield start, batch.payload[used : used + length]
                used += length
            else:
                for at in range(start, start + length, ENTRY_BYTES):
                    yield at, self._zeros[: min(ENTRY_BYTES, start + length - at)]
            first = index


def _joins(batch: Batch, index: int) -> bool:
    """Does a block of a batch go on from the one before it, data from data or zeros from zeros?"""
    together = batch.blocks[index] == batch.blocks[index - 1] + 1
    return together and bool(batch.lengths[index]) == bool(batch.lengths[index - 1])
