"""Effects that put disks where a machine is to run, and take them away again."""

from __future__ import annotations

from secondsite.engine import errors
from secondsite.orchestration.failover import clouds, data, looking, networking, record, room, running
from secondsite.orchestration.failover.intent import Placed
from secondsite.orchestration.failover.job import Job
from secondsite.orchestration.failover.machines import lies


def check_there(job: Job) -> None:
    """Before anything is stopped for it."""
    if job.intent.to == "source":
        running.not_running_at_home(job)
    data.look(job)
    _look_short(job)
    networking.look(job)
    room.look(job)


def _look_short(job: Job) -> None:
    if job.intent.to == "target" and job.known.pair.target.account is None:
        host = job.known.target(job.item)
        looking.sockets(host, job.item.machine, f"{host.run}/{job.intent.number}")


def shut_down_here(job: Job) -> None:
    """R9.8: where that is asked for, as good as it goes. Without it the newest point is the one that is there."""
    if not job.intent.options.synchronize:
        return
    try:
        running.stop_here(job)
        job.touch()
        data.last_delta(job)
    except errors.Cancelled:
        raise
    except errors.Error as error:
        job.save(error=f"not synchronized: {error}")


def make_disks(job: Job) -> None:
    """From an overlay over the point at the target, which is there at once; at home in the disk's own place."""
    if _is_of_another_point(job):
        job.item = record.save(job.database, job.holder, job.item, job.intent.anew())
    _clear(job)
    if job.intent.to == "source":
        _place(job)
        return
    if job.intent.there is None:
        item, point, intent = job.item, job.point(), job.intent
        job.item = record.place(
            job.database, job.holder, item,
            lambda others: job.known.away(item, point, intent.number, {*intent.used, *others}),
        )  # fmt: skip
    if job.there.spec is None:
        clouds.make(job.item, job.point(), job.there, job.lease.cancelled, job.state)
    else:
        running.prepare_there(job)


def _is_of_another_point(job: Job) -> bool:
    """What an earlier attempt began at the target, before its machine wrote more, and another last delta was sent."""
    there = job.intent.there
    if job.intent.to == "source" or there is None or there.spec is None:
        return False
    made = job.point().generations
    begun = zip(job.known.disks, there.spec.disks, strict=False)
    return any(disk.path in made and one.at != str(made[disk.path]) for disk, one in begun)


def _clear(job: Job) -> None:
    """What an earlier attempt prepared, or ran, goes before there is another one."""
    for placed in job.intent.old:
        if placed.spec is not None:
            job.machine(placed, "stop", how=("kill",), seconds=running.KILL_SECONDS)
            job.machine(placed, "remove")
        if job.intent.to == "source":
            _put_back(job, placed)
        clouds.delete(job.item, placed, job.lease.cancelled)
    if job.intent.old:
        job.save(old=())


def _place(job: Job) -> None:
    """R12.11: in the format that it had; what lay there is kept until the commit (M12)."""
    if job.intent.there is None:
        job.save(there=job.known.home(job.intent.options.host, networking.home(job)))
    job.machine(job.there, "remove")  # nobody serves its disks from here on, until it starts
    host, point = data.home_host(job), job.point()
    formats = {disk.path: disk.format for disk in job.there.spec.disks} if job.there.spec is not None else {}
    job.machine(job.there, "remove")  # what served its disks when it ran here last
    for path, replica in job.replicas.items():
        arguments = {"replica": lies(replica, host), "at": str(point.generations[path]), "path": path,
                     "format": formats[path] if job.intent.options.host else None}  # fmt: skip
        job.calls(job.there).call("disk.place", arguments, cancel=job.lease.cancelled)


def remove_there(job: Job) -> None:
    """What the failover made there goes; at home the old disks come back into their places."""
    if job.intent.to == "target":
        running.remove_overlays(job)
        for placed in running.given_up(job):
            clouds.delete(job.item, placed, job.lease.cancelled)
        return
    for placed in running.given_up(job):
        job.machine(placed, "remove")
        _put_back(job, placed)


def _put_back(job: Job, placed: Placed) -> None:
    for disk in job.known.disks:
        job.calls(placed).call("disk.put-back", {"path": disk.path}, cancel=job.lease.cancelled)
