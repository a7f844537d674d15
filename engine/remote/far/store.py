"""The objects of a log that an agent keeps: a Store over one connection, several questions at a time.

Fences are objects, whose age is told by the agent's clock. What got no answer is Failed, so that it is asked again over
another connection; an agent that is not there at the beginning is told at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from secondsite.engine import errors
from secondsite.engine.remote import dial, url
from secondsite.engine.remote import objects as o
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.link.calls import Call
from secondsite.engine.remote.link.connection import Connection
from secondsite.engine.remote.sending.outbound import cancelling
from secondsite.engine.store.base import Absent, Changed, Content, Entry, Exists, Failed, Fence, check_name
from secondsite.engine.store.leases import FencedStore
from secondsite.engine.store.paced import Pace

# Channels to the agent, which works on 32 requests of a connection; of those that put, each may fill its window of
# 16 MiB there, and 64 MiB may wait in all.
_CHANNELS, _PUTTING = 16, 3
# Questions for one range that are on their way at once: 16 MiB come back.
_AHEAD = 4
_ANSWERS: Any = o.Made | o.No | o.Content | o.Found


class RemoteStore(FencedStore):
    """Of the replica `remote`. `cancel` ends whoever waits for the agent."""

    def __init__(
        self, remote: url.Remote, home: Home, *, cancel: Callable[[], bool] | None = None, pace: Pace | None = None
    ) -> None:
        self.label, self.remote, self.home, self.cancel, self.pace = str(remote), remote, home, cancel, pace
        self._connection: Connection | None = None
        self._around = ExitStack()
        self._idle: list[Call] = []
        self._room, self._putting = threading.BoundedSemaphore(_CHANNELS), threading.BoundedSemaphore(_PUTTING)
        self._lock = threading.RLock()
        self._ready: o.Ready | None = None
        self._ahead = 0.0

    # -- the link ------------------------------------------------------------------------------------------------

    def _connected(self) -> Connection:
        with self._lock:
            if self._connection is not None and self._connection.failed is None:
                return self._connection
            again = self._connection is not None
            self._drop()
            try:
                made = dial.connect(self.remote, self.home)
            except errors.Unreachable as error:
                raise Failed(error.message, path=self.label) if again and error.retryable else error from None
            self._around.enter_context(cancelling(made, self.cancel))
            self._connection = made
            return made

    def _drop(self) -> None:
        self._idle.clear()
        self._around.close()
        if self._connection is not None:
            self._connection.join()

    @contextmanager
    def _channel(self) -> Iterator[Call]:
        """An open channel, given back where all went well: else nobody knows what comes next on it."""
        with self._room, self._told():
            connection = self._connected()
            with self._lock:
                call = self._idle.pop() if self._idle else None
            call = call or self._open(connection)
            try:
                yield call
            except BaseException:
                call.close()
                raise
            with self._lock:
                if connection is self._connection and not call.ended:
                    self._idle.append(call)

    def _open(self, connection: Connection) -> Call:
        call = connection.call(o.OPERATION, o.Store(self.remote.name))
        try:
            ready = protocol.decode(call.receive().control, o.Ready, call.peer)
        except BaseException:
            call.close()
            raise
        self._ready, self._ahead = ready, ready.clock - time.monotonic()
        return call

    def _told_ready(self) -> o.Ready:
        """What the agent said of itself and us when a channel was opened last."""
        if self._ready is None:
            with self._channel():
                pass
        assert self._ready is not None
        return self._ready

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except errors.Busy as error:
            raise Failed(error.message, path=self.label, busy=True) from None
        except errors.Unreachable as error:
            if not error.retryable or isinstance(error, errors.Full | Failed) or self._connection is None:
                raise
            raise Failed(error.message, path=self.label) from None

    def _answer(self, call: Call, kind: type[Any], why: o.Why | None = None) -> tuple[Any, Any]:
        """(answer, body): of this kind, or a No that says so. Raises Garbled for another."""
        message = call.receive()
        found = protocol.decode(message.control, _ANSWERS, call.peer)
        if not isinstance(found, kind) and (why is None or found != o.No(why)):
            raise protocol.Garbled("another answer than to what was asked", path=call.peer)
        return found, message.body

    def _raise(self, answer: Any, name: str) -> None:
        """What a No means."""
        if isinstance(answer, o.No):
            kind, told = _NO[answer.why]
            raise kind(told, path=self.path(name))

    def now(self) -> float:
        self._told_ready()
        return time.monotonic() + self._ahead

    def removes(self) -> bool:
        return self._told_ready().removes

    # -- writing -------------------------------------------------------------------------------------------------

    def put_if_absent(
        self, name: str, data: bytes | bytearray | memoryview, metadata: Mapping[str, str] | None = None
    ) -> str:
        size = memoryview(data).nbytes
        if self.pace is not None:
            self.pace.before(size)
        return self._put(o.Put(check_name(name), size, dict(metadata or {})), data)

    def replace(
        self, name: str, data: bytes, etag: str, metadata: Mapping[str, str] | None = None, fence: Fence | None = None
    ) -> str:
        self.guard(fence)
        return self._put(o.Replace(check_name(name), len(data), dict(metadata or {}), etag), data)

    def _put(self, asked: o.Put | o.Replace, data: bytes | bytearray | memoryview) -> str:
        view = memoryview(data).cast("B")
        waits = self._putting if len(view) > o.PART_BYTES else nullcontext()  # a fence is renewed without it
        with waits, self._channel() as call:
            call.send(asked, view[: o.PART_BYTES])
            for at in range(o.PART_BYTES, len(view), o.PART_BYTES):
                call.send(None, view[at : at + o.PART_BYTES])
            answer, _ = self._answer(call, o.Made, "exists" if isinstance(asked, o.Put) else "changed")
        self._raise(answer, asked.name)
        return str(answer.etag)

    def delete(self, name: str) -> None:
        with self._channel() as call:
            call.send(o.Delete(check_name(name)))
            self._answer(call, o.Made)

    # -- reading -------------------------------------------------------------------------------------------------

    def get(self, name: str, start: int = 0, length: int | None = None) -> Content:
        check_name(name)
        with self._channel() as call:
            call.send(o.Get(name, start, o.MAX_GET if length is None else min(length, o.MAX_GET)))
            first, body = self._answer(call, o.Content, "absent")
            parts = [body]
            if not isinstance(first, o.No):
                if first.size < 0:
                    raise protocol.Garbled("a negative size", path=call.peer)
                there = max(first.size - start, 0)
                wanted = there if length is None else min(length, there)
                self._check(call, len(body), min(wanted, o.MAX_GET))
                parts += self._rest(call, first, name, start, wanted)
        self._raise(first, name)
        return Content(b"".join(parts), first.size, first.etag, first.metadata)

    def _rest(self, call: Call, first: o.Content, name: str, start: int, wanted: int) -> Iterator[Any]:
        """What one answer does not hold, a few asked for ahead."""
        parts = range(o.MAX_GET, wanted, o.MAX_GET)  # of an agent that lies there may be very many

        def ask(at: int) -> None:
            call.send(o.Get(name, start + at, min(o.MAX_GET, wanted - at)))

        for at in parts[:_AHEAD]:
            ask(at)
        for number, part in enumerate(parts):
            found, body = self._answer(call, o.Content, "absent")
            if isinstance(found, o.No) or found.etag != first.etag:
                raise Failed("it changed while it was read", path=self.path(name))
            self._check(call, len(body), min(o.MAX_GET, wanted - part))
            yield body
            if number + _AHEAD < len(parts):
                ask(parts[number + _AHEAD])

    def _check(self, call: Call, came: int, wanted: int) -> None:
        if came != wanted:
            raise protocol.Garbled(f"{came} bytes came, {wanted} were expected", path=call.peer)

    def stat(self, name: str) -> Entry | None:
        with self._channel() as call:
            call.send(o.Stat(check_name(name)))
            found, _ = self._answer(call, o.Found)
            entries = [Entry(*entry) for entry in found.entries]
            if len(entries) > 1 or any(entry.name != name or entry.size < 0 for entry in entries):
                raise protocol.Garbled("it tells of another object", path=call.peer)
        return next(iter(entries), None)

    def list(self, folder: str = "") -> Iterator[Entry]:
        if folder:
            check_name(folder.removesuffix("/"))
        return self._below(folder)

    def _below(self, folder: str) -> Iterator[Entry]:
        """The channel is held until the last one was taken; who takes no more gives it up."""
        with self._channel() as call:
            call.send(o.Below(folder))
            last, more = "", True
            while more:
                found, _ = self._answer(call, o.Found)
                more = found.more
                if more and not found.entries:
                    raise protocol.Garbled("a part of a list without entries", path=call.peer)
                for entry in (Entry(*one) for one in found.entries):
                    if not entry.name.startswith(folder) or entry.name <= last or entry.size < 0:
                        raise protocol.Garbled("its objects do not ascend", path=call.peer)
                    last = entry.name
                    yield entry

    def close(self) -> None:
        with self._lock:
            self._drop()


_NO = {
    "exists": (Exists, "it is there already"), "changed": (Changed, "somebody else changed it"),
    "absent": (Absent, "there is no such object"),
}  # fmt: skip
