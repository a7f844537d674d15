"""The clone tracker: a cycle reads a clone of the source file, and only what lies elsewhere on disk than the last did.

FICLONE is atomic in the kernel, so the source may be in use. The clone of the replica's newest point is kept beside the
source until the next cycle: a block that both hold can only have been copied on write, never written in place, so equal
addresses are equal bytes (see kernel.extents.changed). An extent map alone, of a clone that is gone, would not do: XFS
gave 632 of 1,885 changed blocks an address that the file had had before.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence

from secondsite.engine import errors
from secondsite.engine.images import Image, open_image
from secondsite.engine.trackers.base import Cut, Have, Tracker
from secondsite.engine.trackers.clonefile import (
    Spot,
    alone,
    apart,
    clone,
    is_open,
    keep,
    remove,
    supported,
    weight,
)

NAME = "clone"


class CloneTracker(Tracker):
    """Follows the image file at `path` for the replica `replica_id`.

    The kept clone may hold alone as much as is free in its file system, or `max_kept_bytes` where that is less: a full
    disk would stop whoever writes the source. Above that it goes, and the next cycle scans. It grows between cycles,
    where nobody looks: who repeats cycles may call `trim` in between.
    """

    name = NAME

    def __init__(
        self,
        path: str | os.PathLike[str],
        replica_id: str,
        *,
        format: str = "raw",
        allow_parent_path: Sequence[str] = (),
        max_kept_bytes: int | None = None,
        probed: bool = False,
    ) -> None:
        self.path, self.replica_id, self.format = os.fspath(path), replica_id, format
        # A parent may lie beside the link that leads to the image, while the clone lies beside the image.
        self.allow = [*allow_parent_path, os.path.dirname(os.path.abspath(self.path))]
        self.max_kept_bytes = max_kept_bytes
        self._cut: CloneCut | None = None
        self._probed = probed

    @property
    def spot(self) -> Spot:
        """Anew each time: the path may be a link, and lead elsewhere today."""
        return Spot.of(self.path, self.replica_id)

    def begin(self, have: Have | None, sample: Sequence[tuple[int, int]] = ()) -> CloneCut:
        """Clone the source, and compare with the clone of `have` where that was kept.

        Raises Refused where that is not possible here, or a file that is not ours lies in the way; Full, Unreachable,
        and what `open_image` raises.
        """
        if self._cut is not None and not self._cut.ended:
            raise errors.Refused("a cut of it is open already", path=self.path)
        self._admit()
        spot = self.spot
        fd, stall = clone(spot)
        try:
            image = open_image(spot.at("next"), format=self.format, allow_parent_path=self.allow)
            self._cut = CloneCut(self, spot, fd, image, stall)
        except BaseException:
            os.close(fd)
            remove(spot.at("next"))
            raise
        if have is not None and have.replica_id == self.replica_id and self.format == "raw":
            self._cut.compare(have)
        return self._cut

    def _admit(self) -> None:
        wrong = None if self._probed else supported(self.path, self.format, self.allow)
        if wrong:
            raise errors.Refused(f"cannot be tracked by clones: {wrong}", path=self.path)
        self._probed = True

    def kept_bytes(self) -> int:
        """What the kept clone holds alone: bytes that the source has written again since, and that go free with it.

        Compressed extents count with their plain size.
        """
        return sum(map(alone, self.spot.kept()))

    def limit(self) -> int:
        """What the kept clone may hold alone, in bytes."""
        try:
            room = os.statvfs(self.spot.folder)
        except OSError:
            return 0
        free = room.f_bavail * room.f_frsize
        return free if self.max_kept_bytes is None else min(free, self.max_kept_bytes)

    def trim(self) -> str | None:
        """Drop the kept clone where it holds too much; then the line that says so, else None."""
        spent, limit = self.kept_bytes(), self.limit()
        if spent <= limit:
            return None
        self.forget()
        return self.says(spent, limit)

    def says(self, spent: int, limit: int) -> str:
        held = f"the kept clone held {spent} bytes, {limit} are allowed"
        return f"{self.path}: {held}; it was dropped and the next cycle scans"

    def forget(self) -> None:
        """Remove the kept clones. The next cycle scans."""
        self.spot.forget()

    def close(self) -> None:
        if self._cut is not None:
            self._cut.give_back()


class CloneCut(Cut):
    """A clone of the source. `kept_bytes` is what the clone of the point before held alone."""

    tracker = NAME

    def __init__(self, tracker: CloneTracker, spot: Spot, fd: int, image: Image, stall: float) -> None:
        super().__init__()
        self.image, self.stall_seconds = image, stall
        # Parents are not cloned: nobody should write them, but that is not ours to promise.
        self.frozen = len(image.files()) == 1
        self.ended = False
        self._tracker, self._spot, self._fd = tracker, spot, fd
        self._ranges: tuple[array[int], array[int]] | None = None

    def compare(self, have: Have) -> None:
        """Find what may have changed since the clone of `have`, if that is there and nobody has touched it."""
        try:
            found = apart(self._spot, self._fd, have)
        except (OSError, ValueError) as error:
            wrong = f"its extents do not tell what changed ({error}); all is scanned"
            self.warnings.append(f"{self._tracker.path}: {wrong}")
            return
        if found is not None:
            self._ranges, self.kept_bytes = found.ranges, found.kept_bytes
            self._warn(found.uncertain)

    def _warn(self, uncertain: int) -> None:
        """Say why a cycle over a compressed image reads most of it."""
        if self._ranges and uncertain * 2 > sum(self._ranges[1]) > 0:
            told = "compressed, inline or not yet placed, and are read: where they lie does not tell what they are"
            self.warnings.append(f"{self._tracker.path}: {uncertain} bytes of it are {told}")

    def changed(self) -> Iterable[tuple[int, int]] | None:
        return None if self._ranges is None else zip(*self._ranges, strict=True)

    def acknowledge(self, have: Have) -> None:
        """Keep the clone as that of `have`. Where that fails the next cycle scans; a warning says why."""
        if self.ended:
            return
        spent, limit = max(self.kept_bytes, weight(self._fd)), self._tracker.limit()
        if self._tracker.format == "raw" and spent <= limit:
            self._keep(have)
        else:
            self._tracker.forget()
        if self._tracker.format == "raw" and spent > limit:
            self.warnings.append(self._tracker.says(spent, limit))
        self.give_back()

    def _keep(self, have: Have) -> None:
        target = self._spot.at(have.generation)
        try:
            if have.replica_id != self._tracker.replica_id:
                raise ValueError(f"it is of the replica {have.replica_id}")
            keep(self._spot, self._fd, have)
        except (OSError, ValueError) as error:
            self.warnings.append(f"{self._tracker.path}: its clone cannot be kept ({error}); the next cycle scans")
        for path in self._spot.kept():
            if path != target:
                remove(path)

    def give_back(self) -> None:
        """Remove the clone, unless it has become the kept one."""
        if self.ended:
            return
        self.ended = True
        self.image.close()
        if is_open(self._spot.at("next"), self._fd):
            remove(self._spot.at("next"))
        os.close(self._fd)


