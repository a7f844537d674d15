"""Health by number (R8.2 to R8.4, R8.7): a pure function of what is known of an item."""

from __future__ import annotations

import enum

import msgspec

from secondsite.orchestration.health.states import State
from secondsite.orchestration.health.statistics import Statistics

MOST_MISSED = 0.2
LONGEST_SILENCE = 3600.0
HIGHEST_LATENCY = 300.0


class Level(enum.IntEnum):
    NORMAL = 0
    WARNING = 1
    CRITICAL = 2


class Facts(msgspec.Struct, frozen=True):
    """`last` is the moment of the newest acknowledged point, `now` the present, both in UTC seconds. `sending` says
    whether the source can send, as far as its last attempt tells; `replica_paused` that the other side was told to
    wait; `reversed` that an item which failed over replicates back. `rpo_threshold` is in seconds. `application` says
    why a point that should be application-consistent is not, `at_rest` that the machine may stand still,
    `tripwire` what it saw where it tripped, `waited` for how many seconds a cycle has been due that nobody begins,
    `stuck` what may be done about a failover that failed on its way.
    """

    state: State
    now: float
    last: float | None
    statistics: Statistics = Statistics()
    sending: bool = True
    replica_paused: bool = False
    reversed: bool = False
    rpo_threshold: int | None = None
    application: str | None = None
    at_rest: bool = False
    tripwire: str | None = None
    waited: float | None = None
    stuck: str | None = None

    @property
    def rpo(self) -> float | None:
        """How old the newest point is; a clock that went back makes nothing younger than now."""
        return None if self.last is None else max(self.now - self.last, 0.0)


class Reason(msgspec.Struct, frozen=True):
    level: Level
    rule: str
    words: str


def judge(facts: Facts) -> list[Reason]:
    """Why the item is not as it should be, the worst first; empty is normal."""
    return sorted([*_critical(facts), *_warnings(facts)], key=lambda reason: -reason.level)


def level(reasons: list[Reason]) -> Level:
    return max((reason.level for reason in reasons), default=Level.NORMAL)


def _critical(facts: Facts) -> list[Reason]:
    """R8.2."""
    found = []
    if facts.state in (State.WAITING_FOR_START_RESYNCHRONIZE, State.RESYNCHRONIZE_SUSPENDED):
        found.append("resynchronization is required")
    if facts.state is State.ERROR or not facts.sending:
        found.append("the source cannot send")
    if facts.replica_paused:
        found.append("the replica is paused")
    reasons = [Reason(Level.CRITICAL, "R8.2", words) for words in found]
    if facts.at_rest:
        words = "the machine may stand still: it was at rest for a point, and could not be let go on"
        reasons.append(Reason(Level.CRITICAL, "R4.4", words))
    if facts.stuck is not None:  # it may run nowhere, and nothing is replicated meanwhile
        reasons.append(Reason(Level.CRITICAL, "R9.7", f"its failover failed: {facts.stuck}"))
    return reasons


def _warnings(facts: Facts) -> list[Reason]:
    """R8.3, R8.4 and R8.7."""
    found = []
    counts = facts.statistics
    if counts.total and counts.missed > MOST_MISSED * counts.total:
        found.append(("R8.3", f"{counts.missed} of {counts.total} cycles were missed"))
    silence = facts.rpo
    if facts.state.cycles and silence is not None and silence > LONGEST_SILENCE:
        found.append(("R8.3", f"nothing was sent for {silence / 3600:.1f} h"))
    if facts.waited is not None:
        words = f"a cycle has been due for {facts.waited:.0f} s, and nobody begins it: `secondsite run` does"
        found.append(("R8.3", words))
    if facts.state in (State.READY_FOR_INITIAL_REPLICATION, State.WAITING_FOR_INITIAL_REPLICATION):
        found.append(("R8.3", "the first copy is not complete"))
    if facts.state in (State.FAIL_OVER_WAITING_COMPLETION, State.FAILED_OVER) and not facts.reversed:
        found.append(("R8.3", "it failed over, and does not replicate back"))
    if facts.state is State.SUSPENDED:
        found.append(("R8.3", "replication is paused"))
    if counts.average_latency > HIGHEST_LATENCY:
        found.append(("R8.4", f"a cycle takes {counts.average_latency:.0f} s on average"))
    if facts.rpo_threshold is not None and silence is not None and silence > facts.rpo_threshold:
        found.append(("R8.7", f"the newest point is {silence:.0f} s old, more than {facts.rpo_threshold} s"))
    if facts.application is not None:
        found.append(("R4.4", f"no application-consistent point: {facts.application}"))
    if facts.tripwire is not None:
        found.append(("M15", f"{facts.tripwire}; points are pinned until somebody acknowledges it"))
    return [Reason(Level.WARNING, rule, words) for rule, words in found]
