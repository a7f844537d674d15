"""Writes over an image that stays as it is: what was written lies in a file of its own, which can be opened again.

The file: a header of 4 KiB, a bit for each granule of 64 KiB that it holds, in whole pages, and from the next MiB on
the granules, each at its own place, so that the file is sparse. A granule is copied up whole at its first write.
`flush` makes granules durable before the bits that name them: after a crash the overlay has what was flushed, and of
later writes to new granules nothing. The header binds it to one disk, named by `over`, and its size. Of an overlay that
`create_overlay` made (engine/overlays.py) `over` says where that disk is found, too. FORMAT.md, section 7.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import threading
from collections.abc import Iterator

from secondsite.engine import bits, errors
from secondsite.engine.images.base import Buffer, Extent, Image, ShortImage, Stamp
from secondsite.engine.images.facts import ImageFacts, ParentFacts
from secondsite.engine.images.raw import RawImage
from secondsite.engine.units import KIB, MIB

GRANULE = 64 * KIB
_PAGE = 4 * KIB
MAGIC = b"SSOVERLY"
_VERSION = 1
# Magic, version, granule, size of the disk, length of what names it; then that, then the digest over all before it.
_HEADER = struct.Struct("<8sIIQI")
_DIGEST = 32
Over = dict[str, str | int]
_BITS = _PAGE * 8


class OverlayImage(Image):
    """`base` with writes over it; neither the base nor who else reads it is changed. Closing closes the base too.

    The file at `path` is made where there is none, unless it is opened only to be read (`mode` r), which several may do
    beside one who writes. `over` says what lies below, and an overlay whose header does not say that is Refused;
    NewerFormat, Damaged, Unreachable, Full and Busy are raised as their names say.
    """

    def __init__(self, base: Image, path: str | os.PathLike[str], over: Over, mode: str = "rw") -> None:
        self.base, self.path, self.over = base, os.fspath(path), over
        self._size = base.size
        self._granules = -(-self._size // GRANULE)
        self._pages = max(-(-self._granules // _BITS), 1)
        self._data_at = -(-(_PAGE * (1 + self._pages)) // MIB) * MIB
        self._lock = threading.Lock()
        header, self._writable = self._pack(over), mode == "rw"
        self._file = _open(self.path) if self._writable else RawImage(self.path)
        try:
            if self._writable:
                self._hold()
            if self._file.size == 0 and self._writable:
                self._file.write(_PAGE, bytes(_PAGE * self._pages))
                self._file.flush()
                self._file.write(0, header)
                self._file.flush()
            else:
                self._check(header, over)
            self._bits = bytearray(self._file.read(_PAGE, _PAGE * self._pages))
            self._dirty: set[int] = set()
        except BaseException:
            self._file.close()
            raise

    def _hold(self) -> None:
        """Two writers of one overlay would spoil it."""
        import fcntl

        try:
            fcntl.flock(self._file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise errors.Busy("another process uses this overlay", path=self.path) from None

    def _pack(self, over: Over) -> bytes:
        name = json.dumps(over, sort_keys=True).encode()
        packed = _HEADER.pack(MAGIC, _VERSION, GRANULE, self._size, len(name)) + name
        packed += hashlib.sha256(packed).digest()
        if len(packed) > _PAGE:
            raise errors.Usage("what lies below has too long a name", path=self.path)
        return packed.ljust(_PAGE, b"\0")

    def _check(self, header: bytes, over: Over) -> None:
        if self._file.size < _PAGE * (1 + self._pages):
            raise errors.Refused("is no overlay, or was cut; it is left as it is", path=self.path)
        found = bytes(self._file.read(0, _PAGE))
        if found == header:
            return
        size, below = unpack(found, self.path)
        if size == self._size and over.items() <= below.items():
            return
        told = f"is an overlay of {size} bytes over {_named(below)}, not of {self._size} over {_named(over)}"
        raise errors.Refused(f"{told}; it is left as it is", path=self.path)

    @property
    def size(self) -> int:
        return self._size

    def _holds(self, granule: int) -> bool:
        return bool(self._bits[granule >> 3] & (1 << (granule & 7)))

    def _runs(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """(start, end, held) of a range, each as long as the answer is the same."""
        at = start
        while at < end:
            stop = min(bits.run_end(self._bits, at // GRANULE, -(-end // GRANULE)) * GRANULE, end)
            yield at, stop, self._holds(at // GRANULE)
            at = stop

    def _within(self, start: int, length: int) -> None:
        if start < 0 or length < 0 or start + length > self._size:
            raise ShortImage(f"no {length} bytes at {start}", path=self.path)

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        self._within(start, length)
        with self._lock:
            runs = list(self._runs(start, start + length))
        for low, high, held in runs:
            if not held:
                yield from self.base.extents(low, high - low)
                continue
            stored = max(min(high, self._file.size - self._data_at), low)
            for extent in self._file.extents(self._data_at + low, stored - low):
                yield Extent(extent.start - self._data_at, extent.length, extent.zero)
            if stored < high:
                yield Extent(stored, high - stored, True)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        with memoryview(buffer).cast("B") as view:
            self._within(offset, view.nbytes)
            with self._lock:
                runs = list(self._runs(offset, offset + view.nbytes))
            for low, high, held in runs:
                place = view[low - offset : high - offset]
                if held:
                    self._read_own(low, place)
                else:
                    self.base.read_into(low, place)

    def _read_own(self, offset: int, place: memoryview) -> None:
        held = max(min(place.nbytes, self._file.size - self._data_at - offset), 0)
        if held:
            self._file.read_into(self._data_at + offset, place[:held])
        place[held:] = bytes(place.nbytes - held)

    def _check_writable(self) -> None:
        if not self._writable:
            raise errors.Refused("was opened to be read", path=self.path)

    def write(self, offset: int, data: bytes | Buffer) -> None:
        self._check_writable()
        with memoryview(data).cast("B") as view:
            if offset < 0 or offset + view.nbytes > self._size:
                raise ValueError(f"{view.nbytes} bytes at {offset} of {self._size}")
            if not view.nbytes:
                return
            edges = self._edges(offset, offset + view.nbytes)
            with self._lock:
                self._copy_up(edges)
                self._file.write(self._data_at + offset, view)
                self._hold_bits(offset, offset + view.nbytes)

    def zero(self, offset: int, length: int, *, punch: bool = True) -> None:
        if offset < 0 or length < 0 or offset + length > self._size:
            raise ValueError(f"{length} bytes at {offset} of {self._size}")
        self._check_writable()
        if not length:
            return
        edges = self._edges(offset, offset + length)
        with self._lock:
            self._copy_up(edges)
            held = max(min(length, self._file.size - self._data_at - offset), 0)
            if held:
                self._file.zero(self._data_at + offset, held, punch=punch)
            self._hold_bits(offset, offset + length)

    def _edges(self, start: int, end: int) -> dict[int, bytearray]:
        """What lies below new granules that are not written whole. It never changes, so nobody need wait for it."""
        found = {}
        for granule in {start // GRANULE, (end - 1) // GRANULE}:
            low, high = granule * GRANULE, min((granule + 1) * GRANULE, self._size)
            if not self._holds(granule) and (start > low or end < high):
                found[granule] = self.base.read(low, high - low)
        return found

    def _copy_up(self, edges: dict[int, bytearray]) -> None:
        """Of new granules that are not written whole, the rest. Where there is no room nothing was changed."""
        for granule, data in edges.items():
            if not self._holds(granule):
                self._file.write(self._data_at + granule * GRANULE, data)

    def _hold_bits(self, start: int, end: int) -> None:
        for granule in range(start // GRANULE, (end - 1) // GRANULE + 1):
            if not self._holds(granule):
                self._bits[granule >> 3] |= 1 << (granule & 7)
                self._dirty.add(granule // _BITS)

    def resize(self, size: int) -> None:
        if size != self._size:
            raise errors.Refused("an overlay has the size of what lies below it", path=self.path)

    def flush(self) -> None:
        with self._lock:
            self._file.flush()
            if not self._dirty:
                return
            for page in sorted(self._dirty):
                self._file.write(_PAGE * (1 + page), self._bits[_PAGE * page : _PAGE * (page + 1)])
            self._file.flush()
            self._dirty.clear()

    def written(self) -> list[tuple[int, int]]:
        """(start, length) of what lies in the overlay, ascending."""
        with self._lock:
            return [(low, high - low) for low, high, held in self._runs(0, self._size) if held]

    def held_bytes(self) -> int:
        """How much of the disk lies in the overlay."""
        with self._lock:
            return int.from_bytes(self._bits, "little").bit_count() * GRANULE

    def stamps(self) -> tuple[Stamp, ...] | None:
        """Of the overlay's own file: what lies below never changes."""
        return self._file.stamps()

    def facts(self) -> ImageFacts:
        """What `info` tells of it."""
        below = ParentFacts(self.base.path, str(self.over.get("seal", "")))
        return ImageFacts(
            "overlay", "over a point", self._size, GRANULE, parents=(below,), allocated_bytes=self.held_bytes()
        )

    def close(self) -> None:
        """Make it durable and let go of it; a second call does nothing."""
        if self._file.fd >= 0:
            try:
                self.flush()
            finally:
                self._file.close()
                self.base.close()


def _open(path: str) -> RawImage:
    """The file, made where there is none, and emptied never: another process may have made it this very moment."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600))
    except OSError as error:
        raise errors.from_os(error, path, "open it") from None
    except ValueError as error:
        raise errors.Usage(f"{path!r} is no name of a file: {error}") from None
    return RawImage(path, "rw")


def unpack(page: bytes, path: str) -> tuple[int, Over]:
    """(size of the disk, what names the one below) of an overlay's first page. Raises Refused for what is none,
    NewerFormat, Damaged.
    """
    if len(page) < _PAGE or not page.startswith(MAGIC):
        raise errors.Refused("is a file with other content and no overlay; it is left as it is", path=path)
    _, version, granule, size, length = _HEADER.unpack_from(page)
    if version > _VERSION:
        raise errors.NewerFormat(f"is an overlay of version {version}, newer than {_VERSION}", path=path)
    end = _HEADER.size + length
    if end + _DIGEST > _PAGE or hashlib.sha256(page[:end]).digest() != page[end : end + _DIGEST]:
        raise errors.Damaged("the overlay's header does not have its digest", path=path, offset=0)
    try:
        below = json.loads(page[_HEADER.size : end])
    except (ValueError, RecursionError):
        below = None
    if not isinstance(below, dict) or granule != GRANULE:
        raise errors.Damaged("the overlay's header is not one of this program's", path=path, offset=0)
    return size, below


def read_header(path: str | os.PathLike[str]) -> tuple[int, Over]:
    """As `unpack`, of a file. Raises Unreachable, too."""
    with RawImage(path) as file:
        return unpack(bytes(file.read(0, min(file.size, _PAGE))), file.path)


def _named(over: Over) -> str:
    """What lies below, for who reads a line."""
    return ", ".join(f"{name} {value}" for name, value in over.items())
