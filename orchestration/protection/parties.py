"""Which cycles go together: an item alone, or those of a consistency group that can be cut at one instant (M13)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import leases
from secondsite.orchestration.protection.item import Held
from secondsite.orchestration.protection.said import Protected
from secondsite.orchestration.vault.database import Database


def of(
    database: Database, holder: str, claimed: Sequence[Held], said: Mapping[str, Protected], at: float
) -> Iterator[list[Held]]:
    """Parties of what was claimed. The group's other machines are claimed with the first one that is due, and are due
    with it from then on.
    """
    taken = set[str]()
    for item in claimed:
        if item.id in taken:
            continue
        party = [item, *_others(database, holder, item, claimed, said, at)]
        taken |= {one.id for one in party}
        yield [replace(one, due=item.due) for one in party]


def _others(
    database: Database, holder: str, item: Held, claimed: Sequence[Held], said: Mapping[str, Protected], at: float
) -> list[Held]:
    found = said.get(item.machine)
    if found is None or found.group is None or not _meets(item, found):
        return []
    names = [name for name, one in said.items() if one.group == found.group and name != item.machine]
    mine = [one for one in claimed if one.machine in names]
    rest = [name for name in names if name not in {one.machine for one in mine}]
    both = [*mine, *(leases.claim_named(database, holder, at, rest, State.REPLICATING) if rest else [])]
    ready = [one for one in both if _meets(one, said[one.machine])]
    leases.give_back(database, holder, [one.id for one in both if one not in ready and one not in mine])
    return ready


def _meets(item: Held, said: Protected) -> bool:
    """Whether it can be cut with others now: what has trouble of its own goes alone, and so does what another host
    would have to cut.
    """
    host = said.hosts.get(said.machine.host)
    plain = item.state is State.REPLICATING and item.ending is None and item.failover is None
    return plain and item.failures == 0 and item.active == "source" and not (host and host.reach)
