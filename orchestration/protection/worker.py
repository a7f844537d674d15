"""What a cycle does to data: through the engine, or to nothing at all where only the scheduling is looked at."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import copy_context
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, TypeVar

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.estate.model import Machine, Policy
from secondsite.orchestration.hypervisors.foreign import monitored

Quiesce = Callable[[], AbstractContextManager[engine.Freeze]]
T = TypeVar("T")
R = TypeVar("R")
# Kinds of cycles that make a generation of their own. A resync may, or mends the newest one.
FRESH = ("initial", "delta")


@dataclass(frozen=True)
class Cut:
    """What a cycle of a machine ended with: generations by path of the disk, and what it took. `begun`: disks whose
    replicas were made, `fresh`: those whose generation is of this cycle, with what changed. Of the data that changed
    `sealed_bytes`, as far as a sample of it tells, replaced other data and do not pack. `virtual_bytes`: of all disks.
    `at` is when they were cut, by the clock of the host that cut them; None where that is not known. `thawed`: what was
    at rest goes on there, as far as another host tells.
    """

    generations: Mapping[str, int]
    changed_bytes: int
    application: bool
    warnings: tuple[str, ...] = ()
    begun: frozenset[str] = frozenset()
    fresh: frozenset[str] = frozenset()
    data_bytes: int = 0
    sealed_bytes: int = 0
    virtual_bytes: int = 0
    at: datetime.datetime | None = None
    thawed: bool = True


@dataclass(frozen=True)
class Pending:
    """Bytes that are marked as changed, and those of the disks."""

    marked: int
    total: int


@dataclass(frozen=True)
class Part:
    """A machine's part in a cycle: `disks` are replicas by source, `ids` those of replicas that are known."""

    machine: Machine
    disks: Mapping[str, str]
    policy: Policy
    epoch: int
    resync: bool
    quiesce: Quiesce | None = None
    ids: Mapping[str, str | None] = field(default_factory=dict)


class Worker(Protocol):
    def replicate(
        self, machine: Machine, disks: Mapping[str, str], policy: Policy, *, epoch: int, resync: bool,
        clock: Callable[[], datetime.datetime], cancel: Callable[[], bool], quiesce: Quiesce | None = None,
        ids: Mapping[str, str | None] = {},
    ) -> Cut:  # fmt: skip
        """One cycle of all disks, at one instant; refused where a replica knows a higher epoch (D9). `quiesce` brings
        the machine to rest around it (R4). `clock` is looked at once they are cut. `ids` are those of the replicas, by
        source: in place of one that is not there none is begun. Raises what `engine.replicate_together` raises.
        """

    def replicate_machines(
        self, parts: Sequence[Part], *, clock: Callable[[], datetime.datetime], cancel: Callable[[], bool]
    ) -> list[Cut]:
        """One cycle of all disks of several machines of this host, at one instant (M13). Raises as `replicate`."""

    def export(
        self, machine: Machine, disks: Mapping[str, tuple[str, str]], policy: Policy, *, cancel: Callable[[], bool]
    ) -> Cut | None:
        """The seed of each disk to its folder, at one instant; `disks` are replica and folder by path. None where whole
        seeds of several instants lie there. Raises what `engine.export_seeds_together` raises.
        """

    def image(self, path: str) -> engine.ImageInfo:
        """What a disk is. Raises what `engine.info` raises, Refused where it is none."""

    def account(self, url: str) -> engine.StoreChecked:
        """What a storage account lets us do. Raises what `engine.check_store` raises."""

    def pending(self, paths: Sequence[str]) -> Pending | None:
        """What changed on disks since their last cycle; None where no tracking server follows all of them."""

    def adopt(self, copy: str, replica: str, *, cancel: Callable[[], bool]) -> None:
        """A copy on this host becomes the first point of a replica. Raises what `engine.adopt` raises."""

    def arrived(self, replica: str) -> bool:
        """Has it a point? False where there is none of that name yet. Raises what `engine.info` raises."""

    def epoch(self, replica: str) -> int:
        """The one that it is in; 0 where there is no replica. Raises what `engine.info` raises."""

    def noted(self, replica: str) -> dict[str, Any] | None:
        """The note of a replica, None where there is none, or no replica. Raises what `engine.read_note` raises."""

    def generations(self, replica: str) -> set[int]:
        """Its points. Raises what `engine.points` raises."""

    def drop(self, replica: str, generations: Sequence[int]) -> None:
        """Drop points of a replica. Raises what `engine.prune` raises; Refused where an overlay stands on one of them,
        when the others are dropped.
        """

    def identify(self, replica: str) -> str:
        """The id of a replica. Raises what `engine.info` raises."""

    def note(self, replicas: Sequence[str], note: Mapping[str, Any], epoch: int) -> None:
        """Write a note into each replica. Raises what `engine.write_note` raises."""

    def release(self, disk: str, replica_id: str, qmp: str | None) -> None:
        """Let go of what followed a disk for its replica. Raises what `engine.stop_following` raises."""

    def delete(self, replica: str, replica_id: str, epoch: int) -> None:
        """Delete a replica. Raises what `engine.delete_replica` raises."""


def options(policy: Policy) -> dict[str, Any]:
    """What a policy says of its cycles' data, as `engine.replicate` takes it."""
    said: dict[str, Any] = {}
    if policy.encrypt:
        said["encrypt"] = True
    if not policy.compress:
        said["codec"] = "none"
    return said


def of_disk(source: str) -> dict[str, Any]:
    """What the source of a disk says of itself: what runs at its target runs from an overlay."""
    return {"source_format": "overlay"} if source.endswith(".overlay") else {}


def beside(call: Callable[[T], R], given: Sequence[T], most: int = 8) -> list[R]:
    """The call of each, several at once where there are several, as `map` does: each takes a connection and a wait.
    What the caller opens replicas with counts there too.
    """
    if len(given) < 2:
        return [call(one) for one in given]
    with ThreadPoolExecutor(min(most, len(given)), "replica") as pool:
        return list(pool.map(lambda one, context: context.run(call, one), given, [copy_context() for _ in given]))


def _cut(part: Part, results: Sequence[engine.Replicated], at: datetime.datetime | None) -> Cut:
    """What the disks of one machine came to, cut `at` that time. A machine that was not to be at rest has no such
    point, whoever was.
    """
    return Cut(
        {source: result.generation for source, result in zip(part.disks, results, strict=True)},
        sum(result.changed_bytes for result in results),
        part.quiesce is not None and all(result.application for result in results),
        tuple(dict.fromkeys(warning for result in results for warning in result.warnings)),
        frozenset(source for source, one in zip(part.disks, results, strict=True) if one.kind == "initial"),
        frozenset(source for source, one in zip(part.disks, results, strict=True) if one.kind in FRESH),
        *told_bytes([asdict(one) for one in results]), at,
    )  # fmt: skip


def told_time(times: Iterable[str | None]) -> datetime.datetime | None:
    """When the disks of a cut were what they are in it: none of them is of later."""
    return max((datetime.datetime.fromisoformat(one) for one in times if one is not None), default=None)


def told_bytes(results: Sequence[Mapping[str, Any]]) -> tuple[int, int, int]:
    """Of the disks of a machine: bytes of data, those of them that are sealed, and the size (Cut)."""
    return (
        sum(one["sent_bytes"] for one in results),
        sum(one["sent_bytes"] * one["dense"] // one["looked"] for one in results if one["looked"]),
        sum(one["virtual_bytes"] for one in results),
    )


class EngineWorker:
    """For real. `state` is the folder of what this host knows of others."""

    def __init__(self, state: str | None = None) -> None:
        self.state = state
        self._links: dict[str, engine.Link] = {}

    def replicate(
        self, machine: Machine, disks: Mapping[str, str], policy: Policy, *, epoch: int, resync: bool,
        clock: Callable[[], datetime.datetime], cancel: Callable[[], bool], quiesce: Quiesce | None = None,
        ids: Mapping[str, str | None] = {},
    ) -> Cut:  # fmt: skip
        part = Part(machine, disks, policy, epoch, resync, quiesce, ids)
        return self.replicate_machines([part], clock=clock, cancel=cancel)[0]

    def replicate_machines(
        self, parts: Sequence[Part], *, clock: Callable[[], datetime.datetime], cancel: Callable[[], bool]
    ) -> list[Cut]:
        from secondsite.orchestration.protection.meeting import all_at_rest

        wanted = [
            engine.Disk(source, replica, {
                **self._said(part), **of_disk(source), **self._paced(part.policy, replica),
                "replica_id": part.ids.get(source),
            })
            for part in parts for source, replica in part.disks.items()
        ]  # fmt: skip
        quiesce = all_at_rest([part.quiesce for part in parts]) if len(parts) > 1 else parts[0].quiesce
        results = engine.replicate_together(wanted, clock=clock, cancel=cancel, state=self.state, quiesce=quiesce)
        at, left = told_time(one.cut_at for one in results), iter(results)
        return [_cut(part, [next(left) for _ in part.disks], at) for part in parts]

    def _said(self, part: Part) -> dict[str, Any]:
        return {"epoch": part.epoch, "resync": part.resync, **self._options(part.machine, part.disks, part.policy)}

    def _options(self, machine: Machine, disks: Iterable[str], policy: Policy) -> dict[str, Any]:
        said = options(policy)
        if (qemu := monitored(machine.qmp, disks)) is not None:
            said["qemu"] = qemu
        return said

    def _paced(self, policy: Policy, replica: str) -> dict[str, Any]:
        """R12.15: policies of one limit share it, with all that this process sends by them."""
        if policy.limit is None or "://" not in replica:
            return {}
        made = engine.Link.of(0, None, notify=lambda line: None, schedule=policy.limit)
        shared = self._links.setdefault(policy.limit, made)
        return {"link": replace(shared, sent=made.sent)}

    def export(
        self, machine: Machine, disks: Mapping[str, tuple[str, str]], policy: Policy, *, cancel: Callable[[], bool]
    ) -> Cut | None:
        """A replica in a folder cannot be told to wait: nothing is sent to it before its seed is there."""
        options = self._options(machine, disks, policy)
        options.pop("encrypt", None)
        wanted = [
            engine.Disk(path, folder, {"replica": replica if "://" in replica else None})
            for path, (replica, folder) in disks.items()
        ]
        done = engine.export_seeds_together(wanted, cancel=cancel, state=self.state, **options)
        if len({one.time for one in done}) > 1:
            return None
        return Cut(
            dict.fromkeys(disks, 1), sum(one.stored_bytes for one in done), False,
            tuple(warning for one in done for warning in one.warnings), frozenset(disks),
        )  # fmt: skip

    def image(self, path: str) -> engine.ImageInfo:
        found = engine.info(path)
        if not isinstance(found, engine.ImageInfo):
            raise errors.Refused("is a replica, and no disk", path=path)
        return found

    def account(self, url: str) -> engine.StoreChecked:
        return engine.check_store(url)

    def pending(self, paths: Sequence[str]) -> Pending | None:
        """A map that does not know its beginning has everything to be read, and nothing to be counted (D7)."""
        try:
            found = [engine.tracking_status(path) for path in paths]
        except errors.Error:
            return None
        if not all(one["known"] for one in found):
            return None
        return Pending(sum(one["marked_bytes"] for one in found), sum(one["size"] for one in found))

    def adopt(self, copy: str, replica: str, *, cancel: Callable[[], bool]) -> None:
        engine.adopt(copy, replica, cancel=cancel)

    def arrived(self, replica: str) -> bool:
        try:
            found = engine.info(replica, state=self.state)
        except errors.NoReplica:
            return False
        return getattr(found, "generation", 0) > 0

    def epoch(self, replica: str) -> int:
        try:
            found = engine.info(replica, state=self.state)
        except (errors.NoReplica, errors.Refused):
            return 0  # none yet, or one that a cycle is refused, too
        return getattr(found, "epoch", 0)

    def noted(self, replica: str) -> dict[str, Any] | None:
        try:
            return engine.read_note(replica, state=self.state)
        except (errors.NoReplica, errors.Refused):
            return None  # none yet, or one that a cycle is refused, too

    def generations(self, replica: str) -> set[int]:
        return {point.generation for point in engine.points(replica, state=self.state)}

    def drop(self, replica: str, generations: Sequence[int]) -> None:
        """What is not there any more was dropped before."""
        there = self.generations(replica) & set(generations)
        claimed = {claim.generation for claim in engine.overlays_of(replica, state=self.state)} if there else set()
        spare = [str(one) for one in sorted(there - claimed)]
        if spare:
            engine.prune(replica, drop=spare, state=self.state)
        if stays := there & claimed:
            raise errors.Refused(f"overlays stand on points {', '.join(map(str, sorted(stays)))}", path=replica)

    def identify(self, replica: str) -> str:
        found = engine.info(replica, state=self.state)
        return getattr(found, "replica_id", "")

    def note(self, replicas: Sequence[str], note: Mapping[str, Any], epoch: int) -> None:
        def write(replica: str) -> None:
            engine.write_note(replica, note, epoch=epoch, state=self.state)

        for _ in beside(write, replicas):
            pass

    def release(self, disk: str, replica_id: str, qmp: str | None) -> None:
        engine.stop_following(disk, replica_id, qemu=monitored(qmp, [disk]))

    def delete(self, replica: str, replica_id: str, epoch: int) -> None:
        engine.delete_replica(replica, replica_id=replica_id, epoch=epoch, state=self.state)
