"""Cycles that run on another host: there, where the disks of the machine are."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from secondsite.orchestration import hosts
from secondsite.orchestration.estate.model import Host, Machine, Policy
from secondsite.orchestration.protection import rest
from secondsite.orchestration.protection.worker import (
    FRESH,
    Cut,
    Quiesce,
    Worker,
    of_disk,
    options,
    told_bytes,
    told_time,
)


def at_host(worker: Worker, host: Host | None) -> Worker:
    """The same worker, whose cycles run on that host; one that is this machine has nothing to be reached by."""
    return worker if host is None or not host.reach else _There(worker, host)


def unplugged(machine: Machine) -> Machine:
    """A machine without the sockets and commands that it has where the estate says that it runs."""
    return msgspec.structs.replace(machine, qmp=None, guest_agent=None, quiesce=None)


def _paced(policy: Policy, replica: str) -> dict[str, Any]:
    """R12.15; there the disks of one cycle share it, and each machine's is a call by itself."""
    return {"schedule": policy.limit} if policy.limit is not None and "://" in replica else {}


class _There:
    """Only what reads the machine's disks is done there."""

    def __init__(self, worker: Worker, host: Host) -> None:
        self._worker, self._calls = worker, hosts.reach(host)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)

    def replicate(
        self, machine: Machine, disks: Mapping[str, str], policy: Policy, *, epoch: int, resync: bool,
        clock: Callable[[], datetime.datetime], cancel: Callable[[], bool], quiesce: Quiesce | None = None,
        ids: Mapping[str, str | None] = {},
    ) -> Cut:  # fmt: skip
        """As the engine's worker does it here: what brings its machine to rest is there, and so is the clock that tells
        when it was cut (R2.1). Raises Unreachable where the host does not answer.
        """
        arguments: dict[str, Any] = {
            "disks": [
                {"source": source, "replica": replica, "options": {
                    **of_disk(source), **_paced(policy, replica), "replica_id": ids.get(source),
                }}
                for source, replica in disks.items()
            ],
            "options": {"epoch": epoch, "resync": resync, **options(policy)}, "qmp": machine.qmp,
            "rest": msgspec.to_builtins(rest.plan(machine)) if quiesce is not None else None,
        }  # fmt: skip
        answer = self._calls.call("replica.replicate", arguments, cancel=cancel)
        told = answer["results"]
        return Cut(
            {source: one["generation"] for source, one in zip(disks, told, strict=True)},
            sum(one["changed_bytes"] for one in told), all(one["application"] for one in told),
            tuple(warning for one in told for warning in one["warnings"]),
            frozenset(source for source, one in zip(disks, told, strict=True) if one["kind"] == "initial"),
            frozenset(source for source, one in zip(disks, told, strict=True) if one["kind"] in FRESH),
            *told_bytes(told), told_time(one.get("cut_at") for one in told), bool(answer.get("thawed", True)),
        )  # fmt: skip
