"""The client's half of the fixed newstyle handshake: what is asked for, and what server and client agreed on."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from secondsite.engine import errors
from secondsite.engine.nbd import protocol as p
from secondsite.engine.nbd.transport import Transport, tls_context
from secondsite.engine.nbd.url import NbdUrl

# Replies to one option before its last: informations and contexts are a handful, and no server needs more.
_MAX_REPLIES = 64
_MAX_REPLY = 2 * p.MAX_STRING
_MAX_SIZE = 1 << 63
_MAX_MINIMUM = 1 << 16

_REFUSALS = {
    p.REP_ERR_POLICY: "the server does not allow it",
    p.REP_ERR_UNKNOWN: "the server has no such export",
    p.REP_ERR_TLS_REQD: "the server requires TLS: use nbds:// or nbds+unix://",
    p.REP_ERR_INVALID: "the server takes the request for invalid",
    p.REP_ERR_UNSUP: "the server does not support it",
    p.REP_ERR_PLATFORM: "the server cannot do it on its machine",
    p.REP_ERR_TOO_BIG: "the request is too large for the server",
}


class Headers(IntEnum):
    """Which replies come: with 16, 20 or 32 bytes of header."""

    SIMPLE = 0
    STRUCTURED = 1
    EXTENDED = 2


@dataclass(frozen=True)
class Export:
    """What was agreed on. Sizes in bytes: of the disk, the smallest block that may be addressed (a power of two), the
    one that is best asked for, and the largest payload. `contexts`: the server's number of each metadata context.
    """

    size: int
    flags: int
    headers: Headers = Headers.SIMPLE
    minimum: int = 1
    preferred: int = 4096
    maximum: int = p.MAX_PAYLOAD
    contexts: dict[str, int] = field(default_factory=dict)


def clean(text: bytes | bytearray) -> str:
    """A server's message for a terminal, short, and without what would steer it."""
    shown = "".join(c if c.isprintable() else "?" for c in text[:200].decode("utf-8", "replace"))
    return shown.strip()


def negotiate(transport: Transport, url: NbdUrl) -> Export:
    """From the server's greeting to the transmission phase; all of it has the time of one answer.

    Raises Unreachable where the server breaks the protocol or is silent, and Refused where it says no: to the export,
    to TLS, to being asked without TLS, or to the bitmap of the URL.
    """
    handshake = _Handshake(transport, url)
    handshake.greet()
    if url.tls:
        handshake.start_tls()
    headers = handshake.headers()
    contexts = handshake.contexts() if headers else {}
    if url.bitmap and url.bitmap not in contexts:
        raise errors.Refused(f"the server has no bitmap {url.bitmap!r} of this export", path=str(url))
    return handshake.go(headers, contexts)


class _Handshake:
    def __init__(self, transport: Transport, url: NbdUrl) -> None:
        self._transport, self._url = transport, url
        self._zeroes = True

    def greet(self) -> None:
        magic, kind = p.U64.unpack(self._transport.receive(8))[0], 0
        if magic == p.NBDMAGIC:
            kind = p.U64.unpack(self._transport.receive(8))[0]
        if kind == p.CLISERV_MAGIC:
            raise self._broken("it speaks the old protocol, which has no options")
        if kind != p.IHAVEOPT:
            raise self._transport.error("what answers there is no NBD server")
        (flags,) = p.U16.unpack(self._transport.receive(2))
        if not flags & p.FLAG_FIXED_NEWSTYLE:
            raise self._broken("it does not speak the fixed newstyle")
        self._zeroes = not flags & p.FLAG_NO_ZEROES
        answer = p.FLAG_C_FIXED_NEWSTYLE | (0 if self._zeroes else p.FLAG_C_NO_ZEROES)
        self._transport.send(p.CLIENT_FLAGS.pack(answer))

    def start_tls(self) -> None:
        context = tls_context(self._url.certificates)
        kind, message, _ = self._ask(p.OPT_STARTTLS)
        if kind != p.REP_ACK:
            raise self._refused(kind, message, "does not offer TLS")
        self._transport.start_tls(context, self._url.server_name)

    def headers(self) -> Headers:
        """The best that the server has."""
        for option, headers in (
            (p.OPT_EXTENDED_HEADERS, Headers.EXTENDED),
            (p.OPT_STRUCTURED_REPLY, Headers.STRUCTURED),
        ):
            kind, message, _ = self._ask(option)
            if kind == p.REP_ACK:
                return headers
            if kind in (p.REP_ERR_TLS_REQD, p.REP_ERR_SHUTDOWN):
                raise self._refused(kind, message)
        return Headers.SIMPLE

    def contexts(self) -> dict[str, int]:
        """Ask for allocation and the URL's bitmap; the numbers of those that the server gives."""
        wanted = [p.CONTEXT_ALLOCATION, *([self._url.bitmap] if self._url.bitmap else [])]
        queries = b"".join(_string(name) for name in wanted)
        data = _string(self._url.export) + p.U32.pack(len(wanted)) + queries
        kind, _, replies = self._ask(p.OPT_SET_META_CONTEXT, data, p.REP_META_CONTEXT)
        if kind != p.REP_ACK:
            return {}
        found: dict[str, int] = {}
        for reply in replies:
            if len(reply) < p.META_CONTEXT.size:
                raise self._broken("a metadata context without a number")
            (number,) = p.META_CONTEXT.unpack_from(reply)
            name = reply[p.META_CONTEXT.size :].decode("utf-8", "replace")
            if name not in wanted or name in found or number in found.values():
                raise self._broken("a metadata context that was not asked for, or twice")
            found[name] = number
        return found

    def go(self, headers: Headers, contexts: dict[str, int]) -> Export:
        """Choose the export."""
        data = _string(self._url.export) + p.U16.pack(1) + p.U16.pack(p.INFO_BLOCK_SIZE)
        kind, message, replies = self._ask(p.OPT_GO, data, p.REP_INFO)
        if kind == p.REP_ERR_UNSUP and headers != Headers.EXTENDED:
            size, flags = self._export_name()
            sizes = (1, 4096, p.MAX_PAYLOAD)
        elif kind != p.REP_ACK:
            raise self._refused(kind, message)
        else:
            size, flags, sizes = self._informations(replies)
        if size >= _MAX_SIZE:
            raise self._broken(f"a disk of {size} bytes")
        return Export(size, flags, headers, *self._checked(sizes), contexts)

    def _informations(self, replies: list[bytearray]) -> tuple[int, int, tuple[int, int, int]]:
        export, sizes = None, (1, 4096, p.MAX_PAYLOAD)
        for reply in replies:
            kind = p.U16.unpack_from(reply)[0] if len(reply) >= 2 else -1
            if kind == p.INFO_EXPORT and len(reply) == p.REP_INFO_EXPORT.size:
                export = p.REP_INFO_EXPORT.unpack(reply)[1:]
            elif kind == p.INFO_BLOCK_SIZE and len(reply) == p.REP_INFO_BLOCK_SIZE.size:
                _, *three = p.REP_INFO_BLOCK_SIZE.unpack(reply)
                sizes = (three[0], three[1], three[2])
            elif kind in (-1, p.INFO_EXPORT, p.INFO_BLOCK_SIZE):
                raise self._broken(f"{len(reply)} bytes of information of type {kind}")
        if export is None:
            raise self._broken("an export without a size")
        return export[0], export[1], sizes

    def _checked(self, sizes: tuple[int, int, int]) -> tuple[int, int, int]:
        minimum, preferred, maximum = sizes
        fits = 0 < minimum <= min(_MAX_MINIMUM, preferred, maximum)
        if not fits or minimum & (minimum - 1):
            raise self._broken(f"block sizes of {minimum}, {preferred} and {maximum} bytes")
        return sizes

    def _export_name(self) -> tuple[int, int]:
        """The old way, which cannot say no but by closing."""
        name = self._url.export.encode()
        self._transport.send(p.OPTION.pack(p.IHAVEOPT, p.OPT_EXPORT_NAME, len(name)), name)
        size, flags = p.EXPORT.unpack(self._transport.receive(p.EXPORT.size))
        if self._zeroes:
            self._transport.receive(p.EXPORT_ZEROES)
        return size, flags

    def _ask(self, option: int, data: bytes = b"", expected: int = 0) -> tuple[int, str, list[bytearray]]:
        """Send an option. The type and message of its last reply, and the payloads of those before it."""
        self._transport.send(p.OPTION.pack(p.IHAVEOPT, option, len(data)), data)
        payloads: list[bytearray] = []
        while True:
            magic, echoed, kind, length = p.OPTION_REPLY.unpack(self._transport.receive(p.OPTION_REPLY.size))
            if magic != p.OPTION_REPLY_MAGIC or echoed != option:
                raise self._broken(f"a reply to option {option} that is none")
            if length > _MAX_REPLY:
                raise self._broken(f"a reply of {length} bytes to option {option}")
            payload = self._transport.receive(length)
            if kind & p.REP_FLAG_ERROR or kind == p.REP_ACK:
                return kind, clean(payload), payloads
            if kind != expected or len(payloads) == _MAX_REPLIES:
                raise self._broken(f"a reply of type {kind} to option {option}, or too many")
            payloads.append(payload)

    def _refused(self, kind: int, message: str, what: str | None = None) -> errors.Error:
        said = f" ({message})" if message else ""
        if kind == p.REP_ERR_SHUTDOWN:
            return self._transport.error(f"the server is shutting down{said}")
        text = f"the server {what}" if what else _REFUSALS.get(kind, f"the server says no, with error {kind:#x}")
        return errors.Refused(text + said, path=str(self._url))

    def _broken(self, what: str) -> errors.Error:
        return self._transport.error(f"the server breaks the NBD protocol: {what}")


def _string(text: str) -> bytes:
    data = text.encode()
    return p.U32.pack(len(data)) + data
