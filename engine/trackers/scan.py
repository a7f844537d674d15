"""Trackers of sources that nobody follows: all of it is read, or what a file, a chain of logs or a format names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from secondsite.engine import errors
from secondsite.engine import source as sources
from secondsite.engine.images import Image
from secondsite.engine.replica.directory import Replica
from secondsite.engine.source import Source
from secondsite.engine.trackers.base import Cut, Have, Tracker
from secondsite.engine.tracking import read_list

Ranges = Iterable[tuple[int, int]]


class SourceCut(Cut):
    """The source itself, which has to stand still while it is read; the cycle looks whether it did.

    `named` is asked in `changed`, after the cycle has noted what the source's files look like: what it goes by must not
    change unseen between the two.
    """

    def __init__(self, tracker: str, image: Image, named: Callable[[], Ranges | None]) -> None:
        super().__init__()
        self.tracker, self.image = tracker, image
        self._named = named
        self.ended = False

    def changed(self) -> Ranges | None:
        found = self._named()
        if found is None:
            self.tracker = "scan"
        return found

    def acknowledge(self, have: Have) -> None:
        self.ended = True

    def give_back(self) -> None:
        self.ended = True


class SourceTracker(Tracker):
    """Cuts of a source as it lies there. Nothing is kept from cycle to cycle, so there is nothing to acknowledge."""

    def __init__(self, name: str, origin: Source) -> None:
        self.name, self.origin = name, origin
        self._cut: SourceCut | None = None

    def begin(self, have: Have | None, sample: Sequence[tuple[int, int]] = ()) -> SourceCut:
        if self._cut is not None and not self._cut.ended:
            raise errors.Refused("a cut of it is open already", path=self.origin.path)
        self.origin.reread()
        self._cut = SourceCut(self.name, self.origin.image, lambda: self.named(have) if have else None)
        return self._cut

    def named(self, have: Have) -> Ranges | None:
        """What may have changed since `have`; None where that is not known."""
        return None


class ScanTracker(SourceTracker):
    """Names nothing: everything is read."""

    def __init__(self, origin: Source) -> None:
        super().__init__("scan", origin)


class ListTracker(SourceTracker):
    """What a file with an extent list names; that it is the list since the newest point, its giver answers for."""

    def __init__(self, origin: Source, replica: Replica, path: str) -> None:
        super().__init__("changed", origin)
        self.replica, self.path = replica, path

    def named(self, have: Have) -> Ranges | None:
        found = read_list(self.path, self.origin.image.size)
        return found if _same_size(self.replica, self.origin, have) else None


class RangesTracker(SourceTracker):
    """What a call names, each time that it is asked: the logs of Hyper-V Replica."""

    def __init__(self, name: str, origin: Source, ranges: Callable[[], Ranges]) -> None:
        super().__init__(name, origin)
        self._ranges = ranges

    def named(self, have: Have) -> Ranges:
        return self._ranges()


class VhdxTracker(SourceTracker):
    """What the child files of a VHDX hold, where the parent that was replicated has not been touched since.

    The parent's DataWriteGuid alone does not tell: a running machine writes on under the same one. Its file's times do.
    """

    def __init__(self, origin: Source, replica: Replica) -> None:
        super().__init__("vhdx", origin)
        self.replica = replica

    def named(self, have: Have) -> Ranges | None:
        if self.origin.format != "vhdx" or not self.origin.trusted():
            return None
        if not _same_size(self.replica, self.origin, have):
            return None
        noted = sources.noted(self.replica, have.generation)
        if noted is None:
            return None
        from secondsite.engine.images.vhdx import VhdxImage

        image = self.origin.image
        if not isinstance(image, VhdxImage):
            return None
        stamps = image.stamps()
        # The files that were noted are those below the ones that are new.
        above = len(stamps) - len(noted.stamp)
        if above < 1 or list(stamps[above:]) != noted.stamp:
            return None
        return image.changed_above(above)


def _same_size(replica: Replica, origin: Source, have: Have) -> bool:
    """Of a disk that was made smaller and larger again, what lay between tells nothing of it."""
    return replica.point(have.generation).virtual_bytes == origin.image.size
