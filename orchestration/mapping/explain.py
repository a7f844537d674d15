"""All of a machine's placement: host, networks, addresses, storage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from secondsite.orchestration.estate.model import Estate, Host, Item, Machine
from secondsite.orchestration.estate.pairs import Pair, Sides
from secondsite.orchestration.estate.references import Index
from secondsite.orchestration.mapping import networks, storage
from secondsite.orchestration.mapping.placement import Chosen, Connection, Facts, Placement
from secondsite.orchestration.scenarios import matrix

AZURE = Chosen("Azure", "SEED", "the target runs it")


@dataclass(frozen=True)
class Mapper:
    """Mappings of an estate, by name. Only of an estate without findings."""

    index: Index
    network: Mapping[str, str]
    storage: Mapping[str, str]

    @classmethod
    def of(cls, estate: Estate) -> Mapper:
        found = estate.mapping
        return cls(
            Index(estate), {row.source: row.target for row in found.network},
            {row.source: row.target for row in found.storage},
        )  # fmt: skip

    def pairs(self) -> Iterator[Pair]:
        return Sides(self.index).pairs()

    def machine(self, name: str) -> tuple[Pair, Item, Machine] | None:
        """The pair that protects a machine."""
        for pair in self.pairs():
            for item, machine in pair.machines:
                if machine.name == name:
                    return pair, item, machine
        return None

    def place(self, pair: Pair, item: Item, machine: Machine, facts: Facts) -> Placement:
        """Where a machine of a pair goes."""
        profile = self.index.estate.vault.profile
        cell = matrix.load().by_id("network-mapping").cell(pair.protection.scenario, profile)
        made = networks.connect(item, machine, cell, self.index.tables["network"], self.network, facts)
        if pair.target.account is not None:
            url = pair.target.account.url
            kept = [disk for disk in machine.disks if not disk.exclude]
            disks = {disk.path: Chosen(url, "SEED", "the storage account") for disk in kept}
            return Placement(machine.name, AZURE, tuple(made), disks)
        if pair.target.array is not None:
            return self._on_array(pair, machine, made)
        return self._on_host(pair, machine, made, facts)

    def _on_array(self, pair: Pair, machine: Machine, made: list[Connection]) -> Placement:
        group = self.index.tables["group"].get(machine.group or "")
        pools = {row.source: row.target for row in self.index.estate.mapping.pool}
        pool = pools.get(f"{group.array}/{group.pool}") if group else None
        chosen = Chosen(pool, "R11.11", "the pool of its group is mapped to it" if pool else "its pool is not mapped")
        problems = () if pool else (f"R11.11: {chosen.why}",)
        disks = {disk.path: chosen for disk in machine.disks}
        host = next((host for host in pair.target.hosts if host.cluster), None)
        where = Chosen(host.name, "R12.3", "a cluster at the target") if host else None
        return Placement(machine.name, where, tuple(made), disks, problems)

    def _on_host(
        self, pair: Pair, machine: Machine, made: list[Connection], facts: Facts
    ) -> Placement:
        """R11.6: a host that reaches the mapped networks and has the mapped storage; of several the one with room."""
        hosts = [host for host in pair.target.hosts if facts.hosts is None or host.name in facts.hosts]
        reaching = [host for host in hosts if self.misses(host, made) is None]
        if not reaching:
            names = ", ".join(sorted({one.network.value for one in made if one.network.value}))
            why = f"no host at {pair.target.name!r} reaches {names}" if hosts else f"{pair.target.name!r} has no host"
            return Placement(machine.name, None, tuple(made), {}, (f"R11.6: {why}",))
        classes = self.index.tables["classification"]
        tried = [storage.locate(machine, host, classes, self.storage, facts) for host in reaching]
        best = max(tried, key=lambda one: one.rank)
        why = f"it reaches the mapped networks and has the mapped storage of {best.mapped} of {len(best.disks)} disks"
        host = Chosen(best.host.name, "R11.6", why)
        return Placement(machine.name, host, tuple(made), best.disks, tuple(best.problems))

    def misses(self, host: Host, made: Sequence[Connection]) -> str | None:
        """A network that a host does not reach, of those that cards come to. R11.4: by the logical network that it
        belongs to; one that belongs to none is everywhere.
        """
        tables = self.index.tables["network"]
        wanted = [tables[one.network.value] for one in made if one.network.value in tables]
        return next((one.name for one in wanted if one.logical not in (None, *host.logical)), None)
