"""Prove a replica from itself, or against a frozen source (DESIGN D10)."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Sequence

from secondsite.engine import errors, kernel, scan
from secondsite.engine.blockmap import PAGE_BLOCKS, BlockMap
from secondsite.engine.delta.reader import Frame
from secondsite.engine.files import Files
from secondsite.engine.frozen import compare_source, differing
from secondsite.engine.images import Image
from secondsite.engine.progress import Monitor, Progress
from secondsite.engine.remote import reach, url
from secondsite.engine.replica import chain as chains
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.point import Point
from secondsite.engine.replica.recovery import store_frame
from secondsite.engine.replica.view import PointView, base_map, point_map
from secondsite.engine.results.proof import Verified
from secondsite.engine.store.place import finding_logs, is_place
from secondsite.engine.workers import default_workers


@finding_logs
def verify(
    replica: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | Image | None = None,
    at: str | None = None,
    source_format: str | None = None,
    allow_parent_path: Sequence[str] = (),
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    files: Files | None = None,
    state: str | os.PathLike[str] | None = None,
    sealed: bool = False,
) -> Verified:
    """Hash what the replica holds and compare.

    Without `at` and `source`: the head against its block map and that against the seal, every undo delta and every
    point's map against its seal. With `at`: the contents that a restore of that point would give. With `source`: that
    image against the newest point or `at`, or the clone of it that was kept when that point was made, see frozen.py; it
    is read in the format that the replica remembers where it is the source, and for others see open_image for
    `source_format` and `allow_parent_path`. Raises SourceChanged where it differs and was written meanwhile.

    Of an encrypted replica, `sealed` or without a key: whether its objects' bytes are those that were once stored. What
    they say is not proved then.
    """
    if is_place(os.fspath(replica)) or (sealed and url.is_remote(os.fspath(replica))):
        from secondsite.engine.store.log import calls

        if source is not None:
            return calls.verify_source(
                os.fspath(replica), source, source_format, allow_parent_path, at=at or "latest",
                workers=workers or default_workers(), monitor=Monitor(progress, cancel), state=state,
            )  # fmt: skip
        return calls.verify(os.fspath(replica), at=at, monitor=Monitor(progress, cancel), sealed=sealed, state=state)
    if sealed:
        raise errors.Usage("only an encrypted replica can be verified without its key")
    if source is None and url.is_remote(os.fspath(replica)):
        return reach.verify(os.fspath(replica), state, at=at, progress=progress, cancel=cancel)
    with reach.files_of(replica, files, state, cancel) as (root, files):
        opened, monitor = Replica.open(root, files), Monitor(progress, cancel)
        return _verify(opened, source, at, source_format, allow_parent_path, workers, monitor)


def _verify(
    opened: Replica, source: str | os.PathLike[str] | Image | None, at: str | None, source_format: str | None,
    allow_parent_path: Sequence[str], workers: int | None, monitor: Monitor,
) -> Verified:  # fmt: skip
    began = time.monotonic()
    workers = workers or default_workers()
    bad: list[scan.Range]
    damaged: dict[int, str]
    against: str | None = None
    with opened.reading(proving=True):
        points = opened.points()
        # Without `at` whatever can be read is checked, also where the newest point's record cannot be.
        anything = points and at is None and source is None
        point = points[-1] if anything else opened.choose("latest" if at is None else at)
        job = _Job(opened, point, workers, monitor)
        if source is not None:
            against, bad = compare_source(
                opened.identity, point, source, source_format, allow_parent_path, job.with_source
            )
            damaged = {}
        elif at is not None:
            bad, damaged = job.point_contents()
        else:
            bad, damaged = job.everything(points)
            if not job.unread:
                opened.note_damage(damaged)
    blocks = -(-point.virtual_bytes // opened.identity.block_size)
    return Verified(
        ok=not bad and not damaged,
        point=point.name,
        blocks=blocks,
        bad=bad,
        damaged={str(generation): what for generation, what in sorted(damaged.items())},
        seconds=time.monotonic() - began,
        warnings=opened.warnings,
        against=against,
    )


def examine(replica: Replica, workers: int, monitor: Monitor) -> dict[int, str]:
    """Check everything that a replica holds, and note it; what is wrong, by point. The caller holds the replica."""
    points = replica.points()
    if not points:
        return {}
    job = _Job(replica, points[-1], workers, monitor)
    _, damaged = job.everything(points)
    if not job.unread:
        replica.note_damage(damaged)
    return damaged


class _Job:
    def __init__(self, replica: Replica, point: Point, workers: int, monitor: Monitor) -> None:
        self.replica, self.point, self.workers, self.monitor = replica, point, workers, monitor
        self.unread = False  # something could not be read at all, which says nothing of what it holds

    def _differing(self, stage: str, image: Image, block_map: BlockMap) -> list[scan.Range]:
        self.monitor.begin(stage, block_map.image_size)
        seed = self.replica.identity.seed
        return scan.differing(image, block_map, seed, workers=self.workers, monitor=self.monitor)

    def compare(self, stage: str, image: Image, block_map: BlockMap) -> list[scan.Range]:
        files, root = self.replica.files, self.replica.layout.root
        return differing(
            stage, image, block_map, self.replica.identity.seed, lambda: files.temporary(root), workers=self.workers,
            monitor=self.monitor,
        )  # fmt: skip

    def with_source(self, image: Image) -> list[scan.Range]:
        """An image against the point."""
        with point_map(self.replica, self.point) as block_map:
            return self.compare("source", image, block_map)

    def point_contents(self) -> tuple[list[scan.Range], dict[int, str]]:
        """What a restore would give, against the point's sealed map."""
        try:
            with point_map(self.replica, self.point) as block_map, PointView(self.replica, self.point) as view:
                return self._differing(f"point {self.point.name}", view, block_map), {}
        except errors.Damaged as error:
            return [], {self.point.generation: str(error)}

    def everything(self, points: list[Point]) -> tuple[list[scan.Range], dict[int, str]]:
        """The head, then every point; a point is damaged where any link of its chain is."""
        damaged = dict(self.replica.unreadable)
        newest = self.replica.head_generation()
        bad = self._head(newest, damaged)
        links = _Links(self.replica, self.workers, self.monitor)
        for point in reversed(points):
            if point.generation in damaged or point.generation == newest:
                continue
            try:
                links.check(point)
            except (errors.Damaged, errors.Unreachable) as error:
                self._unread(error)
                damaged[point.generation] = str(error)
        links.close()
        if bad:
            self._spread(bad, points, damaged)
        return bad, damaged

    def _head(self, newest: int, damaged: dict[int, str]) -> list[scan.Range]:
        """The head against its map, and that against the newest point's record, where that can be read."""
        layout = self.replica.layout
        bad: list[scan.Range] = []
        try:
            with base_map(self.replica, newest, layout.head, layout.head_map) as block_map:
                bad = [scan.Range(0, block_map.image_size)]  # unless it can be read
                with self.replica.open_head() as head:
                    bad = self.compare("head", head, block_map)
                point = self.replica.point(newest)
                if block_map.seal().hex() != point.seal or block_map.image_size != point.virtual_bytes:
                    raise errors.Damaged(f"it does not have the seal of point {point.name}", path=layout.head_map)
        except errors.Damaged as error:
            damaged.setdefault(newest, str(error))
        return bad

    def _spread(self, bad: list[scan.Range], points: list[Point], damaged: dict[int, str]) -> None:
        """Bad bytes in the head hurt the newest point, and each older one that has no undo of its own for them."""
        history = chains.History(self.replica)
        block_size = self.replica.identity.block_size
        for point in points:
            try:
                if point.generation in damaged or history.find(point.generation).base != history.head:
                    continue
                self._hold(point, bad, block_size)
            except (errors.Damaged, errors.Unreachable) as error:
                self._unread(error)
                damaged[point.generation] = str(error)

    def _unread(self, error: errors.Error) -> None:
        self.unread = self.unread or isinstance(error, errors.Unreachable)

    def _hold(self, point: Point, bad: list[scan.Range], block_size: int) -> None:
        """Raises Damaged where a point has none of its own contents for one of these ranges of the head."""
        with PointView(self.replica, point) as view, point_map(self.replica, point) as block_map:
            for offset, length in bad:
                last = min(-(-(offset + length) // block_size), block_map.blocks)
                for first in range(offset // block_size, last, PAGE_BLOCKS):
                    blocks = array("Q", range(first, min(last, first + PAGE_BLOCKS)))
                    if not _holds(view, block_map, blocks, self.replica.identity.seed):
                        raise errors.Damaged("the head's contents changed", path=view.path, offset=offset)


def _holds(view: PointView, block_map: BlockMap, blocks: array[int], seed: int) -> bool:
    """Are these blocks of a point what its map says?"""
    want = block_map.load_hashes(blocks, len(blocks))
    for index, block in enumerate(blocks):
        offset = block * view.block_size
        data = view.read(offset, min(view.block_size, view.size - offset))
        have = bytes(16) if kernel.scan.is_zero(data) else kernel.scan.hash_block(data, seed)
        if have != want[16 * index : 16 * index + 16]:
            return False
    return True


class _Links:
    """Checks undo deltas once each, from the head downwards, carrying the map along from point to point."""

    def __init__(self, replica: Replica, workers: int, monitor: Monitor) -> None:
        self.replica, self.workers, self.monitor = replica, workers, monitor
        self._history = chains.History(replica)
        self._bad: dict[int, str] = {}
        self._lost: dict[int, list[int]] = {}
        self._map: BlockMap | None = None
        self._at = 0
        self._decoder = kernel.codec.Decoder()

    def check(self, point: Point) -> None:
        """Raises Damaged where this point would not restore whole, the base's own contents aside."""
        chain = self._history.find(point.generation)
        for undo in chain.undos[1:]:
            if undo in self._bad:
                raise errors.Damaged(f"it needs point {undo}'s undo delta: {self._bad[undo]}")
        if not chain.undos:
            self._clone(point, chain)
            return
        own = chain.undos[0]
        try:
            self._carry(chain)
            self._apply(own)
        except errors.Damaged as error:
            self._bad[own] = str(error)
            self.close()
            raise
        assert self._map is not None
        if self._map.seal().hex() != point.seal or self._map.image_size != point.virtual_bytes:
            self._bad[own] = f"{self.replica.layout.undo(own)}: it does not lead to the seal of point {point.name}"
            self.close()
            raise errors.Damaged(self._bad[own])
        self._whole(point, chain)

    def _whole(self, point: Point, chain: chains.Chain) -> None:
        """Where blocks of the chain's deltas are not what their hashes say: does this point take one of them?"""
        assert self._map is not None
        lost = {block for undo in chain.undos for block in self._lost.get(undo, ()) if block < self._map.blocks}
        if not lost:
            return
        with PointView(self.replica, point) as view:
            if not _holds(view, self._map, array("Q", sorted(lost)), self.replica.identity.seed):
                raise errors.Damaged("contents that an undo delta should hold are lost", path=view.path)

    def _clone(self, point: Point, chain: chains.Chain) -> None:
        replica = self.replica
        base = chain.base, chain.base_path, chain.base_map
        with base_map(replica, *base) as block_map, replica.open_disk(chain.base_path) as image:
            if block_map.seal().hex() != point.seal:
                raise errors.Damaged(f"it does not have the seal of point {point.name}", path=chain.base_map)
            if image.size != point.virtual_bytes:
                raise errors.Damaged(
                    f"it has {image.size} bytes, {point.virtual_bytes} were expected", path=chain.base_path
                )
            self.monitor.begin(f"point {point.name}", point.virtual_bytes)
            seed = replica.identity.seed
            bad = scan.differing(image, block_map, seed, workers=self.workers, monitor=self.monitor)
            if bad:
                raise errors.Damaged("its contents are not what they were", path=chain.base_path, offset=bad[0].offset)

    def _carry(self, chain: chains.Chain) -> None:
        """Have the map of the generation that the point's own undo delta starts from."""
        above = chain.undos[1] if len(chain.undos) > 1 else chain.base
        if self._map is not None and self._at == above:
            return
        self.close()
        replica = self.replica
        with base_map(replica, chain.base, chain.base_path, chain.base_map) as base:
            self._map = base.copy_to(replica.files.temporary(replica.layout.root), chain.base_map)
        self._at = chain.base
        for undo in reversed(chain.undos[1:]):
            self._apply(undo)

    def _apply(self, undo: int) -> None:
        assert self._map is not None
        reader = self.replica.open_undo(undo)
        try:
            self.monitor.begin(f"undo of point {undo}", reader.file.size)
            self._map.resize(reader.header.target_size)
            for frame in reader.frames():
                self.monitor.check()
                self._contents(undo, frame)
                store_frame(self._map, frame)
                self.monitor.advance(frame.head.stored)
        finally:
            reader.close()
        self._at = undo

    def _contents(self, undo: int, frame: Frame) -> None:
        """A frame's blocks must hash to what its table says; those that do not are noted."""
        if not frame.blocks:
            return
        raw, count = frame.decode(self._decoder), len(frame.blocks)
        out, places = bytearray(16 * count), array("Q", bytes(8 * count))
        kernel.scan.hash_blocks(raw, frame.lengths, count, self.replica.identity.seed, out)
        wrong = kernel.entries.differing_entries(out, frame.hashes, 0, places)
        if wrong:
            self._lost.setdefault(undo, []).extend(frame.blocks[place] for place in places[:wrong])

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None
