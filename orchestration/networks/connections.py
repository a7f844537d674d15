"""The cards of a machine as a host is to make them: after a failover, in a test, and after the way back.

What the mapping chose (../mapping) becomes bridges, addresses and gateways here; nobody is asked and nothing is made.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from secondsite.orchestration.estate.model import Machine, Network, Nic, Subnet
from secondsite.orchestration.hosts.spec import NicSpec
from secondsite.orchestration.mapping import addresses
from secondsite.orchestration.mapping.explain import Mapper
from secondsite.orchestration.mapping.networks import failback
from secondsite.orchestration.mapping.placement import Chosen, Connection
from secondsite.orchestration.networks import names, namespaces

Networks = Mapping[str, Network]


@dataclass(frozen=True, slots=True)
class Cards:
    """What the host is told. `why` says of each card which network it has and by which rule; `problems` are reasons
    for which the failover would fail; `namespace` is that of a test with networks of its own, None that of the host.
    """

    nics: tuple[NicSpec, ...]
    why: tuple[Chosen, ...] = ()
    problems: tuple[str, ...] = ()
    namespace: str | None = None


def bridge(network: Network) -> str:
    """The bridge that a network is: the one that the estate names, or one of ours."""
    return network.bridge or names.bridge(network.name)


def real(
    machine: Machine, made: Sequence[Connection], networks: Networks, *, azure: bool = False, plan: str | None = None
) -> Cards:  # fmt: skip
    """After a planned or unplanned failover. In Azure the cards of machines of one recovery plan whose networks are
    not mapped reach each other (R11.1); elsewhere such a card is connected to nothing.
    """
    nics = []
    for number, one in enumerate(made):
        card = _card(machine, number)
        if one.network.value in networks:
            card = _on(card, networks[one.network.value or ""], one)
        elif azure and one.network.rule == "R11.1":
            card = NicSpec(card.mac, names.bridge(f"{plan}, plan") if plan else None, isolated=True)
        nics.append(card)
    problems = tuple(one.problem for one in made if one.problem)
    return Cards(tuple(nics), tuple(one.network for one in made), problems)


def unconnected(machine: Machine, most: int | None = None) -> Cards:
    """A test without networks, which is the rule (R9.2), of a machine that has so many cards there."""
    return Cards(tuple(_card(machine, number) for number in range(len(machine.nics[:most]))))


def isolated(
    machine: Machine, made: Sequence[Connection], networks: Networks, test: str, host: str | None = None
) -> Cards:  # fmt: skip
    """A test on a copy of each mapped network, which only machines of the same `test` reach (R9.2), on a host whose
    bridges are in namespace `host`. The copies have the subnets of the networks that the replica would be on, so that
    its address is that of a real failover (R9.4).
    """
    like = real(machine, made, networks)
    nics = tuple(
        NicSpec(nic.mac, nic.bridge, nic.address, nic.gateway, isolated=nic.bridge is not None) for nic in like.nics
    )
    # One without cards has no network to be apart from, and no device that would make the namespace.
    return replace(like, nics=nics, namespace=namespaces.of_test(test, host) if nics else host)


def onto(mapper: Mapper, network: str) -> Mapper:
    """The mapping of a test on a network that is there already, whatever the source's (R9.2). Place the machine with
    it, with what is in use there, and take `real`.
    """
    return replace(mapper, network={name: network for name in mapper.index.tables["network"]})


def back(
    machine: Machine, networks: Networks, mapped: Mapping[str, str], then: Sequence[str | None],
    now: Sequence[str | None], taken: Set[str] = frozenset(),
) -> Cards:  # fmt: skip
    """After a failback (R11.5). Networks of each card: `then` those that it came to at the failover, `now` those that
    it is on; `mapped` is the mapping as the estate has it now, `taken` are addresses in use at home.
    """
    nics, why, problems, way = [], [], [], backwards(mapped)
    for number, nic in enumerate(machine.nics):
        # A card that the target had no room for comes back as it was (R11.9).
        went = number < min(len(then), len(now))
        chosen = failback(nic.network, now[number], then[number], way) if went else _as_it_was(nic)
        card, problem = _card(machine, number), None
        network = networks.get(chosen.value or "")
        if network is not None:
            card, problem = _home(card, nic, network, taken)
        nics.append(card)
        why.append(chosen)
        problems += [problem] if problem else []
    return Cards(tuple(nics), tuple(why), tuple(problems))


def backwards(mapped: Mapping[str, str]) -> dict[str, str]:
    """From the target's networks to the source's: what is mapped so, and else the one network that is mapped to it. Of
    several nobody can say which; a card that nobody moved goes where it was all the same.
    """
    sources: dict[str, list[str]] = {}
    for source, target in mapped.items():
        sources.setdefault(target, []).append(source)
    return {**{target: found[0] for target, found in sources.items() if len(found) == 1}, **mapped}


def network_of(bridge_name: str | None, among: Sequence[Network]) -> str | None:
    """The network that a bridge is, of those of one side; the bridge's own name where it is none of them."""
    return next((one.name for one in among if bridge(one) == bridge_name), bridge_name)


def _as_it_was(nic: Nic) -> Chosen:
    return Chosen(nic.network, "R11.9", "the target had no room for it: where it was")


def _home(card: NicSpec, nic: Nic, network: Network, taken: Set[str]) -> tuple[NicSpec, str | None]:
    """On its own network it has its own address, which a pool need not name: it was there before."""
    if network.name == nic.network:
        if nic.address is not None and nic.address in taken:
            return card, f"R11.7: {nic.address} is in use in {network.name!r}"
        subnet = _subnet(network, nic.subnet, nic.address)
        return _with(NicSpec(card.mac, bridge(network)), nic.address, subnet), None
    subnet = _subnet(network, nic.subnet, None)
    try:
        chosen = addresses.on_premises(nic, network, subnet, taken)
    except addresses.NoAddress as error:
        return card, str(error)
    return _with(NicSpec(card.mac, bridge(network)), chosen.value, subnet), None


def _card(machine: Machine, number: int) -> NicSpec:
    """With the same address of the card at both sides, also where the estate names none: a guest knows it by that."""
    given = machine.nics[number].mac
    return NicSpec(names.plain_mac(given) if given else names.mac(machine.name, number))


def _on(card: NicSpec, network: Network, one: Connection) -> NicSpec:
    subnet = _subnet(network, one.subnet.value if one.subnet else None, None)
    return _with(NicSpec(card.mac, bridge(network)), one.address.value if one.address else None, subnet)


def _subnet(network: Network, name: str | None, address: str | None) -> Subnet | None:
    """The one of that name, or else the one in which an address lies, or the first (R11.3)."""
    named = [one for one in network.subnets if one.name == name]
    holding = [one for one in network.subnets if address and _inside(address, one)]
    found = [*named, *holding, *network.subnets]
    return found[0] if found else None


def _inside(address: str, subnet: Subnet) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(subnet.range)


def _with(card: NicSpec, address: str | None, subnet: Subnet | None) -> NicSpec:
    """Of an address in no subnet nobody knows the mask: the guest keeps what it has."""
    if address is None or subnet is None or not _inside(address, subnet):
        return card
    length = ipaddress.ip_network(subnet.range).prefixlen
    return NicSpec(card.mac, card.bridge, f"{address}/{length}", subnet.gateway)
