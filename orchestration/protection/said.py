"""What the applied estate says of each item."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from secondsite.orchestration.estate import zones
from secondsite.orchestration.estate.model import Estate, Host, Item, Machine, Policy
from secondsite.orchestration.estate.pairs import Pair, Sides
from secondsite.orchestration.estate.references import Index
from secondsite.orchestration.retention.policy import Policy as Keep
from secondsite.orchestration.scenarios import matrix, points


@dataclass(frozen=True)
class Protected:
    """What the estate says of an item: its machine, its policy, and what is kept. `pair` is what it is protected by,
    `hosts` are all by name, `index` the whole estate, `group` is its consistency group (M13).
    """

    machine: Machine
    policy: Policy
    keep: Keep
    item: Item
    pair: Pair
    hosts: Mapping[str, Host]
    index: Index
    group: str | None = None

    @property
    def every(self) -> int:
        """Seconds between cycles: a policy of tiers is continuous, a point a second."""
        return self.policy.copy_frequency or (1 if self.policy.tiers else points.frequency(self.policy))

    @property
    def zone(self) -> datetime.tzinfo:
        """That of the source host: local times of the policy count there (R5.2, R7.3)."""
        return zones.of(self.hosts.get(self.machine.host))


def protected(estate: Estate) -> Mapping[str, Protected]:
    """By machine. Of items whose estate is gone there is nothing."""
    row, profile = matrix.load().by_id("points"), estate.vault.profile
    hosts = {host.name: host for host in estate.host}
    groups = {name: group.name for group in estate.consistency for name in group.machines}
    found = {}
    index = Index(estate)
    for pair in Sides(index).pairs():
        keep = points.keep(row.cell(pair.protection.scenario, profile), pair.policy, profile)
        for item, machine in pair.machines:
            group = groups.get(machine.name)
            found[machine.name] = Protected(machine, pair.policy, keep, item, pair, hosts, index, group)
    return found
