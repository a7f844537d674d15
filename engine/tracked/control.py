"""The server's end of the control channel: cuts of the images that it serves, for whoever asks.

A connection may hold one cut, of one image or of several at one instant; where it ends, the cut is given back.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
import threading
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from secondsite.engine import _nbd, errors
from secondsite.engine.nbd import protocol as p
from secondsite.engine.tracked import wire
from secondsite.engine.tracked.disk import Known, TrackedImage
from secondsite.engine.tracked.mapfile import beside
from secondsite.engine.tracked.wire import Json, Lines
from secondsite.engine.trackers.base import Have

# Connections at once, those that read a cut included; one more is closed at once.
MAX_CONNECTIONS = 64


class _Open:
    """The cut of one image, as a connection holds it."""

    def __init__(self, image: TrackedImage, known: Known) -> None:
        self.image, self.known, self.number = image, known, image.number
        self.token = secrets.token_hex(16)
        self.view = image.view()
        self.ranges: array[int] | None = None
        self.readers: set[socket.socket] = set()

    def stop_readers(self) -> None:
        for sock in list(self.readers):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has left already


class Control:
    """Listens beside each of the images until it is closed."""

    def __init__(self, images: Sequence[TrackedImage]) -> None:
        self.images = {image.path: image for image in images}
        self._cuts: dict[str, _Open] = {}
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._closing = False
        self._listeners: list[tuple[socket.socket, str]] = []
        try:
            for path in self.images:
                where = beside(path, "control")
                self._listeners.append((wire.listen(where), where))
        except BaseException:
            self.close()
            raise
        for sock, _ in self._listeners:
            threading.Thread(target=self._accept, args=(sock,), name="control", daemon=True).start()

    def close(self) -> None:
        """No more cuts; open ones are given back."""
        self._closing = True
        for sock, where in self._listeners:
            Path(where).unlink(missing_ok=True)
            _shut(sock)
            sock.close()
        for sock in list(self._connections):
            _shut(sock)
        for token in list(self._cuts):
            self._end(token, None)

    def _accept(self, listener: socket.socket) -> None:
        while not self._closing:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            if len(self._connections) >= MAX_CONNECTIONS or not _trusted(sock):
                sock.close()
                continue
            self._connections.add(sock)
            threading.Thread(target=self._serve, args=(sock,), name="control connection", daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        session = _Session(self, Lines(sock, "control"))
        try:
            session.run()
        except errors.Error:
            pass  # it broke the channel, or left; what it held is given back
        finally:
            session.end()
            self._connections.discard(sock)
            sock.close()

    # -- cuts -----------------------------------------------------------------------------------------------------

    def begin(self, wanted: Sequence[_Wanted], block: int) -> tuple[list[_Open], float]:
        """Cuts of several images at one instant: all of them or none."""
        with self._lock:
            if self._closing:
                raise errors.Unreachable("the tracking server is ending")
            if len({one.image.path for one in wanted}) != len(wanted):
                raise ValueError("an image twice")
            for one in wanted:
                if one.image.changes.cutting:
                    raise errors.Busy("a cut of it is open already", path=one.image.path)
            known = [one.image.prepare(one.have, one.sample, block, one.basis) for one in wanted]
            stall = _nbd.ChangeMap.cut([one.image.changes for one in wanted])
            made = [_Open(one.image, is_known) for one, is_known in zip(wanted, known, strict=True)]
            self._cuts.update((cut.token, cut) for cut in made)
        return made, stall

    def _end(self, token: str, have: Have | None) -> str:
        with self._lock:
            cut = self._cuts.pop(token, None)
            if cut is None:
                return ""
            cut.stop_readers()
            if have is None:
                return cut.image.give_back()
            cut.image.acknowledge(have)
            return ""

    def end(self, cut: _Open, have: Have | None) -> str:
        """Acknowledge a cut as `have`, or give it back; why one that is given back was lost, or empty."""
        return self._end(cut.token, have)

    def read(self, token: str, lines: Lines) -> None:
        """The rest of this connection is NBD's transmission phase, of the cut's bytes."""
        with self._lock:
            cut = self._cuts.get(token)
            if cut is None:
                raise errors.Refused("no such cut is open")
            cut.readers.add(lines.sock)
        try:
            lines.send({"ok": True, "size": cut.image.size})
            contexts = [(1, lambda offset, length, one: cut.image.extents(cut.number, offset, length, one))]
            _nbd.transmit(
                lines.sock.fileno(), cut.view, structured=True, extended=False, contexts=contexts,
                max_payload=p.MAX_PAYLOAD,
            )  # fmt: skip
        finally:
            cut.readers.discard(lines.sock)


class _Wanted(NamedTuple):
    image: TrackedImage
    have: Have | None
    sample: list[tuple[int, int]]
    basis: Have | None


class _Session:
    """What one connection asks, one line after the other."""

    def __init__(self, control: Control, lines: Lines) -> None:
        self.control, self.lines = control, lines
        self.cuts: dict[str, _Open] = {}

    def run(self) -> None:
        while (asked := self.lines.receive()) is not None:
            if asked.get("do") == "read":
                self._read(asked)
                return
            try:
                answer = self._answer(asked)
            except errors.Error as error:
                answer = {"error": type(error).__name__, "message": str(error)}
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                answer = {"error": "Usage", "message": f"no sound request: {error}"}
            except OSError as error:
                answer = {"error": "Unreachable", "message": f"the cut failed: {error.strerror}"}
            self.lines.send(answer)

    def _read(self, asked: Json) -> None:
        try:
            self.control.read(str(asked.get("token")), self.lines)
        except errors.Refused as error:
            self.lines.send({"error": "Refused", "message": str(error)})
        except OSError:
            pass  # the reader is gone, or memory is short: it sees the connection end

    def _answer(self, asked: Json) -> Json:
        match asked.get("do"):
            case "begin":
                return self._begin(asked)
            case "ranges":
                return self._ranges(self._cut(asked), asked["from"])
            case "read once":
                self._cut(asked).view.read_once()
                return {"ok": True}
            case "acknowledge" | "give back" as verb:
                have = wire.have_of(asked["have"]) if verb == "acknowledge" else None
                if verb == "acknowledge" and have is None:
                    raise ValueError("no point")
                cut = self._cut(asked)
                del self.cuts[cut.image.path]
                return {"ok": True, "lost": self.control.end(cut, have)}
            case "status":
                return {"ok": True, "pid": os.getpid(), "images": [i.status() for i in self.control.images.values()]}
        raise ValueError(f"{asked.get('do')!r:.50} is nothing to do")

    def _begin(self, asked: Json) -> Json:
        if self.cuts:
            raise errors.Refused("this connection holds a cut already")
        block = asked["block"]
        if type(block) is not int or not 0 < block <= 1 << 30 or block & (block - 1):
            raise ValueError("block is no power of two")
        made, stall = self.control.begin([self._wanted(disk) for disk in asked["disks"]], block)
        self.cuts = {cut.image.path: cut for cut in made}
        disks = [
            {"size": cut.image.size, "known": cut.known.since, "based": cut.known.basis, "token": cut.token,
             "follows": cut.image.have.replica_id if cut.image.have else None}
            for cut in made
        ]  # fmt: skip
        return {"ok": True, "stall": stall, "disks": disks}

    def _wanted(self, disk: Json) -> _Wanted:
        image = self.control.images.get(disk["image"])
        if image is None:
            raise errors.Refused("it is not served here", path=str(disk["image"]))
        sample = [(start, length) for start, length in disk["sample"]]
        if any(type(n) is not int or not 0 <= n < 1 << 63 for pair in sample for n in pair):
            raise ValueError("no ranges")
        return _Wanted(image, wire.have_of(disk["have"]), sample, wire.have_of(disk.get("basis")))

    def _cut(self, asked: Json) -> _Open:
        cut = self.cuts.get(asked["image"])
        if cut is None:
            raise errors.Refused("this connection holds no cut of it")
        return cut

    def _ranges(self, cut: _Open, at: int) -> Json:
        if type(at) is not int or at < 0:
            raise ValueError("no place")
        if cut.ranges is None:
            cut.ranges = cut.image.changes.ranges(True)
        end = at + wire.MAX_RANGES
        return {"ok": True, "ranges": list(cut.ranges[at:end]), "next": end if end < len(cut.ranges) else None}

    def end(self) -> None:
        for cut in self.cuts.values():
            self.control.end(cut, None)
        self.cuts = {}


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # nobody was connected


def _trusted(sock: socket.socket) -> bool:
    """The same user, or root: the socket's mode says so too, but not on every file system."""
    _, user, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return user in (0, os.geteuid())
