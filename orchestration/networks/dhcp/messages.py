"""DHCP messages in Ethernet frames (RFC 2131, RFC 2132): reading what a guest sent, writing what it is answered.

A guest is a stranger: each length is checked before it is used, and what is not as it should be is no message (D11).
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field

from secondsite.orchestration.networks import frames

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
MASK, ROUTER, MTU, WANTED, LEASE, TYPE, SERVER, CLIENT = 1, 3, 26, 50, 51, 53, 54, 61
_PAD, _END = 0, 255
_BOOTP = struct.Struct("!BBBBIHH4s4s4s4s16s192x")
_COOKIE = b"\x63\x82\x53\x63"
_UDP = struct.Struct("!HHHH")
_IP = struct.Struct("!BBHHHBBH4s4s")
_SERVER_PORT, _CLIENT_PORT = 67, 68
# Old clients take no less.
_LEAST_BYTES = 300
_MOST_IN_OPTION = 255
_ETHERNET_KIND, _ETHERNET_LENGTH = 1, 6
Address = ipaddress.IPv4Address


@dataclass(frozen=True, slots=True)
class Message:
    """What a client sent. `asks` is the kind of message, `client` the address of its card, `transaction` its number;
    `current` the address that it has, `wanted` the one that it asks for, `server` whom it chose.
    """

    asks: int
    client: bytes
    transaction: int
    broadcast: bool
    relayed: bool
    current: Address | None
    wanted: Address | None
    server: Address | None
    identity: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What it is answered: `gives` is the address, None for none; `options` by number."""

    kind: int
    gives: Address | None
    options: dict[int, bytes] = field(default_factory=dict)


def read(frame: bytes) -> Message | None:
    """The message in a frame, or None where there is none."""
    body = _udp(frame)
    if body is None or len(body) < _BOOTP.size + 4 or body[_BOOTP.size : _BOOTP.size + 4] != _COOKIE:
        return None
    op, kind, length, _, transaction, _, flags, current, _, _, relay, hardware = _BOOTP.unpack_from(body)
    if (op, kind, length) != (1, _ETHERNET_KIND, _ETHERNET_LENGTH):
        return None
    options = _options(body[_BOOTP.size + 4 :])
    if options is None or len(options.get(TYPE, b"")) != 1:
        return None
    return Message(
        options[TYPE][0], hardware[:_ETHERNET_LENGTH], transaction, bool(flags & 0x8000), relay != bytes(4),
        _address(current), _address(options.get(WANTED)), _address(options.get(SERVER)),
        options.get(CLIENT, b"")[:_MOST_IN_OPTION],
    )  # fmt: skip


def write(message: Message, reply: Reply, server: Address, sender: bytes) -> bytes:
    """The frame that answers a message, from the card `sender`. It goes to the client's card, and to all where the
    client says that it does not hear otherwise; a refusal always does.
    """
    all_of_them = message.broadcast or reply.kind == NAK
    fields = {TYPE: bytes([reply.kind]), SERVER: server.packed, **reply.options}
    if message.identity:
        fields[CLIENT] = message.identity  # RFC 6842
    options = b"".join(bytes([code, len(value)]) + value for code, value in fields.items())
    current = message.current.packed if message.current and reply.kind == ACK else bytes(4)
    given = reply.gives.packed if reply.gives else bytes(4)
    body = _BOOTP.pack(
        2, _ETHERNET_KIND, _ETHERNET_LENGTH, 0, message.transaction, 0, message.broadcast << 15, current, given,
        bytes(4), bytes(4), message.client,
    ) + _COOKIE + options + bytes([_END])  # fmt: skip
    target = frames.BROADCAST if all_of_them else message.client
    # To an address that is not yet the client's no router and no table of neighbours leads; the card's is enough.
    to = b"\xff\xff\xff\xff" if all_of_them or reply.gives is None else reply.gives.packed
    ethernet = frames.ETHERNET.pack(target, sender, frames.IPV4)
    return ethernet + _packet(body.ljust(_LEAST_BYTES, b"\0"), server.packed, to)


def _packet(body: bytes, source: bytes, to: bytes) -> bytes:
    length = _UDP.size + len(body)
    pseudo = source + to + struct.pack("!BBH", 0, 17, length)
    bare = _UDP.pack(_SERVER_PORT, _CLIENT_PORT, length, 0)
    udp = _UDP.pack(_SERVER_PORT, _CLIENT_PORT, length, frames.checksum(pseudo + bare + body) or 0xFFFF)
    header = _IP.pack(0x45, 0, _IP.size + length, 0, 0, 64, 17, 0, source, to)
    header = _IP.pack(0x45, 0, _IP.size + length, 0, 0, 64, 17, frames.checksum(header), source, to)
    return header + udp + body


def _udp(frame: bytes) -> bytes | None:
    """What a frame brings to the server's port, or None."""
    packet = frame[frames.ETHERNET.size :]
    if len(frame) < frames.ETHERNET.size + _IP.size or frames.ETHERNET.unpack_from(frame)[2] != frames.IPV4:
        return None
    header = (packet[0] & 0x0F) * 4
    total, fragment = struct.unpack_from("!H2xH", packet, 2)
    if packet[0] >> 4 != 4 or packet[9] != 17 or fragment & 0x3FFF or not _IP.size <= header <= total - _UDP.size:
        return None
    if total > len(packet):
        return None
    _, port, length, _ = _UDP.unpack_from(packet, header)
    if port != _SERVER_PORT or not _UDP.size <= length <= total - header:
        return None
    return packet[header + _UDP.size : header + length]


def _options(data: bytes) -> dict[int, bytes] | None:
    """By number; one that comes twice is put together (RFC 3396). None where one is longer than what is there."""
    found: dict[int, bytes] = {}
    place = 0
    while place < len(data) and data[place] != _END:
        if data[place] == _PAD:
            place += 1
            continue
        if place + 2 > len(data) or place + 2 + data[place + 1] > len(data):
            return None
        code, length = data[place], data[place + 1]
        found[code] = found.get(code, b"") + data[place + 2 : place + 2 + length]
        place += 2 + length
    return found


def _address(value: bytes | None) -> Address | None:
    return Address(value) if value is not None and len(value) == 4 and value != bytes(4) else None
