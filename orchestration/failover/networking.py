"""What hosts say of their networks, before a failover stops anything for them: which addresses are in use where the
machine goes, and which networks its cards are on where it comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from secondsite.engine import errors
from secondsite.orchestration import hosts
from secondsite.orchestration.estate.model import Host, Network
from secondsite.orchestration.failover import record
from secondsite.orchestration.failover.job import Job
from secondsite.orchestration.hosts.spec import MachineSpec
from secondsite.orchestration.networks import connections
from secondsite.orchestration.networks.connections import Cards

# Each round is one address of the pool further; a pool that many strangers have taken from is somebody else's.
_ROUNDS = 8


def look(job: Job) -> None:
    """R11.5, R11.7: an address that somebody has there is not given out once more. Raises Refused, and Unreachable."""
    if job.intent.to == "source":
        _check_home(job)
    elif job.known.pair.target.account is None:
        job.save(used=tuple(_used(job)))


def home(job: Job) -> Cards:
    """R11.5: where each card is now decides where it comes back to."""
    known, here = job.known, job.here.spec
    if here is None:
        return known.cards_at_home((), ())
    networks = list(_at_target(known.mapper.network, known.networks))
    then = [connections.network_of(nic.bridge, networks) for nic in here.nics]
    now = _now(job, here)
    # One that was never on a bridge of ours, as an external hypervisor's, nobody has moved.
    found = [connections.network_of(bridge, networks) for bridge in now] if len(now) == len(then) else then
    return known.cards_at_home(then, found)


def _now(job: Job, here: MachineSpec) -> list[str | None]:
    """The bridges that its cards are on. An unplanned failover home does without them, where nobody answers (R9.8)."""
    try:
        arguments = {"machine": here.name, "namespace": here.namespace}
        found: list[str | None] = _ask(job.host(job.here), "bridges", arguments, job)["bridges"]
        return found
    except errors.Unreachable:
        if job.intent.kind != "unplanned":
            raise
        return []


def _at_target(mapped: Mapping[str, str], networks: Mapping[str, Network]) -> Iterable[Network]:
    """Those first that machines fail over to: two sites may call their bridges the same."""
    yield from (network for network in networks.values() if network.name in mapped.values())
    yield from networks.values()


def _check_home(job: Job) -> None:
    cards = home(job)
    if cards.problems:
        raise errors.Refused(f"machine {job.item.machine!r}: {cards.problems[0]}")
    where = job.known.host(job.intent.options.host or job.known.machine.host)
    found = _probe(job, where, cards)
    for address in found:
        raise errors.Refused(f"R11.7: {address} is in use at home, by the card {found[address]}")


def _used(job: Job) -> set[str]:
    """Those that the mapping would choose, asked of their bridges, until it chooses one that nobody has."""
    host, found = job.known.target(job.item), set[str]()
    given = set(record.taken(job.database, job.item.id))
    for _ in range(_ROUNDS):
        more = _probe(job, host, job.known.cards_away(found | given))
        if not more:
            return found
        found |= set(more)
    raise errors.Refused(f"R11.7: {', '.join(sorted(found))} are all in use, by machines that this vault does not know")


def _probe(job: Job, host: Host, cards: Cards) -> dict[str, str]:
    """The addresses of cards that others have on their bridges, with the card that has each."""
    ours = [nic.mac for nic in cards.nics if nic.mac]
    found: dict[str, str] = {}
    for nic in cards.nics:
        if nic.bridge and nic.address and ":" not in nic.address:
            arguments = {"bridge": nic.bridge, "addresses": [nic.address.partition("/")[0]], "ours": ours,
                         "namespace": host.namespace}  # fmt: skip
            found |= _ask(host, "probe", arguments, job)["in_use"]
    return found


def _ask(host: Host, what: str, arguments: dict[str, Any], job: Job) -> dict[str, Any]:
    return hosts.reach(host).call(f"network.{what}", arguments, cancel=job.lease.cancelled)
