"""Effects on machines: stopped here, started there, never on both sides at once."""

from __future__ import annotations

from typing import Any

import msgspec

from secondsite.engine import errors
from secondsite.orchestration.failover import clouds, lost
from secondsite.orchestration.failover.intent import Placed
from secondsite.orchestration.failover.job import Job
from secondsite.orchestration.failover.machines import Known

# R9.6: how long a guest has for its own shutdown, by its agent and then by its power button.
STOP_SECONDS = 300
# What is thrown away is not asked.
KILL_SECONDS = 60


def state(job: Job, placed: Placed) -> tuple[str, str]:
    """(running, stopped or unknown; why), as its host sees it just now."""
    found = _status(job, placed)
    return str(found["state"]), str(found.get("why", ""))


def _status(job: Job, placed: Placed) -> dict[str, Any]:
    if placed.spec is None:
        state, why = clouds.state(placed)
        return {"state": state, "why": why}
    try:
        return job.machine(placed, "status")
    except errors.Unreachable as error:
        return {"state": "unknown", "why": str(error), "answers": False}


def stop_here(job: Job) -> None:
    """R9.6: it is off before anything else is done, or the failover is refused."""
    if not _stop_here(job):
        _, why = state(job, job.here)
        raise errors.Refused(f"R9.6: whether {job.item.machine!r} runs at {_name(job.here)} is not known: {why}")


def _stop_here(job: Job) -> bool:
    """Is it off for sure?"""
    found = _status(job, job.here)
    if found["state"] == "running":
        if not job.intent.ran:
            job.touch(ran=True)
        if found.get("wrong"):  # a guest whose disks nobody serves any more stands still, and cannot shut down
            job.machine(job.here, "start")
        job.machine(job.here, "stop", how=("agent", "acpi"), seconds=STOP_SECONDS)
        return True
    return bool(found["state"] == "stopped")


def not_running_here(job: Job) -> None:
    """R9.9: beside a source that is seen running nothing starts, nor beside one whose host answers and cannot tell,
    unless its operator says that it is dead. A site that does not answer is what failovers are for.
    """
    if job.intent.options.source_is_dead:
        return
    found = _status(job, job.here)
    why, where = _in_brackets(str(found.get("why", ""))), _name(job.here)
    if found["state"] == "running":
        raise errors.Refused(
            f"R9.9: {job.item.machine!r} still runs at {where}{why}; stop it, or fail over with --source-is-dead if "
            "that is not so"
        )
    if found["state"] == "unknown" and found.get("answers", True):
        raise errors.Refused(
            f"R9.9: {where} answers, and whether {job.item.machine!r} runs there is not known{why}; see that it does "
            "not, and fail over with --source-is-dead"
        )


def not_running_at_home(job: Job) -> None:
    """R9.9: the machine of before an unplanned failover may have come up again; nothing is stopped for a failback that
    would find it running.
    """
    for host in {job.known.machine.host, job.intent.options.host or job.known.machine.host}:
        found, why = state(job, job.known.home(host))
        if found == "running":
            where = f"{host}{_in_brackets(why)}"
            raise errors.Refused(f"R9.9: the old machine of {job.item.machine!r} runs at {where}; stop it first")


def start_there(job: Job) -> None:
    if job.there.spec is None:
        return
    found = job.machine(job.there, "start")
    if "disks" in found:
        job.save(there=where(job.known, job.there, found))


def prepare_there(job: Job) -> None:
    """Everything that its start needs, so that the start is all that is left."""
    found = job.machine(job.there, "prepare")
    job.save(there=where(job.known, job.there, found))


def where(known: Known, placed: Placed, told: dict[str, Any]) -> Placed:
    """With the paths that a host says that the disks have there."""
    named = {one["name"]: one["path"] for one in told["disks"]}
    assert placed.spec is not None
    paths = {
        disk.path: named[spec.name] for disk, spec in zip(known.disks, placed.spec.disks, strict=False)
        if spec.replica is not None
    }  # fmt: skip
    return msgspec.structs.replace(placed, disks={**placed.disks, **paths})


def stop_there(job: Job) -> None:
    """What runs there is given up."""
    for placed in given_up(job):
        if placed.spec is not None:
            job.machine(placed, "stop", how=("kill",), seconds=KILL_SECONDS)
        else:
            clouds.check_free(placed)


def remove_overlays(job: Job) -> None:
    """And so are its disks, where they are no more than overlays."""
    for placed in given_up(job):
        if placed.spec is not None and placed.spec.disks and placed.spec.disks[0].replica is not None:
            job.machine(placed, "remove")


def given_up(job: Job) -> list[Placed]:
    """What must not run any more: of another point, or of a failover that is cancelled."""
    changing = job.intent.phase == "changing"
    new = [] if changing or job.intent.there is None else [job.intent.there]
    return [*job.intent.old, *new]


def start_here(job: Job) -> None:
    """Where it ran before the failover stopped it. It may run there yet, or again, by its user's own hand."""
    if not job.intent.ran or job.here.spec is None:
        return
    if job.intent.lost:
        job.save(left=lost.left(job.here))
        return
    if any(one.replica is not None for one in job.here.spec.disks) and (found := lost.why(job.known, job.here)):
        raise errors.Unreachable(f"{job.item.machine!r} cannot go back: {found}")
    try:
        job.machine(job.here, "start")
    except errors.Refused:
        if state(job, job.here)[0] != "running":
            raise


def _name(placed: Placed) -> str:
    return placed.host or "Azure"


def _in_brackets(why: str) -> str:
    return f" ({why})" if why else ""
