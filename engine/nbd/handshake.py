"""The server's half of the fixed newstyle handshake: what a client may ask, and what it gets to hear.

A client is believed as far as it fits: each option's data is bounded before it is received, names and queries are
checked, and the whole of it has a time limit and a number of options.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from struct import Struct
from typing import ClassVar

from secondsite.engine.nbd import protocol as p
from secondsite.engine.nbd.export import Export, Status

# All of a handshake, in seconds; and its options. libnbd and QEMU need ten at most.
TIME_LIMIT = 15.0
MAX_OPTIONS = 256
# The data of an option; two names and some queries fit.
MAX_DATA = 16 * p.MAX_STRING
# What one connection may ask about in BLOCK_STATUS; the data path has as many places.
MAX_CONTEXTS = 4
_REFUSED_DATA = 1 << 20  # more than this is not even received to be refused

Find = Callable[[str], Export | None]


class Gone(Exception):
    """The client left, broke the protocol or took too long; the text is for a log."""


@dataclass(frozen=True)
class Agreed:
    """How the transmission goes on. `contexts`: the number and function of each."""

    export: Export
    sock: socket.socket
    structured: bool
    extended: bool
    contexts: list[tuple[int, Status]]


class Handshake:
    """One client's. `find` and `names` are the server's exports; `tls` is None where there is no encryption, and where
    it is there a client that does not ask for it gets nothing.
    """

    def __init__(
        self,
        sock: socket.socket,
        find: Find,
        names: Callable[[], Iterable[Export]],
        tls: ssl.SSLContext | None = None,
        time_limit: float = TIME_LIMIT,
    ) -> None:
        self._sock, self._find, self._names, self._tls = sock, find, names, tls
        self._deadline = time.monotonic() + time_limit
        # Called with the socket that has the descriptor once TLS begins.
        self.encrypted: Callable[[socket.socket], None] = lambda sock: None
        self._encrypted = self._structured = self._extended = self._zeroes = False
        # SET_META_CONTEXT counts for the export that it named.
        self._selected: tuple[str, list[str]] | None = None

    def run(self) -> Agreed | None:
        """Until the client has chosen an export, or None where it left politely. Raises Gone."""
        try:
            self._greet()
            for _ in range(MAX_OPTIONS):
                option, data = self._next_option()
                done = self._answer(option, data)
                if option == p.OPT_ABORT:
                    return None
                if done is not None:
                    return self._agreed(done)
        except (OSError, ValueError) as error:
            raise Gone(str(error) or type(error).__name__) from None
        raise Gone(f"more than {MAX_OPTIONS} options")

    def _agreed(self, export: Export) -> Agreed:
        wanted = self._selected[1] if self._selected and self._selected[0] == export.name else []
        contexts = [(number, export.contexts[name]) for number, name in enumerate(wanted)]
        self._sock.settimeout(None)
        return Agreed(export, self._sock, self._structured, self._extended, contexts)

    # -- the stream --------------------------------------------------------------------------------------------

    def _receive(self, length: int) -> bytes:
        data = bytearray(length)
        view = memoryview(data)
        while view.nbytes:
            self._limit()
            got = self._sock.recv_into(view)
            if not got:
                raise Gone("it closed the connection")
            view = view[got:]
        return bytes(data)

    def _send(self, data: bytes) -> None:
        self._limit()
        self._sock.sendall(data)

    def _limit(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise Gone("the handshake took too long")
        self._sock.settimeout(left)

    def _reply(self, option: int, kind: int, data: bytes = b"") -> None:
        self._send(p.OPTION_REPLY.pack(p.OPTION_REPLY_MAGIC, option, kind, len(data)) + data)

    def _greet(self) -> None:
        self._send(p.GREETING.pack(p.NBDMAGIC, p.IHAVEOPT, p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES))
        (flags,) = p.CLIENT_FLAGS.unpack(self._receive(p.CLIENT_FLAGS.size))
        if flags & ~(p.FLAG_C_FIXED_NEWSTYLE | p.FLAG_C_NO_ZEROES) or not flags & p.FLAG_C_FIXED_NEWSTYLE:
            raise Gone(f"it has client flags {flags:#x}")
        self._zeroes = not flags & p.FLAG_C_NO_ZEROES

    def _next_option(self) -> tuple[int, bytes | None]:
        """The option's number and data; None for data that were too long, and were thrown away."""
        magic, option, length = p.OPTION.unpack(self._receive(p.OPTION.size))
        if magic != p.IHAVEOPT or length > _REFUSED_DATA:
            raise Gone(f"an option that begins with {magic:#x} and has {length} bytes")
        if length <= MAX_DATA:
            return option, self._receive(length)
        for at in range(0, length, MAX_DATA):
            self._receive(min(MAX_DATA, length - at))
        return option, None

    # -- options -----------------------------------------------------------------------------------------------

    def _answer(self, option: int, data: bytes | None) -> Export | None:
        """Answer one option; the export where that was chosen."""
        if option == p.OPT_EXPORT_NAME:
            return self._export_name(data)
        if data is None:
            self._reply(option, p.REP_ERR_TOO_BIG, b"that is too much data for an option")
        elif self._tls and not self._encrypted and option not in (p.OPT_STARTTLS, p.OPT_ABORT):
            self._reply(option, p.REP_ERR_TLS_REQD, b"this server speaks TLS only")
        elif option in (p.OPT_INFO, p.OPT_GO):
            return self._go(option, data)
        elif option in (p.OPT_LIST_META_CONTEXT, p.OPT_SET_META_CONTEXT):
            self._meta_context(option, data)
        elif option in self._PLAIN:
            if data:
                self._reply(option, p.REP_ERR_INVALID, b"this option has no data")
            else:
                self._PLAIN[option](self, option)
        else:
            self._reply(option, p.REP_ERR_UNSUP)
        return None

    def _abort(self, option: int) -> None:
        try:
            self._reply(option, p.REP_ACK)
        except OSError:
            pass  # it need not wait for that

    def _list(self, option: int) -> None:
        for export in self._names():
            name = export.name.encode()
            self._reply(option, p.REP_SERVER, p.SERVER_NAME.pack(len(name)) + name + export.description.encode())
        self._reply(option, p.REP_ACK)

    def _start_tls(self, option: int) -> None:
        if self._tls is None:
            self._reply(option, p.REP_ERR_POLICY, b"this server has no certificate")
        elif self._encrypted:
            self._reply(option, p.REP_ERR_INVALID, b"it is encrypted already")
        else:
            self._reply(option, p.REP_ACK)
            self._limit()
            self._sock = self._tls.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
            self.encrypted(self._sock)
            self._sock.do_handshake()
            self._encrypted = True
            # What was agreed on before might have been said by anybody in between.
            self._structured = self._extended = False
            self._selected = None

    def _structured_reply(self, option: int) -> None:
        if self._extended:
            self._reply(option, p.REP_ERR_EXT_HEADER_REQD, b"extended headers were agreed on already")
            return
        self._structured = True
        self._reply(option, p.REP_ACK)

    def _extended_headers(self, option: int) -> None:
        self._structured = self._extended = True
        self._reply(option, p.REP_ACK)

    _PLAIN: ClassVar[dict[int, Callable[[Handshake, int], None]]] = {
        p.OPT_ABORT: _abort,
        p.OPT_LIST: _list,
        p.OPT_STARTTLS: _start_tls,
        p.OPT_STRUCTURED_REPLY: _structured_reply,
        p.OPT_EXTENDED_HEADERS: _extended_headers,
    }

    def _export_name(self, data: bytes | None) -> Export:
        """The old way to choose has no way to refuse but to hang up."""
        if data is None or (self._tls and not self._encrypted):
            raise Gone("an export was asked for by name, without TLS" if data is not None else "a name too long")
        export = self._find(data.decode("utf-8", "strict"))
        if export is None:
            raise Gone("no such export")
        zeroes = bytes(p.EXPORT_ZEROES if self._zeroes else 0)
        self._send(p.EXPORT.pack(export.size, self._flags(export)) + zeroes)
        return export

    def _flags(self, export: Export) -> int:
        return export.flags | (p.FLAG_SEND_DF if self._structured else 0)

    def _go(self, option: int, data: bytes) -> Export | None:
        asked = _Data(data)
        try:
            name = asked.string()
            infos = [asked.take(p.U16) for _ in range(asked.take(p.U16))]
            asked.end()
        except ValueError:
            self._reply(option, p.REP_ERR_INVALID, b"the name or the list does not fit the option's length")
            return None
        export = self._find(name)
        if export is None:
            self._reply(option, p.REP_ERR_UNKNOWN, b"there is no such export")
            return None
        self._reply(option, p.REP_INFO, p.REP_INFO_EXPORT.pack(p.INFO_EXPORT, export.size, self._flags(export)))
        if p.INFO_NAME in infos:
            self._reply(option, p.REP_INFO, p.U16.pack(p.INFO_NAME) + export.name.encode())
        if p.INFO_DESCRIPTION in infos and export.description:
            self._reply(option, p.REP_INFO, p.U16.pack(p.INFO_DESCRIPTION) + export.description.encode())
        block = p.REP_INFO_BLOCK_SIZE.pack(p.INFO_BLOCK_SIZE, 1, export.preferred, p.MAX_PAYLOAD)
        self._reply(option, p.REP_INFO, block)
        self._reply(option, p.REP_ACK)
        return export if option == p.OPT_GO else None

    def _meta_context(self, option: int, data: bytes) -> None:
        asked = _Data(data)
        try:
            name = asked.string()
            queries = [asked.string() for _ in range(asked.take(p.U32))]
            asked.end()
        except ValueError:
            self._reply(option, p.REP_ERR_INVALID, b"the queries do not fit the option's length")
            return
        setting = option == p.OPT_SET_META_CONTEXT
        if setting:
            self._selected = None
        export = self._find(name)
        if export is None:
            self._reply(option, p.REP_ERR_UNKNOWN, b"there is no such export")
            return
        if setting and not self._structured:
            self._reply(option, p.REP_ERR_INVALID, b"structured replies come first")
            return
        found = matching(export, queries, setting)
        for number, context in enumerate(found):
            number = number if setting else 0
            self._reply(option, p.REP_META_CONTEXT, p.META_CONTEXT.pack(number) + context.encode())
        self._reply(option, p.REP_ACK)
        if setting:
            self._selected = (export.name, found)


def matching(export: Export, queries: list[str], setting: bool) -> list[str]:
    """The contexts that queries name. To list, none means all, and one that ends with `:` all that begin so."""
    if not setting and not queries:
        return list(export.contexts)
    found = []
    for name in export.contexts:
        listed = not setting and any(query.endswith(":") and name.startswith(query) for query in queries)
        if name in queries or listed:
            found.append(name)
    return found[:MAX_CONTEXTS] if setting else found


class _Data:
    """An option's data, taken from the front. Raises ValueError where it ends too early, or late."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, layout: Struct) -> int:
        if self._at + layout.size > len(self._data):
            raise ValueError("it ends too early")
        (value,) = layout.unpack_from(self._data, self._at)
        self._at += layout.size
        return int(value)

    def string(self) -> str:
        length = self.take(p.U32)
        if length > p.MAX_STRING or self._at + length > len(self._data):
            raise ValueError("a string is longer than its data")
        raw = self._data[self._at : self._at + length]
        self._at += length
        return raw.decode("utf-8", "strict")

    def end(self) -> None:
        if self._at != len(self._data):
            raise ValueError("there is more behind it")
