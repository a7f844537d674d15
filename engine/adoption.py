"""A copy of a disk that lies at the target already becomes the first point of a replica there (R5.6)."""

from __future__ import annotations

import datetime
import os
import posixpath
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from secondsite.engine import admission, errors, scan, units
from secondsite.engine.adoptlike import Like, Since, written
from secondsite.engine.batch import SMALL_BATCH_BYTES, Batch
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.files import LocalFiles
from secondsite.engine.images import Image, RawImage, Stamp
from secondsite.engine.images.raw import real_path
from secondsite.engine.images.sharing import share
from secondsite.engine.progress import Monitor, Progress
from secondsite.engine.remote import url
from secondsite.engine.replica.cycle import Next
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.identity import ADOPTED, Identity
from secondsite.engine.replica.point import Point, format_time
from secondsite.engine.replication import utc_now
from secondsite.engine.results.seeds import Adopted
from secondsite.engine.seedimport import holding
from secondsite.engine.seeding.waiting import Waiting
from secondsite.engine.source import Source
from secondsite.engine.workers import default_workers

Stamps = tuple[Stamp, ...] | None


def adopt(
    copy: str | os.PathLike[str],
    replica: str | os.PathLike[str],
    *,
    move: bool = False,
    block_size: int | None = None,
    source_format: str | None = None,
    like: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    clock: Callable[[], datetime.datetime] = utc_now,
    state: str | os.PathLike[str] | None = None,
) -> Adopted:
    """Make the disk image `copy` the first point of a new replica in the folder `replica`, which follows the first
    source that replicates to it: compared by hash, only what differs is sent.

    The copy is cloned where the file system can, a VHDX by its blocks, else copied; with `move` the raw file itself
    becomes the head, and has its old name until the point is there. `like` is a replica, anywhere, that followed this
    disk until a failover: the new one gets its block size and the secret of its hashes, and where a tracker knows what
    changed on the disk since a point that it still holds, only that is read. The first cycle of an overlay over one of
    its points then reads what was written alone, too. `state` is the folder of what this host knows of others.

    Raises Refused where there is a point, or the file cannot be moved, and what opening `like` does.
    """
    began, files, root, path = time.monotonic(), LocalFiles(), os.fspath(replica), os.fspath(copy)
    if url.is_remote(root):
        raise errors.Usage("a copy is adopted on the replica's own host, into its folder", path=root)
    if block_size is not None:
        units.check_block_size(block_size)
    if like is not None and block_size is not None:
        raise errors.Usage("the blocks of a replica are like those of the other one, or of a size that is given")
    kin = Like.of(os.fspath(like), state) if like is not None else None
    monitor = Monitor(progress, cancel)
    origin = Source(path, None, format=source_format)
    try:
        made = Identity.new(
            block_size or units.DEFAULT_BLOCK_SIZE, format_time(clock()), ADOPTED + real_path(path), "undo"
        )
        made = kin.shape(made) if kin is not None else made
        opened = admission.open_or_create(root, files, lambda: made, probe=True)
        with holding(opened, monitor):
            if move and _moved(opened, path):
                return _result(opened, root, 0, "move", began)
            _admit(opened)
            made = replace(made, history=opened.identity.history)  # as its file system was found to be
            if opened.identity != made:
                opened.become(made)
            job = _Adoption(opened, origin, monitor, workers or default_workers(), kin)
            read, method = job.run(move, clock())
            if move:
                _forget(path, files)
            return _result(opened, root, read, method, began)
    finally:
        origin.close()


def _admit(replica: Replica) -> None:
    path = replica.layout.root
    if newest := replica.head_generation():
        raise errors.Refused(f"has point {newest} already: a copy becomes the first point of a new replica", path=path)
    if replica.files.exists(replica.layout.head):
        raise errors.Damaged("there is a head but no record of any point", path=replica.layout.points)
    if Waiting.of(replica):
        raise errors.Refused("waits for its seed", path=path)


def _moved(replica: Replica, path: str) -> bool:
    """Was this file moved before, by a call that ended before it took the old name away?"""
    head = Path(replica.layout.head)
    if replica.head_generation() != 1 or not head.exists() or not head.samefile(path):
        return False
    _forget(path, LocalFiles())
    return True


def _forget(path: str, files: LocalFiles) -> None:
    path = real_path(path)
    files.unlink(path)
    files.flush_dir(posixpath.dirname(path) or ".")


def _result(replica: Replica, root: str, read: int, method: str, began: float) -> Adopted:
    point = replica.newest()
    assert point is not None
    return Adopted(
        root, point.replica_id, point.name, point.virtual_bytes, read, method, time.monotonic() - began,
        replica.warnings,
    )  # fmt: skip


class _Lain(Next):
    """The cycle whose head lies there, under the name of the one that is to come: only its map is made."""

    def __init__(self, replica: Replica, size: int) -> None:
        super().__init__(replica, None, size, fresh=True)

    def _start(self) -> None:
        replica, path = self.replica, self.replica.layout.next_map(self.generation)
        self.head = self._opened.enter_context(replica.open_disk(replica.layout.next_head(self.generation), "rw"))
        self.map = BlockMap.create(
            self._open(path, "create"), path, replica.identity.replica_id, self.block_size, self.size
        )

    def put(self, batch: Batch, worker: int) -> None:
        self.map.store(batch.blocks, batch.hashes, batch.count)


class _Adoption:
    """One call, of a replica that it holds as the writer."""

    def __init__(
        self, replica: Replica, origin: Source, monitor: Monitor, workers: int, like: Like | None = None
    ) -> None:
        self.replica, self.origin, self.monitor, self.workers = replica, origin, monitor, workers
        self.like = like
        self.size = origin.image.size
        if self.size > units.MAX_BLOCKS * replica.identity.block_size:
            raise errors.Usage("has too many blocks of that size", path=origin.path)

    def run(self, move: bool, moment: datetime.datetime) -> tuple[int, str]:
        """How many bytes were read, and how the copy came in."""
        known = self._known()
        cycle, method, before = self._begin(move)
        try:
            tally = self._lay(cycle, method, known)
            if tally is None:
                tally = self._scan(cycle, self.origin.image if method == "copy" else cycle.head)
            if before is not None and self.origin.stamp() != before:
                raise errors.SourceChanged("it was written while it was read", path=self.origin.path)
            made = self.replica.identity
            point = Point(
                1, format_time(moment), self.size, cycle.seal(), "initial", "scan", tally.read_bytes,
                tally.changed_bytes, tally.sent_bytes, made.epoch, made.replica_id.hex(),
            )  # fmt: skip
            if method == "move":
                _keep_private(self.replica.layout.next_head(1))
            cycle.commit(point)
        except BaseException:
            cycle.abort()
            raise
        return tally.read_bytes, method

    def _begin(self, move: bool) -> tuple[Next, str, Stamps]:
        """The cycle, how the copy comes in, and its times as they have to be in the end; None after an instant.
        """
        replica, image = self.replica, self.origin.image
        plain = isinstance(image, RawImage) and not image.device
        if move:
            if not plain:
                raise errors.Refused("is no raw image file; without --move it is copied", path=self.origin.path)
            _link(real_path(self.origin.path), replica.layout.next_head(1))
            before = self._settled()
            return _Lain(replica, self.size), "move", before
        if plain and replica.files.clone(self.origin.path, replica.layout.next_head(1)):
            return _Lain(replica, self.size), "clone", None
        before = self._settled()
        if not plain and self._shared():
            return _Lain(replica, self.size), "clone", before
        return Next(replica, None, self.size, fresh=True), "copy", before

    def _settled(self) -> Stamps:
        try:
            return self.origin.settled()
        except BaseException:
            self.replica.files.unlink(self.replica.layout.next_head(1))
            raise

    def _shared(self) -> bool:
        """Is the head there, and shares the blocks of the container that is adopted?"""
        path, done = self.replica.layout.next_head(1), False
        try:
            with RawImage(path, "create") as head:
                done = share(self.origin.image, head, self.monitor.check)
        finally:
            if not done:
                self.replica.files.unlink(path)
        return done

    def _known(self) -> Since | None:
        """What a tracker knows of the disk: before that gets a second name, which would look as if it had been written.
        """
        return self.like.since(self.origin) if self.like is not None else None

    def _lay(self, cycle: Next, method: str, known: Since | None) -> scan.Tally | None:
        """The map by what is known of the disk; None where that is not enough, and the map is as it was."""
        if self.like is None or known is None or method == "copy":
            return None
        if written(self.origin) != known.written:
            raise errors.SourceChanged("it was written while it was looked at", path=self.origin.path)
        self.monitor.begin("adopt", self.size)
        found = self.like.lay(known, cycle.head, cycle.map, self.workers, self.monitor)
        if found.warning:
            self.replica.warn(found.warning)
        return None if found.warning else found.tally

    def _scan(self, cycle: Next, image: Image) -> scan.Tally:
        made = self.replica.identity
        self.monitor.begin("adopt", self.size)
        return scan.Scan(
            image, None, cycle, size=self.size, block_size=made.block_size, seed=made.seed, workers=self.workers,
            batch_bytes=SMALL_BATCH_BYTES, monitor=self.monitor,
        ).run()  # fmt: skip


def _link(path: str, target: str) -> None:
    """The second name that is the first point's once it is committed; until then a crash takes only that one away."""
    try:
        names = os.stat(path).st_nlink
        if names == 1:
            os.link(path, target)
            return
        why = f"it has {names} names, and what the others stand for would change with the head"
    except OSError as error:
        why = os.strerror(error.errno or 0)
    raise errors.Refused(f"cannot be moved ({why}); without --move it is copied", path=path)


def _keep_private(path: str) -> None:
    """What restored the disk may have left it readable for all; a replica is its owner's alone."""
    try:
        os.chmod(path, 0o600)
    except OSError as error:
        raise errors.from_os(error, path, "make it readable by its owner alone") from None
