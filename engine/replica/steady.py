"""A point to read for as long as one likes, while cycles go on: its bytes never change, and nobody waits.

What lies below its undo deltas is an image that nobody writes: a point's own clone, or a clone of the head made for
this reader alone. Where the file system cannot clone there is the head itself, which cycles overwrite; then every
block that is read from it is looked for afterwards in the undo deltas that came since (`_Follower`). That is enough,
because an old content is in the undo delta, in order and durable, before its block of the head is overwritten. Where
nothing can be made in the replica's folder, the head is read as long as nobody writes it (`_Still`).
"""

from __future__ import annotations

import os
import secrets
import threading
from array import array
from collections.abc import Iterator
from contextlib import suppress

from secondsite.engine import errors, kernel
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.reader import DeltaReader
from secondsite.engine.images import Extent, Image, ShortImage
from secondsite.engine.images.base import Buffer
from secondsite.engine.images.raw import RawImage
from secondsite.engine.replica import chain as chains
from secondsite.engine.replica import lookup
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.lease import Lease
from secondsite.engine.replica.point import Point
from secondsite.engine.replica.pointimage import PointImage

_READ = 1 << 20


class SteadyPoint(PointImage):
    """One point. `at` is as `Replica.choose` takes it; the replica is held as a reader while this is made, no longer.

    `follow` looks after what was overwritten and lets go of what is needed no more: who serves calls it now and then.
    `fd` is a descriptor that holds the point as it is, or -1. With `far` the point itself is kept from being dropped,
    for a reader of another host who may have to ask for it again; on a full disk it is not.
    """

    def __init__(self, replica: Replica, at: str = "latest", *, far: bool = False) -> None:
        self._far: Lease | None = None
        self._layers: list[lookup.Layer] = []
        self._lookup: lookup.Lookup | None = None
        self._follower: _Follower | _Still | None = None
        self._base: Image | None = None
        self._lock = threading.Lock()
        self._block_size, self._replica_id = replica.identity.block_size, replica.identity.replica_id.hex()
        try:
            with replica.reading():
                self.point = replica.choose(at)
                self.path = f"{replica.layout.root} at point {self.point.name}"
                self._open(replica, self.point)
                if far and os.access(replica.layout.root, os.W_OK):
                    with suppress(errors.Full):
                        self._far = Lease(replica.layout.root, self.point.generation, far=True)
        except BaseException:
            self.close()
            raise

    def _open(self, replica: Replica, point: Point) -> None:
        chain = chains.find(replica, point.generation)
        _allow_files(len(chain.undos) + 64)
        for generation in chain.undos:
            self._layers.append(lookup.Layer(replica.open_undo(generation)))
        cloned = replica.layout.head != chain.base_path
        writable = os.access(replica.layout.root, os.W_OK)
        self._base = replica.open_disk(chain.base_path) if cloned else _own_clone(replica) if writable else None
        if self._layers or self._base is None:
            self._lookup = lookup.Lookup(self._layers, self.size, self._block_size, replica.identity.seed)
        if self._base is None:
            assert self._lookup is not None
            self._base = replica.open_head()
            self._follower = (
                _Follower(replica, chain.base, self._lookup, self.size) if writable else _Still(replica)
            )

    @property
    def size(self) -> int:
        return self.point.virtual_bytes

    @property
    def name(self) -> str:
        return self.point.name

    @property
    def over(self) -> dict[str, str | int]:
        """What tells this point from all others."""
        return {"replica": self._replica_id, "generation": self.point.generation, "seal": self.point.seal}

    @property
    def fd(self) -> int:
        plain = self._lookup is None and isinstance(self._base, RawImage) and self._base.size == self.size
        return self._base.fd if plain and isinstance(self._base, RawImage) else -1

    def follow(self) -> None:
        """Look at the cycles since, where that is needed. Raises what a read would."""
        if self._follower is not None:
            with self._lock:
                self._follower.look()
                self._follower.advance()

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        if start < 0 or length < 0 or start + length > self.size:
            raise ShortImage(f"no {length} bytes at {start}", path=self.path)
        if self._lookup is None and self._base is not None:
            yield from self._clipped(start, length)
        elif length:
            yield from self._seen_through(start, length)

    def _seen_through(self, start: int, length: int) -> Iterator[Extent]:
        """The base's holes where no layer holds anything. A block that a cycle has made a hole is kept by then: what
        was overwritten is looked for after the hole was found.
        """
        with self._lock:
            surveyed = self._lookup is not None and self._lookup.survey()
        if not surveyed:
            yield Extent(start, length, False)
            return
        at = start
        try:
            for extent in self._clipped(start, length):
                yield from self._split(extent) if extent.zero else (extent,)
                at = extent.start + extent.length
        except ShortImage:  # a cycle cuts the head this very moment
            yield Extent(at, start + length - at, False)

    def _split(self, hole: Extent) -> list[Extent]:
        with self._lock:
            if self._follower is not None:
                self._follower.look()
            assert self._lookup is not None
            return [Extent(*part) for part in self._lookup.split(hole.start, hole.length)]

    def _clipped(self, start: int, length: int) -> Iterator[Extent]:
        assert self._base is not None
        held = max(min(length, self._base.size - start), 0)
        if held:
            yield from self._base.extents(start, held)
        if held < length:
            yield Extent(start + held, length - held, True)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        with memoryview(buffer).cast("B") as view:
            if offset < 0 or offset + view.nbytes > self.size:
                raise ShortImage(f"the point ends before {offset + view.nbytes}", path=self.path, offset=offset)
            for at in range(0, view.nbytes, _READ):
                self._read(offset + at, view[at : at + _READ])

    def _read(self, offset: int, view: memoryview) -> None:
        if self._lookup is None:
            self._read_base(offset, view)
            return
        first, end = offset // self._block_size, -(-(offset + view.nbytes) // self._block_size)
        with self._lock:
            self._lookup.fill(first, end)
            values = self._lookup.table[first:end].tolist()
        self._read_runs(first, values, offset, view)
        with self._lock:
            if self._follower is not None:
                # After the read: what was overwritten before it is known by now.
                self._follower.look()
                values = self._lookup.table[first:end].tolist()
            for block, value in enumerate(values, first):
                if value != lookup.BASE:
                    self._put(block, value, offset, view)

    def _read_runs(self, first: int, values: list[int], offset: int, view: memoryview) -> None:
        """Whatever comes from the base, a run of blocks at a time."""
        at = 0
        while at < len(values):
            end = at + 1
            if values[at] == lookup.BASE:
                while end < len(values) and values[end] == lookup.BASE:
                    end += 1
                low = max((first + at) * self._block_size, offset)
                high = min((first + end) * self._block_size, offset + view.nbytes)
                self._read_base(low, view[low - offset : high - offset])
            at = end

    def _read_base(self, offset: int, view: memoryview) -> None:
        """From the image below; behind its end are zeros. A cycle may cut the head at any moment."""
        assert self._base is not None
        while True:
            held = max(min(view.nbytes, self._base.size - offset), 0)
            try:
                if held:
                    self._base.read_into(offset, view[:held])
            except ShortImage:
                if self._base.size >= offset + held:
                    raise
                continue
            view[held:] = bytes(view.nbytes - held)
            return

    def _put(self, block: int, value: int, offset: int, view: memoryview) -> None:
        """What of one block belongs into `view`, which begins at `offset`."""
        assert self._lookup is not None
        start = block * self._block_size
        low, high = max(start, offset), min(start + self._block_size, offset + view.nbytes)
        place = view[low - offset : high - offset]
        if lookup.in_frame(value):
            self._lookup.read(value, block, low - start, place)
        elif value == lookup.KEPT and isinstance(self._follower, _Follower):
            self._follower.store.read_into(low, place)
        else:
            place[:] = bytes(high - low)

    def give_up(self) -> None:
        """No read waits for anybody."""
        return None

    def done(self) -> None:
        """The far reader said that it needs the point no more."""
        if self._far is not None:
            self._far.end()

    def close(self) -> None:
        with self._lock:
            if self._far is not None:
                self._far.leave()
            if self._follower is not None:
                self._follower.close()
                self._follower = None
            if self._lookup is not None:
                self._lookup.close()
                self._lookup = None
            else:
                for layer in self._layers:
                    layer.reader.close()
            self._layers = []
            if self._base is not None:
                self._base.close()
                self._base = None


class _Follower:
    """Keeps the head as it was at a generation: what later undo deltas hold of it goes into a file of this reader's
    own, each block once. Calls are made one at a time.
    """

    def __init__(self, replica: Replica, generation: int, found: lookup.Lookup, size: int) -> None:
        self._replica, self._generation, self._lookup, self._size = replica, generation, found, size
        self._block_size = replica.identity.block_size
        self._lease = Lease(replica.layout.root, generation)
        self.store = replica.files.temporary(replica.layout.root)
        self._reader: DeltaReader | None = None
        self._inode = self._at = 0
        self._decoder = kernel.codec.Decoder()
        self._broken: errors.Error | None = None

    def look(self) -> None:
        """Take in what undo deltas hold by now. After an error no read can be believed any more, and each raises it."""
        if self._broken is not None:
            wrong = f"what a cycle overwrote was lost ({self._broken})"
            raise errors.Unreachable(wrong, path=self._replica.layout.root)
        try:
            while self._take():
                pass
        except errors.Error as error:
            self._broken = error
            raise

    def _take(self) -> bool:
        """The undo delta to this generation, as far as it is written; whether there is a next one to look at."""
        path = self._replica.layout.undo(self._generation)
        try:
            inode = os.stat(path).st_ino
        except FileNotFoundError:
            return False
        except OSError as error:
            raise errors.from_os(error, path, "look at it") from None
        # Another one: the cycle before was taken back. While the old one is open its number is not given again.
        if (self._reader is None or inode != self._inode) and not self._open(path):
            return False
        assert self._reader is not None
        size = self._reader.file.size
        while self._at < size:
            try:
                frame = self._reader.frame(self._at, size)
            except errors.Damaged:
                return False  # the frame that is being written: its blocks have not been overwritten yet
            if not frame.blocks and not frame.runs:
                return self._finish()
            self._keep(frame.blocks, frame.lengths, frame.decode(self._decoder) if frame.blocks else bytearray())
            for start, count in zip(frame.runs[0::2], frame.runs[1::2], strict=True):
                self._keep_zeros(range(start, start + count))
            self._at += frame.head.stored + fmt.FRAME_BYTES
        return False

    def _open(self, path: str) -> bool:
        try:
            file = self._replica.files.open(path, "r")
        except errors.Unreachable:
            return False  # it was taken back this very moment
        try:
            self._reader, old = DeltaReader(file, path), self._reader
        except errors.Damaged:
            file.close()
            return False  # its first bytes are being written
        if old is not None:
            old.close()
        assert isinstance(file, RawImage)
        self._inode, self._at = os.fstat(file.fd).st_ino, fmt.HEADER_BYTES
        return True

    def _finish(self) -> bool:
        """Behind the last frame: whether the cycle was committed, and the next one's undo delta is to be followed."""
        assert self._reader is not None
        header, layout = self._reader.header, self._replica.layout
        if self._replica.files.size(layout.record(header.base_generation)) < 0:
            return False
        try:
            if os.stat(layout.undo(self._generation)).st_ino != self._inode:
                return True  # it was taken back, and another cycle was committed: look again
        except OSError:
            return True
        cut = -(-header.base_size // self._block_size)
        self._keep_zeros(range(cut, self._lookup.blocks))
        self._reader.close()
        self._reader, self._generation = None, header.base_generation
        return True

    def _keep(self, blocks: array[int], lengths: array[int], raw: bytearray) -> None:
        at, table = 0, self._lookup.table
        for block, length in zip(blocks, lengths, strict=True):
            if block < self._lookup.blocks and table[block] == lookup.BASE:
                end = min(length, self._size - block * self._block_size)
                self.store.write(block * self._block_size, memoryview(raw)[at : at + end])
                table[block] = lookup.KEPT
                self._lookup.hold(block)
            at += length

    def _keep_zeros(self, blocks: range) -> None:
        table = self._lookup.table
        for block in range(blocks.start, min(blocks.stop, self._lookup.blocks)):
            if table[block] == lookup.BASE:
                table[block] = lookup.KEPT_ZERO

    def advance(self) -> None:
        """Points before the one whose undo delta is looked at next may be dropped."""
        self._lease.move(self._generation)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self.store.close()
        self._lease.end()


class _Still:
    """For who may not write into the replica, on a read-only medium say, and so can hold no lease: nobody is expected
    to go on with it. Whoever does all the same, through another mount, ends the reads.
    """

    def __init__(self, replica: Replica) -> None:
        self._path = replica.layout.head
        self._before = self._stamp()

    def _stamp(self) -> tuple[int, ...]:
        try:
            info = os.stat(self._path)
        except OSError as error:
            raise errors.from_os(error, self._path, "look at it") from None
        return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns

    def look(self) -> None:
        """After a read: raises Unreachable where the head is not what it was any more."""
        if self._stamp() != self._before:
            raise errors.Unreachable(
                "was written, and what it held cannot be kept: the replica is read-only here", path=self._path
            )

    def advance(self) -> None:
        return None

    def close(self) -> None:
        return None


def _own_clone(replica: Replica) -> Image | None:
    """A clone of the head that has no name and no other reader; None where the file system cannot."""
    path = f"{replica.layout.root}/serving-{secrets.token_hex(8)}.tmp"
    try:
        if not replica.files.clone(replica.layout.head, path):
            return None
    except errors.Full:
        return None
    try:
        return replica.open_disk(path)
    finally:
        replica.files.unlink(path)


def _allow_files(count: int) -> None:
    """Each delta of a chain stays open. Raises Refused where the system allows fewer."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise errors.Refused(f"{count} undo deltas lie over this point, and a process may open {hard} files")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
