"""What a scenario lets a policy say of recovery points, and the keep rules that follow from it."""

from __future__ import annotations

from collections.abc import Iterator

from secondsite.engine import errors
from secondsite.orchestration.estate.findings import Finding
from secondsite.orchestration.estate.model import Policy
from secondsite.orchestration.estate.pairs import Pair
from secondsite.orchestration.estate.references import Index
from secondsite.orchestration.retention import policy as retention
from secondsite.orchestration.scenarios.matrix import Cell

# Of the overview's year (R1.3), and today's (R1.2): seconds between copies, hours of points.
COPY_FREQUENCY = 300
DEFAULT_HOURS = {"2014": 0, "today": 2}
# R4.1: hours between application-consistent points; 0 is off.
APPLICATION_HOURS = range(1, 13)
_WAYS = ("hours", "additional", "tiers")


def check(cell: Cell, pair: Pair, index: Index) -> Iterator[Finding]:
    """R1.1, R2, R3.1, R4."""
    policy = pair.policy
    yield from _frequency(cell, pair, index)
    for key in _WAYS:
        if getattr(policy, key) is not None and key != cell.kept:
            rule = "R3.1" if key == "additional" else "R2"
            remedy = "the array's own settings say it" if cell.kept == "array" else f"{cell.kept} says it here"
            yield Finding(rule, index.place(policy, key), f"{key!r} does not say what is kept here", remedy)
    most = cell.most
    if cell.kept in ("hours", "additional") and most is not None:
        value = getattr(policy, cell.kept)
        if value is not None and not 0 <= value <= most:
            rule = "R2.4" if cell.kept == "hours" else "R3.1"
            yield Finding(rule, index.place(policy, cell.kept), f"{value} is not in 0 to {most}")
    if cell.kept == "tiers" and policy.tiers is not None:
        yield from _tiers(policy, index)
    yield from _application(cell, policy, index)


def _tiers(policy: Policy, index: Index) -> Iterator[Finding]:
    try:
        retention.Continuous([(tier.every, tier.seconds) for tier in policy.tiers or ()]).rules()
    except errors.Usage as error:
        yield Finding("R13.2", index.place(policy, "tiers"), str(error))


def _frequency(cell: Cell, pair: Pair, index: Index) -> Iterator[Finding]:
    policy, allowed = pair.policy, cell.frequencies
    old = [host for _, side in pair.sides for host in side.hosts if host.version in cell.old_hosts]
    if old:
        allowed = cell.old_frequencies
    premium = pair.target.account is not None and pair.target.account.premium
    if premium and cell.premium_frequencies is not None:
        allowed = cell.premium_frequencies
    asked, where = policy.copy_frequency, index.place(policy, "copy_frequency")
    if asked is None:
        return
    if not allowed:
        yield Finding("A1", where, "this scenario has no copy frequency")
    elif asked not in allowed:
        why = f" for a host of {old[0].version}" if old else " for premium storage" if premium else ""
        known = ", ".join(map(str, allowed))
        yield Finding("R1.1", where, f"a copy each {asked} s does not exist{why}", f"possible: {known}")


def _application(cell: Cell, policy: Policy, index: Index) -> Iterator[Finding]:
    every, where = policy.application_consistent, index.place(policy, "application_consistent")
    if not every:
        return
    if not cell.application:
        yield Finding("A1", where, "application-consistent points are not made here")
    elif every not in APPLICATION_HOURS:
        yield Finding("R4.1", where, f"each {every} hours is not in 1 to 12")
    elif cell.kept in ("hours", "additional") and every >= (getattr(policy, cell.kept) or 0):
        yield Finding("R4.2", where, f"each {every} hours is not less than the {cell.kept} kept")


def keep(cell: Cell, policy: Policy, profile: str) -> retention.Policy:
    """What is kept, with the defaults of the profile where the policy says nothing. Only of a pair without findings."""
    if cell.kept == "hours":
        hours = DEFAULT_HOURS[profile] if policy.hours is None else policy.hours
        return retention.ByTime(frequency(policy), hours)
    if cell.kept == "additional":
        return retention.ByAmount(policy.additional or 0, cell.most or retention.MAX_ADDITIONAL)
    if cell.kept == "tiers":
        tiers = [(tier.every, tier.seconds) for tier in policy.tiers or ()]
        return retention.Continuous(tiers or [(1, 3600), (60, 86400)])
    return retention.ArrayManaged()


def frequency(policy: Policy) -> int:
    """Seconds from one cycle to the next."""
    return COPY_FREQUENCY if policy.copy_frequency is None else policy.copy_frequency
