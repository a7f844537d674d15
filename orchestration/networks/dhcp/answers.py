"""What a machine is answered: a pure function of what it asked and what the mapping chose for it (R11.7)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from secondsite.orchestration.networks.dhcp import messages
from secondsite.orchestration.networks.dhcp.messages import Address, Message, Reply
from secondsite.orchestration.networks.names import Mark

# Whom a client chose is told by the server's address. This one is no station's: what is sent to it comes to the tap at
# which we listen all the same, and no other server of the network has it.
SERVER = Address("169.254.67.68")
_FOR_EVER = b"\xff\xff\xff\xff"
_USUAL_MTU = 1500


@dataclass(frozen=True, slots=True)
class Lease:
    """A card's address for as long as the machine is here."""

    client: bytes
    address: Address
    mask: Address
    gateway: Address | None
    mtu: int = _USUAL_MTU

    @classmethod
    def of(cls, mark: Mark | None, mtu: int) -> Lease | None:
        """What a tap's mark says; None where it names no address of IPv4."""
        if mark is None or not mark.dhcp:
            return None
        try:
            found = ipaddress.IPv4Interface(mark.address)
            gateway = Address(mark.gateway) if mark.gateway else None
            return cls(bytes.fromhex(mark.mac.replace(":", "")), found.ip, found.netmask, gateway, mtu)
        except ValueError:  # also of IPv6
            return None


def answer(message: Message, lease: Lease) -> Reply | None:
    """None is silence: another's card, another's server, or nothing that wants an answer."""
    if message.client != lease.client or message.relayed:
        return None
    if message.asks == messages.DISCOVER:
        return Reply(messages.OFFER, lease.address, _options(lease))
    if message.asks == messages.INFORM:
        return Reply(messages.ACK, None, _options(lease, timed=False))
    if message.asks != messages.REQUEST or message.server not in (None, SERVER):
        return None
    if (message.wanted or message.current) != lease.address:
        return Reply(messages.NAK, None)  # it comes from another site, and asks for what it had there
    return Reply(messages.ACK, lease.address, _options(lease))


def _options(lease: Lease, *, timed: bool = True) -> dict[int, bytes]:
    found = {messages.LEASE: _FOR_EVER} if timed else {}
    found[messages.MASK] = lease.mask.packed
    if lease.gateway is not None:
        found[messages.ROUTER] = lease.gateway.packed
    if lease.mtu != _USUAL_MTU:
        found[messages.MTU] = lease.mtu.to_bytes(2, "big")
    return found
