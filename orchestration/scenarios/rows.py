"""What each row of the matrix asks of a pair. One function a row; the scenario's cell says what it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from secondsite.engine import errors
from secondsite.orchestration.estate.findings import Finding
from secondsite.orchestration.estate.pairs import Pair, Side
from secondsite.orchestration.estate.references import Index
from secondsite.orchestration.scenarios.matrix import Cell

Check = Callable[[Cell, Pair, Index], Iterator[Finding]]
SEED = "SEED"


def data(cell: Cell, pair: Pair, index: Index) -> Iterator[Finding]:
    """Where the copies lie."""
    if cell.at == "host" and not pair.target.hosts:
        where = index.place(pair.protection, "target")
        yield Finding(SEED, where, f"{pair.target.kind} {pair.target.name!r} has no host that replicas could lie on")


def replication(cell: Cell, pair: Pair, index: Index) -> Iterator[Finding]:
    """What the policy wants of replication."""
    policy = pair.policy
    if policy.encrypt and not cell.encrypt:
        where = index.place(policy, "encrypt")
        yield Finding("R12.14", where, "encryption of stored data is for replicas in Azure storage")
    if policy.initial not in cell.initial:
        where = index.place(policy, "initial")
        known = ", ".join(cell.initial)
        yield Finding("R5.1", where, f"the first copy by {policy.initial} does not exist here", f"possible: {known}")
    yield from _limit(pair, index)


def _limit(pair: Pair, index: Index) -> Iterator[Finding]:
    """R12.15."""
    if (said := pair.policy.limit) is None:
        return
    from secondsite import engine  # what sends is heavy, and few policies limit it

    try:
        if said.startswith("@"):
            raise errors.Usage("a policy has its calendar itself, and no file of it")
        engine.Link.of(None, None, notify=lambda line: None, schedule=said)
    except errors.Error as error:
        yield Finding("R12.15", index.place(pair.policy, "limit"), str(error))


def machine_storage(cell: Cell, pair: Pair, index: Index) -> Iterator[Finding]:
    for _, machine in pair.machines:
        for place, disk in enumerate(machine.disks):
            if disk.format and disk.format not in cell.formats:
                where = index.place(machine, "disks", place, "format")
                known = ", ".join(cell.formats)
                yield Finding("R12.10", where, f"disk {disk.path!r} is a {disk.format}", f"possible: {known}")


def account(cell: Cell, pair: Pair, index: Index) -> Iterator[Finding]:
    """R12.11."""
    found, vault = pair.target.account, index.estate.vault
    if found is None or not cell.redundancy:
        return
    if found.redundancy not in cell.redundancy:
        known = ", ".join(cell.redundancy)
        where = index.place(found, "redundancy")
        yield Finding("R12.11", where, f"account {found.name!r} has {found.redundancy}", f"geo-redundant ones: {known}")
    if _plain(found.region) != _plain(vault.region):
        where = index.place(found, "region")
        yield Finding("R12.11", where, f"account {found.name!r} is in {found.region}, the vault in {vault.region}")
    if found.subscription != vault.subscription:
        where = index.place(found, "subscription")
        yield Finding("R12.11", where, f"account {found.name!r} is of another subscription than the vault")


def array(cell: Cell, pair: Pair, index: Index) -> Iterator[Finding]:
    """R12.3."""
    one, two = pair.source.array, pair.target.array
    if not cell.peered or one is None or two is None:
        return
    for found in (one, two):
        if found.server is None:
            where = index.place(found)
            yield Finding("R12.3", where, f"array {found.name!r} is managed by no management server")
    if two.name not in one.peers or one.name not in two.peers:
        where = index.place(one, "peers")
        yield Finding("R12.3", where, f"arrays {one.name!r} and {two.name!r} are not each other's peers")


def servers(cell: Cell, pair: Pair, index: Index) -> Iterator[Finding]:
    for name, side in pair.sides:
        if name in cell.on and side.server is None:
            where = index.place(pair.protection, name)
            yield Finding(SEED, where, f"{side.kind} {side.name!r} has no management server")
        if side.kind != "account":
            yield from _members(cell, side, index.place(pair.protection, name))
    if cell.two and pair.source.server is not None and pair.source.server is pair.target.server:
        where = index.place(pair.protection, "target")
        yield Finding(SEED, where, f"both sides are of {pair.source.server.name!r}; two management servers are needed")


def _members(cell: Cell, side: Side, where: tuple[str | int, ...]) -> Iterator[Finding]:
    clusters = [host for host in side.hosts if host.cluster]
    if cell.member == "any" and not side.hosts:
        yield Finding(SEED, where, f"{side.kind} {side.name!r} has no host")
    if cell.member == "cluster" and not clusters:
        yield Finding(SEED, where, f"{side.kind} {side.name!r} has no cluster")


def version(cell: Cell, pair: Pair, index: Index) -> Iterator[Finding]:
    """R12.13. An update rollup of a version counts as that version, and as every rollup before."""
    for _, side in pair.sides:
        server = side.server
        if server is not None and cell.versions and not any(_later(server.version, one) for one in cell.versions):
            known = " or ".join(cell.versions)
            where = index.place(server, "version")
            yield Finding("R12.13", where, f"management server {server.name!r} is {server.version!r}, not {known}")


def _later(version: str, wanted: str) -> bool:
    base, _, rollup = version.partition(" UR")
    least, _, update = wanted.partition(" UR")
    return base == least and _number(rollup) >= _number(update)


def _number(text: str) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return -1


def configuration(cell: Cell, pair: Pair, index: Index) -> Iterator[Finding]:
    estate = index.estate
    for name, side in pair.sides:
        owner = side.server.name if side.server else None
        where = index.place(pair.protection, name)
        if name in cell.networks and not any(one.server == owner and owner for one in estate.network):
            yield Finding(SEED, where, f"the {name} has no VM network", f"a network of server {owner!r}")
        if name in cell.classifications and not any(one.server == owner and owner for one in estate.classification):
            remedy = f"a classification of server {owner!r}"
            yield Finding(SEED, where, f"the {name} has no storage classification", remedy)
        if name in cell.pools and side.array is not None and not side.array.pools:
            yield Finding(SEED, index.place(side.array), f"array {side.array.name!r} has no pool")


def provider(cell: Cell, pair: Pair, index: Index) -> Iterator[Finding]:
    """R12.12."""
    for name, side in pair.sides:
        if name in cell.servers and side.server is not None and side.server.provider is None:
            where = index.place(side.server)
            yield Finding("R12.12", where, f"the Provider is not installed on {side.server.name!r}")
        if name in cell.hosts:
            yield from _installed(side.hosts, "provider", "Provider", index)


def agent(cell: Cell, pair: Pair, index: Index) -> Iterator[Finding]:
    """R12.12."""
    for name, side in pair.sides:
        if name in cell.hosts:
            yield from _installed(side.hosts, "agent", "agent", index)


def _installed(hosts: Iterable[object], key: str, what: str, index: Index) -> Iterator[Finding]:
    for host in hosts:
        if getattr(host, key) is None:
            name = getattr(host, "name", "")
            yield Finding("R12.12", index.place(host), f"the {what} is not installed on host {name!r}")


def mapping(cell: Cell, pair: Pair, index: Index) -> Iterator[Finding]:
    """R11.1, R11.2: mapped networks belong to the two sides."""
    tables = index.tables["network"]
    used = {nic.network for _, machine in pair.machines for nic in machine.nics if nic.network}
    for place, row in enumerate(index.estate.mapping.network):
        if row.source not in used:
            continue
        target = tables.get(row.target)
        if cell.per_machine:
            message = "networks are not mapped here; each item names its network"
            yield Finding("A1", ("mapping", "network", place), message)
        elif target is not None and not _belongs(target, cell.to, pair.target):
            message = f"network {row.target!r} is not of the target side"
            yield Finding("R11.1", ("mapping", "network", place, "target"), message)


def _belongs(network: object, to: str | None, side: Side) -> bool:
    owners = {
        "azure": getattr(network, "azure", False),
        "server": side.server is not None and getattr(network, "server", None) == side.server.name,
        "site": side.site is not None and getattr(network, "site", None) == side.site.name,
    }
    return bool(owners.get(to or "", True))


def storage(cell: Cell, pair: Pair, index: Index) -> Iterator[Finding]:
    """R11.11: of arrays everything is mapped before protection; classifications need no mapping (R11.10)."""
    found = index.estate.mapping
    one, two = pair.source.array, pair.target.array
    if "array" not in cell.maps or one is None or two is None:
        return
    if not any((row.source, row.target) == (one.name, two.name) for row in found.array):
        where = index.place(pair.protection)
        yield Finding("R11.11", where, f"array {one.name!r} is not mapped to {two.name!r}", "mapping.array")
    for pool in one.pools:
        if not any(row.source == f"{one.name}/{pool}" for row in found.pool):
            yield Finding("R11.11", index.place(one, "pools"), f"pool {pool!r} of {one.name!r} is not mapped")


def nothing(cell: Cell, pair: Pair, index: Index) -> Iterator[Finding]:
    """A row that an estate cannot break: it has a vault, or it does not parse."""
    return iter(())


def _plain(region: str) -> str:
    """Azure calls a region "West Europe" and westeurope."""
    return region.replace(" ", "").lower()
