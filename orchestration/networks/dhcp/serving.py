"""The process that listens at the taps of its namespace: `python -m ...serving FD NAMESPACE`.

All that it knows is on the taps (names.Mark): it keeps no file, finds new taps as the kernel tells of them, and ends
with the last one. It hears a guest at the guest's own tap, so that it answers no card that is not ours, and a guest
that floods it is the only one that is not answered.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys
import time
from dataclasses import dataclass

from secondsite.engine import errors
from secondsite.orchestration.networks import frames, namespaces, reading
from secondsite.orchestration.networks.dhcp import messages
from secondsite.orchestration.networks.dhcp.answers import SERVER, Lease, answer

_LINK_EVENTS = 1
# A client that boots sends two, and again every few seconds where it hears nothing.
_MOST_PER_SECOND = 20
# The kernel tells of each change of a device; where it has lost count, this finds it.
_LOOK_SECONDS = 60.0
_SETTLE_SECONDS = 0.02


@dataclass
class Tap:
    """Where a guest is heard. It is not for the rest of a second in which it has said too much."""

    link: reading.Link
    lease: Lease
    frames: socket.socket
    heard: int = 0


class Server:
    """`only` is the socket whose name says that there is one already, until it is closed."""

    def __init__(self, only: socket.socket, namespace: str) -> None:
        self._only, self._namespace = only, namespace
        self._taps: dict[int, Tap] = {}
        self._quiet: list[Tap] = []
        self._selector = selectors.DefaultSelector()
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._events.bind((0, _LINK_EVENTS))
        self._selector.register(self._events, selectors.EVENT_READ, self._look)
        self._only.setblocking(False)
        self._selector.register(self._only, selectors.EVENT_READ, self._met)

    def run(self) -> None:
        """Until no tap with an address is left."""
        self._look()
        second = time.monotonic()
        while self._taps or not self._ended():
            ready = self._selector.select(1.0 if self._quiet else _LOOK_SECONDS)
            if time.monotonic() - second >= 1.0:
                second = time.monotonic()
                self._hear_all()
            for key, _ in ready:
                if isinstance(key.data, Tap):
                    self._hear(key.data)
            # After what was heard: a look may close taps.
            for turn in [key.data for key, _ in ready if not isinstance(key.data, Tap)] if ready else [self._look]:
                turn()

    def _ended(self) -> bool:
        """Under the namespace's lock, in which somebody may just have made a tap."""

        def end() -> bool:
            self._look()
            if self._taps:
                return False
            self._only.close()
            return True

        try:
            return namespaces.alone(None, end)
        except errors.Busy:
            return False

    def _met(self) -> None:
        """Somebody wanted to see whose the name is, which the kernel has told him."""
        with contextlib.suppress(OSError):
            self._only.accept()[0].close()

    def _look(self) -> None:
        """Listen at the taps that there are."""
        self._drain()
        found = {}
        if not self._namespace or namespaces.is_current(self._namespace):
            found = {link.index: link for link in reading.everything()}
        for index in set(self._taps) - set(found):
            self._forget(index)
        for index, link in found.items():
            lease = Lease.of(link.mark, link.mtu) if link.up else None
            known = self._taps.get(index)
            if known is not None and (lease is None or known.link.mac != link.mac):
                self._forget(index)
                known = None
            if known is not None and lease is not None:
                known.link, known.lease = link, lease
            elif lease is not None:
                self._listen(link, lease)

    def _drain(self) -> None:
        """Devices come in bundles: one look for all of a bundle."""
        time.sleep(_SETTLE_SECONDS)
        while True:
            try:
                self._events.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:
                continue  # it lost some; a look finds everything

    def _listen(self, link: reading.Link, lease: Lease) -> None:
        with contextlib.suppress(errors.Unreachable):
            made = Tap(link, lease, frames.opened(link.name, frames.ALL, frames.TO_DHCP_SERVER))
            self._taps[link.index] = made
            self._selector.register(made.frames, selectors.EVENT_READ, made)

    def _forget(self, index: int) -> None:
        tap = self._taps.pop(index)
        if tap in self._quiet:
            self._quiet.remove(tap)
        else:
            self._selector.unregister(tap.frames)
        tap.frames.close()

    def _hear_all(self) -> None:
        for tap in self._taps.values():
            tap.heard = 0
        for tap in self._quiet:
            self._selector.register(tap.frames, selectors.EVENT_READ, tap)
        self._quiet = []

    def _hear(self, tap: Tap) -> None:
        """One frame, so that each has its turn."""
        try:
            frame = tap.frames.recv(frames.MOST_BYTES)
        except OSError:
            return  # gone: the kernel tells of that too
        tap.heard += 1
        if tap.heard >= _MOST_PER_SECOND:
            self._selector.unregister(tap.frames)
            self._quiet.append(tap)
        message = messages.read(frame)
        reply = answer(message, tap.lease) if message else None
        if message and reply:
            with contextlib.suppress(OSError):
                tap.frames.send(messages.write(message, reply, SERVER, bytes.fromhex(tap.link.mac.replace(":", ""))))


if __name__ == "__main__":
    Server(socket.socket(fileno=int(sys.argv[1])), sys.argv[2]).run()
