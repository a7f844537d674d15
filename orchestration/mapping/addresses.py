"""The address of a network card after a failover (R11.7, R11.8)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Set

from secondsite.orchestration.estate.model import Network, Nic, Subnet
from secondsite.orchestration.mapping.placement import Chosen

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# Azure keeps the first four addresses of a subnet, and the last one, for itself.
_AZURE_FIRST = 4
# A pool may be a whole IPv6 network; nobody looks for a free address for ever.
_MOST_LOOKED_AT = 1 << 16


class NoAddress(Exception):
    """The failover would fail here."""


def on_premises(nic: Nic, network: Network, subnet: Subnet | None, taken: Set[str]) -> Chosen:
    """R11.7. Raises NoAddress."""
    pool = subnet.pool if subnet else None
    if pool is None:
        if network.virtualized:
            raise NoAddress(f"R11.7: network {network.name!r} is virtualized and has no pool of addresses")
        if nic.address is None:
            return Chosen(None, "R11.7", "DHCP gives it, nobody here does")
        raise NoAddress(f"R11.7: {nic.address} is static, and the subnet in {network.name!r} has no pool of addresses")
    if nic.address is None and not network.virtualized:
        return Chosen(None, "R11.7", "DHCP gives it, nobody here does")
    first, last = map(ipaddress.ip_address, pool)
    if nic.address is not None and _inside(nic.address, first, last) and nic.address not in taken:
        return Chosen(nic.address, "R11.7", "the same address is free in the pool")
    for address in _between(first, last):
        if address not in taken:
            return Chosen(address, "R11.7", "the first free address of the pool")
    raise NoAddress(f"R11.7: no address of the pool {pool[0]} to {pool[1]} is free")


def in_azure(nic: Nic, network: Network, subnet: Subnet | None, taken: Set[str]) -> Chosen:
    """R11.8. Raises NoAddress."""
    wanted = nic.target_address
    if wanted is None:
        return Chosen(_free(subnet, taken), "R11.8", "none was named: any free one")
    if wanted in taken:
        raise NoAddress(f"R11.8: {wanted} is in use in {network.name!r}")
    if subnet is not None and ipaddress.ip_address(wanted) not in ipaddress.ip_network(subnet.range):
        raise NoAddress(f"R11.8: {wanted} is not in subnet {subnet.name!r} ({subnet.range})")
    return Chosen(wanted, "R11.8", "the item names it")


def _free(subnet: Subnet | None, taken: Set[str]) -> str | None:
    if subnet is None:
        return None
    net = ipaddress.ip_network(subnet.range)
    first, last = net.network_address + _AZURE_FIRST, net.broadcast_address - 1
    for address in _between(first, last):
        if address not in taken:
            return address
    raise NoAddress(f"R11.8: no address of subnet {subnet.name!r} ({subnet.range}) is free")


def _inside(address: str, first: Address, last: Address) -> bool:
    found = ipaddress.ip_address(address)
    return found.version == first.version and int(first) <= int(found) <= int(last)


def _between(first: Address, last: Address) -> Iterator[str]:
    for step in range(min(int(last) - int(first), _MOST_LOOKED_AT) + 1):
        yield str(first + step)
