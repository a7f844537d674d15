"""An NBD server: exports under names, listeners on Unix and TCP sockets, a thread a connection.

    server = Server(tls=None)                       # or tls.server_context(folder)
    server.add(Export("disk", Disk(image, size, fd=fd), contexts={p.CONTEXT_ALLOCATION: allocation(image)}))
    server.listen_unix(path)                        # or listen_tcp(host, port), which returns where it really listens
    with server:                                    # starts; stops at the end
        ...
        server.remove("disk")                       # its connections end first

The handshake is Python (handshake.py); the transmission phase is the native data path (ext/c/transmit.c), which holds
no GIL. The name "" is the default export: the one that was added first.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable
from typing import Self

from secondsite.engine import errors
from secondsite.engine.nbd import handshake, tls
from secondsite.engine.nbd import protocol as p
from secondsite.engine.nbd.export import Export

# A thread, and up to four of the data path with 0.5 MiB each, serve a connection. QEMU opens one, nbdcopy four to 16.
MAX_CONNECTIONS = 128
_BACKLOG = 64
# What a TCP client may leave unacknowledged before it counts as gone, in milliseconds.
_USER_TIMEOUT = 120_000

log = logging.getLogger("secondsite.nbd")


def native() -> None:
    """Raises Unreachable where the data path is not built."""
    try:
        from secondsite.engine import _nbd  # noqa: F401
    except ImportError as error:
        raise errors.Unreachable(f"an NBD server needs the native kernels, which are not built: {error}") from None


class Server:
    """Exports, listeners and connections. Methods may be called from any thread."""

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        max_connections: int = MAX_CONNECTIONS,
        time_limit: float = handshake.TIME_LIMIT,
    ) -> None:
        native()
        self._tls, self._most, self._time_limit = tls, max_connections, time_limit
        self._exports: dict[str, Export] = {}
        self._default: str | None = None
        self._listeners: list[socket.socket] = []
        self._paths: list[tuple[str, int]] = []
        self._connections: set[_Connection] = set()
        self._changed = threading.Condition()
        self._wake, self._woken = socket.socketpair()
        self._accepting: threading.Thread | None = None
        self._stopping = False
        self.accepted = self.refused = 0

    # -- exports -----------------------------------------------------------------------------------------------

    def add(self, export: Export) -> None:
        """Offer an export. Raises Refused for a name that is there already, ValueError for one that is none."""
        if not export.name or "\0" in export.name or len(export.name.encode()) > p.MAX_STRING:
            raise ValueError(f"{export.name!r} is no name of an export")
        with self._changed:
            if export.name in self._exports:
                raise errors.Refused(f"an export of the name {export.name!r} is there already")
            self._exports[export.name] = export
            self._default = self._default or export.name

    def remove(self, name: str, *, timeout: float = 10.0) -> None:
        """Offer it no more, and end its connections. Raises Busy where one does not end in time."""
        with self._changed:
            self._exports.pop(name, None)
            if self._default == name:
                self._default = next(iter(self._exports), None)
            if not self._ended(lambda connection: connection.export == name, timeout):
                raise errors.Busy(f"a connection to the export {name!r} does not end")

    def _ended(self, which: Callable[[_Connection], bool], timeout: float) -> bool:
        """End connections; whether they did in time. Inside the lock."""
        for connection in filter(which, self._connections):
            connection.shut()
        return self._changed.wait_for(lambda: not any(map(which, self._connections)), timeout)

    def find(self, name: str) -> Export | None:
        """The export of a name; "" is the default one."""
        with self._changed:
            return self._exports.get(name or self._default or "")

    def exports(self) -> list[Export]:
        with self._changed:
            return list(self._exports.values())

    @property
    def connections(self) -> int:
        """How many there are, those in their handshake included."""
        with self._changed:
            return len(self._connections)

    def clients(self, name: str) -> int:
        """How many connections an export has; those in their handshake may be to come to it."""
        with self._changed:
            return sum(connection.export in (name, None) for connection in self._connections)

    # -- listeners -----------------------------------------------------------------------------------------------

    def listen_unix(self, path: str, *, mode: int = 0o600) -> None:
        """Listen on a Unix socket; one that a dead server left is replaced. Raises Busy, Refused, Unreachable."""
        _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old = os.umask(0o777 & ~mode)
        try:
            sock.bind(path)
        except (OSError, ValueError) as error:
            sock.close()
            text = f"cannot listen: {getattr(error, 'strerror', None) or error}"
            raise errors.Unreachable(text, path=path) from None
        finally:
            os.umask(old)
        self._paths.append((path, os.stat(path).st_ino))
        self._listen(sock)

    def listen_tcp(self, host: str, port: int) -> tuple[str, int]:
        """Listen on an address; where that is, with the port that port 0 got. Raises Unreachable."""
        where = f"{host}:{port}"
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            sock = socket.socket(*found[:3])
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(found[4])
            except BaseException:
                sock.close()
                raise
        except (OSError, OverflowError, UnicodeError) as error:
            text = f"cannot listen: {getattr(error, 'strerror', None) or error}"
            raise errors.Unreachable(text, path=where) from None
        self._listen(sock)
        name = sock.getsockname()
        return str(name[0]), int(name[1])

    def _listen(self, sock: socket.socket) -> None:
        sock.listen(_BACKLOG)
        sock.setblocking(False)
        self._listeners.append(sock)

    # -- running -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Accept connections, in a thread of its own."""
        self._accepting = threading.Thread(target=self._accept_all, name="nbd-accept", daemon=True)
        self._accepting.start()

    def stop(self, *, timeout: float = 10.0) -> bool:
        """Accept no more, end all connections, remove the sockets. Whether every connection ended in time: what is
        under way in the data path is finished first. A second call does nothing.
        """
        with self._changed:
            self._stopping = True
        self._wake.send(b"x")
        if self._accepting is not None:
            self._accepting.join(timeout)
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for path, inode in self._paths:
            _unlink(path, inode)
        self._paths.clear()
        with self._changed:
            return self._ended(lambda connection: True, timeout)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _accept_all(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            for listener in self._listeners:
                selector.register(listener, selectors.EVENT_READ)
            while not self._stopping:
                for key, _ in selector.select():
                    if key.fileobj is not self._woken:
                        self._accept(key.fileobj)  # type: ignore[arg-type]

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            log.warning("cannot accept a connection: %s", error)
            time.sleep(0.1)  # no descriptors left, which takes a while to change
            return
        connection = _Connection(sock)
        with self._changed:
            full = len(self._connections) >= self._most or self._stopping
            if not full:
                self._connections.add(connection)
                self.accepted += 1
        if full:
            self.refused += 1
            log.warning("%d connections are there already: one more was closed", self._most)
            sock.close()
            return
        try:
            threading.Thread(target=self._serve, args=(connection,), name="nbd", daemon=True).start()
        except RuntimeError as error:
            log.warning("cannot serve a connection: %s", error)
            self._forget(connection)

    def _forget(self, connection: _Connection) -> None:
        connection.sock.close()
        with self._changed:
            self._connections.discard(connection)
            self._changed.notify_all()

    # -- one connection --------------------------------------------------------------------------------------------

    def _serve(self, connection: _Connection) -> None:
        try:
            _prepare(connection.sock)
            shaking = handshake.Handshake(connection.sock, self.find, self.exports, self._tls, self._time_limit)
            shaking.encrypted = connection.take_over
            agreed = shaking.run()
            if agreed is not None and self._chosen(connection, agreed):
                _transmit(agreed)
        except handshake.Gone as why:
            log.info("a client is gone: %s", why)
        except Exception:
            log.exception("a connection failed")
        finally:
            self._forget(connection)

    def _chosen(self, connection: _Connection, agreed: handshake.Agreed) -> bool:
        """Note the export; False where it was removed meanwhile, or the server ends."""
        with self._changed:
            connection.export = agreed.export.name
            return not self._stopping and self._exports.get(agreed.export.name) is agreed.export


class _Connection:
    """A client's socket, and the name of its export once that is chosen."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.export: str | None = None

    def take_over(self, sock: socket.socket) -> None:
        """TLS has the descriptor now: what ends the connection is its socket."""
        self.sock = sock

    def shut(self) -> None:
        try:
            # Not SSLSocket's own, which would forget that it is encrypted and send in the clear.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        except OSError:
            pass  # it is gone already


def _transmit(agreed: handshake.Agreed) -> None:
    if not isinstance(agreed.sock, ssl.SSLSocket):
        _run(agreed, agreed.sock)
        return
    inner, outer = socket.socketpair()
    carrier = threading.Thread(target=tls.pump, args=(agreed.sock, outer), name="nbd-tls", daemon=True)
    carrier.start()
    try:
        _run(agreed, inner)
    finally:
        inner.close()
        carrier.join()
        outer.close()


def _run(agreed: handshake.Agreed, sock: socket.socket) -> None:
    from secondsite.engine import _nbd

    _nbd.transmit(
        sock.fileno(), agreed.export.disk, structured=agreed.structured, extended=agreed.extended,
        contexts=agreed.contexts, max_payload=p.MAX_PAYLOAD,
    )  # fmt: skip


def _prepare(sock: socket.socket) -> None:
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT)


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise errors.Refused("lies where the socket should", path=path)
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            raise errors.from_os(error, path, "look whether it is in use") from None
    raise errors.Busy("another server listens there", path=path)


def _unlink(path: str, inode: int) -> None:
    try:
        if os.lstat(path).st_ino == inode:
            os.unlink(path)
    except OSError:
        pass  # somebody was faster


