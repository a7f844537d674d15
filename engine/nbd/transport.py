"""A socket to an NBD server that gives exact lengths, in bounded time, and one error for all that can go wrong.

Without TLS the socket blocks, with the kernel's own time limit: one `recv` with MSG_WAITALL then takes a whole
payload, where a socket with Python's timeout needs a `poll` and a `recv` for each part of it that arrived.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable

from secondsite.engine import errors
from secondsite.engine.nbd.url import NbdUrl

TIMEOUT = 30.0

Bytes = bytes | bytearray | memoryview


class Transport:
    """A connected socket. `name` is what errors name; every error is Unreachable, and leaves the stream unusable.

    The clock: everything until the next `restart_clock` has `timeout` seconds, and a receive that has begun within
    them as many again. So a server that sends a byte now and then is given up like one that sends none.
    """

    def __init__(self, sock: socket.socket, name: str, timeout: float = TIMEOUT) -> None:
        self.name, self.timeout = name, timeout
        self._sock = sock
        self._flags = int(socket.MSG_WAITALL)
        self._tls = False
        sock.settimeout(None)
        limit = struct.pack("@ll", int(timeout), int(timeout % 1 * 1e6) or (0 if timeout >= 1 else 1))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._room = select.poll()
        self._room.register(sock, select.POLLOUT)
        self.restart_clock()

    def restart_clock(self) -> None:
        """Progress was made: `timeout` seconds for the next."""
        self._deadline = time.monotonic() + self.timeout

    def receive_into(self, view: memoryview) -> None:
        """Fill a view of bytes."""
        while view.nbytes:
            self._left()
            try:
                got = self._sock.recv_into(view, 0, self._flags)
            except OSError as error:
                raise self._failed(error) from None
            if not got:
                raise self.error("the server closed the connection")
            view = view[got:]

    def receive(self, length: int) -> bytearray:
        """`length` bytes, which the caller has bounded."""
        data = bytearray(length)
        self.receive_into(memoryview(data))
        return data

    def send(self, header: Bytes, payload: Bytes = b"") -> None:
        """Send both, one after the other."""
        try:
            if self._tls:
                self._left()
                self._sock.sendall(header)
                if len(payload):
                    self._sock.sendall(payload)
                return
            sent = self._some(lambda: self._sock.sendmsg((header, payload), (), socket.MSG_DONTWAIT))
            rest = memoryview(header)[sent:]
            for part in (rest, memoryview(payload)[max(sent - len(header), 0) :]):
                self._send_all(part)
        except OSError as error:
            raise self._failed(error) from None

    def _send_all(self, view: memoryview) -> None:
        while view.nbytes:
            view = view[self._some(lambda view=view: self._sock.send(view, socket.MSG_DONTWAIT)) :]  # type: ignore[misc]

    def _some(self, send: Callable[[], int]) -> int:
        """What could be sent at once, or after waiting for room."""
        while True:
            try:
                return send()
            except BlockingIOError:
                self._room.poll(self._left() * 1000)

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._silent()
        return left

    def start_tls(self, context: ssl.SSLContext, server_name: str) -> None:
        """Go on encrypted, with a server whose certificate `context` accepts for `server_name`.

        Raises Refused where it does not.
        """
        self._sock.settimeout(self._left())
        try:
            self._sock = context.wrap_socket(self._sock, server_hostname=server_name)
        except ssl.SSLCertVerificationError as error:
            text = f"the server's certificate is not accepted: {error.verify_message}"
            raise errors.Refused(text, path=self.name) from None
        except (OSError, ValueError) as error:
            raise self.error(f"no TLS with the server: {reason(error)}") from None
        self._sock.settimeout(self.timeout)
        self._flags, self._tls = 0, True

    def shut(self) -> None:
        """Wake whoever waits on it, in whatever thread: they get an error."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the server was faster

    def close(self) -> None:
        self._sock.close()

    def error(self, message: str) -> errors.Unreachable:
        return errors.Unreachable(message, path=self.name)

    def _silent(self) -> errors.Unreachable:
        return self.error(f"no answer within {self.timeout:g} s")

    def _failed(self, error: OSError) -> errors.Error:
        if isinstance(error, (TimeoutError, BlockingIOError)):
            return self._silent()
        if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
            # With TLS 1.3 the server judges our certificate after our handshake is done.
            return errors.Refused(f"the server ended TLS: {reason(error)}", path=self.name)
        return self.error(f"the connection broke: {reason(error)}")


def connect(url: NbdUrl, timeout: float = TIMEOUT) -> Transport:
    """A socket to the server, not encrypted yet. Raises Unreachable."""
    try:
        if url.socket:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(timeout)
                sock.connect(url.socket)
            except BaseException:
                sock.close()
                raise
        else:
            sock = socket.create_connection((url.host, url.port), timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except TimeoutError:
        raise errors.Unreachable(f"cannot connect within {timeout:g} s", path=str(url)) from None
    except (OSError, ValueError) as error:  # ValueError: a host name that no name server could be asked for
        raise errors.Unreachable(f"cannot connect: {reason(error)}", path=str(url)) from None
    return Transport(sock, str(url), timeout)


def tls_context(folder: str | None) -> ssl.SSLContext:
    """TLS 1.2 or later, that verifies the server by ca-cert.pem of `folder` (without one: by the system's authorities)
    and shows client-cert.pem where it is there. Raises Unreachable for files that cannot be read, Usage for bad ones.
    """
    if folder is None:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _load(os.path.join(folder, "ca-cert.pem"), lambda path: context.load_verify_locations(path))
        key = os.path.join(folder, "client-key.pem")
        certificate = os.path.join(folder, "client-cert.pem")
        if os.path.exists(certificate):
            # Without a password given, OpenSSL asks for one on the terminal.
            _load(certificate, lambda path: context.load_cert_chain(path, key, password=""))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _load(path: str, load: Callable[[str], None]) -> None:
    try:
        load(path)
    except ssl.SSLError as error:
        raise errors.Usage(f"is no certificate for TLS, or its key is not: {reason(error)}", path=path) from None
    except OSError as error:
        raise errors.from_os(error, path, "read it or its key") from None


def reason(error: Exception) -> str:
    """What an error says in one line."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
