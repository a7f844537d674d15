"""The network and subnet of each card after a failover, and after the way back (R11.1 to R11.5, R11.9)."""

from __future__ import annotations

from collections.abc import Mapping

from secondsite.orchestration.estate.model import Item, Machine, Network, Nic, Subnet
from secondsite.orchestration.mapping import addresses
from secondsite.orchestration.mapping.placement import Chosen, Connection, Facts
from secondsite.orchestration.scenarios.matrix import Cell


def connect(
    item: Item, machine: Machine, cell: Cell, networks: Mapping[str, Network], mapped: Mapping[str, str], facts: Facts
) -> list[Connection]:
    """Each card of a machine that the target's size of machine has (R11.9). `mapped` leads from a source network to a
    target network.
    """
    taken = set(facts.taken)
    made = []
    for nic in machine.nics[: item.cards]:
        found = _connect(item, nic, cell, networks, mapped, taken)
        if found.address is not None and found.address.value is not None:
            taken.add(found.address.value)
        made.append(found)
    return _one_network(made, cell)


def _connect(
    item: Item, nic: Nic, cell: Cell, networks: Mapping[str, Network], mapped: Mapping[str, str], taken: set[str]
) -> Connection:
    chosen = _network(item, nic, cell, mapped)
    network = networks.get(chosen.value or "")
    if network is None:
        return Connection(chosen)
    subnet, why = _subnet(item.subnet if cell.per_machine else nic.subnet, network)
    give = addresses.in_azure if network.azure else addresses.on_premises
    try:
        return Connection(chosen, why, give(nic, network, subnet, taken))
    except addresses.NoAddress as error:
        return Connection(chosen, why, problem=str(error))


def _network(item: Item, nic: Nic, cell: Cell, mapped: Mapping[str, str]) -> Chosen:
    """R11.1, R11.2; of an item without a mapping (S1) its own."""
    if cell.per_machine:
        why = "the item names it" if item.network else "the item names none"
        return Chosen(item.network, "A1", why)
    if nic.network is None:
        return Chosen(None, "R11.5", "the card is connected to nothing at the source")
    target = mapped.get(nic.network)
    if target is not None:
        return Chosen(target, "R11.2", f"{nic.network} is mapped to it")
    reach = "only machines of its recovery plan reach it" if cell.to == "azure" else "it is connected to nothing"
    return Chosen(None, "R11.1", f"{nic.network} is not mapped: {reach}")


def _subnet(wanted: str | None, network: Network) -> tuple[Subnet | None, Chosen]:
    """R11.3."""
    for subnet in network.subnets:
        if subnet.name == wanted:
            return subnet, Chosen(subnet.name, "R11.3", "the subnet of the same name")
    if network.subnets:
        return network.subnets[0], Chosen(network.subnets[0].name, "R11.3", "the first one: none has the same name")
    return None, Chosen(None, "R11.3", "the network has no subnets")


def _one_network(made: list[Connection], cell: Cell) -> list[Connection]:
    """R11.9: in Azure all cards of a machine are in one network."""
    if cell.to != "azure":
        return made
    first = next((one.network.value for one in made if one.network.value is not None), None)
    problem = f"R11.9: all cards of a machine are in one network, here {first!r}"
    return [
        one if one.network.value in (None, first) or one.problem
        else Connection(one.network, one.subnet, one.address, problem)
        for one in made
    ]  # fmt: skip


def failback(before: str | None, now: str | None, failed_over_to: str | None, back: Mapping[str, str]) -> Chosen:
    """Where a card goes on the way back (R11.5): `before` is its network before the failover, `failed_over_to` where
    the mapping put it then, `now` where it is, and `back` the mapping from the target's networks to the source's.
    """
    if now is None and failed_over_to is None:  # unmapped, it was connected to nothing there (R11.1)
        return Chosen(before, "R11.5", "nothing changed: where it was")
    if now is None:
        return Chosen(None, "R11.5", "it was disconnected meanwhile")
    mapped = back.get(now)
    if now == failed_over_to and (mapped is None or mapped == before):
        return Chosen(before, "R11.5", "nothing changed: where it was")
    if mapped is None:
        return Chosen(None, "R11.5", f"it was moved to {now}, which is not mapped")
    return Chosen(mapped, "R11.5", f"{now} is mapped to it now")
