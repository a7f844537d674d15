"""Operations on the data of a host: the engine's own, told in JSON.

A failover fences a replica before it runs from it (D9); the way back adopts the old disk and replicates into it (R10).
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import msgspec

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.estate.model import Table
from secondsite.orchestration.hosts.operations import Cancel, Json
from secondsite.orchestration.hosts.spec import unpacked
from secondsite.orchestration.hypervisors.foreign import monitored
from secondsite.orchestration.protection import rest
from secondsite.orchestration.protection.rest import Plan


class Fence(Table, frozen=True):
    """`replica.fence`. `state` is the folder of what this host knows of others, here and below."""

    replica: str
    epoch: int
    state: str | None = None


class Adopt(Table, frozen=True):
    """`replica.adopt`: the disk `copy` becomes the replica's first point. Where there is one already, it was done; one
    that follows another image than `source`, which is to be sent, is of somebody else, and is set aside. `like` is the
    replica that followed the disk until a failover.
    """

    copy: str
    replica: str
    format: str | None = None
    move: bool = False
    like: str | None = None
    source: str | None = None
    state: str | None = None


class Pair(Table, frozen=True):
    """A disk, its replica, and options of its own as in `Replicate`."""

    source: str
    replica: str
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class Replicate(Table, frozen=True):
    """`replica.replicate`: a cycle of all disks at one instant, whose points have the time `at` (ISO 8601; now).
    `options` are those of engine.replicate that JSON can say; `qmp` is of the QEMU that has them, and `rest` says
    what brings their machine to rest around the instant (R4).
    """

    disks: tuple[Pair, ...]
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    at: datetime.datetime | None = None
    qmp: str | None = None
    rest: Plan | None = None
    state: str | None = None


class GoOn(Table, frozen=True):
    """`replica.go-on`: let a machine go on whose cycle ended while it was at rest."""

    rest: Plan


class Prune(Table, frozen=True):
    """`replica.prune`: keep the newest so many points, or drop those that are named and still there."""

    replica: str
    keep: int | None = None
    drop: tuple[str, ...] | None = None
    state: str | None = None


class Delete(Table, frozen=True):
    """`replica.delete`: the one that is known by this id, and by a host that is in this epoch or later; with `folder`
    also the one that it lies in, where nothing else is in it.
    """

    replica: str
    replica_id: str
    epoch: int | None = None
    folder: bool = False
    state: str | None = None


class Points(Table, frozen=True):
    """`replica.points`."""

    replica: str
    state: str | None = None


_OPTIONS = frozenset({
    "accept_source", "block_size", "codec", "distrust", "encrypt", "epoch", "head", "history", "keep", "limit",
    "replica_id", "resync", "schedule", "source_format", "source_id", "take_over", "tracker", "trust_mtime",
})  # fmt: skip


def fence(arguments: Json, cancel: Cancel) -> Json:
    """Its epoch is `epoch` or later from now on; which one, and what it is."""
    said = unpacked(Fence, arguments)
    epoch = engine.raise_epoch(said.replica, said.epoch, state=said.state)
    return {"epoch": epoch}


def adopt(arguments: Json, cancel: Cancel) -> Json:
    """What was adopted, or what lies there since an earlier call. `aside` is what was set aside for it."""
    said, aside = unpacked(Adopt, arguments), None
    try:
        there = engine.info(said.replica)
    except (errors.Unreachable, errors.Refused):
        there = None  # nothing, or no more than the folder of one that was deleted
    if isinstance(there, engine.ReplicaInfo) and there.points:
        if said.source is None or there.source in (os.path.realpath(said.copy), said.source):
            return {"replica": said.replica, "replica_id": there.replica_id, "method": "there", "aside": None,
                    "warnings": there.warnings}  # fmt: skip
        old_disk(said.copy)  # else nothing is to come in its place
        aside = f"{said.replica}.of-{there.replica_id[:8]}"
        try:
            os.rename(said.replica, aside)
        except OSError as error:
            raise errors.from_os(error, said.replica, "set it aside") from None
    made = engine.adopt(
        said.copy if said.move else old_disk(said.copy), said.replica, move=said.move, source_format=said.format,
        like=said.like, state=said.state, cancel=cancel,
    )  # fmt: skip
    return {**asdict(made), "aside": aside}


def old_disk(path: str) -> str:
    """The path, of a disk that is there. Raises Unreachable with what may be done without it."""
    if not os.path.exists(path):
        raise errors.Unreachable("R10.3: the old disk is not there; with --copy full everything is sent", path=path)
    return path


def replicate(arguments: Json, cancel: Cancel) -> Json:
    """`results`: what engine.replicate_together returns, in the order of the disks; `thawed`: their machine goes on."""
    said = unpacked(Replicate, arguments)
    common = _checked(said.options)
    if (qemu := monitored(said.qmp, [one.source for one in said.disks])) is not None:
        common["qemu"] = qemu
    rests = list[engine.Freeze]()
    if said.rest is not None:
        common["quiesce"] = partial(_resting, said.rest, rests)
    if (at := said.at) is not None:
        if at.tzinfo is None:
            raise errors.Usage(f"the time {at.isoformat()} has no zone")
        common["clock"] = lambda: at
    results = engine.replicate_together(list(_disks(said.disks)), cancel=cancel, state=said.state, **common)
    return {"results": [asdict(one) for one in results], "thawed": all(one.thawed for one in rests)}


@contextmanager
def _resting(plan: Plan, rests: list[engine.Freeze]) -> Iterator[engine.Freeze]:
    """By a keeper: a guest goes on also where this process is killed. How it went is added to `rests`."""
    from secondsite.orchestration.protection import keeper

    with keeper.kept(plan) as found:
        rests.append(found)
        yield found


def go_on(arguments: Json, cancel: Cancel) -> Json:
    """`problem`: what went wrong, or null."""
    return {"problem": rest.go_on(unpacked(GoOn, arguments).rest)}


def _disks(said: Iterable[Pair]) -> Iterator[engine.Disk]:
    """Those of one calendar of rates share it (R12.15)."""
    shared: dict[str, engine.Link] = {}
    for one in said:
        options = _checked(one.options)
        if (schedule := options.pop("schedule", None)) is not None:
            made = engine.Link.of(None, None, notify=lambda line: None, schedule=schedule)
            options["link"] = replace(shared.setdefault(schedule, made), sent=made.sent)
        yield engine.Disk(one.source, one.replica, options)


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(options.keys() - _OPTIONS):
        raise errors.Usage(f"a cycle has no option {unknown[0]!r} here; it has {', '.join(sorted(_OPTIONS))}")
    return dict(options)


def prune(arguments: Json, cancel: Cancel) -> Json:
    """How many points went, and the room that came back."""
    said = unpacked(Prune, arguments)
    drop = None if said.drop is None else _there(said.replica, said.drop, said.state)
    if drop == [] and said.keep is None:
        return asdict(engine.Pruned(0))
    return asdict(engine.prune_report(said.replica, keep=said.keep, drop=drop, state=said.state, cancel=cancel))


def _there(replica: str, names: tuple[str, ...], state: str | None) -> list[str]:
    """What is not there any more was dropped before."""
    return [name for name in {one.point for one in engine.points(replica, state=state)} if name in names]


def delete(arguments: Json, cancel: Cancel) -> Json:
    """Was it there?"""
    said = unpacked(Delete, arguments)
    folder = os.path.dirname(os.path.abspath(said.replica)) if said.folder and "://" not in said.replica else None
    if folder is not None and not os.path.exists(folder) and os.path.isdir(os.path.dirname(folder)):
        return {"deleted": False}  # it went with its last one
    gone = engine.delete_replica(said.replica, replica_id=said.replica_id, epoch=said.epoch, state=said.state)
    if folder is not None:
        with suppress(OSError):
            os.rmdir(folder)
    return {"deleted": gone}


def points(arguments: Json, cancel: Cancel) -> Json:
    """`points` as `secondsite points --json` lists them, and `info`, what the replica is."""
    said, warnings = unpacked(Points, arguments), list[str]()
    found = engine.points(said.replica, warnings=warnings, state=said.state)
    info = engine.info(said.replica, state=said.state)
    return {"points": [asdict(one) for one in found], "info": asdict(info), "warnings": warnings}
