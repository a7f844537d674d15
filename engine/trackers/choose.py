"""Which tracker a cycle has: the one that was named, or for `auto` the first that can follow this source.

A new kind adds itself twice: to NAMED, what `--tracker NAME` makes, and to AUTO, where a finder answers for a source
with a tracker, or with None, and so costs every cycle of every source what it looks at. Both import it only when they
are called.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from secondsite.engine import errors
from secondsite.engine.images.raw import RawImage
from secondsite.engine.qemu.machine import Qemu
from secondsite.engine.replica.directory import Replica
from secondsite.engine.source import Source
from secondsite.engine.trackers.base import Tracker
from secondsite.engine.trackers.scan import ListTracker, ScanTracker, VhdxTracker
from secondsite.engine.trackers.together import Party


class Wish(NamedTuple):
    """What a caller said of how its source is to be followed; see `replicate`."""

    tracker: str | Tracker = "auto"
    qemu: Qemu | None = None
    bitmap_since: str | None = None
    next_bitmap: str | None = None
    changed: str | os.PathLike[str] | None = None
    together: Party | None = None

    def find_list(self) -> None:
        """Raises Unreachable where a list was named that is not there."""
        if self.changed is not None:
            try:
                os.stat(self.changed)
            except OSError as error:
                raise errors.from_os(error, self.changed, "read it") from None

    def check(self) -> None:
        """Raises Usage for what is no tracker."""
        if isinstance(self.tracker, str) and self.tracker != "auto" and self.tracker not in NAMED:
            raise errors.Usage(f"tracker is {', '.join(('auto', *NAMED))}, not {self.tracker!r}")


class Asked(NamedTuple):
    """A cycle that needs a tracker. `origin.by_path` says whether the source is a file or device, or a URL, at
    `origin.path`, and not another program's Image.
    """

    origin: Source
    replica: Replica
    wish: Wish


class Chosen(NamedTuple):
    """A tracker, whether the cycle closes it, and in a few words why it is this one."""

    tracker: Tracker
    ours: bool
    why: str


def _scan(asked: Asked) -> Tracker:
    return ScanTracker(asked.origin)


def _vhdx(asked: Asked) -> Tracker:
    return VhdxTracker(asked.origin, asked.replica)


def _clone(asked: Asked) -> Tracker:
    return _clones(asked, probed=False)


def _clones(asked: Asked, *, probed: bool) -> Tracker:
    from secondsite.engine.trackers.clone import CloneTracker

    origin = asked.origin
    if not origin.by_path:
        raise errors.Usage("only an image file can be tracked by clones", path=origin.path)
    return CloneTracker(
        origin.path, asked.replica.identity.replica_id.hex(), format=origin.format,
        allow_parent_path=origin.allow_parent_path, probed=probed,
    )  # fmt: skip


def _qemu(asked: Asked) -> Tracker:
    from secondsite.engine.trackers.qemu import QemuTracker

    origin = asked.origin
    qemu = asked.wish.qemu
    if qemu is None or not origin.by_path:
        raise errors.Usage("QEMU follows the file of a disk, and its monitor has to be named (--qmp)", path=origin.path)
    return QemuTracker(origin.path, asked.replica.identity.replica_id.hex(), qemu, origin.format)


def _served(asked: Asked) -> Tracker:
    from secondsite.engine.trackers.served import ServedTracker

    if not asked.origin.by_path or asked.origin.is_url:
        raise errors.Usage("a tracking server serves the file of a disk", path=asked.origin.path)
    from secondsite.engine.relatives import Basis

    basis = Basis.of(asked.origin.image)
    return ServedTracker(asked.origin.path, block_size=asked.replica.identity.block_size, basis=basis)


def _find_served(asked: Asked) -> Chosen | None:
    """Where a server has the image, nothing else will do: it is written while a cycle reads."""
    origin = asked.origin
    if not origin.by_path or not (isinstance(origin.image, RawImage) or origin.format in _SERVED):
        return None
    from secondsite.engine.tracked.mapfile import is_served

    return Chosen(_served(asked), True, "a tracking server serves it") if is_served(origin.path) else None


def _overlay(asked: Asked) -> Tracker:
    from secondsite.engine.trackers.laid import OverlayTracker

    if asked.origin.format != "overlay":
        raise errors.Usage("is no overlay, which alone holds what was written since a point", path=asked.origin.path)
    return OverlayTracker(asked.origin)


def _find_overlay(asked: Asked) -> Chosen | None:
    if asked.origin.format != "overlay":
        return None
    return Chosen(_overlay(asked), True, "an overlay holds what was written")


def _find_qemu(asked: Asked) -> Chosen | None:
    return Chosen(_qemu(asked), True, "its QEMU was named") if asked.wish.qemu else None


def _bitmap(asked: Asked) -> Tracker:
    from secondsite.engine.images.nbd import NbdImage
    from secondsite.engine.trackers.bitmap import BitmapTracker

    origin, replica, wish = asked.origin, asked.replica, asked.wish
    if not isinstance(origin.image, NbdImage) or not (origin.bitmap or wish.next_bitmap):
        raise errors.Usage("only an NBD URL with bitmap=NAME has a dirty bitmap", path=origin.path)
    return BitmapTracker(
        origin.image, origin.bitmap or "", replica.files, replica.layout.bitmap, since=wish.bitmap_since,
        next_bitmap=wish.next_bitmap,
    )  # fmt: skip


def _find_bitmap(asked: Asked) -> Chosen | None:
    """Also for a URL without one, where the next is to have one."""
    if not asked.origin.is_url or not (asked.origin.bitmap or asked.wish.next_bitmap):
        return None
    return Chosen(_bitmap(asked), True, "a bitmap was named")


def _find_clone(asked: Asked) -> Chosen | None:
    """Raw images alone: of a container in a clone nothing tells what changed on its disk."""
    origin = asked.origin
    if not origin.by_path or not isinstance(origin.image, RawImage) or origin.image.device:
        return None
    from secondsite.engine.trackers.clonefile import supported

    if supported(origin.path) is not None:
        return None
    return Chosen(_clones(asked, probed=True), True, "its file system clones files")


def _find_vhdx(asked: Asked) -> Chosen | None:
    if asked.origin.format != "vhdx":
        return None
    return Chosen(_vhdx(asked), True, "a VHDX names its changes only in a new checkpoint")


# Containers that a tracking server may write.
_SERVED = ("vhdx", "vhd", "overlay")
NAMED: dict[str, Callable[[Asked], Tracker]] = {
    "scan": _scan, "nbd": _served, "clone": _clone, "vhdx": _vhdx, "qemu": _qemu, "bitmap": _bitmap,
    "overlay": _overlay,
}  # fmt: skip
# In this order.
AUTO: tuple[Callable[[Asked], Chosen | None], ...] = (
    _find_qemu, _find_bitmap, _find_served, _find_overlay, _find_clone, _find_vhdx,
)  # fmt: skip


def choose(asked: Asked) -> Chosen:
    """The tracker of a cycle. Raises Usage and Refused where the one that was named cannot follow this source.

    Clones that earlier cycles of this replica kept go where another tracker is chosen: they would grow for nothing.
    """
    chosen = _choose(asked)
    if asked.origin.by_path and chosen.ours and chosen.tracker.name not in ("clone", "changed"):
        _forget_clones(asked)
    together = asked.wish.together
    return chosen if together is None else chosen._replace(tracker=together.join(chosen.tracker, asked.origin))


def _forget_clones(asked: Asked) -> None:
    if isinstance(asked.origin.image, RawImage) and asked.origin.image.device:
        return
    from secondsite.engine.trackers.clonefile import Spot

    Spot.of(asked.origin.path, asked.replica.identity.replica_id.hex()).forget()


def _choose(asked: Asked) -> Chosen:
    wish, qemu, since, following, changed, _ = asked.wish
    if qemu is not None and (wish not in ("auto", "qemu") or changed is not None) and isinstance(wish, str):
        other = "a list of changes" if changed is not None else f"tracker {wish}"
        raise errors.Usage(f"{other} would read the file that QEMU writes on", path=asked.origin.path)
    if (following or since) and (not asked.origin.is_url or wish not in ("auto", "bitmap")):
        raise errors.Usage("has no dirty bitmap that could be named: only an NBD URL has", path=asked.origin.path)
    if isinstance(wish, Tracker):
        return Chosen(wish, False, "it was given")
    if wish == "scan":
        return Chosen(_scan(asked), True, "it was asked for")
    if changed is not None:
        return Chosen(ListTracker(asked.origin, asked.replica, os.fspath(changed)), True, "a list was given")
    if wish != "auto":
        return Chosen(NAMED[wish](asked), True, "it was asked for")
    for find in AUTO:
        found = find(asked)
        if found is not None:
            return found
    return Chosen(_scan(asked), True, "nothing follows this source")
