"""What a cycle does to data: through the engine, or to nothing at all where only the scheduling is looked at."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from secondsite import engine
from secondsite.orchestration.estate.model import Machine, Policy


@dataclass(frozen=True)
class Cut:
    """What a cycle of a machine ended with: generations by path of the disk, and what it took."""

    generations: Mapping[str, int]
    changed_bytes: int
    application: bool
    warnings: tuple[str, ...] = ()


class Worker(Protocol):
    def replicate(
        self, machine: Machine, disks: Mapping[str, str], policy: Policy, *, epoch: int, resync: bool,
        clock: Callable[[], datetime.datetime], cancel: Callable[[], bool],
    ) -> Cut:  # fmt: skip
        """One cycle of all disks, at one instant; refused where a replica knows a higher epoch (D9). Raises what
        `engine.replicate_together` raises.
        """

    def drop(self, replica: str, generations: Sequence[int]) -> None:
        """Drop points of a replica. Raises what `engine.prune` raises."""


class EngineWorker:
    """For real. `state` is the folder of what this host knows of others."""

    def __init__(self, state: str | None = None) -> None:
        self.state = state

    def replicate(
        self, machine: Machine, disks: Mapping[str, str], policy: Policy, *, epoch: int, resync: bool,
        clock: Callable[[], datetime.datetime], cancel: Callable[[], bool],
    ) -> Cut:  # fmt: skip
        common = {"epoch": epoch, "resync": resync, **self._options(machine, policy)}
        wanted = [engine.Disk(path, replica, {}) for path, replica in disks.items()]
        results = engine.replicate_together(wanted, clock=clock, cancel=cancel, state=self.state, **common)
        return Cut(
            {disk.source: result.generation for disk, result in zip(wanted, results, strict=True)},
            sum(result.changed_bytes for result in results), all(result.application for result in results),
            tuple(warning for result in results for warning in result.warnings),
        )  # fmt: skip

    def _options(self, machine: Machine, policy: Policy) -> dict[str, Any]:
        said: dict[str, Any] = {}
        if policy.encrypt:
            said["encrypt"] = True
        if not policy.compress:
            said["codec"] = "none"
        if machine.qmp is not None:
            agent = machine.guest_agent if policy.application_consistent else None
            said["qemu"] = engine.Qemu(machine.qmp, agent=agent)
        return said

    def drop(self, replica: str, generations: Sequence[int]) -> None:
        """What is not there any more was dropped before."""
        there = {point.generation for point in engine.points(replica, state=self.state)}
        spare = [str(one) for one in generations if one in there]
        if spare:
            engine.prune(replica, drop=spare, state=self.state)
