"""One connection to an NBD server: requests, several in flight, and replies that are believed as far as they fit.

A large range is cut into pieces that are asked for at once; their replies come in any order, in parts, and go
straight from the socket into the caller's buffer. The server's word is never a length to allocate or a place to
write: each chunk must lie in the piece that was asked for, cover nothing twice, and leave nothing out.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator
from typing import Self

from secondsite.engine import errors
from secondsite.engine.nbd import protocol as p
from secondsite.engine.nbd.negotiation import Export, Headers, clean, negotiate
from secondsite.engine.nbd.request import Buffer, Request, Violation, split
from secondsite.engine.nbd.transport import TIMEOUT, Transport, connect
from secondsite.engine.nbd.url import NbdUrl, parse_url
from secondsite.engine.units import KIB, MIB

PIECE = 256 * KIB
DEPTH = 16
# A server may have to write what it is asked to zero, and has one timeout's time for each of these.
_EFFECT_PIECE = 64 * MIB
_STATUS_LIMIT = 1 << 31
_ERROR_BYTES = p.ERROR.size + p.MAX_STRING + 8
_ZEROS = memoryview(bytes(PIECE))


class Connection:
    """A connection in the transmission phase. Its methods may be called from several threads, one at a time runs.

    Errors: Refused for what the server forbids, Full where it has no room, Unreachable for everything else. After an
    error of the stream (a timeout, the end of it, a breach of the protocol) the connection is dead, and each later
    call says why; after an error of a request it goes on. Ranges outside the disk are ValueError.
    """

    def __init__(self, transport: Transport, export: Export) -> None:
        self.export = export
        self.grain = 0  # no read crosses a multiple of it, nor is it answered in parts; 0: the server may do both
        self._transport = transport
        self._lock = threading.Lock()
        self._ended = ""
        self._cookie = 0
        self._extended = export.headers == Headers.EXTENDED
        self._piece = max(min(PIECE, export.maximum) // export.minimum * export.minimum, export.minimum)
        self._head = memoryview(bytearray(p.EXTENDED_REPLY.size))

    @classmethod
    def open(cls, url: NbdUrl | str, *, timeout: float = TIMEOUT) -> Self:
        """Connect and choose the export; `timeout` seconds for connecting, for the handshake and for each answer."""
        where = parse_url(url) if isinstance(url, str) else url
        transport = connect(where, timeout)
        try:
            return cls(transport, negotiate(transport, where))
        except BaseException:
            transport.close()
            raise

    @classmethod
    def from_socket(
        cls, sock: socket.socket, size: int, flags: int, *, name: str = "NBD socket", timeout: float = TIMEOUT
    ) -> Self:
        """A connected socket that is in the transmission phase already, with simple replies. Takes the socket over."""
        return cls(Transport(sock, name, timeout), Export(size, flags))

    @property
    def name(self) -> str:
        """The URL, as errors name it."""
        return self._transport.name

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self.export.size

    @property
    def ended(self) -> str:
        """Why nothing more can be asked; empty while it can."""
        return self._ended

    def has(self, flag: int) -> bool:
        """Whether the export has a transmission flag."""
        return bool(self.export.flags & flag)

    # -- requests: offsets and lengths are multiples of export.minimum, but for the end of the disk --------------

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill the buffer from `offset`."""
        self.read_parts([(offset, _bytes(buffer))])

    def read_parts(self, parts: Iterable[tuple[int, memoryview]]) -> None:
        """Fill several views of bytes, each from its offset, in one exchange."""
        flags = p.CMD_FLAG_DF if self.grain and self.has(p.FLAG_SEND_DF) else 0
        piece = min(self._piece, self.grain) if self.grain else self._piece
        self._exchange(
            Request(p.CMD_READ, at, length, flags, target=view[at - offset : at - offset + length])
            for offset, view in parts
            for at, length in self._split(offset, view.nbytes, piece)
        )

    def write(self, offset: int, data: bytes | Buffer, *, fua: bool = False) -> None:
        """Write all of `data`; with `fua` it is durable after. More than PIECE goes in several requests, between which
        the server may cut.
        """
        flags = p.CMD_FLAG_FUA if fua else 0
        if self._extended:
            flags |= p.CMD_FLAG_PAYLOAD_LEN
        view = _bytes(data)
        self._exchange(
            Request(p.CMD_WRITE, at, length, flags, payload=view[at - offset : at - offset + length])
            for at, length in self._split(offset, view.nbytes, self._piece)
        )

    def zero(self, offset: int, length: int, *, punch: bool = True, fua: bool = False) -> None:
        """Make a range read as zeros, as a hole if the server likes, or keeping its space (`punch=False`)."""
        flags = (0 if punch else p.CMD_FLAG_NO_HOLE) | (p.CMD_FLAG_FUA if fua else 0)
        if self.has(p.FLAG_SEND_WRITE_ZEROES):
            self._exchange(
                Request(p.CMD_WRITE_ZEROES, at, part, flags) for at, part in self._split(offset, length, _EFFECT_PIECE)
            )
            return
        flags = flags & p.CMD_FLAG_FUA | (p.CMD_FLAG_PAYLOAD_LEN if self._extended else 0)
        self._exchange(
            Request(p.CMD_WRITE, at, part, flags, payload=_ZEROS[:part])
            for at, part in self._split(offset, length, self._piece)
        )

    def trim(self, offset: int, length: int) -> None:
        """Say that a range is not needed any more; nothing where the server does not care."""
        if self.has(p.FLAG_SEND_TRIM):
            self._exchange(
                Request(p.CMD_TRIM, at, part) for at, part in self._split(offset, length, _EFFECT_PIECE)
            )

    def flush(self) -> None:
        """Make everything durable that was answered so far; nothing where the server has no flush."""
        if self.has(p.FLAG_SEND_FLUSH):
            self._exchange((Request(p.CMD_FLUSH, 0, 0),))

    def block_status(self, offset: int, length: int, context: str = p.CONTEXT_ALLOCATION) -> list[tuple[int, int]]:
        """(length, flags) of the stretches from `offset` on, in one metadata context that was agreed on.

        At least one, and no longer than the disk. Together they may be shorter than `length`, and longer: what the
        server happens to know. Raises Refused where the context was not agreed on.
        """
        if context not in self.export.contexts:
            raise errors.Refused(f"the server has no {context!r} of this export", path=self.name)
        self._check_range(offset, length)
        request = Request(p.CMD_BLOCK_STATUS, offset, min(length, _STATUS_LIMIT))
        request.rest = self.size - offset
        self._exchange((request,))
        return request.statuses[self.export.contexts[context]]

    def disconnect(self) -> None:
        """Say goodbye and close; a second call does nothing. A call that runs in another thread fails."""
        if not self._lock.acquire(blocking=False):
            self._transport.shut()
            self._lock.acquire()
        try:
            if not self._ended:
                self._transport.restart_clock()
                self._transport.send(self._header(Request(p.CMD_DISC, 0, 0)))
        except errors.Error:
            pass  # it is gone already, which is what was wanted
        finally:
            self._end("the connection was closed")
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.disconnect()

    # -- the exchange ------------------------------------------------------------------------------------------

    def _split(self, offset: int, length: int, piece: int) -> Iterator[tuple[int, int]]:
        self._check_range(offset, length)
        return split(offset, length, piece)

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError(f"{self.name}: {length} bytes at {offset} of {self.size}")

    def _exchange(self, requests: Iterable[Request]) -> None:
        """Send requests, as many at once as is good, and take in all replies. Raises the first error of them."""
        with self._lock:
            if self._ended:
                raise self._transport.error(self._ended)
            try:
                failed = self._pump(iter(requests))
            except Violation as violation:
                text = f"the server breaks the NBD protocol: {violation}"
                self._end(f"the connection is dead: {text}")
                raise self._transport.error(text) from None
            except errors.Error as error:
                self._end(f"the connection is dead: {error.message}")
                raise
            except BaseException:
                self._end("the connection is dead: a call was interrupted")
                raise
            if failed is not None and failed.error == p.ESHUTDOWN:
                self._end("the connection is dead: the server is shutting down")
        if failed is not None:
            raise failed.failure(self.name)

    def _pump(self, waiting: Iterator[Request]) -> Request | None:
        flight: dict[int, Request] = {}
        failed: Request | None = None
        self._transport.restart_clock()
        self._launch(waiting, flight)
        while flight:
            done = self._receive(flight)
            if done is None:
                continue
            self._transport.restart_clock()
            if done.error and failed is None:
                failed = done
            # Several at a time: each message wakes the server, which costs more than to ask for 64 KiB.
            if failed is None and len(flight) <= DEPTH // 2:
                self._launch(waiting, flight)
        return failed

    def _launch(self, waiting: Iterator[Request], flight: dict[int, Request]) -> None:
        """Fill the flight; headers without payload are sent together."""
        headers = []
        while len(flight) < DEPTH and (request := next(waiting, None)) is not None:
            self._cookie += 1
            flight[self._cookie] = request
            headers.append(self._header(request))
            if request.payload is not None:
                self._transport.send(b"".join(headers), request.payload)
                headers.clear()
        if headers:
            self._transport.send(b"".join(headers))

    def _header(self, request: Request) -> bytes:
        fields = (request.flags, request.command, self._cookie, request.offset, request.length)
        if self._extended:
            return p.EXTENDED_REQUEST.pack(p.EXTENDED_REQUEST_MAGIC, *fields)
        return p.REQUEST.pack(p.REQUEST_MAGIC, *fields)

    # -- replies -----------------------------------------------------------------------------------------------

    def _receive(self, flight: dict[int, Request]) -> Request | None:
        """One reply, or one chunk of one; the request that it ended."""
        head, transport = self._head, self._transport
        if self._extended:
            transport.receive_into(head)
            magic, flags, kind, cookie, offset, length = p.EXTENDED_REPLY.unpack(head)
            if magic != p.EXTENDED_REPLY_MAGIC:
                raise Violation(f"a reply that begins with {magic:#x}")
            return self._chunk(flight, flags, kind, cookie, length, offset)
        transport.receive_into(head[: p.SIMPLE_REPLY.size])
        magic, error, cookie = p.SIMPLE_REPLY.unpack_from(head)
        if magic == p.SIMPLE_REPLY_MAGIC:
            return self._simple(flight, cookie, error)
        if magic != p.STRUCTURED_REPLY_MAGIC or self.export.headers != Headers.STRUCTURED:
            raise Violation(f"a reply that begins with {magic:#x}")
        transport.receive_into(head[p.SIMPLE_REPLY.size : p.STRUCTURED_REPLY.size])
        _, flags, kind, cookie, length = p.STRUCTURED_REPLY.unpack_from(head)
        return self._chunk(flight, flags, kind, cookie, length, None)

    def _simple(self, flight: dict[int, Request], cookie: int, error: int) -> Request:
        request = flight.pop(cookie, None)
        if request is None:
            raise Violation("a reply to no request")
        request.error = error
        if self.export.headers and request.command in (p.CMD_READ, p.CMD_BLOCK_STATUS) and not error:
            raise Violation("a reply without structure where one was agreed on")
        if request.target is not None and not error:
            self._transport.receive_into(request.target)
        return request

    def _chunk(
        self, flight: dict[int, Request], flags: int, kind: int, cookie: int, length: int, offset: int | None
    ) -> Request | None:
        request = flight.get(cookie)
        if request is None or offset not in (None, request.offset):
            raise Violation("a reply to no request")
        if kind == p.REPLY_TYPE_OFFSET_DATA:
            self._data(request, length)
        elif kind == p.REPLY_TYPE_OFFSET_HOLE:
            self._hole(request, length)
        elif kind == (p.REPLY_TYPE_BLOCK_STATUS_EXT if self._extended else p.REPLY_TYPE_BLOCK_STATUS):
            self._status(request, length)
        elif kind & p.REPLY_TYPE_FLAG_ERROR:
            self._error(request, kind, length)
        elif kind != p.REPLY_TYPE_NONE or length or not flags & p.REPLY_FLAG_DONE:
            raise Violation(f"a chunk of type {kind} with {length} bytes")
        if not flags & p.REPLY_FLAG_DONE:
            return None
        request.check_complete(self.export.contexts.values())
        return flight.pop(cookie)

    def _data(self, request: Request, length: int) -> None:
        if length <= p.OFFSET_DATA.size:
            raise Violation("a chunk of data without data")
        self._transport.receive_into(self._head[:8])
        (at,) = p.OFFSET_DATA.unpack_from(self._head)
        self._transport.receive_into(request.claim(at, length - p.OFFSET_DATA.size))

    def _hole(self, request: Request, length: int) -> None:
        if length != p.OFFSET_HOLE.size:
            raise Violation(f"a hole of {length} bytes of description")
        self._transport.receive_into(self._head[:length])
        place = request.claim(*p.OFFSET_HOLE.unpack_from(self._head))
        for at in range(0, place.nbytes, PIECE):
            part = place[at : at + PIECE]
            part[:] = _ZEROS[: part.nbytes]

    def _status(self, request: Request, length: int) -> None:
        """The stretches of one context, received in bounded parts, each checked before the next."""
        head, one = (p.BLOCK_STATUS_EXT, p.DESCRIPTOR_EXT) if self._extended else (p.BLOCK_STATUS, p.DESCRIPTOR)
        count, odd = divmod(length - head.size, one.size)
        if odd or not 0 < count <= p.MAX_DESCRIPTORS:
            raise Violation(f"a block status of {length} bytes")
        self._transport.receive_into(self._head[: head.size])
        number, *counted = head.unpack_from(self._head)
        if counted not in ([], [count]) or number not in self.export.contexts.values():
            raise Violation("a block status with a wrong count, or of no context that was agreed on")
        request.begin_status(number)
        while count:
            part = min(count, 4096)
            request.add_status(number, one.iter_unpack(self._transport.receive(part * one.size)))
            count -= part

    def _error(self, request: Request, kind: int, length: int) -> None:
        tail = 8 if kind == p.REPLY_TYPE_ERROR_OFFSET else 0
        if not p.ERROR.size + tail <= length <= _ERROR_BYTES:
            raise Violation(f"an error of {length} bytes")
        payload = self._transport.receive(length)
        error, said = p.ERROR.unpack_from(payload)
        if p.ERROR.size + said + tail > length:
            raise Violation("an error whose message is longer than it")
        if not request.error:
            request.error, request.message = error or p.EINVAL, clean(payload[p.ERROR.size : p.ERROR.size + said])

    def _end(self, why: str) -> None:
        """Called with the lock held."""
        self._ended = self._ended or why
        self._transport.close()


def _bytes(data: bytes | Buffer) -> memoryview:
    """A view of single bytes; nothing, of whatever shape, cannot be cast."""
    view = memoryview(data)
    return view.cast("B") if view.nbytes else memoryview(b"")
