"""Questions and answers over one call, and a far file or point as an Image over them."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator

import msgspec

from secondsite.engine import errors
from secondsite.engine.images.base import Buffer, Extent, Image, ShortImage
from secondsite.engine.remote import questions as q
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.link.calls import Call


class _Ticket:
    message: protocol.Message | None = None


class Channel:
    """Many threads may ask at once: answers come in the order of the questions, and whoever waits takes them in."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self._sending, self._receiving = threading.Lock(), threading.Lock()
        self._asked: deque[_Ticket] = deque()

    def ask(self, question: msgspec.Struct) -> protocol.Message:
        """Raises what ended the call."""
        ticket = _Ticket()
        with self._sending:
            self._asked.append(ticket)
            self.call.send(question)
        with self._receiving:
            while ticket.message is None:
                message = self.call.receive()
                self._asked.popleft().message = message
        return ticket.message

    def read(self, offset: int, length: int) -> bytes:
        """At most MAX_READ bytes. Raises what ended the call, or why they cannot be read; then it goes on."""
        answer = self.ask(q.Read(offset, length))
        if answer.control:
            peer = self.call.peer
            raise protocol.raised(protocol.decode(answer.control, protocol.Failure, peer), peer)
        body = answer.body
        if len(body) != length:
            raise protocol.Garbled(f"{len(body)} bytes came, {length} were asked for", path=self.call.peer)
        return bytes(body) if not isinstance(body, bytes) else body

    def extents(self, start: int, length: int) -> list[Extent]:
        """From `start` on, without gaps; at least one of them, and they may end early."""
        found = protocol.decode(self.ask(q.Holes(start, length)).control, q.Extents, self.call.peer)
        if len(found.lengths) != len(found.zeros) or not found.lengths or min(found.lengths) <= 0:
            raise protocol.Garbled("extents that are none", path=self.call.peer)
        made, at = [], start
        for size, zero in zip(found.lengths, found.zeros, strict=True):
            size = min(size, start + length - at)
            if size <= 0:
                break
            made.append(Extent(at, size, zero))
            at += size
        return made

    def close(self) -> None:
        self.call.close()


class FarImage(Image):
    """Read-only bytes that another host keeps. Who implements it gives `size`, `_fetch` and `_find`."""

    @abstractmethod
    def _fetch(self, offset: int, length: int) -> bytes:
        """At most MAX_READ bytes inside the image."""

    @abstractmethod
    def _find(self, start: int, length: int) -> list[Extent]:
        """Extents from `start` on, without gaps; they may end early."""

    def read_into(self, offset: int, buffer: Buffer) -> None:
        with memoryview(buffer).cast("B") as view:
            if offset < 0 or offset + view.nbytes > self.size:
                raise ShortImage(f"it ends before {offset + view.nbytes}", path=self.path, offset=offset)
            for at in range(0, view.nbytes, q.MAX_READ):
                part = min(q.MAX_READ, view.nbytes - at)
                view[at : at + part] = self._fetch(offset + at, part)

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        if start < 0 or length < 0 or start + length > self.size:
            raise ShortImage(f"no {length} bytes at {start}", path=self.path)
        end = start + length
        while start < end:
            for extent in self._find(start, end - start):
                yield extent
                start = extent.start + extent.length

    def write(self, offset: int, data: bytes | Buffer) -> None:
        raise self._refuse()

    def zero(self, offset: int, length: int, *, punch: bool = True) -> None:
        raise self._refuse()

    def resize(self, size: int) -> None:
        raise self._refuse()

    def flush(self) -> None:
        return None

    def _refuse(self) -> errors.Error:
        return errors.Refused("another host's replica is read, not written, in this way", path=self.path)
