"""Connections that have not shown yet who they are: few at a time, and not for long."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MAX_GUESTS = 64
GUEST_SECONDS = 25.0
# For the hello of who has shown a key, on a host that is busy.
KNOWN_SECONDS = 120.0


class Lobby:
    """`guest` holds a place; of more than `places` the oldest loses its connection, as who stays too long does. Who has
    shown who it is takes no place any more, so that neither a crowd of strangers nor a busy hour cuts it.
    """

    def __init__(self, places: int = MAX_GUESTS, seconds: float = GUEST_SECONDS) -> None:
        self.places, self.seconds = places, seconds
        self._guests: dict[socket.socket, float] = {}  # oldest first
        self._known: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def guest(self, sock: socket.socket) -> Iterator[Callable[[], None]]:
        """Around everything that is done with a stranger; what it yields is called when it is none any more."""
        # Another descriptor of the same connection: TLS takes the first one over, and closes it when it likes.
        spare = sock.dup()
        with self._lock:
            self._guests[spare] = time.monotonic() + self.seconds
            excess = list(self._guests)[: len(self._guests) - self.places]
            for oldest in [spare] if self._closed else excess:
                _cut(oldest)
        try:
            yield lambda: self._trust(spare)
        finally:
            with self._lock:
                self._guests.pop(spare, None)
                self._known.pop(spare, None)
            spare.close()

    def _trust(self, spare: socket.socket) -> None:
        with self._lock:
            self._guests.pop(spare, None)
            self._known[spare] = time.monotonic() + KNOWN_SECONDS

    def sweep(self) -> None:
        """Cut whose time is over."""
        now = time.monotonic()
        with self._lock:
            for sock, ends in [*self._guests.items(), *self._known.items()]:
                if ends < now:
                    _cut(sock)

    def close(self) -> None:
        """Cut all, also those that come."""
        with self._lock:
            self._closed = True
            for sock in [*self._guests, *self._known]:
                _cut(sock)

    def __len__(self) -> int:
        return len(self._guests)


def _cut(sock: socket.socket) -> None:
    """Its thread finds it closed by the other side, and goes."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
