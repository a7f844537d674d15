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
    """What a cycle of a machine ended with: generations by path of the disk, and what it took. `begun`: disks whose
    replicas were made.
    """

    generations: Mapping[str, int]
    changed_bytes: int
    application: bool
    warnings: tuple[str, ...] = ()
    begun: frozenset[str] = frozenset()


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

    def identify(self, replica: str) -> str:
        """The id of a replica. Raises what `engine.info` raises."""

    def release(self, disk: str, replica_id: str, qmp: str | None) -> None:
        """Let go of what followed a disk for its replica. Raises what `engine.stop_following` raises."""

    def delete(self, replica: str, replica_id: str, epoch: int) -> None:
        """Delete a replica. Raises what `engine.delete_replica` raises."""


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
            frozenset(disk.source for disk, one in zip(wanted, results, strict=True) if one.kind == "initial"),
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

    def identify(self, replica: str) -> str:
        found = engine.info(replica, state=self.state)
        return getattr(found, "replica_id", "")

    def release(self, disk: str, replica_id: str, qmp: str | None) -> None:
        engine.stop_following(disk, replica_id, qemu=engine.Qemu(qmp) if qmp is not None else None)

    def delete(self, replica: str, replica_id: str, epoch: int) -> None:
        engine.delete_replica(replica, replica_id=replica_id, epoch=epoch, state=self.state)
