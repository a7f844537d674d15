"""Messages between two hosts: a header of 40 bytes, a small control part in MessagePack, and a body of bytes.

Everything that comes in is hostile: the header has a checksum of its own, so that a length is known to be the
sender's before anything is allocated for it, and no length is larger than the limits below. Control parts are decoded
by msgspec against a type; what does not fit that type is an error, and nothing is ever decoded without one.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple, TypeVar

import msgspec

from secondsite.engine import errors, kernel

MAGIC = b"2SMS"
# How messages are framed, in every header. What is said in them has versions of its own.
FRAMING = 1
# The range of versions that this program speaks; the highest that both sides know is used. 2, 3, 4: remote/talk.py.
OLDEST, NEWEST = 1, 4

_FIELDS = struct.Struct("<4sBBHIIIQ")
_SUM = struct.Struct("<Q")
HEADER_BYTES = _FIELDS.size + _SUM.size

HELLO, REQUEST, DATA, CREDIT, PING, CLOSE, ERROR = 1, 2, 3, 4, 5, 6, 7
KINDS = {HELLO: "hello", REQUEST: "request", DATA: "data", CREDIT: "credit", PING: "ping", CLOSE: "close",
         ERROR: "error"}  # fmt: skip

# Flags: the message goes on in the next one of the same call; its body has checksums of its own, which who takes it
# checks, so that the message's is over the control part alone.
MORE, CHECKED = 1, 2

MAX_CONTROL = 256 * 1024
# One frame of a delta (format.MAX_BODY and its header) fits.
MAX_BODY = 5 * 1024 * 1024
MAX_TEXT = 4096
_SEED = 0x2517E

T = TypeVar("T")


class Garbled(errors.Damaged):
    """What came is no message of ours, or not in its turn; the connection cannot go on, another one may."""

    retryable = True


class Header(NamedTuple):
    """A message's header, its checksum already checked. `call` is the number that the calling side gave."""

    kind: int
    flags: int
    call: int
    control: int
    body: int
    checksum: int


class Message(NamedTuple):
    """A whole message, both parts checked."""

    kind: int
    flags: int
    call: int
    control: bytes
    body: bytes | bytearray | memoryview

    @property
    def size(self) -> int:
        """What it counts for in a window."""
        return HEADER_BYTES + len(self.control) + len(self.body)


class Hello(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first message of each side."""

    oldest: int
    newest: int
    software: str
    window: int


class Request(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a call begins with; `args` is decoded by who knows the operation."""

    operation: str
    args: msgspec.Raw


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An error of the other side; `kind` is the name of its class in engine/errors.py."""

    kind: str
    message: str
    path: str | None = None


def _sum(data: bytes | bytearray | memoryview) -> int:
    return int.from_bytes(kernel.scan.hash_block(data, _SEED)[:8], "little")


def _payload_sum(control: bytes, body: bytes | bytearray | memoryview, flags: int) -> int:
    """Over both parts, without putting them into one buffer."""
    if not len(body) or flags & CHECKED:
        return _sum(control) if control else 0
    return _sum(control + kernel.scan.hash_block(body, _SEED))


def pack_header(
    kind: int, call: int, control: bytes, body: bytes | bytearray | memoryview = b"", flags: int = 0
) -> bytes:
    """The bytes that go before the two parts. Raises ValueError for what no receiver would take."""
    if len(control) > MAX_CONTROL or len(body) > MAX_BODY:
        raise ValueError(f"a message of {len(control)} and {len(body)} bytes is too long")
    fields = _FIELDS.pack(
        MAGIC, FRAMING, kind, flags, call, len(control), len(body), _payload_sum(control, body, flags)
    )
    return fields + _SUM.pack(_sum(fields))


def parse_header(data: bytes | bytearray | memoryview, peer: str) -> Header:
    """Raises Garbled, naming `peer`, for anything that is not a header of ours within the limits."""
    if len(data) != HEADER_BYTES:
        raise Garbled(f"a message's header has {HEADER_BYTES} bytes, not {len(data)}", path=peer)
    magic, version, kind, flags, call, control, body, checksum = _FIELDS.unpack(data[: _FIELDS.size])
    if magic != MAGIC:
        raise Garbled("expected a message of secondsite; does something else listen there?", path=peer)
    if _SUM.unpack(data[_FIELDS.size :])[0] != _sum(data[: _FIELDS.size]):
        raise Garbled("the checksum of a message's header does not hold", path=peer)
    if version != FRAMING or kind not in KINDS or flags & ~(MORE | CHECKED):
        raise Garbled(f"a message of version {version}, kind {kind}, flags {flags} is not known", path=peer)
    if control > MAX_CONTROL or body > MAX_BODY:
        raise Garbled(f"a message of {control} and {body} bytes is too long", path=peer)
    return Header(kind, flags, call, control, body, checksum)


def check_payload(header: Header, control: bytes, body: bytes | bytearray | memoryview, peer: str) -> Message:
    """The message, its parts checked against the header. Raises Garbled."""
    if len(control) != header.control or len(body) != header.body:
        raise Garbled("a message is not as long as its header says", path=peer)
    if _payload_sum(control, body, header.flags) != header.checksum:
        raise Garbled(f"the checksum of a {KINDS[header.kind]} message does not hold", path=peer)
    return Message(header.kind, header.flags, header.call, control, body)


def encode(value: Any) -> bytes:
    """A msgspec Struct as a control part."""
    return msgspec.msgpack.encode(value)


def decode(data: bytes | memoryview | msgspec.Raw, kind: type[T], peer: str) -> T:
    """A control part as the type that is expected here. Raises Garbled."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Garbled(f"expected {getattr(kind, '__name__', 'another message')}: {error}", path=peer) from None


def agree(ours: Hello, theirs: Hello, peer: str) -> int:
    """The version to speak. Raises Refused, saying which side is the older one."""
    version = min(ours.newest, theirs.newest)
    if version < max(ours.oldest, theirs.oldest):
        older = "it" if theirs.newest < ours.oldest else "this program"
        raise errors.Refused(
            f"speaks versions {theirs.oldest} to {theirs.newest}, this program {ours.oldest} to {ours.newest}: "
            f"{older} must be updated",
            path=peer,
        )
    return version


# Classes that may cross; others arrive as their nearest base here. Local matters (Usage of this command) stay theirs.
_CROSSING = {
    kind.__name__: kind
    for kind in (
        errors.Usage, errors.IsLog, errors.Refused, errors.Busy, errors.SourceChanged, errors.NewerFormat,
        errors.Unreachable, errors.Full, errors.CutLost, errors.Cancelled, errors.Damaged, Garbled,
    )
}  # fmt: skip


def failure(error: BaseException, veiled: str = "") -> Failure:
    """An error as it goes over, its paths without `veiled`. What is no error of ours tells nothing but its kind: it may
    hold anything.
    """
    if not isinstance(error, errors.Error):
        return Failure("Error", f"failed inside ({type(error).__name__}); its log has the details")
    name = next((c.__name__ for c in type(error).__mro__ if c.__name__ in _CROSSING), "Error")
    path, text = error.path or "", error.message
    if veiled:
        path, text = path.replace(veiled, ""), text.replace(veiled, "")
    return Failure(name, text[:MAX_TEXT], path[:MAX_TEXT] or None)


def raised(failed: Failure, peer: str) -> errors.Error:
    """The other side's error as one of ours, named after the peer. Control characters do not reach a terminal."""
    kind = _CROSSING.get(failed.kind, errors.Error)
    text = failed.message if failed.path is None else f"{failed.path}: {failed.message}"
    return kind("".join(c if c.isprintable() else "?" for c in text[: 2 * MAX_TEXT]), path=peer)
