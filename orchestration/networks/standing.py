"""A test's own networks have no router; the namespace itself stands where it would be. So a machine that is tested
finds its gateway, and who looks whether it has booted (M7) reaches it from within the namespace. Nothing is passed on.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable
from pathlib import Path

from secondsite.orchestration.networks import names
from secondsite.orchestration.networks.links import Links
from secondsite.orchestration.networks.reading import Link, addresses_of, everything

Interface = ipaddress.IPv4Interface
# Not from one card to another, and no answer at one card for an address of another.
_SETTINGS = {"ip_forward": "0", "conf/all/arp_ignore": "1", "conf/default/arp_ignore": "1"}
_FOLDER = Path("/proc/sys/net/ipv4")


def stand(links: Links) -> None:
    """On each bridge of this namespace the gateway of what is on it, and no other address."""
    for name, value in _SETTINGS.items():
        with contextlib.suppress(OSError):
            (_FOLDER / name).write_text(value)
    found = everything()
    for bridge in found:
        if bridge.mark != names.BRIDGE:
            continue
        wanted = set(_gateways(link for link in found if link.master == bridge.index))
        there = addresses_of(bridge.index)
        for address in there - wanted:
            links.address(bridge, address, "del")
        for address in wanted - there:
            links.address(bridge, address, "add")


def _gateways(taps: Iterable[Link]) -> Iterable[Interface]:
    """One for each subnet; where the estate names none the last address that no machine has."""
    marks = [link.mark for link in taps if link.mark is not None and link.mark.address]
    cards = [(ipaddress.ip_interface(mark.address), mark.gateway) for mark in marks]
    own = {card.ip for card, _ in cards}
    for net in {card.network for card, _ in cards if isinstance(card, Interface)}:
        named = [ipaddress.ip_address(gateway) for card, gateway in cards if card.network == net and gateway]
        free = [net[-2 - step] for step in range(min(net.num_addresses - 2, len(own) + 1))]
        chosen = next((one for one in (named or free) if one in net and one not in own), None)
        if chosen is not None:  # or a machine is the router itself
            yield Interface(f"{chosen}/{net.prefixlen}")
