"""A protected machine and its points, as the vault has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from secondsite.orchestration.failover.intent import Intent, Placed, Test
from secondsite.orchestration.failover.situation import Direction
from secondsite.orchestration.health.states import State
from secondsite.orchestration.health.statistics import Statistics
from secondsite.orchestration.health.tripwire import Tripwire
from secondsite.orchestration.protection.application import Application
from secondsite.orchestration.protection.rest import Plan
from secondsite.orchestration.retention.point import Point
from secondsite.orchestration.retention.timeline import Timeline
from secondsite.orchestration.scenarios.matrix import SideName
from secondsite.orchestration.vault.ending import Ending


@dataclass(frozen=True)
class Held:
    """An item that this orchestrator has the lease of. `doing` is what a holder before was at when it ended.

    `disks` and `ids` are the replicas of the direction in which it replicates, by the path of the disk at the source;
    `homes` are those at the target, `backs` and `back_ids` those at the source. `leaving`: replica and id of disks that
    left the machine, and that older points need. `held_until` is when the lease of whoever has it ends, 0 of nobody.
    `anew`: its resync may begin other replicas.
    """

    id: str
    machine: str
    protection: str
    state: State
    doing: str | None
    epoch: int
    due: float
    last: float | None
    failures: int
    sending: bool
    reason: str | None
    statistics: Statistics
    timeline: Timeline | None
    disks: Mapping[str, str]
    ids: Mapping[str, str | None]
    ending: Ending | None = None
    application: Application = field(default_factory=Application)
    at_rest: Plan | None = None
    tripwire: Tripwire = field(default_factory=Tripwire)
    active: SideName = "source"
    direction: Direction = "forward"
    failover: Intent | None = None
    test: Test | None = None
    away: Placed | None = None
    homes: Mapping[str, str] = field(default_factory=dict)
    backs: Mapping[str, str | None] = field(default_factory=dict)
    back_ids: Mapping[str, str | None] = field(default_factory=dict)
    leaving: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    held_until: float = 0.0
    anew: bool = False

    @property
    def sources(self) -> Mapping[str, str]:
        """Where the contents of each disk are, where its machine runs: by its path at the source."""
        if self.active == "source" or self.away is None:
            return {path: path for path in self.disks}
        return {path: self.away.disks.get(path, path) for path in self.disks}


@dataclass(frozen=True)
class Made:
    """A point of a machine: generations by path of the disk at the source, in the replicas of its `direction`. `at` is
    on the item's timeline.
    """

    number: int
    time: str
    at: int
    application: bool
    pinned: str | None
    generations: Mapping[str, int]
    changed_bytes: int
    direction: Direction = "forward"

    def point(self) -> Point:
        """As retention knows it."""
        return Point(self.number, self.at, self.application, self.pinned is not None)
