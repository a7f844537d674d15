"""A socket with a message on it: whole sends and reads with a bound on time, for plain and TLS sockets alike.

An SSL object is not for two threads at once, so reads and writes take a lock and never wait while they hold it: the
socket does not block, and the waiting is done in poll.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time

from secondsite.engine import errors
from secondsite.engine.remote.link import protocol, tls
from secondsite.engine.remote.link.buffers import Buffers

# One TLS record has 16 KiB; of a plain socket this much is taken at a time.
_PIECE = 256 * 1024


class Closed(errors.Unreachable):
    """The connection is gone: by the peer, by the network, or by us."""


class Wire:
    """`idle` seconds without a byte in either wanted direction end it. `peer` is what errors name."""

    def __init__(self, sock: socket.socket, peer: str, idle: float) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
        poll.register(self.sock, events)
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
        deadline = time.monotonic() + self.idle
        while len(view):
            events = select.POLLOUT
            try:
                with self._lock:
                    if self._closed:
                        raise Closed("the connection was closed", path=self.peer)
                    done = self.sock.send(view)
            except (ssl.SSLWantWriteError, BlockingIOError):
                done = 0
            except ssl.SSLWantReadError:
                done, events = 0, select.POLLIN
            except (OSError, ValueError) as error:
                raise self._lost(error if isinstance(error, OSError) else OSError(str(error))) from None
            if done:
                view, self.sent = view[done:], self.sent + done
                deadline = time.monotonic() + self.idle
            else:
                self._wait(self._polls[0], events, deadline)

    def read_into(self, view: memoryview) -> None:
        """Fill it. Raises Closed."""
        while len(view):
            events = select.POLLIN
            try:
                with self._lock:
                    if self._closed:
                        raise Closed("the connection was closed", path=self.peer)
                    done = self.sock.recv_into(view, min(len(view), _PIECE))
                if not done:
                    raise Closed("the other side closed the connection", path=self.peer)
            except (ssl.SSLWantReadError, BlockingIOError):
                done = 0
            except ssl.SSLWantWriteError:
                done, events = 0, select.POLLOUT
            except (OSError, ValueError) as error:
                raise self._lost(error if isinstance(error, OSError) else OSError(str(error))) from None
            if done:
                view, self.received, self.heard = view[done:], self.received + done, time.monotonic()
            else:
                self._wait(self._polls[1], events, self.heard + self.idle)

    def read_message(self) -> protocol.Message:
        """The next message, bounded before it is allocated and checked. Raises Closed and Garbled."""
        head = bytearray(protocol.HEADER_BYTES)
        self.read_into(memoryview(head))
        header = protocol.parse_header(head, self.peer)
        control, body = bytearray(header.control), self._buffers.take(header.body)
        self.read_into(memoryview(control))
        self.read_into(body)
        return protocol.check_payload(header, bytes(control), body, self.peer)

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

    def release(self) -> None:
        """Let go of the descriptors, when no thread uses them any more."""
        self.close()
        for sock in (self.sock, self._wake, self._waker):
            sock.close()
