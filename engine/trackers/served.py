"""The tracker of images that a tracking server of ours writes (`secondsite track`): it marks every write, and cuts.

The server is found by its control socket beside the image. The cut lasts as long as the connection to that.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

from secondsite.engine import errors
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.images.nbd import NbdImage
from secondsite.engine.images.raw import real_path
from secondsite.engine.nbd import protocol as p
from secondsite.engine.nbd.client import Connection
from secondsite.engine.nbd.negotiation import Export, Headers
from secondsite.engine.nbd.transport import TIMEOUT, Transport
from secondsite.engine.nbd.url import NbdUrl
from secondsite.engine.relatives import Basis
from secondsite.engine.tracked import wire
from secondsite.engine.tracked.mapfile import beside, is_served
from secondsite.engine.tracked.wire import Json, Lines
from secondsite.engine.trackers.base import Cut, Have, Tracker
from secondsite.engine.units import KIB

NAME = "nbd"
_ERRORS = {kind.__name__: kind for kind in (errors.Refused, errors.Busy, errors.Usage, errors.Full, errors.Unreachable)}
_FLAGS = p.FLAG_HAS_FLAGS | p.FLAG_READ_ONLY | p.FLAG_CAN_MULTI_CONN


class ServedTracker(Tracker):
    """Follows the image at `path`, in use by a guest through a tracking server. `block_size` is the replica's.

    The server keeps what changed since one point: of several replicas of one image each takes that over from the other,
    and reads all of the disk; a warning says so.
    """

    name = NAME

    def __init__(
        self, path: str | os.PathLike[str], *, block_size: int = 64 * KIB, basis: Basis | None = None
    ) -> None:
        self.path, self.block_size, self.basis = real_path(path), block_size, basis
        self.cut: ServedCut | None = None

    def begin(self, have: Have | None, sample: Sequence[tuple[int, int]] = ()) -> ServedCut:
        return begin_together([(self, have, sample)])[0]

    def close(self) -> None:
        if self.cut is not None:
            self.cut.give_back()


def begin_together(
    wanted: Sequence[tuple[ServedTracker, Have | None, Sequence[tuple[int, int]]]],
) -> list[ServedCut]:
    """Cuts of several images of one server at one instant: all of them or none.

    Raises Refused where the server does not have one of them, or a cut of it is open; Unreachable.
    """
    first = wanted[0][0]
    for tracker, _, _ in wanted:
        if tracker.cut is not None:
            raise errors.Refused("a cut of it is open already", path=tracker.path)
    session = _Session(first.path)
    try:
        disks = [
            {"image": tracker.path, "have": list(have) if have else None, "sample": [list(pair) for pair in sample],
             "basis": list(tracker.basis.have) if tracker.basis and have else None}
            for tracker, have, sample in wanted
        ]  # fmt: skip
        block = max(tracker.block_size for tracker, _, _ in wanted)
        answer = session.ask({"do": "begin", "disks": disks, "block": block})
        cuts: list[ServedCut] = []
        for (tracker, have, _), disk in zip(wanted, answer["disks"], strict=True):
            cuts.append(ServedCut(session, tracker, have, disk, answer["stall"]))
    except BaseException:
        session.close()
        raise
    session.open = len(cuts)
    for cut in cuts:
        cut.owner.cut = cut
    return cuts


def tracking_status(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the server of an image tells of it. Raises Refused where none serves it, Unreachable where it is silent."""
    real = real_path(path)
    if not is_served(real):
        raise errors.Refused("no tracking server serves it", path=real)
    session = _Session(real)
    try:
        answer = session.ask({"do": "status"})
    finally:
        session.close()
    for image in answer["images"]:
        if image["image"] == real:
            return {**image, "pid": answer["pid"]}
    raise errors.Unreachable("its server does not know it", path=real)


class _Session:
    """The connection that holds the cuts which began together. Each may be read in a thread of its own."""

    def __init__(self, path: str) -> None:
        self.socket = beside(path, "control")
        self.lines: Lines = wire.connect(self.socket)
        self.open = 0
        self._lock = threading.Lock()

    def ask(self, fields: Json) -> Json:
        with self._lock:
            self.lines.send(fields)
            answer = self.lines.receive()
        if answer is None:
            raise errors.Unreachable("the tracking server ended", path=self.socket)
        if "error" in answer:
            raise _ERRORS.get(str(answer["error"]), errors.Unreachable)(str(answer.get("message")))
        return answer

    def left(self) -> None:
        with self._lock:
            self.open -= 1
            last = self.open <= 0
        if last:
            self.close()

    def close(self) -> None:
        self.lines.close()


class ServedView(NbdImage):
    """The bytes of a cut, as NBD without a handshake over the control socket."""

    def __init__(self, session: _Session, path: str, token: str, size: int) -> None:
        self._session, self._token, self._size = session, token, size
        super().__init__(NbdUrl(socket=session.socket))
        self.path = path

    def _connect(self) -> Connection:
        lines = wire.connect(self._session.socket)
        try:
            lines.send({"do": "read", "token": self._token})
            answer = lines.receive()
            if answer is None or "error" in answer:
                raise errors.Unreachable(str((answer or {}).get("message", "the cut has ended")), path=lines.path)
            export = Export(self._size, _FLAGS, Headers.STRUCTURED, contexts={p.CONTEXT_ALLOCATION: 1})
            return Connection(Transport(lines.sock, self._session.socket, TIMEOUT), export)
        except BaseException:
            lines.close()
            raise


class ServedCut(Cut):
    """One instant of a served image."""

    tracker = NAME
    frozen = True

    def __init__(self, session: _Session, owner: ServedTracker, have: Have | None, disk: Json, stall: float) -> None:
        super().__init__()
        self._session, self.owner, self._known, self.stall_seconds = session, owner, bool(disk["known"]), stall
        self.image: ServedView = ServedView(session, owner.path, disk["token"], disk["size"])
        self._ended, self.lost = False, ""
        self._basis = owner.basis if disk.get("based") else None
        if self._basis is None and have is not None and disk["follows"] not in (None, have.replica_id):
            self.warnings.append(f"{owner.path}: its server followed another replica; all is read once")

    def changed(self) -> Iterable[tuple[int, int]] | None:
        return self._ranges() if self._known else None

    def changed_from(self, previous: BlockMap, seed: int) -> Iterable[tuple[int, int]] | None:
        if self._basis is None:
            return self.changed()
        return self._basis.changed_from(self._ranges(), previous, seed, self.warnings)

    def _ranges(self) -> Iterable[tuple[int, int]]:
        at: int | None = 0
        while at is not None:
            answer = self._session.ask({"do": "ranges", "image": self.owner.path, "from": at})
            flat, at = answer["ranges"], answer["next"]
            yield from zip(flat[::2], flat[1::2], strict=True)

    def read_once(self) -> None:
        self._session.ask({"do": "read once", "image": self.owner.path})

    def acknowledge(self, have: Have) -> None:
        self._end({"do": "acknowledge", "image": self.owner.path, "have": list(have)})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises CutLost where that is why the cycle failed."""
        super().__exit__(kind, error, trace)
        if self.lost and isinstance(error, errors.Unreachable | errors.Damaged):
            raise errors.CutLost(self.lost, path=self.owner.path) from error

    def give_back(self) -> None:
        try:
            self.lost = str(self._end({"do": "give back", "image": self.owner.path}).get("lost", ""))
        except errors.Error:
            pass  # a server that lost the connection has given it back, and one that is gone too

    def _end(self, told: Json) -> Json:
        if self._ended:
            return {"lost": self.lost}
        self._ended, self.owner.cut = True, None
        self.image.close()
        try:
            return self._session.ask(told)
        finally:
            self._session.left()
