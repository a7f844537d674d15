"""Ethernet frames to and from one network device."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct

from secondsite.engine import errors

BROADCAST = b"\xff" * 6
ETHERNET = struct.Struct("!6s6sH")
ARP, IPV4, ALL = 0x0806, 0x0800, 0x0003
# The largest frame of an ordinary network; what asks for an address is far smaller.
MOST_BYTES = 2048
_SO_ATTACH_FILTER, _SOL_PACKET, _PACKET_IGNORE_OUTGOING = 26, 263, 23
# Of the kernel's filter: load half a word and a byte, jump where equal, where a bit is set, and the rest of the rule.
_LOAD_HALF, _LOAD_BYTE, _LOAD_X_HALF, _LOAD_IP_LENGTH = 0x28, 0x30, 0x48, 0xB1
_IF_EQUAL, _IF_SET, _RETURN = 0x15, 0x45, 0x06
# IPv4, UDP, not a later fragment, to port 67: what a client sends to a server of DHCP.
TO_DHCP_SERVER = (
    (_LOAD_HALF, 0, 0, 12), (_IF_EQUAL, 0, 8, IPV4), (_LOAD_BYTE, 0, 0, 23), (_IF_EQUAL, 0, 6, 17),
    (_LOAD_HALF, 0, 0, 20), (_IF_SET, 4, 0, 0x1FFF), (_LOAD_IP_LENGTH, 0, 0, 14), (_LOAD_X_HALF, 0, 0, 16),
    (_IF_EQUAL, 0, 1, 67), (_RETURN, 0, 0, MOST_BYTES), (_RETURN, 0, 0, 0),
)  # fmt: skip


def opened(device: str, protocol: int, only: tuple[tuple[int, int, int, int], ...] = ()) -> socket.socket:
    """A socket on a device of this thread's namespace, which does not block. `only` is a filter in the kernel: what it
    leaves out costs this process nothing. Raises Refused, and Unreachable where the device is gone.
    """
    try:
        # Bound to no protocol until the filter is there: nothing gets past it.
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    except PermissionError:
        raise errors.Refused(f"{device}: frames of a network take root") from None
    try:
        if only:
            code = b"".join(struct.pack("=HBBI", *line) for line in only)
            buffer = ctypes.create_string_buffer(code)
            program = struct.pack("HP", len(only), ctypes.addressof(buffer))
            made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        made.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        made.bind((device, protocol))
    except OSError as error:
        made.close()
        if error.errno in (errno.ENODEV, errno.ENXIO, errno.ENETDOWN):
            raise errors.Unreachable(f"{device}: the network device is gone") from None
        raise errors.from_os(error, device, "listen at it") from None
    return made


def checksum(data: bytes) -> int:
    """The Internet's (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
