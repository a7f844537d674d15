"""JSON objects, one a line, over a socket: what QMP and the guest agent share.

The peer is not trusted: a line has a largest length, an answer a deadline however slowly its bytes drip in, and what is
no JSON object ends the connection.
"""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

from secondsite.engine import errors
from secondsite.engine.tracked.wire import short
from secondsite.engine.units import KIB, MIB

# A machine with 100 disks of 10 nodes each describes them in about 1 MiB.
MAX_LINE = 16 * MIB
TIMEOUT = 30.0
# What sockaddr_un has room for.
_LONGEST_PATH = 107
_PIECE = 64 * KIB


class Lines:
    """A connected socket. `name` is what errors call it. An error ends the connection; each later call says why."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        self.name = name
        self.ended = ""
        self._sock = sock
        self._rest = bytearray()
        self._looked = 0

    @classmethod
    def connect(cls, address: str, timeout: float = TIMEOUT) -> Lines:
        """To a Unix socket's path (or `unix:PATH`), or HOST:PORT (or `tcp:HOST:PORT`). Raises Unreachable, Usage."""
        kind, where = parse_address(address)
        try:
            if kind == "tcp":
                host, _, port = where.rpartition(":")
                return cls(socket.create_connection((host.strip("[]"), int(port)), timeout), address)
            return cls(connect_unix(where, timeout), address)
        except TimeoutError:
            raise errors.Unreachable(f"cannot connect within {timeout:g} s", path=address) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise errors.Unreachable(f"cannot connect: {reason}", path=address) from None

    def send(self, value: dict[str, Any], deadline: float, before: bytes = b"") -> None:
        """One object, `before` ahead of it. `deadline` as time.monotonic tells it."""
        self.check()
        try:
            self._sock.settimeout(self._left(deadline))
            self._sock.sendall(before + json.dumps(value).encode() + b"\n")
        except OSError as error:
            raise self.end(_reason(error)) from None

    def receive(self, deadline: float) -> dict[str, Any]:
        """The next object. Raises Unreachable: at the deadline, at the end, and for what is none."""
        while True:
            line = self._line(deadline)
            if line:
                return self._parse(line)

    def skip_past(self, mark: bytes, deadline: float) -> None:
        """Drop everything up to a byte: the guest agent's way to get in step."""
        self.check()
        while (at := self._rest.find(mark)) < 0:
            self._rest.clear()
            self._more(deadline)
        del self._rest[: at + len(mark)]
        self._looked = 0

    def _line(self, deadline: float) -> bytes:
        self.check()
        while (at := self._rest.find(b"\n", self._looked)) < 0:
            self._looked = len(self._rest)
            if self._looked > MAX_LINE:
                raise self.end(f"it sent a line of more than {MAX_LINE} bytes")
            self._more(deadline)
        line = bytes(self._rest[:at]).strip()
        del self._rest[: at + 1]
        self._looked = 0
        return line

    def _more(self, deadline: float) -> None:
        try:
            self._sock.settimeout(self._left(deadline))
            data = self._sock.recv(_PIECE)
        except OSError as error:
            raise self.end(_reason(error)) from None
        if not data:
            raise self.end("it closed the connection")
        self._rest += data

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise self.end(f"it sent something that is no JSON object: {line[:60]!r}")
        return value

    @staticmethod
    def _left(deadline: float) -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def check(self) -> None:
        if self.ended:
            raise errors.Unreachable(self.ended, path=self.name)

    def end(self, why: str) -> errors.Unreachable:
        """Give the connection up; the error to raise."""
        self.ended = self.ended or why
        self._sock.close()
        return errors.Unreachable(self.ended, path=self.name)

    def close(self) -> None:
        self.ended = self.ended or "the connection was closed"
        self._sock.close()


def connect_unix(path: str, timeout: float) -> socket.socket:
    """A connected socket, whatever the path's length. Raises OSError, ValueError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fd = -1
    try:
        sock.settimeout(timeout)
        if len(os.fsencode(path)) > _LONGEST_PATH:
            fd, path = short(path)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    finally:
        if fd >= 0:
            os.close(fd)
    return sock


def parse_address(address: str) -> tuple[str, str]:
    """("unix", path) or ("tcp", "HOST:PORT"). Raises Usage."""
    kind, mark, rest = address.partition(":")
    if mark and kind == "unix":
        return kind, rest
    host, _, port = (rest if mark and kind == "tcp" else address).rpartition(":")
    if "/" in address or not (mark or host):
        return "unix", address
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65536:
        raise errors.Usage("is neither a socket's path nor HOST:PORT", path=address)
    return "tcp", f"{host}:{port}"


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    return f"the connection broke: {error.strerror or error}"
