"""Before a cycle: the maps that it compares with and writes into, mended where they are damaged."""

from __future__ import annotations

from array import array
from types import TracebackType

from secondsite.engine import errors, scan
from secondsite.engine.blockmap import BlockMap, differing_blocks
from secondsite.engine.images import Image
from secondsite.engine.progress import Monitor
from secondsite.engine.replica import record
from secondsite.engine.replica.container import create_container, open_container
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.point import Point


class Mending:
    """A context with two maps. `previous`: what the head holds, to scan against; None before the first generation.
    `logical`: what it should hold, the head's own map, open for writing. They are one, unless this is a resync.
    `lazily`: pages of a map are checked only when they are read, which is for cycles that read few of them.
    `compared` is what a resync has found in the head, by replica/comparison.py; it is hashed here without that.
    `sealed`: does `logical` have the seal of the newest point? Only then can a cycle without changes end without a
    new generation.
    """

    def __init__(
        self, replica: Replica, old: Point | None, resync: bool, workers: int, monitor: Monitor, *,
        lazily: bool = False, compared: BlockMap | None = None,
    ) -> None:  # fmt: skip
        self.replica, self.old, self.resync = replica, old, resync
        self.workers, self.monitor, self.lazily, self.compared = workers, monitor, lazily, compared
        self.previous: BlockMap | None = None
        self._logical: BlockMap | None = None
        self.sealed = True

    @property
    def logical(self) -> BlockMap:
        assert self._logical is not None
        return self._logical

    def __enter__(self) -> Mending:
        if self.old is not None:
            try:
                self._open(self.old)
            except BaseException:
                self._close()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for block_map in (self.previous, self._logical):
            if block_map is not None and block_map is not self.compared:
                block_map.close()

    def _open(self, old: Point) -> None:
        if self.resync:
            self.previous = self._found(old)
            try:
                self._logical = open_checked(self.replica, old)
            except errors.Damaged as error:
                self._logical = self._replace(old, self.previous, error)
            self.sealed = self._logical.seal().hex() == old.seal
            if self.compared is None:
                doubt(self.previous, self._logical)
            return
        held_bytes = self._head_bytes()
        if held_bytes != old.virtual_bytes:
            what = f"has {held_bytes} bytes" if held_bytes >= 0 else "is missing"
            raise errors.Damaged(
                f"the head {what}, {old.virtual_bytes} were expected (replicate --resync mends it)",
                path=self.replica.layout.head,
            )
        try:
            self._logical = open_checked(self.replica, old, lazily=self.lazily)
        except errors.Damaged as error:
            with self._hash_head(old) as held:
                if held.seal().hex() != old.seal:
                    raise
                self._logical = self._replace(old, held, error)
        self.previous = self._logical

    def _head_bytes(self) -> int:
        """The size of the head's disk; -1 where there is none."""
        layout = self.replica.layout
        if layout.kind == "raw" or self.replica.files.size(layout.head) < 0:
            return self.replica.files.size(layout.head)
        with self.replica.open_head() as head:
            return head.size

    def _found(self, old: Point) -> BlockMap:
        """What the head holds; its size is right afterwards."""
        if self.compared is None:
            return self._hash_head(old)
        self._open_head(old).close()
        return self.compared

    def _hash_head(self, old: Point) -> BlockMap:
        replica = self.replica
        temporary = replica.files.temporary(replica.layout.root)
        identity = replica.identity
        with self._open_head(old) as head:
            made = BlockMap.create(
                temporary, replica.layout.head_map, identity.replica_id, identity.block_size, old.virtual_bytes
            )
            self.monitor.begin("hash the head", head.size)
            scan.rebuild(head, made, identity.seed, workers=self.workers, monitor=self.monitor)
        return made

    def _open_head(self, old: Point) -> Image:
        """The head to hash; a resync cuts or fills it to its size, and begins with zeros where there is none."""
        if not self.resync:
            return self.replica.open_head()
        files, path, kind = self.replica.files, self.replica.layout.head, self.replica.layout.kind
        head: Image | None = None
        if files.size(path) >= 0:
            try:
                head = open_container(files, path, "rw", kind)
            except errors.Damaged as error:
                self.replica.warn(f"{error}; a new head was begun")
        if head is not None and head.size != old.virtual_bytes:
            self.replica.warn(f"{path}: the head had {head.size} bytes, {old.virtual_bytes} were expected")
            if kind != "raw":
                head.close()
                head = None
        if head is None:
            return create_container(files, path, old.virtual_bytes, kind)
        head.resize(old.virtual_bytes)
        return head

    def _replace(self, old: Point, held: BlockMap, error: errors.Damaged) -> BlockMap:
        """Put the map of what the head holds in the place of the damaged one."""
        files, path = self.replica.files, self.replica.layout.head_map
        if held.seal().hex() == old.seal:
            self.replica.warn(f"{error}; it was made anew from the head, which has the seal of point {old.name}")
        else:
            self.replica.warn(f"{error}; it was made anew from the head; older points may not restore whole")
        with held.copy_to(files.open(path + ".tmp", "create"), path) as made:
            made.file.flush()
        files.replace(path + ".tmp", path)
        files.flush_dir(self.replica.layout.root)
        return self.replica.open_map(path, "rw")


# A hash that no block has.
_NONE = b"\xff" * 16


def doubt(previous: BlockMap, logical: BlockMap) -> int:
    """Give blocks of the head that are not what its map says a hash that no block has: whatever the source holds
    there is then written and entered, also where the head holds it already. How many there are.
    """
    count = 0
    for page in range(previous.pages):
        for blocks in differing_blocks(previous, logical, page):
            previous.store(blocks, _NONE * len(blocks), len(blocks))
            count += len(blocks)
    return count


def doubt_block(previous: BlockMap, block: int) -> None:
    """The same for a block that the head does not hold whole."""
    previous.store(array("Q", [block]), _NONE, 1)


def open_checked(replica: Replica, old: Point, *, lazily: bool = False) -> BlockMap:
    """The head's map, its seal compared with the newest point's and, unless `lazily`, every page read. Raises Damaged.

    That reads one byte for every 4,096 of the image's data; a scan is about to read all of those.
    """
    found = replica.open_map(replica.layout.head_map, "rw")
    try:
        if not lazily:
            found.check()
        if found.image_size != old.virtual_bytes or found.seal().hex() != old.seal:
            raise errors.Damaged(f"it does not have the seal of point {old.name}", path=found.path)
        return found
    except BaseException:
        found.close()
        raise


def newest(replica: Replica, *, resync: bool, time: str) -> Point | None:
    """The newest point; with `resync` a record that is lost is written anew from the head's map."""
    try:
        return replica.newest()
    except errors.Damaged as error:
        if not resync:
            raise
        generation = replica.head_generation()
        with replica.open_map(replica.layout.head_map) as block_map:
            made = Point(
                generation, time, block_map.image_size, block_map.seal().hex(), "resync", "scan", 0, 0, 0,
                replica.identity.epoch, replica.identity.replica_id.hex(),
            )  # fmt: skip
        record.write(replica.files, replica.layout.record(generation), made.fields())
        replica.files.flush_dir(replica.layout.points)
        replica.warn(f"{error}; the record was made anew from the head's block map")
        return made
