"""One call on a connection: a channel of messages both ways, each direction with a window."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from secondsite.engine import errors
from secondsite.engine.remote.link import protocol as p
from secondsite.engine.remote.link.wire import Closed

if TYPE_CHECKING:
    from secondsite.engine.remote.link.connection import Connection


class Credit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many more bytes were consumed."""

    bytes: int


class Call:
    """Begun by `Connection.call` or taken from `Connection.accept`. One thread sends and one receives at a time.

    Received messages are credited when the next one is asked for: what is being worked on still counts. `went`: so many
    bytes of bodies were given to the link, which may have lost some of them.
    """

    def __init__(
        self, connection: Connection, number: int, request: p.Request, message: p.Message | None
    ) -> None:
        self.connection, self.number, self.peer = connection, number, connection.peer
        self.operation, self.args = request.operation, request.args
        self.body = message.body if message is not None else b""
        self.went = 0
        self._changed = threading.Condition()
        self._arrived: deque[p.Message] = deque()
        self._parts: list[p.Message] = []
        self._in_flight = 0  # ours, not yet consumed there
        self._held = 0  # theirs, not yet credited
        self._weight = self._working = 0  # theirs in memory, and what of it is being worked on
        self._owed = message.size if message is not None else 0
        self._failed: errors.Error | None = None
        self._closed_here = self._closed_there = False
        if message is not None:
            self._held = message.size
            self._weigh(message.size)
            if message.flags & p.MORE:
                raise p.Garbled("a request in parts", path=self.peer)

    # -- sending -----------------------------------------------------------------------------------------------

    def send(
        self, value: msgspec.Struct | None = None, body: bytes | bytearray | memoryview = b"", *, checked: bool = False
    ) -> None:
        """A message with a control part, a body or both; waits for the window. Raises what ended the call. A body that
        is `checked` has checksums of its own.
        """
        self._send(p.DATA, p.encode(value) if value is not None else b"", body, p.CHECKED if checked else 0)

    def _send(self, kind: int, control: bytes, body: bytes | bytearray | memoryview, flags: int = 0) -> None:
        if len(body) > p.MAX_BODY:
            raise ValueError(f"a body of {len(body)} bytes is too long")
        view = memoryview(body)
        while True:
            step = len(view) if kind == p.REQUEST else min(self.connection._piece(), len(view))
            piece, view = view[:step], view[step:]
            self._reserve(p.HEADER_BYTES + len(control) + len(piece))
            try:
                self.connection._take_tokens(p.HEADER_BYTES + len(control) + len(piece), self._check)
                self.connection._transmit(kind, self, control, piece, flags | (p.MORE if len(view) else 0))
            except errors.Error as error:  # the connection ends soon after the reason was told
                raise self._failed or error from None
            kind, control = p.DATA, b""
            if not len(view):
                return

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed
        self.connection._check()

    def _reserve(self, size: int) -> None:
        with self._changed:
            window = self.connection.their_window
            self._changed.wait_for(
                lambda: self._failed or self._closed_there or self._in_flight + size <= window
            )
            if self._failed is not None:
                raise self._failed
            if self._closed_there:
                raise errors.Unreachable("the other side ended the call", path=self.peer)
            self._in_flight += size

    def fail(self, error: BaseException) -> None:
        """End the call with an error for the other side."""
        self._finish(p.ERROR, p.encode(p.failure(error, self.connection.veiled)))

    def abort(self, error: errors.Error) -> None:
        """From any thread: tell the other side, and whoever sends or receives on it here."""
        self.fail(error)
        self._end(error)

    def close(self) -> None:
        """End it from this side: nothing more is sent or received. Closing twice does nothing."""
        self._finish(p.CLOSE, b"")

    def _finish(self, kind: int, control: bytes) -> None:
        with self._changed:
            if self._closed_here:
                return
            self._closed_here = True
            self._arrived.clear()
            self._parts.clear()
            self._weigh(-self._weight)
            self._working = 0
            gone = self._failed is not None
        self.connection._forget(self.number)
        if not gone:
            self.connection._post(kind, self.number, control)

    # -- receiving ---------------------------------------------------------------------------------------------

    def receive(self, timeout: float | None = None) -> p.Message:
        """The next whole message. Raises what ended the call, the other side's error, or Unreachable in time."""
        self._credit()
        with self._changed:
            there = self._changed.wait_for(lambda: self._arrived or self._failed or self._closed_there, timeout)
            if self._arrived:
                message = self._arrived.popleft()
                self._owed += message.size
                self._weigh(-min(self._working, self._weight))
                self._working = message.size
                return message
            if self._failed is not None:
                raise self._failed
            if there:
                raise errors.Unreachable("the other side ended the call", path=self.peer)
        raise errors.Unreachable(f"no answer in {timeout:g} seconds", path=self.peer)

    def wait(self, timeout: float | None) -> bool:
        """Wait until `receive` would not: there is a message, or the call has ended. False when the time is over."""
        self._credit()
        with self._changed:
            return bool(
                self._changed.wait_for(lambda: self._arrived or self._failed or self._closed_there, timeout)
            )

    @property
    def over(self) -> bool:
        """The other side has closed it, and there is nothing left to receive; the connection may be gone since."""
        with self._changed:
            return self._closed_there and not self._arrived

    @property
    def left(self) -> bool:
        """The connection ended before the other side closed it, and there is nothing left to receive."""
        with self._changed:
            alone = not self._closed_there and not self._arrived and not self._parts
            return alone and isinstance(self._failed, Closed) and self._failed is self.connection.failed

    @property
    def ended(self) -> bool:
        """Nobody waits for anything on it any more."""
        with self._changed:
            return self._closed_there or self._closed_here or self._failed is not None

    @property
    def failed(self) -> errors.Error | None:
        """What ended it, where that was an error."""
        with self._changed:
            return self._failed

    def poll(self) -> p.Message | None:
        """The next message if it is there already. Raises as `receive`."""
        with self._changed:
            if not (self._arrived or self._failed or self._closed_there):
                return None
        return self.receive()

    def _credit(self) -> None:
        with self._changed:
            # Not for each message: a credit is a wake-up of two threads, and an eighth of a window is soon there.
            if self._owed < self.connection.window // 8 or self._closed_here or self._failed:
                return
            owed, self._owed = self._owed, 0
            self._held -= owed
        self.connection._post(p.CREDIT, self.number, p.encode(Credit(owed)))

    def _take(self, message: p.Message) -> None:
        """From the reading thread. Raises Garbled for what breaks the rules."""
        with self._changed:
            if self._closed_there:
                raise p.Garbled(f"a {p.KINDS[message.kind]} message after the end of its call", path=self.peer)
            if message.kind == p.CREDIT:
                self._consumed(p.decode(message.control, Credit, self.peer).bytes)
            elif message.kind == p.CLOSE:
                self._closed_there = True
            elif message.kind == p.ERROR:
                self._failed = p.raised(p.decode(message.control, p.Failure, self.peer), self.peer)
            elif not self._closed_here:  # nobody takes it any more; the other side did not know yet
                self._collect(message)
            self._changed.notify_all()

    def _consumed(self, count: int) -> None:
        if not 0 < count <= self._in_flight:
            raise p.Garbled(f"a credit of {count} bytes where {self._in_flight} are out", path=self.peer)
        self._in_flight -= count

    def _weigh(self, count: int) -> None:
        self._weight += count
        self.connection._weigh(count)

    def _collect(self, message: p.Message) -> None:
        self._held += message.size
        self._weigh(message.size)
        if self._held > self.connection.window:
            raise p.Garbled("more was sent than the window allows", path=self.peer)
        self._parts.append(message)
        if sum(len(part.body) for part in self._parts) > p.MAX_BODY:
            raise p.Garbled("a message in parts is too long", path=self.peer)
        if message.flags & p.MORE:
            return
        parts, self._parts = self._parts, []
        self._arrived.append(parts[0] if len(parts) == 1 else _joined(parts))

    def _end(self, error: errors.Error) -> None:
        with self._changed:
            if self._failed is None:
                self._failed = error
            self._changed.notify_all()

    def __enter__(self) -> Call:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None and error is not self._failed:
            self.fail(error)
        else:
            self.close()


def _joined(parts: list[p.Message]) -> p.Message:
    """One message; its size is still that of all its parts, headers too."""
    return _Whole(p.DATA, 0, parts[0].call, parts[0].control, b"".join(part.body for part in parts)).counting(parts)


class _Whole(p.Message):
    """A message that came in parts: credited with what they took."""

    _size = 0

    def counting(self, parts: list[p.Message]) -> _Whole:
        self._size = sum(part.size for part in parts)
        return self

    @property
    def size(self) -> int:
        return self._size
