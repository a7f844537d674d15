"""A connection: calls side by side over one socket, with windows, heartbeats and an end that everybody notices.

A *call* is begun by either side with a request and is then a channel both ways, until both have closed it. The bytes
that a side has sent on a call and the other one has not yet consumed are at most a window: who is slow slows its
sender and nobody else, and memory is bounded. Heartbeats, credits and errors do not count and pass before data.

One thread reads, one writes. Data is cut into pieces when a limit is set, so that a heartbeat never waits behind more
than a quarter of a second's worth (P17, P18).
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from secondsite.engine import errors
from secondsite.engine.progress import Limiter
from secondsite.engine.remote.link import protocol as p
from secondsite.engine.remote.link.calls import Call
from secondsite.engine.remote.link.schedule import Throttle
from secondsite.engine.remote.link.secure import Secure
from secondsite.engine.remote.link.wire import Closed, Wire

T = TypeVar("T")

# Four heartbeats may be lost before a connection is given up.
HEARTBEAT_SECONDS = 10.0
IDLE_SECONDS = 45.0
HELLO_SECONDS = 20.0
# The largest message fits, and a link of 1 Gbit/s with 60 ms each way is filled by one call.
WINDOW = 16 * 1024 * 1024
MAX_CALLS = 64
MAX_REQUEST_BODY = 64 * 1024
# One message that is worked on, and one that is coming.
SMALLEST_WINDOW = 2 * (p.MAX_BODY + p.MAX_CONTROL + 256 * 1024)
_LARGEST_PIECE = 1024 * 1024


class Connection:
    """Over a socket that is connected, and under TLS has shaken hands. `client` is the side that connected.

    The constructor exchanges hellos and raises Closed, Garbled or Refused where the other side does not speak this
    protocol. `limiter` may be set, changed and taken away while it runs. `most` bytes of all calls together may wait
    here, whatever their windows are; who sends more is Garbled.
    """

    def __init__(
        self, sock: socket.socket | Secure, peer: str, *, client: bool, software: str = "secondsite",
        heartbeat: float = HEARTBEAT_SECONDS, idle: float = IDLE_SECONDS, window: int = WINDOW,
        most: int | None = None,
    ) -> None:  # fmt: skip
        self.peer, self.window = peer, window
        self._most, self._weight, self._weighing = most, 0, threading.Lock()
        self.limiter: Limiter | Throttle | None = None
        self.handshake_seconds = 0.0  # what TLS took, for who connected
        self.veiled = ""  # the beginning of paths, which the other side is not told
        self.failed: errors.Error | None = None
        self._wire = Wire(sock, peer, min(idle, HELLO_SECONDS))
        self._heartbeat = heartbeat
        self._state = threading.Condition()
        self._urgent: deque[tuple[bytes, Any]] = deque()
        self._calls: dict[int, Call] = {}
        self._coming: deque[Call] = deque()
        self._tied: list[Connection] = []
        self._numbers = itertools.count(1 if client else 2, 2)
        self._odd = client
        self._last_theirs = 0
        self._sending = threading.Lock()
        self._calling = threading.Lock()
        try:
            self._hello(software)
        except BaseException:
            self._wire.release()
            raise
        self._wire.idle = idle
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"{name} {peer}", daemon=True)
            for name, work in (("read", self._read), ("beat", self._beat))
        ]
        for thread in self._threads:
            thread.start()

    def _hello(self, software: str) -> None:
        ours = p.Hello(p.OLDEST, p.NEWEST, software[:200], self.window)
        control = p.encode(ours)
        # A client hears first: under TLS 1.3 that is where it learns that its certificate is not taken, and after a
        # failed write it would not.
        first = self._wire.read_message() if self._odd else None
        self._wire.send(p.pack_header(p.HELLO, 0, control) + control)
        first = first or self._wire.read_message()
        if first.kind != p.HELLO:
            raise p.Garbled(f"begins with a {p.KINDS[first.kind]} message instead of a hello", path=self.peer)
        theirs = p.decode(first.control, p.Hello, self.peer)
        if theirs.window < SMALLEST_WINDOW:
            raise p.Garbled(f"has a window of {theirs.window} bytes, less than two messages", path=self.peer)
        self.version = p.agree(ours, theirs, self.peer)
        self.software, self.their_window = theirs.software, min(theirs.window, 256 << 20)

    # -- calls -------------------------------------------------------------------------------------------------

    def call(self, operation: str, args: msgspec.Struct, body: bytes | memoryview = b"") -> Call:
        """Begin a call; a longer body than 64 KiB follows in messages. Raises what ended the connection."""
        if len(body) > MAX_REQUEST_BODY:
            raise ValueError(f"a request with a body of {len(body)} bytes is too long")
        request = p.Request(operation, msgspec.Raw(p.encode(args)))
        with self._calling:  # numbers go out in order
            with self._state:
                self._check()
                if len(self._calls) >= MAX_CALLS:
                    raise errors.Busy(f"{MAX_CALLS} calls are open on one connection", path=self.peer)
                made = Call(self, next(self._numbers), request, None)
                self._calls[made.number] = made
            made._send(p.REQUEST, p.encode(request), body)
        return made

    def ask(self, operation: str, args: msgspec.Struct, kind: type[T], body: bytes | memoryview = b"") -> T:
        """A call with one answer."""
        with self.call(operation, args, body) as call:
            return p.decode(call.receive().control, kind, self.peer)

    def accept(self, timeout: float | None = None) -> Call | None:
        """The next call that the other side began; None after `timeout` seconds. Raises what ended the connection."""
        with self._state:
            self._state.wait_for(lambda: self._coming or self.failed, timeout)
            if self._coming:
                return self._coming.popleft()
            self._check()
            return None

    @property
    def sent(self) -> int:
        """Bytes of messages that went out, headers and heartbeats too."""
        return self._wire.sent

    @property
    def received(self) -> int:
        return self._wire.received

    def _check(self) -> None:
        if self.failed is not None:
            raise self.failed

    def _weigh(self, count: int) -> None:
        """So many bytes more, or less, wait here for who takes them. Raises Garbled."""
        with self._weighing:
            self._weight += count
            if count > 0 and self._most is not None and self._weight > self._most:
                raise p.Garbled(f"{self._weight} bytes wait here, more than {self._most} of all calls", path=self.peer)

    def _forget(self, number: int) -> None:
        with self._state:
            self._calls.pop(number, None)

    # -- writing -----------------------------------------------------------------------------------------------

    def _post(self, kind: int, call: int, control: bytes = b"") -> None:
        """A message that waits for nobody's window: it goes before the next piece of data."""
        with self._state:
            self._urgent.append((p.pack_header(kind, call, control), control))
            self._state.notify_all()

    def _transmit(
        self, kind: int, call: Call, control: bytes, body: bytes | bytearray | memoryview, flags: int
    ) -> None:
        """Send one message now, in the caller's thread, the urgent ones first."""
        header = p.pack_header(kind, call.number, control, body, flags)
        with self._sending:
            self._check()
            self._flush_urgent()
            before = self._wire.sent + len(header) + len(control)
            try:
                if len(body) < 65536:
                    self._wire.send(b"".join((header, control, body)))
                else:
                    self._wire.send(header + control)
                    self._wire.send(body)
            except errors.Error as error:
                self.close(error)
                self._check()  # why it was closed, where somebody did that meanwhile
                raise
            finally:
                call.went += max(self._wire.sent - before, 0)

    def _flush_urgent(self) -> None:
        while True:
            with self._state:
                if not self._urgent:
                    return
                header, control = self._urgent.popleft()
            self._wire.send(header + control)

    def _beat(self) -> None:
        """Heartbeats, and what is urgent while nobody sends data."""
        at = time.monotonic()
        while True:
            with self._state:
                self._state.wait_for(
                    lambda: self._urgent or self.failed, max(at + self._heartbeat - time.monotonic(), 0)
                )
                self._check()
            if time.monotonic() >= at + self._heartbeat:
                at = time.monotonic()
                self._post(p.PING, 0)
            with self._sending:
                self._flush_urgent()

    # -- reading -----------------------------------------------------------------------------------------------

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except errors.Error as error:
            self.close(error)
        except BaseException as error:  # a thread that dies silently would leave everybody waiting
            self.close(errors.Error(f"failed inside: {type(error).__name__}: {error}", path=self.peer))
            raise

    def _read(self) -> None:
        while True:
            message = self._wire.read_message()
            if message.kind == p.PING:
                if message.size != p.HEADER_BYTES or message.call:
                    raise p.Garbled("a heartbeat that carries something", path=self.peer)
            elif message.kind == p.REQUEST:
                self._begin(message)
            elif message.kind == p.HELLO:
                raise p.Garbled("a second hello", path=self.peer)
            else:
                self._deliver(message)

    def _begin(self, message: p.Message) -> None:
        with self._state:
            known = message.call <= self._last_theirs or (message.call % 2 == 1) == self._odd
            # Twice: a call that is closed there may not be so here yet.
            if known or len(self._calls) >= 2 * MAX_CALLS:
                raise p.Garbled(f"a request with the number {message.call} is not in its turn", path=self.peer)
            request = p.decode(message.control, p.Request, self.peer)
            self._last_theirs = message.call
            made = Call(self, message.call, request, message)
            self._calls[made.number] = made
            self._coming.append(made)
            self._state.notify_all()

    def _deliver(self, message: p.Message) -> None:
        with self._state:
            found = self._calls.get(message.call)
            ours = message.call and (message.call % 2 == 1) == self._odd
        if found is not None:
            found._take(message)
        elif ours or message.call <= self._last_theirs:
            return  # of a call that is over on this side; the other one did not know yet
        else:
            raise p.Garbled(f"a {p.KINDS[message.kind]} message of a call that was not begun", path=self.peer)

    # -- its end -----------------------------------------------------------------------------------------------

    def close(self, error: errors.Error | None = None) -> None:
        """End it for everybody; calls raise `error`. May be called twice, and from any thread."""
        with self._state:
            if self.failed is not None:
                return
            self.failed = error or Closed("the connection was closed", path=self.peer)
            calls, tied = list(self._calls.values()), self._tied
            self._state.notify_all()
        self._wire.close()
        for call in calls:
            call._end(self.failed)
        for other in tied:
            other.close(error)

    def discard(self, error: errors.Error) -> None:
        """As `close`, and what the system has not got over yet is not waited for, at the other side neither."""
        self._wire.discard()
        self.close(error)

    def tie(self, other: Connection) -> None:
        """It ends with this one."""
        with self._state:
            self._tied = [one for one in self._tied if one.failed is None] + [other]
            over = self.failed
        if over is not None:
            other.close(over)

    def keep(self, count: int) -> None:
        """Keep so much memory for what comes, where many connections have one window together."""
        self._wire.keep(count)

    def drain(self, seconds: float) -> None:
        """Let what is said urgently, such as an error, go out; for so long at most."""
        deadline = time.monotonic() + seconds
        while self._urgent and self.failed is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if self._sending.acquire(timeout=max(deadline - time.monotonic(), 0)):  # the last one may be on its way
            self._sending.release()

    def join(self) -> None:
        """After `close`: wait for the threads and let go of the socket."""
        self.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self._wire.release()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.drain(1)
        self.join()

    def _take_tokens(self, count: int, check: Callable[[], None]) -> None:
        if self.limiter is not None:
            self.limiter.take(count, check)

    def _piece(self) -> int:
        limiter = self.limiter
        return min(max(limiter.piece, 4096), _LARGEST_PIECE) if limiter is not None else p.MAX_BODY
