"""TLS of the NBD server: its certificates, and the way between an encrypted socket and the data path without.

TLS costs a copy through a socket pair, beside the encryption itself.
"""

from __future__ import annotations

import os
import select
import socket
import ssl

from secondsite.engine import errors
from secondsite.engine.nbd.transport import reason

# Four times what one TLS record has; larger ones gain nothing, a record is decrypted at a time.
_ROOM = 64 << 10


def server_context(folder: str) -> ssl.SSLContext:
    """TLS 1.2 or later with server-cert.pem and server-key.pem of a folder; where ca-cert.pem is there, clients must
    show a certificate that it signed. The names are those of QEMU and libnbd. Raises Unreachable, Usage.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    certificate, key = (os.path.join(folder, f"server-{part}.pem") for part in ("cert", "key"))
    authority = os.path.join(folder, "ca-cert.pem")
    try:
        # Without a password given, OpenSSL asks for one on the terminal.
        context.load_cert_chain(certificate, key, password="")
        if os.path.exists(authority):
            context.load_verify_locations(authority)
            context.verify_mode = ssl.CERT_REQUIRED
    except ssl.SSLError as error:
        raise errors.Usage(f"has no certificate for TLS, or its key is not: {reason(error)}", path=folder) from None
    except OSError as error:
        raise errors.from_os(error, certificate, "read it or its key") from None
    return context


class _Way:
    """One direction: what was received and has not been sent yet."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source, self.target = source, target
        self._room = memoryview(bytearray(_ROOM))
        self.held = self._room[:0]

    def move(self, wants: dict[socket.socket, int]) -> bool | None:
        """Receive where nothing is held, send what is; whether anything moved, None at the end of the stream."""
        moved = False
        if not self.held.nbytes:
            got = _try(self.source, lambda: self.source.recv_into(self._room), select.POLLIN, wants)
            if got == 0:
                return None
            if got is not None:
                self.held, moved = self._room[:got], True
        if self.held.nbytes:
            put = _try(self.target, lambda: self.target.send(self.held), select.POLLOUT, wants)
            if put:
                self.held, moved = self.held[put:], True
        return moved


def _try(sock: socket.socket, call, event: int, wants: dict[socket.socket, int]):  # type: ignore[no-untyped-def]
    """What a call that does not block returned; None where it has to wait, and `wants` says for what."""
    try:
        return call()
    except ssl.SSLWantReadError:
        event = select.POLLIN
    except ssl.SSLWantWriteError:
        event = select.POLLOUT
    except BlockingIOError:
        pass
    wants[sock] = wants.get(sock, 0) | event
    return None


def pump(secure: socket.socket, plain: socket.socket) -> None:
    """Carry bytes both ways until either side ends. One thread for both directions: OpenSSL's connections are not to
    be used by two at once. What is held is bounded, so that a client that does not read stops who writes to it.
    """
    secure.setblocking(False)
    plain.setblocking(False)
    ways = (_Way(secure, plain), _Way(plain, secure))
    try:
        while True:
            wants: dict[socket.socket, int] = {}
            moved = [way.move(wants) for way in ways]
            if None in moved:
                break
            if not any(moved):
                poll = select.poll()
                for sock, events in wants.items():
                    poll.register(sock, events)
                poll.poll()
        _drain(ways[1])
    except (OSError, ValueError):
        pass  # either side is gone: so is the connection
    finally:
        for sock in (secure, plain):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def _drain(way: _Way) -> None:
    """The last answers, where the client still takes them: a second for each part."""
    way.target.settimeout(1)
    while way.held.nbytes:
        way.held = way.held[way.target.send(way.held) :]
