"""Rules that look at more than one pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from secondsite.orchestration.estate.findings import Finding
from secondsite.orchestration.estate.model import Host, Server
from secondsite.orchestration.estate.pairs import Pair
from secondsite.orchestration.estate.references import Index
from secondsite.orchestration.plans import rules


def check(pairs: Sequence[Pair], index: Index) -> Iterator[Finding]:
    yield from _one_pair_a_cloud(pairs, index)
    yield from _one_provider(index)
    yield from _protected_here(pairs, index)
    yield from _groups(pairs, index)
    yield from rules.check(pairs, index)


def _one_pair_a_cloud(pairs: Sequence[Pair], index: Index) -> Iterator[Finding]:
    """R1.4."""
    counts = Counter(side.name for pair in pairs for _, side in pair.sides if side.kind == "cloud")
    for pair in pairs:
        for key, side in pair.sides:
            if side.kind == "cloud" and counts[side.name] > 1:
                where = index.place(pair.protection, key)
                yield Finding("R1.4", where, f"cloud {side.name!r} is in {counts[side.name]} pairs; it may be in one")


def _one_provider(index: Index) -> Iterator[Finding]:
    """R1.8."""
    estate = index.estate
    rows: list[Server | Host] = [*estate.server, *estate.host]
    found = [(row, row.provider) for row in rows if row.provider is not None]
    if len({version for _, version in found}) > 1:
        usual = Counter(version for _, version in found).most_common(1)[0][0]
        for row, version in found:
            if version != usual:
                where = index.place(row, "provider")
                yield Finding("R1.8", where, f"Provider {version} on {row.name!r}; the others have {usual}")


def _protected_here(pairs: Sequence[Pair], index: Index) -> Iterator[Finding]:
    """A machine is protected where its host is."""
    for pair in pairs:
        hosts = {host.name for host in pair.source.hosts}
        for item, machine in pair.machines:
            if machine.host not in hosts:
                where = index.place(item, "protection")
                source = f"{pair.source.kind} {pair.source.name!r}"
                message = f"machine {machine.name!r} runs on {machine.host!r}, which is not in {source}"
                yield Finding("SEED", where, message)


def _groups(pairs: Sequence[Pair], index: Index) -> Iterator[Finding]:
    """R12.1, R12.2: what an array replicates, it replicates as groups."""
    for pair in pairs:
        array = pair.source.array
        for item, machine in pair.machines if array is not None else ():
            group = index.tables["group"].get(machine.group or "")
            where = index.place(item, "machine")
            if group is None or array is None or group.array != array.name:
                yield Finding("R12.1", where, f"machine {machine.name!r} is in no replication group of the array")
            elif not group.replicating:
                yield Finding("R12.2", where, f"group {group.name!r} does not replicate yet", "the group first")
