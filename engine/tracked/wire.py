"""The control channel: JSON, a line each, over a Unix socket beside the image. FORMAT.md is its specification."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from secondsite.engine import errors
from secondsite.engine.trackers.base import Have

VERSION = 1
# The longest line is a sample of a hundred thousand ranges.
MAX_LINE = 4 << 20
# Numbers of a part of the ranges.
MAX_RANGES = 16384
TIMEOUT = 30.0

Json = dict[str, Any]


class Lines:
    """A connected socket, one JSON object a line. Raises Unreachable for whatever the other side does wrong."""

    def __init__(self, sock: socket.socket, path: str) -> None:
        self.sock, self.path = sock, path
        self._got = bytearray()

    def send(self, fields: Json) -> None:
        try:
            self.sock.sendall(json.dumps({"v": VERSION, **fields}).encode() + b"\n")
        except OSError as error:
            raise errors.Unreachable(f"the control channel broke: {error.strerror or error}", path=self.path) from None

    def receive(self) -> Json | None:
        """The next object; None at the end."""
        while (end := self._got.find(b"\n")) < 0:
            if len(self._got) > MAX_LINE:
                raise errors.Unreachable("a line of the control channel is too long", path=self.path)
            try:
                part = self.sock.recv(1 << 16)
            except OSError as error:
                what = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
                raise errors.Unreachable(f"the control channel broke: {what}", path=self.path) from None
            if not part:
                return None
            self._got += part
        line = bytes(self._got[:end])
        del self._got[: end + 1]
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or found.get("v") != VERSION:
            raise errors.Unreachable(f"no line of version {VERSION} of the control channel", path=self.path)
        return found

    def close(self) -> None:
        self.sock.close()


def have_of(value: Any) -> Have | None:
    """A Have as it was sent. Raises ValueError."""
    if value is None:
        return None
    if not isinstance(value, list) or [type(part) for part in value] != [str, int, str] or not 0 <= value[1] < 1 << 63:
        raise ValueError("no point of a replica")
    if len(value[0]) > 128 or len(value[2]) > 256:
        raise ValueError("no point of a replica")
    return Have(*value)


def short(path: str) -> tuple[int, str]:
    """An open descriptor of its folder, and a name through that: a socket's address has 107 bytes at most."""
    fd = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return fd, f"/proc/self/fd/{fd}/{os.path.basename(path)}"


def listen(path: str) -> socket.socket:
    """A listening socket at a path of any length, for this user alone; one that was left behind goes."""
    Path(path).unlink(missing_ok=True)
    fd, name = short(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        sock.bind(name)
        sock.listen(64)
    except OSError as error:
        sock.close()
        raise errors.from_os(error, path, "listen there") from None
    finally:
        os.umask(old)
        os.close(fd)
    return sock


def connect(path: str, timeout: float = TIMEOUT) -> Lines:
    """To the server's control socket. Raises Unreachable."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        fd, name = short(path)
        try:
            sock.connect(name)
        finally:
            os.close(fd)
    except OSError as error:
        sock.close()
        raise errors.Unreachable(f"its control socket does not answer: {error.strerror or error}", path=path) from None
    return Lines(sock, path)
