"""The tracker of a disk that a running QEMU writes on: its dirty bitmaps name what changed, its NBD server shows it.

One bitmap of ours marks writes between cycles. Its name says which point of which replica it begins at, so a bitmap
that a QEMU started anew does not have, or one of another history, is not found, and everything is read (P1, P2). It is
kept in memory alone: one that is stored with the image would outlive changes that were made without QEMU.

    between cycles   secondsite-ID-POINT                      marks
    while a cut is   secondsite-ID-POINT, secondsite-ID-next  is exported; marks
    ... of all       secondsite-ID-first, secondsite-ID-next  says which zeros, seen before the cut, went; marks

A cut is one QMP transaction: the one stops, the other begins, and a view of the disk is frozen. Bitmaps change only in
further transactions, each of which marks too much rather than too little at every moment. Grouped completion (P9) is
not asked for: no job of ours completes, so none decides about a bitmap; QEMU refuses it beside actions on bitmaps, too.

What a killed cycle left in QEMU the next one takes away first, and puts the bitmaps together again.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from secondsite.engine import errors
from secondsite.engine.nbd.url import NbdUrl
from secondsite.engine.qemu import nodes
from secondsite.engine.qemu.agent import Freeze, Quiesce, guest_frozen
from secondsite.engine.qemu.fleece import Fleece, View, Zeros
from secondsite.engine.qemu.machine import Qemu
from secondsite.engine.qemu.qmp import Json, Monitor
from secondsite.engine.qemu.server import Server
from secondsite.engine.trackers.base import Cut, Have, Tracker

NAME = "qemu"
# What drives a disk of our formats in QEMU.
_DRIVERS = {
    "raw": {"raw", "file", "host_device"}, "qcow2": {"qcow2"}, "vhdx": {"vhdx"}, "vhd": {"vpc"}, "vmdk": {"vmdk"},
}  # fmt: skip


class QemuTracker(Tracker):
    """Follows the disk in the file at `path`, of our format `format`, in the QEMU that `qemu` describes.

    A monitor serves one client at a time, so a connection lasts only as long as a cut.
    """

    name = NAME

    def __init__(self, path: str, replica_id: str, qemu: Qemu, format: str = "raw") -> None:
        self.path, self.replica_id, self.qemu, self.format = path, replica_id, qemu, format
        self.folder = qemu.folder or os.path.dirname(os.path.realpath(path))
        self.cut: QemuCut | None = None

    def begin(self, have: Have | None, sample: Sequence[tuple[int, int]] = ()) -> QemuCut:
        return begin_together([(self, have)])[0]

    def close(self) -> None:
        if self.cut is not None:
            self.cut.give_back()


def begin_together(
    wanted: Sequence[tuple[QemuTracker, Have | None]], quiesce: Quiesce | None = None
) -> list[QemuCut]:
    """Cuts of several disks of one machine at one instant, with one freeze of its guest, and `quiesce` around it.

    The disks share the monitor, the agent and the NBD server of the first. Either all of the cuts begin or none.
    """
    first = wanted[0][0]
    if any(tracker.cut is not None for tracker, _ in wanted):
        raise errors.Refused("a cut of this disk is open already", path=first.path)
    session = _Session(first)
    cuts: list[QemuCut] = []
    try:
        for tracker, have in wanted:
            cuts.append(QemuCut(session, tracker, have))
        session.instant(cuts, first.qemu.agent, quiesce)
        for cut in cuts:
            cut.show()
    except BaseException:
        for cut in cuts:
            cut.give_back()
        session.close_unused()
        raise
    return cuts


def _check_format(tracker: QemuTracker, node: nodes.Node) -> None:
    """Raises Refused where QEMU shows its guest another disk than we would read from the file without it."""
    known = set().union(*_DRIVERS.values())
    if tracker.qemu.node is not None and node.driver not in known:
        return  # a filter over the disk, which the user named
    if node.driver not in _DRIVERS.get(tracker.format, ()):
        text = f"this QEMU reads it as {node.driver!r}, and the source is of format {tracker.format}"
        raise errors.Refused(text, path=tracker.path)


@contextmanager
def _as_it_is() -> Iterator[Freeze]:
    """Nothing is brought to rest."""
    yield Freeze()


class _Session:
    """The connection of the cuts that began together; it ends with the last of them."""

    def __init__(self, tracker: QemuTracker) -> None:
        self.monitor = Monitor.connect(tracker.qemu.qmp)
        self.monitor.listen = self._heard
        self.cuts: list[QemuCut] = []
        self._leaving = threading.Lock()
        try:
            self.server = Server(self.monitor, tracker.folder, tracker.qemu.nbd)
        except BaseException:
            self.monitor.close()
            raise

    def _heard(self, name: str, data: Json) -> None:
        for cut in self.cuts:
            cut.fleece.heard(name, data)

    def instant(self, cuts: list[QemuCut], agent: str | None, quiesce: Quiesce | None = None) -> None:
        """The cut itself, of all disks in one transaction; a guest's writers may stand still until it is done."""
        self.server.start()
        for cut in cuts:
            cut.look_ahead(self.server.url)
        with (quiesce or _as_it_is)() as rest, guest_frozen(agent) as freeze:
            began = time.monotonic()
            self.monitor.transaction([action for cut in cuts for action in cut.actions()])
            stall = time.monotonic() - began
        for cut in cuts:
            asked = [one for one, given in ((rest, quiesce), (freeze, agent)) if given is not None]
            cut.begun(stall, asked)

    def left(self, cut: QemuCut) -> None:
        with self._leaving:  # each cut is read, and ends, in a thread of its own
            self.cuts.remove(cut)
            self.close_unused()

    def close_unused(self) -> None:
        if self.cuts:
            return
        try:
            if not self.monitor.ended:
                self.server.stop()
        except errors.Error:
            pass  # a server without exports does no harm; the next cycle takes it over
        finally:
            self.monitor.close()


class QemuCut(Cut):
    """A frozen view of one disk, and the bitmap that led to it."""

    tracker = NAME
    frozen = True
    image: View

    def __init__(self, session: _Session, tracker: QemuTracker, have: Have | None) -> None:
        super().__init__()
        self._session, self._monitor, self._tracker = session, session.monitor, tracker
        node = nodes.find(self._monitor, tracker.path, tracker.qemu.node)
        _check_format(tracker, node)
        self.fleece = Fleece(self._monitor, node, tracker.replica_id)
        self._next, self._first = self.fleece.part("next"), self.fleece.part("first")
        self._kept: str | None = None
        self._zeros = Zeros()
        session.cuts.append(self)
        tracker.cut = self
        try:
            self._clean()
            self._kept = self._find(have)
            self.fleece.prepare(tracker.folder, tracker.qemu.copy_limit)
        except BaseException:
            self.give_back()
            raise

    # -- bitmaps -------------------------------------------------------------------------------------------------

    def _bitmaps(self) -> list[nodes.Bitmap]:
        """Ours, as they are now."""
        found = nodes.look(self._monitor, self.fleece.node.name).bitmaps
        return [bitmap for bitmap in found if bitmap.name.startswith(self.fleece.part(""))]

    def _action(self, verb: str, bitmap: str, **more: object) -> tuple[str, Json]:
        return f"block-dirty-bitmap-{verb}", {"node": self.fleece.node.name, "name": bitmap, **more}

    def _merge(self, into: str) -> tuple[str, Json]:
        return "block-dirty-bitmap-merge", {"node": self.fleece.node.name, "target": into, "bitmaps": [self._next]}

    def _name(self, have: Have) -> str:
        """Of a bitmap that begins at a point; a disk of another size is another disk."""
        text = f"{have.replica_id} {have.generation} {have.seal} {self.fleece.node.size}"
        return self.fleece.part(f"{have.generation}-{hashlib.sha256(text.encode()).hexdigest()[:32]}")

    def _clean(self) -> None:
        """Take away what a cut left that was not ended: the kept bitmap marks again, and takes over what was marked."""
        self.fleece.remove()
        ours = {bitmap.name: bitmap for bitmap in self._bitmaps()}
        if ours.pop(self._first, None) is not None:
            self._monitor.run(*self._action("remove", self._first))
        if self._next not in ours:
            return
        kept = [bitmap for bitmap in ours.values() if bitmap.name != self._next]
        actions: list[tuple[str, Json]] = []
        if len(kept) == 1 and kept[0].usable and ours[self._next].usable:
            # Marking begins before the other's marks come over, so that no write falls between the two.
            actions = [self._action("enable", kept[0].name), self._merge(kept[0].name)]
        self._monitor.transaction([*actions, self._action("remove", self._next)])

    def _find(self, have: Have | None) -> str | None:
        """The bitmap that has marked since `have`; all others of ours are of no use any more, and go."""
        found = None
        for bitmap in self._bitmaps():
            if have is not None and bitmap.name == self._name(have) and bitmap.usable and bitmap.recording:
                found = bitmap.name
            else:
                self._monitor.run(*self._action("remove", bitmap.name))
        return found

    # -- the cut -------------------------------------------------------------------------------------------------

    def look_ahead(self, server: NbdUrl) -> None:
        """Find the zeros of a disk that has to be read whole; what is written meanwhile is marked."""
        if self._kept is None:
            self._monitor.run(*self._action("add", self._first))
            self._zeros = self.fleece.look_ahead(server)

    def actions(self) -> list[tuple[str, Json]]:
        """What happens to this disk at the instant."""
        actions = [self._action("add", self._next), self.fleece.action()]
        return [*actions, self._action("disable", self._kept or self._first)]

    def begun(self, stall: float, asked: Sequence[Freeze]) -> None:
        self.stall_seconds = stall
        self.application = bool(asked) and all(one.held for one in asked)
        self.warnings.extend(warning for one in asked for warning in one.warnings)

    def show(self) -> None:
        self.image = self.fleece.expose(self._session.server.url, self._kept or self._first)
        if self.image.size != self.fleece.node.size:
            raise errors.SourceChanged("the disk was resized while the cut was made", path=self._tracker.path)
        if self._kept is None:
            self.image.zeros = self._zeros.without(self.image.changed())

    def changed(self) -> Iterable[tuple[int, int]] | None:
        if self._kept is None:
            return None
        ranges = list(self.image.changed())
        self.fleece.intact()
        return ranges

    def acknowledge(self, have: Have) -> None:
        if self._tracker.cut is not self:
            return
        kept, name = self._kept, self._name(have)
        if kept == name:  # nothing had changed, so the point is the one that it began at
            actions = [self._action("clear", name), self._action("enable", name), self._merge(name)]
        else:
            actions = [self._action("add", name), self._merge(name)]
            actions.append(self._action("remove", kept or self._first))
        self._end([*actions, self._action("remove", self._next)])

    def give_back(self) -> None:
        if self._tracker.cut is self:
            self._end(None)

    def _end(self, actions: list[tuple[str, Json]] | None) -> None:
        """Take everything away; `actions` are what becomes of the bitmaps, None for as they were.

        A QEMU that is gone has taken it all away itself; in one that does not answer the next cut does it.
        """
        self._tracker.cut = None
        if hasattr(self, "image"):
            self.image.close()
        try:
            if self._monitor.ended:
                return
            if actions is None:
                self._clean()
            else:
                self.fleece.remove()
                self._monitor.transaction(actions)
        except errors.Error as error:
            self.warnings.append(f"QEMU did not take everything away, the next cycle will: {error}")
        finally:
            self._session.left(self)
