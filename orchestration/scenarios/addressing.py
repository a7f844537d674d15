"""Addresses that are none, or that lie where they cannot: of subnets, bridges and network cards (rule "address")."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from secondsite.orchestration.estate.findings import Finding
from secondsite.orchestration.estate.model import Machine, Network, Subnet
from secondsite.orchestration.estate.references import Index
from secondsite.orchestration.networks import names

ADDRESS = "address"
Net = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def check(index: Index) -> Iterator[Finding]:
    """Of all networks and machines, so that nothing that computes with them meets a word."""
    for network in index.estate.network:
        yield from _network(network, index)
    cards: dict[str, str] = {}
    for machine in index.estate.machine:
        yield from _cards(machine, cards, index)


def _network(network: Network, index: Index) -> Iterator[Finding]:
    if network.bridge is not None and not names.may_be(network.bridge):
        where = index.place(network, "bridge")
        yield Finding(ADDRESS, where, f"{network.bridge!r} is no name of a bridge: Linux takes 15 characters at most")
    for number, subnet in enumerate(network.subnets):
        for key, problem in _subnet(subnet):
            where = index.place(network, "subnets", number, key)
            yield Finding(ADDRESS, where, f"subnet {subnet.name!r} of {network.name!r}: {problem}")


def _subnet(subnet: Subnet) -> Iterator[tuple[str, str]]:
    try:
        net: Net = ipaddress.ip_network(subnet.range)
    except ValueError as error:
        yield "range", str(error)
        return
    given = {"pool": subnet.pool or (), "gateway": (subnet.gateway,) if subnet.gateway else ()}
    found: dict[str, list[Address]] = {}
    for key, values in given.items():
        found[key] = [one for text in values if (one := _address(text)) is not None and one in net]
        if len(found[key]) < len(values):
            yield key, f"{' to '.join(values)} is not in {subnet.range}"
    pool, gateway = found["pool"], found["gateway"]
    if len(pool) == 2 and int(pool[0]) > int(pool[1]):
        yield "pool", "its first address is behind its last one"
    elif len(pool) == 2 and gateway and int(pool[0]) <= int(gateway[0]) <= int(pool[1]):
        yield "pool", f"the gateway {gateway[0]} is in the pool"


def _cards(machine: Machine, cards: dict[str, str], index: Index) -> Iterator[Finding]:
    """`cards` are those of the machines before, which two machines cannot share where they may meet."""
    for number, nic in enumerate(machine.nics):
        for key in ("address", "target_address"):
            text = getattr(nic, key)
            if text is not None and _address(text) is None:
                where = index.place(machine, "nics", number, key)
                yield Finding(ADDRESS, where, f"{text!r} of machine {machine.name!r} is no address")
        if nic.mac is None:
            continue
        where, mac = index.place(machine, "nics", number, "mac"), names.plain_mac(nic.mac)
        if not mac:
            yield Finding(ADDRESS, where, f"{nic.mac!r} of machine {machine.name!r} is no address of a network card")
        elif mac in cards:
            yield Finding(ADDRESS, where, f"machines {cards[mac]!r} and {machine.name!r} have the same card {mac}")
        else:
            cards[mac] = machine.name


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
