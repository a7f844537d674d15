"""Effects on data: the last delta and its proof, the fence, what goes back, and points that nobody needs any more."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration import hosts
from secondsite.orchestration.estate.model import Host
from secondsite.orchestration.failover import clouds, looking, lost, record, running
from secondsite.orchestration.failover.job import Job
from secondsite.orchestration.failover.machines import lies
from secondsite.orchestration.hosts import Calls
from secondsite.orchestration.protection import lookup
from secondsite.orchestration.protection.elsewhere import at_host, unplugged
from secondsite.orchestration.protection.item import Made

Kind = TypeVar("Kind")
# A cycle that was taken over lets go of its replica once it sees that; its lease is renewed that often.
BUSY_SECONDS = 30.0
_LOOK_SECONDS = 0.2
_HERE = Host("this host")


class Sent(NamedTuple):
    """Generations by path of the disk at the source, how many bytes changed, and the time at the source."""

    generations: dict[str, int]
    changed: int
    at: datetime.datetime


def last_delta(job: Job) -> None:
    """What is not there yet, as one more point: the one that it fails over to."""
    made = job.new_point(*_send(job))
    job.save(made, point=made.number)


def copy(job: Job) -> None:
    """R10.4: what differs goes back while the machine runs, so that the last delta is short."""
    job.save(job.new_point(*_send(job)))


def _send(job: Job) -> Sent:
    """A cycle from where the machine is to the side that it goes to, held back by whoever writes there yet. Its QEMU is
    not asked: it is off, or not the one that the estate names.
    """
    sources, began = _sources(job), job.clocks.datetime()
    machine, policy = unplugged(job.known.machine), job.known.pair.policy
    if job.intent.to == "source":  # R12.14: what is encrypted are data in Azure
        policy = msgspec.structs.replace(policy, encrypt=False)
    worker = at_host(job.worker, job.host(job.here) if job.here.host else None)
    disks = {sources[path]: replica for path, replica in job.replicas.items()}
    known = job.item.ids if job.intent.to == "target" else job.item.back_ids
    cut = patiently(job, lambda: worker.replicate(
        machine, disks, policy, epoch=job.intent.epoch, resync=False, clock=job.clocks.datetime,
        cancel=job.lease.cancelled, ids={sources[path]: known.get(path) for path in job.replicas},
    ))  # fmt: skip
    _know(job)
    homes = {source: path for path, source in sources.items()}
    return Sent({homes[source]: one for source, one in cut.generations.items()}, cut.changed_bytes, cut.at or began)


def _know(job: Job) -> None:
    """Which replicas of the way back were made just now, where no old disk was adopted (R10.3, R10.5): only those that
    are known are deleted at the commit.
    """
    if job.intent.to == "source" and None in (job.item.back_ids.get(path) for path in job.replicas):
        found = {path: (replica, job.item.back_ids.get(path) or job.worker.identify(replica))
                 for path, replica in job.replicas.items()}  # fmt: skip
        job.item = record.backs(job.database, job.holder, job.item, found)


def _sources(job: Job) -> dict[str, str]:
    """Where the contents of each disk are, by its path at the source."""
    return {disk.path: job.here.disks.get(disk.path, disk.path) for disk in job.known.disks}


def patiently(job: Job, call: Callable[[], Kind]) -> Kind:
    """Again for a while, where somebody else holds the replica who is about to end. Raises what it raises at last."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return call()
        except (errors.Busy, errors.SourceChanged):
            if time.monotonic() > until:
                raise
        job.lease.check()
        time.sleep(_LOOK_SECONDS)


def prove(job: Job) -> None:
    """D10, R9.6: the disks of both sides have equal hashes, or it goes no further."""
    sources, point = _sources(job), job.point()
    for path, replica in job.replicas.items():
        arguments = {"replica": replica, "source": sources[path], "at": str(point.generations[path]),
                     "state": job.state}  # fmt: skip
        calls = job.calls(job.here) if job.here.host is not None else hosts.reach(_HERE)
        found = calls.call("replica.prove", arguments, cancel=job.lease.cancelled)
        if not found["ok"]:
            raise errors.Damaged(f"differs from {sources[path]} in {found['bad']} places", path=replica)


def fence(job: Job) -> None:
    """D9: whoever sends in an earlier epoch is refused from now on."""
    for replica in job.replicas.values():
        patiently(job, partial(at_replica, job, "fence", replica, epoch=job.intent.epoch))


def at_replica(job: Job, operation: str, replica: str, **more: Any) -> dict[str, Any]:
    """An operation on a replica of the side that it fails over to, on its own host; in a store by ourselves."""
    if job.intent.to == "target" and job.known.pair.target.account is not None:
        host, arguments = _HERE, {"replica": replica, "state": job.state, **more}
    else:
        host = job.known.target(job.item) if job.intent.to == "target" else home_host(job)
        arguments = {"replica": lies(replica, host), **more}
    return hosts.reach(host).call(f"replica.{operation}", arguments, cancel=job.lease.cancelled)


def home_host(job: Job) -> Host:
    """Where it goes back to (R10.5)."""
    return job.known.host(job.intent.options.host or job.known.machine.host)


def look(job: Job) -> None:
    """The point is there and whole on every disk (looking.py). What a machine runs from is opened too (R9.14): of a
    planned one the replicas that it goes to, of a failback those that its overlays lie over.
    """
    made, cancel = job.point() if job.intent.point is not None else None, job.lease.cancelled
    if job.intent.to == "target":
        epoch = None if job.intent.touched else job.intent.epoch  # else it may be there already
        looking.at_target(job.known, job.item, made, cancel, job.state, epoch=epoch)
        if made is not None and job.intent.options.verify:
            _verify(job, made)
        return
    if job.here.spec is not None and job.intent.kind != "unplanned":
        looking.at_target(job.known, job.item, None, cancel, job.state)
    if made is not None:
        looking.point(home_host(job), made, job.replicas, cancel, ids=job.item.back_ids)


def _verify(job: Job, made: Made) -> None:
    """Every byte that the machine would read. Raises Damaged."""
    for path, replica in job.replicas.items():
        found = at_replica(job, "prove", replica, at=str(made.generations[path]))
        if not found["ok"]:
            raise errors.Damaged(f"point {made.number} is damaged in {found['bad']} places", path=replica)


def adopt(job: Job) -> None:
    """M12: the old disks become the first point of the replicas of the way back, and stay bootable themselves. R9.9: no
    machine writes to them meanwhile.
    """
    running.not_running_at_home(job)
    host = home_host(job)
    elsewhere = host.name != job.known.machine.host  # where no old disk is (R10.5)
    places, delta = job.known.backs(host.name), job.intent.options.copy == "delta" and not elsewhere
    known = {path: job.item.back_ids.get(path) for path in places if job.item.backs.get(path) == places[path]}
    found: dict[str, tuple[str, str | None]] = {}
    for path, replica in places.items():
        number = known.get(path)
        if number is None and delta:
            number = _adopted(job, host, path, replica)
        found[path] = (replica, number)
    job.item = record.backs(job.database, job.holder, job.item, found)
    with suppress(errors.Unreachable, errors.Refused):
        job.machine(job.known.home(host.name), "remove")  # who served the old disks, and knew what changed, ends


def _adopted(job: Job, host: Host, path: str, replica: str) -> str:
    """The id of what an old disk became. The replica that followed it says what is known of it; without that, where it
    cannot be asked or read, all of the disk is read. What an item that was given up left there is set aside.
    """
    calls = hosts.reach(host)
    arguments = {"copy": path, "replica": lies(replica, host), "source": _sources(job)[path]}
    with engine.using_key(engine.Key(plain=True)):  # of the two replicas one may be encrypted
        made = _adopt(job, host, path, calls, arguments)
    if made.get("aside"):
        record.aside(job.database, job.item, f"{host.name}: {made['aside']}", job.clocks.utc())
    return str(made["replica_id"])


def _adopt(job: Job, host: Host, path: str, calls: Calls, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        like = {**arguments, "like": lies(job.item.homes[path], host) if _same(job, host) else job.item.homes[path]}
        return calls.call("replica.adopt", like, cancel=job.lease.cancelled)
    except (errors.Cancelled, errors.Full):
        raise
    except errors.Error:
        return calls.call("replica.adopt", arguments, cancel=job.lease.cancelled)


def _same(job: Job, host: Host) -> bool:
    """Do both sides lie on one host? Then nobody is asked over a network."""
    return job.known.pair.target.account is None and job.known.target(job.item).name == host.name


def prune(job: Job) -> None:
    """R9.10: the other points go; what lies under the running machine stays. Nobody chooses them before the replicas
    drop them, so that no point is listed that does not restore.
    """
    if job.intent.to == "source":
        return  # all of its way back goes, once it has come home
    keep = job.point()
    record.hide(job.database, job.holder, job.item, keep.number, job.direction)
    others = lookup.points(job.database, job.item.id, dropped=True, direction=job.direction)
    for path, replica in job.replicas.items() if others else ():
        spare = {str(one.generations[path]) for one in others if path in one.generations}
        _drop(job, replica, spare - {str(keep.generations[path])})
    record.drop(job.database, job.holder, job.item, keep.number, job.direction)


def _drop(job: Job, replica: str, spare: set[str]) -> None:
    """All but the newest, which is the head and cannot go."""
    told = [str(one["generation"]) for one in at_replica(job, "points", replica)["points"]]
    wanted = sorted(spare & set(told[:-1]), key=int)
    if wanted:
        patiently(job, partial(at_replica, job, "prune", replica, drop=wanted))


def forget_here(job: Job) -> None:
    """Its cards, what served its disks, and overlays. Of a machine that came home also what lay there before, and the
    replicas of its way back. The side that it left need not be there any more.
    """
    if job.intent.to == "source":
        clouds.check_free(job.here)
        record.hide(job.database, job.holder, job.item, None, job.direction)  # none is listed that does not restore
        for disk in job.known.disks:
            job.calls(job.there).call("disk.keep", {"path": disk.path}, cancel=job.lease.cancelled)
    # After an unplanned failover it may even run there again: then that is somebody else's.
    others = errors.Refused if job.intent.kind == "unplanned" else errors.Unreachable
    try:
        if job.here.spec is not None:
            job.machine(job.here, "remove")
    except errors.Unreachable:
        job.save(left=lost.left(job.here))
    except others:
        pass
    if job.intent.to != "source":
        return
    clouds.delete(job.item, job.here, job.lease.cancelled)
    for path, replica in job.replicas.items():
        number = job.item.back_ids.get(path)
        if number is not None:
            said = {"replica_id": number, "epoch": job.intent.epoch, "folder": True}
            delete = partial(at_replica, job, "delete", replica, **said)
            patiently(job, delete)
