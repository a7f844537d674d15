"""The cards of a machine as taps, each on the bridge of its network (R11.1, R11.2)."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from secondsite.engine import errors
from secondsite.orchestration.networks import names, standing
from secondsite.orchestration.networks.dhcp import starting
from secondsite.orchestration.networks.links import Links, changing
from secondsite.orchestration.networks.namespaces import Missing, exists, is_of_test, within
from secondsite.orchestration.networks.reading import Link, by_index, by_name, everything


class Card(Protocol):
    """What is asked for."""

    @property
    def mac(self) -> str | None:
        """The guest's; None is one that is made of the machine's name."""

    @property
    def bridge(self) -> str | None:
        """None is connected to nothing (R11.1)."""

    @property
    def address(self) -> str | None:
        """What DHCP answers, with its prefix: 192.0.2.7/24."""

    @property
    def gateway(self) -> str | None:
        """The router that goes with it."""

    @property
    def isolated(self) -> bool:
        """On a bridge of ours alone, never on one that somebody else made and may have joined to more; without a
        `bridge` on one of the machine's own.
        """


@dataclass(frozen=True, slots=True)
class Tap:
    """A device for the hypervisor to open by name; `mac` is what the guest's card is to have."""

    name: str
    mac: str
    bridge: str | None


def attach(
    machine: str, cards: Sequence[Card], namespace: str | None = None, *, dhcp: bool = True
) -> list[Tap]:
    """One tap for each card, on the bridge of its network, which is made where it is missing. What is there already
    is kept, or put where it belongs now; taps of cards that the machine has no more go. With `dhcp` a process answers
    the guest with each card's address, until the machine is detached.

    `namespace` is a name in /run/netns, None the current one; a test's own (namespaces.of_test) is made where it is
    missing, and goes with its last machine. Raises Usage, Refused, and Busy.
    """
    wanted = [_mark(machine, number, card, dhcp) for number, card in enumerate(cards)]
    if len(wanted) > names.MOST_CARDS:
        raise errors.Usage(f"machine {machine!r} has {len(wanted)} network cards; {names.MOST_CARDS} are the most")

    def work(links: Links) -> list[Tap]:
        _refuse_same(wanted, cards)
        left = _remove_taps(links, machine, first=len(wanted))
        made = []
        for mark, card in zip(wanted, cards, strict=True):
            bridge = _bridge(links, card, machine)
            name, before = _tap(links, machine, mark, bridge)
            left.add(before)
            made.append(Tap(name, mark.mac, bridge.name if bridge else None))
        _remove_idle(links, left)
        if is_of_test(namespace):
            standing.stand(links)
        if any(mark.dhcp for mark in wanted):
            starting.ensure(namespace)
        return made

    return changing(namespace, work, make=True)


def missing(cards: Sequence[Card], namespace: str | None = None) -> list[str]:
    """The bridges of cards that somebody removed under them. Raises Refused."""
    wanted = {card.bridge for card in cards if card.bridge}
    if not wanted or not exists(namespace):
        return []
    return within(namespace, lambda: sorted(name for name in wanted if by_name(name) is None))


def detach(machine: str, namespace: str | None = None) -> None:
    """Remove a machine's taps, and the bridges of ours that have no port left. Nothing there is no error."""
    with contextlib.suppress(Missing):
        changing(namespace, lambda links: _remove_idle(links, _remove_taps(links, machine)))


def _mark(machine: str, number: int, card: Card, dhcp: bool) -> names.Mark:
    """Every word of it is checked: it comes from another host, and goes into the kernel."""
    which = f"card {number + 1} of {machine!r}"
    mac = names.plain_mac(card.mac) if card.mac else names.mac(machine, number)
    if not mac:
        raise errors.Usage(f"{which}: {card.mac!r} is no address of a network card")
    if card.bridge and not names.may_be(card.bridge):
        raise errors.Usage(f"{which}: {card.bridge!r} is no name of a bridge")
    try:
        address = str(ipaddress.ip_interface(card.address)) if card.address else ""
        gateway = str(ipaddress.ip_address(card.gateway)) if card.gateway else ""
    except ValueError as error:
        raise errors.Usage(f"{which}: {error}") from None
    return names.Mark(names.key(machine), number, mac, address, gateway, dhcp and bool(address))


def _refuse_same(wanted: Sequence[names.Mark], cards: Sequence[Card]) -> None:
    """R11.7: two of ours on one bridge do not have one address, whoever chose them."""
    if not any(mark.address for mark in wanted):
        return
    found = everything()
    named = {link.index: link.name for link in found}
    others = {(named.get(link.master), link.mark.address) for link in found
              if link.mark and link.mark.address and link.mark.key != wanted[0].key}  # fmt: skip
    for mark, card in zip(wanted, cards, strict=True):
        if mark.address and card.bridge and (card.bridge, mark.address) in others:
            raise errors.Refused(f"R11.7: another machine on {card.bridge} has {mark.address} here")


def _bridge(links: Links, card: Card, machine: str) -> Link | None:
    name = card.bridge or (names.bridge(f"{machine}, isolated") if card.isolated else None)
    if name is None:
        return None
    found = by_name(name)
    if found is None:
        return links.make_bridge(name)
    if found.kind != "bridge":
        raise errors.Refused(f"{name} is a network device, but no bridge")
    if card.isolated and found.mark is None:
        raise errors.Refused(f"bridge {name} was not made by secondsite: a machine on it may not be isolated")
    links.keep(found)
    return found


def _tap(links: Links, machine: str, mark: names.Mark, bridge: Link | None) -> tuple[str, int]:
    """The name of a card's tap, and the index of the bridge that it was on before."""
    name = names.tap(machine, mark.card)
    found = by_name(name) or links.make_tap(name)
    if found.kind != "tun" or (found.mark is not None and found.mark.key != mark.key):
        raise errors.Refused(f"network device {name} is there and is not of machine {machine!r}")
    links.keep(found)
    master = bridge.index if bridge else 0
    if found.mark != mark or found.master != master:
        links.set_tap(found, mark, bridge)
    return name, 0 if found.master == master else found.master


def _remove_taps(links: Links, machine: str, first: int = 0) -> set[int]:
    """Those of the cards from `first` on; returns the bridges that they were on."""
    found = [by_name(names.tap(machine, number)) for number in range(first, names.MOST_CARDS)]
    key = names.key(machine)
    gone = [one for one in found if one and one.kind == "tun" and (one.mark is None or one.mark.key == key)]
    links.remove(gone)
    return {one.master for one in gone}


def _remove_idle(links: Links, bridges: set[int]) -> None:
    ours = [by_index(index) for index in bridges - {0}]
    links.remove(one for one in ours if one and one.mark == names.BRIDGE and not everything(one.index))
