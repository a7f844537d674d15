"""The network devices of this thread's namespace, read over netlink (RTM_GETLINK) without a package: it is asked for
one device or all at each change, and decoding of what is needed here takes a twentieth of the time.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from secondsite.engine import errors
from secondsite.orchestration.networks import names

_HEADER, _INFO, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BxHiII"), struct.Struct("=HH")
_RTM_GETLINK, _RTM_GETADDR, _NLMSG_ERROR, _NLMSG_DONE = 18, 22, 2, 3
_REQUEST, _DUMP = 0x1, 0x300
_ADDRESS, _NAME, _MTU, _MASTER, _LINKINFO, _ALIAS, _GROUP, _EXT_MASK = 1, 3, 4, 10, 18, 20, 27, 29
_INFO_KIND, _LOCAL = 1, 2
_IFADDR = struct.Struct("=BBBBI")
_SKIP_STATISTICS = 8
_UP = 0x1
# The kernel fills 32 KiB at most at a time.
_ROOM = 1 << 16
_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Link:
    """A device. `master` is the index of the bridge that it is a port of, 0 for none; `mac` its own."""

    index: int
    name: str
    kind: str
    mark: names.Mark | None
    master: int
    mtu: int
    mac: str
    up: bool
    group: int


def by_name(name: str) -> Link | None:
    """The device of a name."""
    try:
        return by_index(socket.if_nametoindex(name))
    except OSError:
        return None


def by_index(index: int) -> Link | None:
    """The device of an index."""
    return next(_ask(_REQUEST, index), None)


def everything(bridge: int = 0) -> list[Link]:
    """All devices, or those that a bridge joins."""
    master = _attribute(_MASTER, struct.pack("=I", bridge)) if bridge else b""
    return [link for link in _ask(_REQUEST | _DUMP, 0, master) if not bridge or link.master == bridge]


def addresses() -> set[bytes]:
    """This host's own of IPv4."""
    return {address.packed for _, address in _addresses()}


def addresses_of(index: int) -> set[ipaddress.IPv4Interface]:
    """Those at one device."""
    return {address for device, address in _addresses() if device == index}


def _addresses() -> Iterator[tuple[int, ipaddress.IPv4Interface]]:
    for payload in _replies(_RTM_GETADDR, _REQUEST | _DUMP, _IFADDR.pack(socket.AF_INET, 0, 0, 0, 0)):
        _, length, _, _, index = _IFADDR.unpack_from(payload)
        local = _attributes(payload[_IFADDR.size :]).get(_LOCAL)
        if local is not None:
            yield index, ipaddress.IPv4Interface((local, length))


def _ask(flags: int, index: int, more: bytes = b"") -> Iterator[Link]:
    body = _INFO.pack(socket.AF_UNSPEC, 0, index, 0, 0) + _attribute(_EXT_MASK, struct.pack("=I", _SKIP_STATISTICS))
    return map(_link, _replies(_RTM_GETLINK, flags, body + more))


def _replies(kind: int, flags: int, body: bytes) -> Iterator[bytes]:
    """What the kernel answers, without the headers. Raises Refused."""
    request = _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_SECONDS)
        kernel.send(request)
        while True:
            for came, payload in _messages(kernel.recv(_ROOM)):
                if came == _NLMSG_DONE:
                    return
                if came == _NLMSG_ERROR:
                    _complain(-struct.unpack_from("=i", payload)[0])
                    return
                yield payload
            if not flags & _DUMP:
                return


def _complain(code: int) -> None:
    if code not in (0, errno.ENODEV):
        raise errors.Refused(f"cannot read the network devices: {os.strerror(code)}")


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, place)
        if length < _HEADER.size:
            return
        yield kind, data[place + _HEADER.size : place + length]
        place += -(-length // 4) * 4


def _attributes(data: bytes) -> dict[int, bytes]:
    found, place = {}, 0
    while place + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, place)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = data[place + _ATTRIBUTE.size : place + length]
        place += -(-length // 4) * 4
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value


def _link(payload: bytes) -> Link:
    _, _, index, flags, _ = _INFO.unpack_from(payload)
    found = _attributes(payload[_INFO.size :])
    kind = _attributes(found.get(_LINKINFO, b"")).get(_INFO_KIND, b"")
    return Link(
        index, _text(found.get(_NAME)), _text(kind), names.read(_text(found.get(_ALIAS))), _number(found.get(_MASTER)),
        _number(found.get(_MTU)), found.get(_ADDRESS, b"").hex(":"), bool(flags & _UP),
        _number(found.get(_GROUP)),
    )  # fmt: skip


def _text(value: bytes | None) -> str:
    return (value or b"").rstrip(b"\0").decode(errors="replace")


def _number(value: bytes | None) -> int:
    return int.from_bytes(value, sys.byteorder) if value else 0
