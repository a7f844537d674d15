"""A replica whose first content is on its way on a medium (R5.4). FORMAT.md, section 6, is the specification.

It has no point and no head. `waiting.json` is the point that the seed will be, `seed.map` its block map; what comes
meanwhile is held as deltas, `held-G.delta` with the record of the point that it will be, `held-G.json`. The map of the
newest of them is `waiting.map`, and has that name only while it is what the records say; it may be made anew.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from secondsite.engine import errors
from secondsite.engine.account import Account
from secondsite.engine.batch import Batch
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.merge import merge
from secondsite.engine.delta.reader import DeltaReader
from secondsite.engine.delta.writer import DeltaWriter, FrameBuffer
from secondsite.engine.replica import layout, record
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.point import Point
from secondsite.engine.replica.recovery import store_frame
from secondsite.engine.seeding.medium import GENERATION
from secondsite.engine.units import MIB

# Held are at most so many deltas, and bytes as the disk has twice, and this; then neighbours are merged.
MAX_HELD = 1024
_SPARE_BYTES = 64 * MIB
Batches = Callable[[], Iterable[Batch]]


class Waiting:
    """What a replica holds for its seed; the caller has locked it. After the import, what is left to be applied."""

    def __init__(self, replica: Replica, *, max_held: int = MAX_HELD) -> None:
        self.replica, self.files, self.max_held = replica, replica.files, max_held
        self.seed_map, self.map = self._in("seed.map"), self._in("waiting.map")
        self._changing = self.map + ".tmp"

    @classmethod
    def of(cls, replica: Replica) -> Waiting | None:
        """None where the replica waits for nothing."""
        waits = replica.files.size(replica.layout.waiting) >= 0 and not replica.head_generation()
        return cls(replica) if waits else None

    @classmethod
    def begin(cls, replica: Replica, identity: Identity, point: Point, block_map: BlockMap) -> None:
        """Have a replica without a point wait for the seed of which this is the point and the map."""
        made = cls(replica)
        made.clear()
        replica.become(identity)
        for path in (made.seed_map, made.map):
            with block_map.copy_to(made.files.open(path + ".tmp", "create"), path) as copied:
                copied.file.flush()
            made.files.replace(path + ".tmp", path)
        record.write(made.files, replica.layout.waiting, point.fields())
        made.files.flush_dir(replica.layout.root)

    def clear(self) -> None:
        """Forget all of it, the newest first and the word that it waits last: what is left after a crash is an older
        state, and is forgotten by the next call.
        """
        root, word = self.replica.layout.root, self.replica.layout.waiting
        for generation in reversed(self.generations()):
            self.drop(generation)
        if self.files.size(word) < 0:
            return
        for name in self.files.listdir(root):
            if name.startswith("held-") or name in ("seed.map", "waiting.map"):
                self.files.unlink(posixpath.join(root, name))
        self.files.flush_dir(root)
        self.files.unlink(word)
        self.files.flush_dir(root)

    # -- names -----------------------------------------------------------------------------------------------

    def _in(self, name: str) -> str:
        return posixpath.join(self.replica.layout.root, name)

    def delta(self, generation: int) -> str:
        return self._in(f"held-{generation:0{layout.WIDTH}}.delta")

    def record(self, generation: int) -> str:
        return self._in(f"held-{generation:0{layout.WIDTH}}.json")

    def generations(self) -> list[int]:
        """Of what is held, ascending."""
        names = self.files.listdir(self.replica.layout.root)
        return layout.generations([name.removeprefix("held-") for name in names if name.startswith("held-")], "json")

    def owns(self, path: str | None) -> bool:
        """Is it a file of what is held?"""
        return path is not None and posixpath.basename(path).startswith("held-")

    # -- points ----------------------------------------------------------------------------------------------

    @property
    def seed(self) -> Point:
        """The point that the seed will be. Raises Damaged."""
        path = self.replica.layout.waiting
        return self._point(path, GENERATION)

    def _point(self, path: str, generation: int) -> Point:
        fields, _ = record.read(self.files, path)
        return Point.parse(fields, path, self.replica.identity.replica_id.hex(), generation)

    def held(self) -> list[Point]:
        """The points that are held, each of which leads from the one before; oldest first. Raises Damaged."""
        return [self._point(self.record(generation), generation) for generation in self.generations()]

    def newest(self) -> Point:
        """What the replica will be once its seed is there. Raises Damaged."""
        held = self.generations()
        return self._point(self.record(held[-1]), held[-1]) if held else self.seed

    def bytes(self) -> int:
        """Room that the held deltas take."""
        return sum(max(self.files.size(self.delta(generation)), 0) for generation in self.generations())

    @contextmanager
    def open_delta(self, generation: int) -> Iterator[DeltaReader]:
        """Raises Damaged."""
        path = self.delta(generation)
        if self.files.size(path) < 0:
            raise errors.Damaged("a held delta is missing", path=path)
        with self.files.open(path, "r") as file:
            reader = DeltaReader(file, path)
            header, identity = reader.header, self.replica.identity
            if (header.replica_id, header.block_size) != (identity.replica_id, identity.block_size):
                raise errors.Damaged("it is the delta of another replica", path=path, offset=16)
            if header.target_generation != generation or header.base_generation >= generation:
                raise errors.Damaged(f"it leads to {header.target_generation}, not {generation}", path=path, offset=48)
            yield reader

    # -- the map ---------------------------------------------------------------------------------------------

    def open_map(self, newest: Point) -> BlockMap:
        """The map of the newest point, as it will be; where it is not that, it is made anew. Raises Damaged."""
        try:
            return self._load(self.map, newest)
        except errors.Damaged:
            self._rebuild(newest)
        return self._load(self.map, newest)

    def _load(self, path: str, point: Point) -> BlockMap:
        if self.files.size(path) < 0:
            raise errors.Damaged("the block map is missing", path=path)
        found = self.replica.open_map(path)
        if (found.image_size, found.seal().hex()) != (point.virtual_bytes, point.seal):
            found.close()
            raise errors.Damaged(f"it does not have the seal of point {point.name}", path=path)
        return found

    def _rebuild(self, newest: Point) -> None:
        with self._load(self.seed_map, self.seed) as seed:
            seed.check()
            made = seed.copy_to(self.files.open(self._changing, "create"), self.map)
        with made:
            for point in self.chain(GENERATION):
                with self.open_delta(point.generation) as reader:
                    made.resize(reader.header.target_size)
                    for frame in reader.frames():
                        store_frame(made, frame)
            if made.seal().hex() != newest.seal:
                raise errors.Damaged(f"what is held does not lead to the seal of point {newest.name}", path=self.map)
            made.file.flush()
        self.files.replace(self._changing, self.map)
        self.files.flush_dir(self.replica.layout.root)

    # -- holding ---------------------------------------------------------------------------------------------

    def hold(self, batches: Batches, old: Point, point: Point, codec: tuple[int, int]) -> Account:
        """Keep what leads from `old`, the newest, to `point`, durably; what that changes, which the point records.
        Raises Damaged where it leads elsewhere. A page of the map that is found damaged has all of it made anew.
        """
        try:
            account = self._hold(batches(), old, point, codec)
        except errors.Damaged as error:
            if error.path != self._changing:
                raise
            account = self._hold(batches(), old, point, codec)
        self._compact(point.virtual_bytes, codec)
        return account

    def _hold(self, batches: Iterable[Batch], old: Point, point: Point, codec: tuple[int, int]) -> Account:
        files, root, made, target = self.files, self.replica.layout.root, self._changing, self.delta(point.generation)
        self.open_map(old).close()
        files.replace(self.map, made)
        files.flush_dir(root)
        header = fmt.Header(
            self.replica.identity.replica_id, self.replica.identity.block_size, old.generation, point.generation,
            old.virtual_bytes, point.virtual_bytes, point.epoch,
        )  # fmt: skip
        try:
            with files.open(target + ".tmp", "create") as file, self.replica.open_map(made, "rw") as block_map:
                block_map.resize(point.virtual_bytes)
                account = _write(DeltaWriter(file, header), block_map, batches, old, point, codec)
        except BaseException:
            files.unlink(target + ".tmp")
            files.unlink(made)
            raise
        files.replace(target + ".tmp", target)
        point = replace(point, changed_bytes=account.changed_bytes)
        record.write(files, self.record(point.generation), point.fields())
        files.replace(made, self.map)
        files.flush_dir(root)
        return account

    def _compact(self, size: int, codec: tuple[int, int]) -> None:
        """Merge neighbours until half of the room is left again, so that it costs little more than what came."""
        held, most = self.generations(), 2 * size + _SPARE_BYTES
        if len(held) <= self.max_held and self.bytes() <= most:
            return
        while len(held) > 1 and (len(held) > self.max_held // 2 or self.bytes() > most // 2):
            for older, newer in zip(held[-2::-2], held[-1::-2], strict=False):
                self._merge(older, newer, codec)
            held = self.generations()

    def _merge(self, older: int, newer: int, codec: tuple[int, int]) -> None:
        path, temporary = self.delta(newer), self.delta(newer) + ".tmp"
        with (
            self.open_delta(older) as first,
            self.open_delta(newer) as second,
            self.files.open(temporary, "create") as file,
        ):
            merge(first, second, file, codec)
        self.files.replace(temporary, path)
        self.files.flush_dir(self.replica.layout.root)
        self.drop(older)

    def drop(self, generation: int) -> None:
        """Forget a held delta, the record first: a delta without one means nothing."""
        self.files.unlink(self.record(generation))
        self.files.flush_dir(self.replica.layout.root)
        self.files.unlink(self.delta(generation))

    def chain(self, since: int) -> list[Point]:
        """What follows the generation `since`, in order, each leading from the one before, as far as that can be read.
        One that a later one leads over, where a crash left it, does not count.
        """
        leads: dict[int, Point] = {}
        for generation in self.generations():
            with suppress(errors.Damaged), self.open_delta(generation) as reader:
                leads[reader.header.base_generation] = self._point(self.record(generation), generation)
        found: list[Point] = []
        while (point := leads.get(since)) is not None:
            found.append(point)
            since = point.generation
        return found


def _write(
    writer: DeltaWriter, block_map: BlockMap, batches: Iterable[Batch], old: Point, point: Point,
    codec: tuple[int, int],
) -> Account:  # fmt: skip
    buffer, account = FrameBuffer(*codec), Account(block_map.block_size, point.virtual_bytes)
    for batch in batches:
        account.put(block_map, batch)
        buffer.encode(batch, writer.header.tag)
        writer.append(buffer)
        block_map.store(batch.blocks, batch.hashes, batch.count)
    if (seal := block_map.seal().hex()) != point.seal:
        told = f"what came leads to the seal {seal[:16]}, the source's is {point.seal[:16]}"
        raise errors.Damaged(told, path=writer.file.path)
    writer.finish(bytes.fromhex(old.seal), block_map.seal())
    block_map.file.flush()
    return account
