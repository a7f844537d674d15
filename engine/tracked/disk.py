"""An image that a server writes, with its change map: cuts of it, and what is saved of the map meanwhile."""

from __future__ import annotations

import errno
import os
import threading
from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

from secondsite.engine import _nbd, errors
from secondsite.engine.images import RawImage, open_image
from secondsite.engine.images.overlay import OverlayImage
from secondsite.engine.images.raw import real_path
from secondsite.engine.relatives import Basis
from secondsite.engine.tracked.mapfile import MapFile, State, beside, lock, stamp
from secondsite.engine.tracked.others import Others
from secondsite.engine.trackers.base import Have
from secondsite.engine.units import KIB, MIB, format_size

# What is copied before a first overwrite, and read again at least: small against a block of 64 KiB, while the marks of
# 1 TiB are 8 MiB.
GRANULE = 16 * KIB
REGION = 16 * MIB
BEAT_SECONDS = 1.0
SAVE_BEATS = 5
# Of what is free in the folder when a cut begins, the copies of overwritten bytes may take so much.
AREA_SHARE = 0.5


class Known(NamedTuple):
    """What the marks of a cut are relative to: the point that was asked for, or the basis."""

    since: bool
    basis: bool


class TrackedImage:
    """The image at `path`, open for writing, of which this process is the only server.

    Guests write through `disk`. `area` is a folder for what is overwritten while a cycle reads, the image's own by
    default, `area_limit` what it may take. Raises Busy where another server has the image, and what open_image raises.
    """

    def __init__(
        self, path: str, *, format: str | None = None, area: str | None = None, area_limit: int | None = None
    ) -> None:
        self.path = real_path(path)
        self.area_folder, self.area_limit = area or os.path.dirname(self.path), area_limit
        self.image = open_image(self.path, "rw", format=format)
        self.clients: Callable[[], int] = lambda: 0
        """How many have its export: who writes through it is one of them."""
        self.lost = ""
        """Why the last cut was lost; empty while it was not. The next cycle that works clears it."""
        self.have: Have | None = None
        self._doubt = False
        self._lock, self._saving, self._stop = threading.Lock(), threading.Lock(), threading.Event()
        self._area = -1
        self.number = 0
        """Of the last cut."""
        self.limit = 0
        """Of the last cut's copies, in bytes."""
        try:
            if isinstance(self.image, RawImage) and self.image.device:
                raise errors.Refused("a block device cannot be tracked: nothing tells who wrote it", path=self.path)
            self.file = MapFile(beside(self.path, "map"))
        except BaseException:
            self.image.close()
            raise
        try:
            if isinstance(self.image, RawImage) and not lock(self.image.fd):
                # Its map's lock does not tell: a hard link has another name, and so another map.
                raise errors.Busy("another program has it locked", path=self.path)
            self._load()
        except BaseException:
            self.file.close()
            self.image.close()
            raise
        self._beats = threading.Thread(target=self._beat, name="change map", daemon=True)
        self._beats.start()

    def _load(self) -> None:
        image = self.image
        self.size = image.size
        self.changes = _nbd.ChangeMap(self.size, GRANULE, REGION)
        fd = image.fd if isinstance(image, RawImage) else -1
        self.disk = _nbd.Disk(image, self.size, fd=fd, changes=self.changes)
        self.others = Others(self.path, image, self.changes)
        self.have = self.file.load(self.changes, image.files(), raw=isinstance(image, RawImage))
        known = self.have is not None
        self._lay_over(Basis.of(image))
        self.file.attach(self.changes, self._state(""), known)

    def _lay_over(self, basis: Basis | None) -> None:
        """What an overlay holds is what was written since its point, whatever became of the map: relative to that there
        is one, until a replica has taken it over.
        """
        if basis is not None and isinstance(self.image, OverlayImage) and self.have in (None, basis.have):
            self.have = basis.have
            for start, length in self.image.written():
                self.changes.mark(start, length)

    def _state(self, stamped: str) -> State:
        return State(self.size, GRANULE, REGION, f"inode {self.others.inode}", self.have, stamped)

    # -- what survives --------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        count = 0
        while not self._stop.wait(BEAT_SECONDS):
            self.file.beat()
            self._look_for_others()
            count += 1
            # In a thread of its own: a flush may take long, and the signs of life go on.
            if count % SAVE_BEATS == 0 and not self._saving.locked():
                threading.Thread(target=self.save, daemon=True).start()

    def _look_for_others(self) -> None:
        """Where others had their hands on the file, nothing is known of it. What happens in a cut is seen after it."""
        with self._lock:
            if self.changes.cutting or self.file.fd < 0 or not (self.others.wrote() or self.others.replaced()):
                return
            if not self._doubt or self.have is not None:
                self._doubt, self.have = True, None
                try:
                    if not self.changes.broken:
                        self.file.put(self._state(""))
                except errors.Error:
                    pass  # the next header says so too

    def save(self, everything: bool = False) -> int:
        """Save the marks, retire the regions at rest. Returns an errno or 0."""
        with self._saving:
            return self.changes.save(self.disk, everything) if self.file.fd >= 0 else 0

    def close(self) -> None:
        """After the last write: flush, save, and note that the map is whole. A second call does nothing."""
        self._stop.set()
        self._beats.join()
        self._look_for_others()
        with self._lock:
            if self.file.fd < 0:
                return
            if self.changes.cutting:
                self.changes.end(False)
            files, error = self.image.files(), self.save(True)
            with self._saving:
                try:
                    self.image.close()
                    if not error and not self.others.replaced():
                        self.file.put(self._state(stamp(files)))
                finally:
                    self.file.close()

    # -- cuts -----------------------------------------------------------------------------------------------------

    def prepare(
        self, have: Have | None, sample: Sequence[tuple[int, int]], block: int, basis: Have | None = None
    ) -> Known:
        """Before `cut`: is what changed since `have` known, or since `basis`? Then more than that may be read."""
        if self.changes.cutting:
            raise errors.Busy("a cut of it is open already", path=self.path)
        self._look_for_others()
        if self.others.replaced() or self.others.resized():
            wrong = "another file lies there than" if self.others.replaced() else "it has another size than"
            raise errors.Unreachable(f"{wrong} its tracking server serves; start that anew", path=self.path)
        known, self._doubt = have is not None and have == self.have, False
        based = not known and basis is not None and basis == self.have
        inside = [(start, min(length, self.size - start)) for start, length in sample if start < self.size]
        self._open_area()
        self.limit = self._limit()
        self.changes.prepare(max(block, GRANULE), not known, inside, self._area, self.limit)
        self.number += 1
        return Known(known, based)

    def _open_area(self) -> None:
        if self._area < 0:
            try:
                self._area = os.open(self.area_folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise errors.from_os(error, self.area_folder, "make a file for what is overwritten") from None

    def _limit(self) -> int:
        if self.area_limit is not None:
            return self.area_limit
        found = os.statvfs(self.area_folder)
        return int(found.f_bavail * found.f_frsize * AREA_SHARE)

    def view(self) -> _nbd.Disk:
        """The open cut, read-only."""
        return _nbd.Disk(self.image, self.size, fd=self.disk.fd, changes=self.changes, frozen=True)

    def extents(self, number: int, offset: int, length: int, one: bool) -> array[int]:
        """(length, NBD's hole and zero flags) of that cut's bytes: what is a hole now and was not overwritten since."""
        found = self._look(offset, length)
        # Only now is it certain that what was not copied had not been overwritten.
        if not self.changes.cutting or self.number != number or self.changes.lost:
            raise errors.Unreachable("the cut has ended", path=self.path)
        return found[:2] if one else found

    def _look(self, offset: int, length: int) -> array[int]:
        found = array("Q")
        for extent in self.image.scan_extents(offset, length):
            if not extent.zero:
                found.extend((extent.length, 0))
            else:  # looked at after the hole was found: what makes one copies first
                copied = self.changes.status(extent.start, extent.length, 4096, True)
                for part, is_copied in zip(copied[::2], copied[1::2], strict=True):
                    found.extend((part, 0 if is_copied else 3))
                if sum(copied[::2]) < extent.length:
                    break
            if len(found) > 8192:
                break
        return found

    def acknowledge(self, have: Have) -> None:
        """The replica holds the cut. The header says so, durably, before a mark leaves the file.

        That the cut was lost since its last read does no harm: each read told whether it held.
        """
        with self._lock:
            before, self.have = self.have, None if self._doubt else have
            try:
                if not self.changes.broken:
                    self.file.put(self._state(""))
            except BaseException:
                self.have = before
                self.changes.end(False)
                raise
            self.changes.end(True)
            self.lost = ""

    def give_back(self) -> str:
        """The marks stay. Why the cut was lost, empty where it was not."""
        with self._lock:
            found = ""
            if self.changes.cutting:
                found = self._note_lost()
                self.changes.end(False)
            return found

    def _note_lost(self) -> str:
        if not self.changes.lost:
            return ""
        kept = min(self.changes.area_bytes, self.limit)
        at_limit = self.changes.lost == errno.ENOSPC and kept == self.limit
        why, held = "the limit" if at_limit else os.strerror(self.changes.lost), format_size(kept)
        again = "what changed" if self.have else "all of it"
        self.lost = (
            f"the cut was lost: what was overwritten could not be kept in {self.area_folder} ({why}, at {held} of at "
            f"most {format_size(self.limit)}); the guest's writes go on; resync required: the next cycle "
            f"reads {again} again"
        )
        return self.lost

    def status(self) -> dict[str, object]:
        """What the server tells of it."""
        if self.changes.cutting:
            self._note_lost()
        changes = self.changes
        return {
            "image": self.path, "size": self.size, "known": self.have is not None,
            "have": list(self.have) if self.have else None,
            "marked_bytes": min(changes.marked_granules * changes.granule, self.size),
            "active_regions": changes.active_regions, "region_bytes": changes.region, "cut_open": changes.cutting,
            "copied_bytes": changes.copied_bytes, "resync_required": bool(self.lost), "lost": self.lost,
            "map_error": os.strerror(changes.broken) if changes.broken else "", "clients": self.clients(),
        }  # fmt: skip
