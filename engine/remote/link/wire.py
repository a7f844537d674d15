"""A socket with a message on it: whole sends and reads with a bound on time, plain or under TLS.

One thread sends and one reads. The socket does not block, and the waiting is done in poll.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
import time

from secondsite.engine import errors
from secondsite.engine.remote.link import protocol, tls
from secondsite.engine.remote.link.buffers import Buffers
from secondsite.engine.remote.link.secure import PIECE, Secure

# What the system takes ahead of what it can send: more would only wait there, behind it whatever is urgent, and in one
# connection what another one could carry.
UNSENT_BYTES = 512 * 1024


class Closed(errors.Unreachable):
    """The connection is gone: by the peer, by the network, or by us."""


class Wire:
    """`idle` seconds without a byte in either wanted direction end it. `peer` is what errors name."""

    def __init__(self, sock: socket.socket | Secure, peer: str, idle: float) -> None:
        self._secure = sock if isinstance(sock, Secure) else None
        if isinstance(sock, Secure):
            sock = sock.sock
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        self.sock, self.peer, self.idle = sock, peer, idle
        self.sent = self.received = 0
        self.heard = time.monotonic()
        self._lock = threading.Lock()
        self._closed = False
        # A closed socket wakes nobody who polls it; this one does.
        self._wake, self._waker = socket.socketpair()
        self._buffers = Buffers()
        # One for who sends and one for who reads: a poll object is not for two threads at once.
        self._polls = (select.poll(), select.poll())
        for poll in self._polls:
            poll.register(self._wake, select.POLLIN)

    def _wait(self, poll: select.poll, events: int, deadline: float) -> None:
        try:
            poll.register(self.sock, events)
        except ValueError:  # it was let go of a moment ago, and has no number any more
            raise Closed("the connection was closed", path=self.peer) from None
        left = deadline - time.monotonic()
        ready = poll.poll(max(left, 0) * 1000)
        if self._closed:
            raise Closed("the connection was closed", path=self.peer)
        if not ready and time.monotonic() >= deadline:
            raise Closed(f"nothing was heard for {self.idle:g} seconds", path=self.peer)

    def _lost(self, error: OSError) -> errors.Error:
        if self._closed:
            return Closed("the connection was closed", path=self.peer)
        if isinstance(error, ssl.SSLError):
            # With TLS 1.3 a client learns only here that the server does not take its certificate.
            told = tls.refusal(error, self.peer)
            return told if isinstance(told, tls.Untrusted) else Closed(told.message, path=self.peer)
        return Closed(f"the connection broke: {error.strerror or error}", path=self.peer)

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """All of it. Raises Closed."""
        view = memoryview(data).cast("B") if len(data) else memoryview(b"")
        for at in range(0, len(view), PIECE):
            piece = view[at : at + PIECE]
            self._push(piece if self._secure is None else self._seal(self._secure, piece), len(piece))

    def _seal(self, secure: Secure, piece: memoryview) -> memoryview:
        try:
            return memoryview(secure.seal(piece))
        except OSError as error:
            raise self._lost(error) from None

    def _push(self, view: memoryview, stands_for: int) -> None:
        """All of it; counted is what it stands for, of a broken send the part that the system took."""
        deadline, at = time.monotonic() + self.idle, 0
        try:
            while at < len(view):
                if done := self._some(view[at:]):
                    at, deadline = at + done, time.monotonic() + self.idle
                else:
                    self._wait(self._polls[0], select.POLLOUT, deadline)
        finally:
            self.sent += stands_for * at // len(view)

    def _some(self, view: memoryview) -> int:
        """What the system takes of it now."""
        try:
            return self.sock.send(view) if not self._closed else 0
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._lost(error) from None

    def read_into(self, view: memoryview) -> None:
        """Fill it. Raises Closed."""
        while len(view):
            try:
                done = self._take(view)
            except BlockingIOError:
                self._wait(self._polls[1], select.POLLIN, self.heard + self.idle)
            except OSError as error:
                raise self._lost(error) from None
            else:
                view = view[done:]

    def _take(self, view: memoryview) -> int:
        """What there is of bytes for `view`; 0 where some came that are not whole yet."""
        if self._closed:
            raise Closed("the connection was closed", path=self.peer)
        count: int | None = None
        if self._secure is None:
            count = self.sock.recv_into(view)
        elif (count := self._secure.open(view)) is None and self._secure.take_in():
            self.heard = time.monotonic()
            return 0
        if not count:
            raise Closed("the other side closed the connection", path=self.peer)
        self.received, self.heard = self.received + count, time.monotonic()
        return count

    def read_message(self) -> protocol.Message:
        """The next message, bounded before it is allocated and checked. Raises Closed and Garbled."""
        head = bytearray(protocol.HEADER_BYTES)
        self.read_into(memoryview(head))
        header = protocol.parse_header(head, self.peer)
        control, body = bytearray(header.control), self._buffers.take(header.body)
        self.read_into(memoryview(control))
        self.read_into(body)
        return protocol.check_payload(header, bytes(control), body, self.peer)

    def keep(self, count: int) -> None:
        """Of the memory that is used again, so many bytes."""
        self._buffers.kept = count

    def close(self) -> None:
        """At once, also for the thread that waits; may be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                self.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            self._waker.send(b"x")

    def discard(self) -> None:
        """When it is closed, what was not sent yet goes with it."""
        with self._lock:
            if not self._closed:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def release(self) -> None:
        """Let go of the descriptors, when no thread uses them any more."""
        self.close()
        for sock in (self.sock, self._wake, self._waker):
            sock.close()
        self._buffers = Buffers(0)  # megabytes, and who still holds this may do so for long
