"""Transfers that come in, as their connections see them: further ones of the same peer may join one that runs.

Frames are taken one after another, whichever connection brings them, and counted: an attempt names no block twice, so
their order does not matter, and its end waits until all are there. A connection that is lost ends the transfer.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from secondsite.engine import errors
from secondsite.engine.remote import talk
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.link.calls import Call
from secondsite.engine.remote.link.lateness import Lateness
from secondsite.engine.units import MIB

# What a further connection keeps of memory for what comes: all of them have one window together.
_KEPT_BYTES = 2 * MIB
_LOOK_SECONDS = 0.5
# A connection over which no more came in that time has brought what was its own to bring.
_QUIET_BYTES, _QUIET_SECONDS = 4096, 5.0


class Stream:
    """Of the peer with the pin `peer`, for its replica `name`; `call` is its control connection's. `take` is given each
    message's frames, and who brought them.
    """

    def __init__(
        self, call: Call, peer: str, name: str, take: Callable[[bytes | bytearray | memoryview, str], None]
    ) -> None:
        self.call, self.peer, self.name, self.ticket = call, peer, name, secrets.token_bytes(32)
        self.arrived = 0
        self._take, self._changed = take, threading.Condition()
        self._joined: set[Call] = set()
        self._shared = False  # others than the control connection have joined at some time
        self._late, self._heard = Lateness(), dict[Call, tuple[int, float]]()
        self._over: errors.Error | None = None
        self._closed = False

    def put(self, frames: bytes | bytearray | memoryview, peer: str) -> None:
        """From any connection's thread. Raises what `take` does; then nobody's frames are taken any more."""
        with self._changed:
            self._check()
            try:
                self._take(frames, peer)
            except BaseException as error:
                self._over = _told(error)
                raise
            self.arrived += len(frames)
            self._changed.notify_all()

    def _check(self) -> None:
        if self._over is not None:
            raise self._over

    def serve(self, call: Call) -> None:
        """A connection that joins, until it or the transfer ends. Raises Busy where there are as many as may be."""
        with self._changed:
            self._check()
            if len(self._joined) >= talk.MAX_CONNECTIONS - 1:
                raise errors.Busy(f"{talk.MAX_CONNECTIONS} connections carry this transfer already", path=self.name)
            self._joined.add(call)
            self._shared = True
        call.connection.keep(_KEPT_BYTES)
        try:
            call.send(talk.Joined())
            self._receive(call)
        except BaseException as error:
            self._lost(call, error)
            if not isinstance(error, errors.Error):
                raise
        finally:
            with self._changed:
                self._joined.discard(call)

    def _receive(self, call: Call) -> None:
        said: talk.Frames | talk.Leave
        while call.wait(None) and not call.over:
            message = call.receive()
            said = protocol.decode(message.control, talk.FROM_JOINED, call.peer)
            if isinstance(said, talk.Leave):
                call.send(talk.Joined())
                return
            self.put(message.body, call.peer)

    def _lost(self, call: Call, error: BaseException) -> None:
        """Who sends, and who waits for the rest of it, is told what happened to this connection."""
        call.fail(error)
        if not self._closed:
            self.call.abort(_told(error))

    def complete(self, total: int, look: Callable[[], None]) -> None:
        """Until `total` bytes have come, where several connections bring them; `look` may end that by raising. Raises
        Unreachable where one of them is far behind the others.
        """
        while not self._there(total):
            look()
            if self._late.over(self._others_are_done()):
                raise errors.Unreachable("one of several connections is far behind the others", path=self.name)
            if self.call.failed is not None:
                raise self.call.failed
            if self.call.ended:
                raise errors.Unreachable("the other side ended the call", path=self.call.peer)

    def _others_are_done(self) -> bool:
        """Is there a connection over which nothing but heartbeats comes?"""
        now = time.monotonic()
        with self._changed:
            calls = [self.call, *self._joined]
        for call in calls:
            count, since = self._heard.get(call, (0, now))
            came = call.connection.received
            if came - count > _QUIET_BYTES or call not in self._heard:
                self._heard[call] = came, now
            elif now - since > _QUIET_SECONDS:
                return True
        return False

    def _there(self, total: int) -> bool:
        with self._changed:
            if self._shared and self.arrived < total:
                self._changed.wait(_LOOK_SECONDS)
            self._check()
            if self._shared and self.arrived > total:
                raise protocol.Garbled(f"{self.arrived} bytes came where {total} were sent", path=self.call.peer)
            return not self._shared or self.arrived == total

    def close(self, why: errors.Error) -> None:
        """Nothing is taken from now on, and who joined is let go."""
        with self._changed:
            self._over, self._closed = self._over or why, True
            joined = list(self._joined)
            self._changed.notify_all()
        for call in joined:
            call.abort(why)


class Streams:
    """Those that run at one agent. `room` tells whether a peer may have one more connection for nothing but speed."""

    def __init__(self, room: Callable[[str], bool] = lambda peer: True) -> None:
        self._room, self._running = room, dict[bytes, Stream]()

    @contextmanager
    def open(
        self, call: Call, peer: str, name: str, take: Callable[[bytes | bytearray | memoryview, str], None]
    ) -> Iterator[Stream]:
        """One that may be joined while the context is open; when that ends, nobody puts anything into it."""
        made = Stream(call, peer, name, take)
        self._running[made.ticket] = made
        why: errors.Error = errors.Unreachable("the transfer is over")
        try:
            yield made
        except BaseException as error:
            why = _told(error)
            raise
        finally:
            del self._running[made.ticket]
            made.close(why)

    def find(self, ticket: bytes, peer: str, name: str) -> Stream:
        """Raises Refused where this peer has no such transfer, Busy where others need the place more."""
        found = self._running.get(ticket)
        if found is None or found.name != name:
            raise errors.Refused("no transfer runs that this ticket is for", path=name)
        if found.peer != peer:
            raise errors.Refused("the transfer that this ticket is for is another host's", path=name)
        if not self._room(peer):
            raise errors.Busy("the agent has no room for a further connection of a transfer", path=name)
        return found


def _told(error: BaseException) -> errors.Error:
    return error if isinstance(error, errors.Error) else errors.Error("failed inside; the agent's log has the details")
