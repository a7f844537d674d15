"""A recovery point as a disk of Azure: a fixed VHD in a page blob, of a replica wherever it lies.

Nothing is remembered of how far a call came that was cut short: the next one compares what is there. So every byte of
a disk that is finished was read back from the store by the call that finished it, and had the hash that the point's
sealed map says.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

from secondsite.engine import errors, scan, serving
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.files import LocalFiles
from secondsite.engine.filling import Filling
from secondsite.engine.progress import Monitor, Progress
from secondsite.engine.remote import reach
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.point import Point
from secondsite.engine.replica.view import point_map
from secondsite.engine.results import Materialized
from secondsite.engine.store.again import Again
from secondsite.engine.store.base import Exists
from secondsite.engine.store.opening import open_page_blob
from secondsite.engine.store.place import is_place
from secondsite.engine.units import MIB

if TYPE_CHECKING:
    from secondsite.engine.batch import Batch
    from secondsite.engine.images import Image
    from secondsite.engine.store.log.reading import LogPoint
    from secondsite.engine.store.pageblob import Found, PageBlob

FORMAT = 1
_PREFIX = "secondsite_"
_WRITING, _WHOLE = "writing", "whole"
# A service is content with 8 requests at once (P40); each writes at most what a page blob takes in one.
_WORKERS = 8
_BATCH_BYTES = 4 * MIB
# What most programs that read a VHD take; a fixed one has room for more, and Azure takes it.
_COMMON_BYTES = 2040 << 30


def materialize(
    replica: str | os.PathLike[str],
    output: str,
    *,
    at: str = "latest",
    in_place: bool = False,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    state: str | os.PathLike[str] | None = None,
) -> Materialized:
    """Write the point `at` as a fixed VHD to the page blob azure://CONTAINER/NAME.vhd; cycles go on meanwhile.

    Zeros are not written. The blob is under a lease while it is written, and has no footer, so that nothing takes it
    for a disk, until all of it has been read back. A call that was cut short, at this point or another one of the same
    replica, is gone on with: what is there is compared, and what differs is written. What is finished or was made by
    somebody else is Refused, unless `in_place`: then it is compared and rewritten in the same way.

    Raises Held where another holds the lease, Full for more than a page blob has room for, Damaged, Denied, Failed,
    Cancelled; what was written stays.
    """
    began, monitor, told = time.monotonic(), Monitor(progress, cancel), Again()
    with ExitStack() as stack:
        blob = stack.enter_context(open_page_blob(output, told=told.told, cancel=cancel or (lambda: False)))
        from secondsite.engine.store.blobdisk import BlobDisk, disk_bytes  # which load Azure's SDK

        chosen = _choose(os.fspath(replica), at, state, workers or _WORKERS, monitor, stack)
        size = disk_bytes(chosen.point.virtual_bytes, blob.path)
        try:
            with _admitted(blob, chosen, size, in_place) as (kind, metadata):
                disk = BlobDisk(blob)
                blob.mark(metadata | _words(chosen, _WRITING))
                disk.fit(chosen.point.virtual_bytes)
                written = chosen.fill(disk, empty=kind == "new")
                blob.follow()
                disk.finish()
                blob.mark(metadata | _words(chosen, _WHOLE))
        except errors.Cancelled as error:
            error.args = ("stopped on request; what was written stays, and the next call goes on",)
            raise
    warnings = [*chosen.warnings, *told.warnings]
    if size > _COMMON_BYTES:
        warnings.append(f"{blob.path}: Azure takes it, but most other programs read VHDs of up to 2040 GiB only")
    point = chosen.point
    return Materialized(
        point.name, point.virtual_bytes, written, time.monotonic() - began, kind, blob.path, size, warnings
    )  # fmt: skip


def _words(chosen: _Chosen, state: str) -> dict[str, str]:
    """What the blob says of itself (store/FORMAT.md, section 5)."""
    point = chosen.point
    said = {
        "format": str(FORMAT), "state": state, "replica": point.replica_id, "point": point.name, "time": point.time,
        "seal": point.seal, "bytes": str(point.virtual_bytes),
    }  # fmt: skip
    return {_PREFIX + name: value for name, value in said.items()}


@contextmanager
def _admitted(
    blob: PageBlob, chosen: _Chosen, size: int, in_place: bool
) -> Iterator[tuple[str, dict[str, str]]]:  # fmt: skip
    """Hold the blob's lease over a blob that may be written: how that is called, and the metadata of others on it."""
    from secondsite.engine.images.vhd.structures import FOOTER_BYTES

    found, made = blob.find(), ""
    if found is None:
        try:
            made = blob.create(size + FOOTER_BYTES, _words(chosen, _WRITING))
        except Exists:
            pass  # somebody was faster
    else:
        _admit(found, chosen, in_place, blob.path)
    with blob.held():
        found = blob.find()
        if found is None:
            raise errors.Refused("was deleted meanwhile", path=blob.path)
        # With this etag nobody has written it between its creation and the lease.
        kind = "new" if found.etag == made else _admit(found, chosen, in_place, blob.path)
        yield kind, {name: value for name, value in found.metadata.items() if not name.startswith(_PREFIX)}


def _admit(found: Found, chosen: _Chosen, in_place: bool, path: str) -> str:
    """How a blob that is there is written. Raises Refused."""
    said = _said(found.metadata)
    if not found.pages:
        raise errors.Refused("is there and no page blob, which a disk of Azure is; name another", path=path)
    version = said.get("format", "0")
    if not version.isdecimal() or int(version) > FORMAT:
        raise errors.NewerFormat(f"a disk of format {version[:20]}; this program knows {FORMAT}", path=path)
    if said.get("state") == _WRITING and said.get("replica") == chosen.point.replica_id:
        return "continued"
    if in_place:
        return "in-place"
    what = f"holds point {said['point'][:20]}" if "point" in said else "was made by somebody else"
    if said.get("state") == _WRITING:
        what = "is being written from another replica"
    raise errors.Refused(f"exists and {what}; --in-place rewrites what differs in it, or name another", path=path)


def _said(metadata: Mapping[str, str]) -> dict[str, str]:
    """The service keeps the case of names, others on the way need not."""
    lower = {name.lower(): value for name, value in metadata.items()}
    return {name.removeprefix(_PREFIX): value for name, value in lower.items() if name.startswith(_PREFIX)}


class _Chosen(Protocol):
    """A point whose bytes stay as they are."""

    point: Point

    @property
    def warnings(self) -> list[str]:
        """What was met while it was read."""

    def fill(self, disk: Image, *, empty: bool) -> int:
        """Make the disk equal to it, every block proved and read back; the bytes written. Is it `empty` so far?"""


def _choose(
    replica: str, at: str, state: str | os.PathLike[str] | None, workers: int, monitor: Monitor, stack: ExitStack
) -> _Chosen:  # fmt: skip
    if is_place(replica):
        from secondsite.engine.store.log.reading import Replica as StoredReplica
        from secondsite.engine.store.opening import open_replica

        told = Again()
        store = stack.enter_context(open_replica(replica, told=told.told, cancel=monitor.cancel or (lambda: False)))
        opened = stack.enter_context(StoredReplica.open(store).choose(at))
        return _Stored(opened, told, workers, monitor)
    return _Mapped(replica, at, state, workers, monitor, stack)


class _Mapped:
    """Of a replica in a folder or on another host: its map is copied, so that cycles may go on."""

    def __init__(
        self, replica: str, at: str, state: str | os.PathLike[str] | None, workers: int, monitor: Monitor,
        stack: ExitStack,
    ) -> None:  # fmt: skip
        self.workers, self.monitor = workers, monitor
        with reach.files_of(replica, None, state, monitor.cancel) as (root, files):
            opened = Replica.open(root, files)
            with opened.reading(proving=True):
                self.point = opened.choose(at)
                with point_map(opened, self.point) as found:
                    self.want = stack.enter_context(found.copy_to(LocalFiles().temporary(root), found.path))
            self.opened, self.identity = opened, opened.identity
        self.view = serving.open_steady(replica, self.point.name, state, opened.warn)
        stack.enter_context(self.view)
        stack.enter_context(serving.following(self.view))
        if self.view.over["seal"] != self.point.seal:
            raise errors.Busy("was replaced while it was opened", path=self.view.path)

    @property
    def warnings(self) -> list[str]:
        return self.opened.warnings

    def fill(self, disk: Image, *, empty: bool) -> int:
        filling = Filling(
            self.view, self.want, self.identity.seed, workers=self.workers, monitor=self.monitor,
            batch_bytes=_BATCH_BYTES,
        )  # fmt: skip
        if empty:
            return filling.copy(None, disk)
        with filling.compare(disk, LocalFiles().temporary(disk.path)) as have:
            return filling.copy(have, disk)


class _Stored:
    """Of a replica in a store, which proves each block that it gives."""

    def __init__(self, view: LogPoint, told: Again, workers: int, monitor: Monitor) -> None:
        self.view, self.point, self.identity = view, view.point, view.identity
        self.told, self.workers, self.monitor = told, workers, monitor

    @property
    def warnings(self) -> list[str]:
        return self.told.warnings

    def fill(self, disk: Image, *, empty: bool) -> int:
        identity, size = self.identity, self.point.virtual_bytes
        made = LocalFiles().temporary(disk.path)
        with BlockMap.create(made, disk.path, identity.replica_id, identity.block_size, size) as have:
            if not empty:
                self.monitor.begin("compare", size)
                scan.rebuild(disk, have, identity.seed, workers=self.workers, monitor=self.monitor)
            self.monitor.begin("restore", size)
            sink = _Sink(disk, have, identity.seed)
            tally = scan.Scan(
                self.view, have, sink, size=size, block_size=identity.block_size, seed=identity.seed,
                workers=self.workers, batch_bytes=_BATCH_BYTES, monitor=self.monitor,
            ).run()  # fmt: skip
            if have.seal().hex() != self.point.seal:
                raise errors.Damaged("what was written has not the seal of the point", path=disk.path)
            return tally.sent_bytes


class _Sink:
    """Writes what it gets into the disk, reads it back, and notes its hashes."""

    def __init__(self, disk: Image, have: BlockMap, seed: int) -> None:
        self.disk, self.have, self.seed = disk, have, seed

    def put(self, batch: Batch, worker: int) -> None:
        given, size = (batch.blocks, batch.lengths), self.have.image_size
        self.disk.write_blocks(*given, batch.count, batch.block_size, size, batch.payload)
        bad = self.disk.check_blocks(*given, batch.hashes, batch.count, batch.block_size, size, self.seed)
        if bad >= 0:
            offset = batch.blocks[bad] * batch.block_size
            raise errors.Damaged("what was written reads back differently", path=self.disk.path, offset=offset)
        self.have.store(batch.blocks, batch.hashes, batch.count)
