"""Which addresses are in use on a bridge, asked of the network itself (ARP probes, RFC 5227)."""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
import time
from collections.abc import Iterable

from secondsite.engine import errors
from secondsite.orchestration.networks import frames, names, namespaces, reading

_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ASK, _TELL = 1, 2
_NOBODY = bytes(6)
# Where nobody answers, the whole of it is waited, and a failover waits with it: who is there answers in a millisecond.
SECONDS = 0.6
_TIMES = 3
MOST = 256


def in_use(
    bridge: str, addresses: Iterable[str], namespace: str | None = None, *, seconds: float = SECONDS,
    ours: Iterable[str] = (),
) -> dict[str, str]:  # fmt: skip
    """The addresses of IPv4 that a station of the bridge has, with that of its card. What the cards `ours` have is not
    in use. A bridge that is not there yet has no stations. Raises Usage, Refused.
    """
    wanted = set()
    for text in addresses:
        try:
            wanted.add(ipaddress.IPv4Address(text).packed)
        except ValueError as error:
            raise errors.Usage(f"{error}") from None
    if len(wanted) > MOST:
        raise errors.Usage(f"{len(wanted)} addresses at once; {MOST} are the most")
    skipped = {bytes.fromhex(names.plain_mac(mac).replace(":", "")) for mac in ours}
    if not wanted or not namespaces.exists(namespace):
        return {}
    found = namespaces.within(namespace, lambda: _probe(bridge, wanted, skipped, seconds))
    return {socket.inet_ntoa(address): mac.hex(":") for address, mac in sorted(found.items())}


def _probe(bridge: str, wanted: set[bytes], ours: set[bytes], seconds: float) -> dict[bytes, bytes]:
    link = reading.by_name(bridge)
    if link is None or not link.up:
        return {}
    own = bytes.fromhex(link.mac.replace(":", ""))
    # What this host itself has it does not answer to itself.
    found = {address: own for address in reading.addresses() & wanted}
    with frames.opened(bridge, frames.ARP) as wire:
        for _ in range(_TIMES):
            for address in wanted - set(found):
                _send(wire, own, address)
            until = time.monotonic() + seconds / _TIMES
            while wanted - set(found) and (left := until - time.monotonic()) > 0:
                if select.select([wire], [], [], left)[0]:
                    _hear(wire, wanted, ours | {own}, found)
    return found


def _send(wire: socket.socket, own: bytes, address: bytes) -> None:
    """From no address, so that nobody learns a wrong one from it."""
    body = _ARP.pack(1, frames.IPV4, 6, 4, _ASK, own, bytes(4), _NOBODY, address)
    try:
        wire.send(frames.ETHERNET.pack(frames.BROADCAST, own, frames.ARP) + body)
    except BlockingIOError:
        pass  # the queue is full; there is another turn


def _hear(wire: socket.socket, wanted: set[bytes], ours: set[bytes], found: dict[bytes, bytes]) -> None:
    """Who has an address says so; who is about to take it asks for it from no address, as we do."""
    frame = wire.recv(frames.MOST_BYTES)
    if len(frame) < frames.ETHERNET.size + _ARP.size:
        return
    kind, protocol, hard, soft, what, card, address, _, target = _ARP.unpack_from(frame, frames.ETHERNET.size)
    if (kind, protocol, hard, soft) != (1, frames.IPV4, 6, 4) or card in ours:
        return
    asked = target if what == _ASK and address == bytes(4) else address
    if asked in wanted and what in (_ASK, _TELL):
        found.setdefault(asked, card)
