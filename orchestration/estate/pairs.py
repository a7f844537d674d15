"""The two sides of a protection, with everything that belongs to each: what rules look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from secondsite.orchestration.estate.model import (
    Account,
    Array,
    Cloud,
    Host,
    Item,
    Machine,
    Policy,
    Protection,
    Server,
    Site,
)
from secondsite.orchestration.estate.references import Index

_SOURCES = ("cloud", "site", "array")
_TARGETS = ("cloud", "array", "account", "site")


@dataclass(frozen=True)
class Side:
    """`kind` is what the protection names there. Hosts are those of the cloud, or of the site; of an array those of
    the clouds of its server. Of a storage account nothing but itself.
    """

    kind: str
    name: str
    site: Site | None = None
    server: Server | None = None
    cloud: Cloud | None = None
    array: Array | None = None
    account: Account | None = None
    hosts: tuple[Host, ...] = ()


@dataclass(frozen=True)
class Pair:
    """A protection whose names all lead somewhere, its sides, and the machines that it protects."""

    protection: Protection
    source: Side
    target: Side
    policy: Policy
    machines: tuple[tuple[Item, Machine], ...] = field(default=())

    @property
    def sides(self) -> tuple[tuple[str, Side], tuple[str, Side]]:
        return ("source", self.source), ("target", self.target)


class Sides:
    """Sides of an estate, each looked for once: hosts are sorted by cloud and site before the first question."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._by_cloud: dict[str, list[Host]] = {}
        self._by_site: dict[str, list[Host]] = {}
        for host in index.estate.host:
            if host.cloud is not None:
                self._by_cloud.setdefault(host.cloud, []).append(host)
            elif host.site is not None:
                self._by_site.setdefault(host.site, []).append(host)
        self._items: dict[str, list[tuple[Item, Machine]]] = {}
        for item in index.estate.item:
            machine = index.tables["machine"].get(item.machine)
            if machine is not None:
                self._items.setdefault(item.protection, []).append((item, machine))

    def pairs(self) -> Iterator[Pair]:
        """Every protection whose names lead somewhere; of the others `Index.problems` tells."""
        for protection in self.index.estate.protection:
            source, target = self.side(_SOURCES, protection.source), self.side(_TARGETS, protection.target)
            policy = self.index.tables["policy"].get(protection.policy)
            if source and target and policy:
                yield Pair(protection, source, target, policy, tuple(self._items.get(protection.name, ())))

    def side(self, kinds: tuple[str, ...], name: str) -> Side | None:
        found = self.index.find(kinds, name)
        if found is None:
            return None
        kind, table = found
        if kind == "account":
            return Side(kind, name, account=table)
        if kind == "site":
            return Side(kind, name, site=table, hosts=tuple(self._by_site.get(name, ())))
        server = self.index.tables["server"].get(table.server)
        if kind == "array":
            return Side(kind, name, self._site(table.site), server, array=table, hosts=self._hosts_of(server))
        hosts = tuple(self._by_cloud.get(name, ()))
        return Side(kind, name, self._site(server.site if server else None), server, table, hosts=hosts)

    def _site(self, name: str | None) -> Site | None:
        return self.index.tables["site"].get(name or "")

    def _hosts_of(self, server: Server | None) -> tuple[Host, ...]:
        if server is None:
            return ()
        clouds = [cloud.name for cloud in self.index.estate.cloud if cloud.server == server.name]
        return tuple(host for cloud in clouds for host in self._by_cloud.get(cloud, ()))
