"""Is there room where a machine goes? Asked of its host before anything is stopped (R5.8): what is needed for sure.

An overlay begins empty and grows with what the machine writes, so that only a least is asked for. On the way home an
old disk that cannot be cloned is copied, what differs comes to it, and the point is made beside the disk. Where a file
system fills up in spite of that, the step fails, and goes on once there is room, or is taken back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from secondsite.engine import errors
from secondsite.engine.units import format_size
from secondsite.orchestration import hosts
from secondsite.orchestration.estate.model import Host
from secondsite.orchestration.failover import data
from secondsite.orchestration.failover.intent import Placed
from secondsite.orchestration.failover.job import Job
from secondsite.orchestration.failover.machines import lies
from secondsite.orchestration.protection import lookup
from secondsite.orchestration.protection.item import Held

Json = dict[str, Any]


def look(job: Job) -> None:
    """Raises Full. What goes on is not asked again: it has a part of its room already."""
    if job.intent.touched:
        return
    if job.intent.to == "source":
        host = data.home_host(job)
        _check(job.item, host, _home(job, host), job.lease.cancelled)
    elif job.known.pair.target.account is None:
        host = job.known.target(job.item)
        _check(job.item, host, {**_running(job.item.homes, host), "write": _last(job, host)}, job.lease.cancelled)


def for_test(item: Held, host: Host, cancel: Callable[[], bool]) -> None:
    """Raises Full."""
    _check(item, host, _running(item.disks, host), cancel)


def _running(replicas: Any, host: Host) -> Json:
    return {"run": [{"folder": host.run, "replica": lies(replica, host)} for replica in replicas.values()]}


def _last(job: Job, host: Host) -> list[Json]:
    """What the last delta may need: as much as the one before, which is all that is known of it."""
    sends = job.intent.kind == "planned" or job.intent.options.synchronize
    points = lookup.points(job.database, job.item.id)
    if not sends or len(points) < 2:
        return []
    return [{"folder": lies(next(iter(job.item.homes.values())), host), "bytes": points[-1].changed_bytes}]


def _home(job: Job, host: Host) -> Json:
    """What is adopted, what comes to it, and what is made in the disks' places."""
    said: dict[str, list[Json]] = {"adopt": [], "write": [], "place": []}
    sends = job.intent.kind != "unplanned"
    sizes, elsewhere = _sent(job) if sends else _held(job, host), host.name != job.known.machine.host
    formats = {one.path: one.format for one in _spec(job.known.home(host.name)).disks}
    for path, replica in (job.known.backs(host.name) if sends else job.replicas).items():
        where, (whole, changed) = lies(replica, host), sizes[path]
        delta = job.intent.options.copy == "delta" and not elsewhere
        if sends and (job.item.backs.get(path) != replica or job.item.back_ids.get(path) is None):
            said["adopt"] += [{"copy": path, "replica": where}] if delta else []
            said["write"].append({"folder": where, "bytes": changed if delta else whole})
        said["place"].append({
            "path": path, "replica": where, "format": formats[path] if elsewhere else None, "data": whole,
            "changed": changed,
        })  # fmt: skip
    return said


def _spec(placed: Placed) -> Any:
    assert placed.spec is not None, "what is at home is a machine"
    return placed.spec


def _sent(job: Job) -> dict[str, tuple[int, int]]:
    """By path of the disk, how much data it has where it runs, and how much of that was written there."""
    paths = [disk.path for disk in job.known.disks]
    if job.here.host is None:
        return dict.fromkeys(paths, (0, 0))  # in Azure, which is not asked
    host = job.host(job.here)
    below = _data(job, host, [lies(job.item.homes[path], host) for path in paths])
    written = _data(job, host, [job.here.disks.get(path, path) for path in paths])
    return {path: (old + new, new) for path, old, new in zip(paths, below, written, strict=True)}


def _held(job: Job, host: Host) -> dict[str, tuple[int, int]]:
    """The same of what is at home already, of which nobody knows how much is another than in the old disks."""
    places = {path: lies(replica, host) for path, replica in job.replicas.items()}
    return {path: (size, 0) for path, size in zip(places, _data(job, host, list(places.values())), strict=True)}


def _data(job: Job, host: Host, paths: list[str]) -> list[int]:
    found: list[int] = hosts.reach(host).call("host.data", {"paths": paths}, cancel=job.lease.cancelled)["bytes"]
    return found


def _check(item: Held, host: Host, said: Json, cancel: Callable[[], bool]) -> None:
    for one in hosts.reach(host).call("host.room", said, cancel=cancel)["rooms"]:
        if one["free"] < one["needed"]:
            free, needed = format_size(one["free"]), format_size(one["needed"])
            text = f"R5.8: {one['path']} has {free} free, and {item.machine!r} needs {needed} there; make room first"
            raise errors.Full(text, path=host.name)
