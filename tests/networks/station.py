"""A guest without a machine: a program that holds a tap as QEMU does, and speaks ARP, ICMP and DHCP with what Python's
library has, so that it shares no line with what is tested.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self

from secondsite.orchestration.networks import namespaces

ALL = b"\xff" * 6
Frame = bytes


class Station:
    """`mac` and `address` are the guest's. What it hears is kept in `heard`."""

    def __init__(self, tap: str, mac: str, namespace: str | None, address: str | None = None) -> None:
        self.mac, self.address = bytes.fromhex(mac.replace(":", "")), address
        self.heard: list[Frame] = []
        self._device = namespaces.within(namespace, lambda: _open(tap))

    def close(self) -> None:
        """As a machine that is switched off."""
        os.close(self._device)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def send(self, frame: Frame) -> None:
        """Into a device that is down, which one connected to nothing is, nothing goes."""
        try:
            os.write(self._device, frame)
        except OSError as error:
            if error.errno != errno.EIO:
                raise

    def hear(self, seconds: float) -> Iterator[Frame]:
        """What comes in meanwhile; what asks this station is answered."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self._device], [], [], left)[0]:
                frame = os.read(self._device, 4096)
                self.heard.append(frame)
                answer = self._answer(frame)
                if answer:
                    self.send(answer)
                yield frame

    def forget(self) -> None:
        """What has come in until now."""
        while select.select([self._device], [], [], 0)[0]:
            os.read(self._device, 4096)
        self.heard.clear()

    def from_guests(self) -> list[Frame]:
        """What it heard of IPv4: bridges themselves speak IPv6 alone."""
        return [frame for frame in self.heard if frame[12:14] in (b"\x08\0", b"\x08\x06")]

    def wait(self, wanted: Callable[[Frame], bool], seconds: float = 5.0) -> Frame | None:
        """The first frame that is wanted."""
        return next((frame for frame in self.hear(seconds) if wanted(frame)), None)

    def ask(self, address: str) -> Frame:
        """An ARP request."""
        assert self.address
        return arp(1, ALL, self.mac, self.address, bytes(6), address)

    def ping(self, target: bytes, address: str) -> Frame:
        """An echo request to a card."""
        assert self.address
        return echo(8, target, self.mac, self.address, address)

    def _answer(self, frame: Frame) -> Frame | None:
        if self.address is None or len(frame) < 42:
            return None
        kind = frame[12:14]
        if kind == b"\x08\x06" and frame[20:22] == b"\0\1" and frame[38:42] == socket.inet_aton(self.address):
            return arp(2, frame[6:12], self.mac, self.address, frame[22:28], socket.inet_ntoa(frame[28:32]))
        if kind == b"\x08\0" and frame[23] == 1 and frame[34] == 8 and frame[:6] == self.mac:
            asked = frame[38 : 14 + int.from_bytes(frame[16:18], "big")]
            return echo(0, frame[6:12], self.mac, self.address, socket.inet_ntoa(frame[26:30]), asked)
        return None


@contextlib.contextmanager
def answering(station: Station) -> Iterator[Station]:
    """It answers for its address, in a thread."""
    stop = threading.Event()

    def live() -> None:
        while not stop.is_set():
            list(station.hear(0.05))

    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield station
    finally:
        stop.set()
        thread.join()


def reaches(one: Station, other: Station, seconds: float = 1.0) -> bool:
    """Does `one` find the other's card by its address, and hear an echo from it? Both run in this thread."""
    assert other.address
    one.send(one.ask(other.address))
    list(other.hear(seconds / 4))
    found = one.wait(lambda frame: frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2", seconds / 4)
    if found is None:
        return False
    one.send(one.ping(found[22:28], other.address))
    list(other.hear(seconds / 4))
    return one.wait(lambda frame: frame[12:14] == b"\x08\0" and frame[23] == 1, seconds / 4) is not None


def arp(what: int, to: bytes, mac: bytes, address: str, target: bytes, wanted: str) -> Frame:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, what) + mac + socket.inet_aton(address)
    return to + mac + b"\x08\x06" + body + target + socket.inet_aton(wanted)


def echo(kind: int, to: bytes, mac: bytes, source: str, address: str, body: bytes = b"\0\7\0\1") -> Frame:
    icmp = struct.pack("!BBH", kind, 0, 0) + body
    icmp = icmp[:2] + _sum(icmp) + icmp[4:]
    return to + mac + b"\x08\0" + _ip(1, source, address, icmp)


def dhcp(mac: bytes, kind: int, options: bytes = b"", *, current: str = "0.0.0.0", relay: str = "0.0.0.0") -> Frame:
    """What a client sends to all."""
    fixed = struct.pack("!BBBBIHH", 1, 1, 6, 0, 0xC0FFEE, 0, 0) + socket.inet_aton(current) + bytes(8)
    fixed += socket.inet_aton(relay) + mac.ljust(16, b"\0") + bytes(192)
    body = fixed + b"\x63\x82\x53\x63" + bytes([53, 1, kind]) + options + b"\xff"
    udp = struct.pack("!HHHH", 68, 67, 8 + len(body), 0) + body
    return ALL + mac + b"\x08\0" + _ip(17, "0.0.0.0", "255.255.255.255", udp)


def is_dhcp_answer(frame: Frame) -> bool:
    return frame[12:14] == b"\x08\0" and frame[23] == 17 and frame[34:38] == b"\0\x43\0\x44"


def answered(frame: Frame) -> tuple[str, dict[int, bytes]]:
    """The address that an answer gives, and its options; both checksums are right."""
    ip, udp = frame[14:34], frame[34:]
    assert _sum(ip) == b"\0\0"
    assert _sum(ip[12:20] + b"\0\x11" + udp[4:6] + udp) == b"\0\0"
    assert int.from_bytes(ip[2:4], "big") == len(frame) - 14
    body, options, place = udp[8:], {}, 240
    assert body[0] == 2 and body[236:240] == b"\x63\x82\x53\x63" and body[4:8] == b"\0\xc0\xff\xee"
    while body[place] != 255:
        options[body[place]] = body[place + 2 : place + 2 + body[place + 1]]
        place += 2 + body[place + 1]
    return socket.inet_ntoa(body[16:20]), options


def _ip(protocol: int, source: str, address: str, body: bytes) -> bytes:
    ends = socket.inet_aton(source) + socket.inet_aton(address)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0) + ends
    return head[:10] + _sum(head) + head[12:] + body


def _sum(data: bytes) -> bytes:
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)


def _open(tap: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", tap.encode(), 0x1002))
    return device
