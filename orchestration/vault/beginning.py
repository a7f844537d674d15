"""When the first copy of an item may begin (R5.2): at once, or at its policy's time, in the zone of the source host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from secondsite.orchestration.estate import zones
from secondsite.orchestration.estate.findings import Finding
from secondsite.orchestration.estate.model import Estate, Policy
from secondsite.orchestration.scenarios.firstcopy import MOST_DAYS

_DAY = 86400.0


def times(estate: Estate | None) -> dict[str, float]:
    """UTC seconds, by machine; only of those that wait for a time. Of an estate without findings."""
    if estate is None or not any(policy.initial_at for policy in estate.policy):
        return {}
    policies = _policies(estate)
    hosts, machines = _named(estate.host), _named(estate.machine)
    found = {}
    for item in estate.item:
        told = policies[item.protection].initial_at
        if told is not None:
            found[item.machine] = zones.moment(told, zones.of(hosts[machines[item.machine].host]))
    return found


def late(estate: Estate, held: Mapping[str, Any], now: float) -> Iterator[Finding]:
    """R5.2: machines that are enabled now, and wait for longer than a week."""
    found, policies = times(estate), _policies(estate)
    for item in estate.item if found else ():
        machine, at = item.machine, found.get(item.machine, now)
        if machine not in held and at > now + MOST_DAYS * _DAY:
            place = estate.policy.index(policies[item.protection])
            message = f"the first copy of {machine!r} would begin in {(at - now) / _DAY:.0f} days; at most {MOST_DAYS}"
            yield Finding("R5.2", ("policy", place, "initial_at"), message)


def _policies(estate: Estate) -> dict[str, Policy]:
    """By protection."""
    policies = _named(estate.policy)
    return {one.name: policies[one.policy] for one in estate.protection}


def _named(rows: Any) -> dict[str, Any]:
    return {row.name: row for row in rows}
