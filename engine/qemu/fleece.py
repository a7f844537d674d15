"""A frozen view of a disk that a running QEMU writes on: what is about to be overwritten is copied first.

    disk ◄── secondsite-ID-cbw (the backup job's filter) ◄── secondsite-ID-view ◄── NBD export secondsite-ID
                     │ old contents
                     ▼
             secondsite-ID-keep (quorum: one of two is enough)
                     ├── secondsite-ID-copy: qcow2 in a file of bounded size
                     └── secondsite-ID-null: takes everything, keeps nothing

QEMU before 10.1 fails the guest's write where the old contents cannot be kept, and a full disk under them would stop
the machine. So a second child takes what the first one cannot, QEMU tells that the first one failed, and the view is
over, not the machine. That holds after our own end too: what is left behind grows to its bound and no further.
"""

from __future__ import annotations

import os
import stat
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from secondsite.engine import errors
from secondsite.engine.images.base import Buffer, Extent
from secondsite.engine.images.nbd import NbdImage
from secondsite.engine.nbd.url import NbdUrl
from secondsite.engine.qemu import nodes
from secondsite.engine.qemu.nodes import PREFIX
from secondsite.engine.qemu.qmp import Json, Monitor
from secondsite.engine.units import GIB, KIB, MIB

_CLUSTER = 64 * KIB
_TABLE = _CLUSTER // 8
# Header, refcounts, and the tables that lead to the data: what a copy needs besides the data, at most.
_OVERHEAD = 4 * MIB
# Of the room in the file system this much is left to others.
_LEAVE = GIB


class Fleece:
    """The view of one disk for one replica, in one QEMU. `name` is the prefix of everything that it adds."""

    def __init__(self, monitor: Monitor, node: nodes.Node, replica_id: str) -> None:
        self.monitor, self.node = monitor, node
        self.name = PREFIX + replica_id[:8]
        self.broken = ""

    def part(self, what: str) -> str:
        return f"{self.name}-{what}"

    def prepare(self, folder: str, limit: int) -> None:
        """Make the place for old contents: a file of at most `limit` bytes in `folder`, which is gone with QEMU."""
        path = os.path.join(os.path.abspath(folder), f".{self.name}-{os.getpid()}.copy")
        room = _bound(folder, limit, self.node.size)
        add = self._add
        try:
            _make_copy(path, self.node.size, room, self.monitor.name)
            add("file", "file", {"driver": "file", "filename": path})
        finally:
            # QEMU has it open: its name is not needed any more, and it needs no cleaning up.
            if os.path.exists(path):
                os.unlink(path)
        bounded = {"driver": "raw", "size": room, "file": self.part("file")}
        add("copy", "qcow2", {"file": bounded, "discard": "ignore"})
        add("null", "null-co", {"size": self.node.size, "read-zeroes": True})
        children = [self.part("copy"), self.part("null")]
        add("keep", "quorum", {"children": children, "vote-threshold": 1, "read-pattern": "fifo"})

    def _add(self, part: str, driver: str, options: Json) -> None:
        self.monitor.run("blockdev-add", {"driver": driver, "node-name": self.part(part), **options})

    def action(self) -> tuple[str, Json]:
        """What begins it, as a part of a transaction."""
        return "blockdev-backup", {
            "job-id": self.part("job"), "device": self.node.name, "target": self.part("keep"), "sync": "none",
            "filter-node-name": self.part("cbw"),
        }  # fmt: skip

    def look_ahead(self, server: NbdUrl) -> Zeros:
        """Where the disk holds zeros just now, before it begins. What is written from here on has to be marked."""
        name = self.part("now")
        self._export(name, self.node.name)
        try:
            with NbdImage(NbdUrl(name, server.host, server.port, server.socket), connections=1) as image:
                return Zeros((e.start, e.start + e.length) for e in image.extents(0, image.size) if e.zero)
        finally:
            self._unexport(name)

    def expose(self, server: NbdUrl, bitmap: str | None) -> View:
        """The view as an image; `bitmap` of the disk goes with it."""
        self._add("view", "snapshot-access", {"file": self.part("cbw")})
        bitmaps = [] if bitmap is None else [{"node": self.node.name, "name": bitmap}]
        self._export(self.name, self.part("view"), bitmaps)
        return View(self, NbdUrl(self.name, server.host, server.port, server.socket, bitmap=_context(bitmap)))

    def _export(self, name: str, node: str, bitmaps: Sequence[Json] = ()) -> None:
        export: Json = {"type": "nbd", "id": name, "node-name": node, "name": name}
        self.monitor.run("block-export-add", {**export, "bitmaps": list(bitmaps)} if bitmaps else export)

    def heard(self, name: str, data: Json) -> None:
        """An event: is it that old contents could not be kept?"""
        if name == "QUORUM_REPORT_BAD" and data.get("node-name") in (self.part("copy"), self.part("null")):
            self.broken = self.broken or str(data.get("error") or "an error of its file")[:200]

    def intact(self) -> None:
        """Was everything kept until now? Raises SourceChanged where the view is over.

        An answer of the monitor comes after all events before it, so what was read before this call is as good.
        """
        self.monitor.run("query-version")
        if self.broken:
            raise errors.SourceChanged(
                f"the disk was written more than its old contents could be kept ({self.broken}); "
                "the machine goes on, and the next cycle begins anew",
                path=self.node.name,
            )

    def remove(self) -> None:
        """Take everything away that is there, also what another process left. The disk's bitmaps stay."""
        monitor = self.monitor
        for name in (self.name, self.part("now")):
            self._unexport(name)
        there = {node.get("node-name") for node in monitor.listed("query-named-block-nodes", {"flat": True})}
        self._delete("view", there)
        if self._has_job():
            monitor.try_run("block-job-cancel", {"device": self.part("job"), "force": True})
            monitor.wait_until(lambda: not self._has_job(), "end the backup job")
        for part in ("keep", "copy", "null", "file"):
            self._delete(part, there)

    def _delete(self, part: str, there: set[object]) -> None:
        if self.part(part) in there:
            self.monitor.run("blockdev-del", {"node-name": self.part(part)})

    def _unexport(self, name: str) -> None:
        def there() -> bool:
            return any(export.get("id") == name for export in self.monitor.listed("query-block-exports"))

        if there():
            self.monitor.try_run("block-export-del", {"id": name, "mode": "hard"})
            self.monitor.wait_until(lambda: not there(), "take the export away")

    def _has_job(self) -> bool:
        return any(job.get("device") == self.part("job") for job in self.monitor.listed("query-block-jobs"))


class Zeros:
    """Long stretches of zeros, as (start, end), ascending."""

    # Shorter ones are not worth their 16 bytes here: 1 TiB has a million of these at most.
    SHORTEST = MIB

    def __init__(self, stretches: Iterable[tuple[int, int]] = ()) -> None:
        self.starts, self.ends = array("Q"), array("Q")
        for start, end in stretches:
            if end - start >= self.SHORTEST:
                self.starts.append(start)
                self.ends.append(end)

    def without(self, ranges: Iterable[tuple[int, int]]) -> Zeros:
        """What is left outside of (start, length) ranges, ascending."""
        return Zeros(self._outside(iter(ranges)))

    def _outside(self, ranges: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        start, length = next(ranges, (1 << 63, 0))
        for at, end in zip(self.starts, self.ends, strict=True):
            while start < end:
                if start + length > at:
                    yield at, max(start, at)
                    at = start + length
                if start + length > end:
                    break  # it reaches into the next stretch too
                start, length = next(ranges, (1 << 63, 0))
            yield at, max(at, end)

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        at, end = start, start + length
        for number in range(bisect_right(self.ends, start), len(self.starts)):
            first, last = max(self.starts[number], start), min(self.ends[number], end)
            if first >= end:
                break
            if first > at:
                yield Extent(at, first - at, False)
            yield Extent(first, last - first, True)
            at = last
        if at < end:
            yield Extent(at, end - at, False)


class View(NbdImage):
    """The frozen disk. What is read was kept whole: after each read QEMU is asked whether it was.

    QEMU 7.2 has faults here, which tests/qemu/test_tracker.py shows. A read that begins in what was not overwritten and
    ends in what was gives the new contents, so none crosses a cluster of the copy. Asked for holes it names those that
    the disk has now, also where old contents were kept: it is not asked, nor does a read let it look for them; `zeros`
    were found before the view began. (Before 9.1 it also ended itself where such questions and reads overlapped.)
    """

    grain = _CLUSTER

    def __init__(self, fleece: Fleece, url: NbdUrl) -> None:
        self._fleece = fleece
        self.zeros = Zeros()
        super().__init__(url)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        super().read_into(offset, buffer)
        self._fleece.intact()

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        self._check_end(start + length)
        return self.zeros.extents(start, length)


def _context(bitmap: str | None) -> str | None:
    return f"qemu:dirty-bitmap:{bitmap}" if bitmap is not None else None


def _bound(folder: str, limit: int, size: int) -> int:
    """Bytes that old contents may take. Raises Full where there is hardly any room, Usage for a limit below it."""
    if limit < _OVERHEAD:
        raise errors.Usage(f"a copy limit of {limit} bytes: the file's own tables may take {_OVERHEAD}")
    try:
        found = os.statvfs(folder)
    except OSError as error:
        raise errors.from_os(error, folder, "look at its room") from None
    free = found.f_bavail * found.f_frsize - _LEAVE
    room = min(limit, size + size // 1000 + _OVERHEAD, free)
    if room < _OVERHEAD:
        text = f"has no room to keep what is overwritten while it is read ({_LEAVE} bytes are left to others)"
        raise errors.Full(text, path=folder)
    return room // _CLUSTER * _CLUSTER


def _make_copy(path: str, size: int, room: int, monitor: str) -> None:
    """An empty qcow2 image (version 3) for a disk of `size` bytes, in a file of `room` bytes; QEMU's to write."""
    tables = -(-size // (_CLUSTER * _TABLE))
    used = 3 + max(1, -(-tables * 8 // _CLUSTER))
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, size, 0, tables, 3 * _CLUSTER, _CLUSTER,
        1, 0, 0, 0, 0, 0, 4, 104,
    )  # fmt: skip
    first = header.ljust(_CLUSTER, b"\0") + struct.pack(">Q", 2 * _CLUSTER).ljust(_CLUSTER, b"\0")
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(handle, first + (b"\0\1" * used).ljust(_CLUSTER, b"\0"), 0)
            os.truncate(handle, room)
            _give(handle, monitor)
        finally:
            os.close(handle)
    except OSError as error:
        raise errors.from_os(error, path, "make it") from None


def _give(handle: int, monitor: str) -> None:
    """To whom QEMU runs as, who owns its socket: we may be root, and QEMU somebody else."""
    try:
        found = os.stat(monitor.removeprefix("unix:"))
    except (OSError, ValueError):
        return
    if os.geteuid() == 0 and stat.S_ISSOCK(found.st_mode):
        os.fchown(handle, found.st_uid, found.st_gid)
