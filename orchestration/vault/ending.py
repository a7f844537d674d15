"""How an item ends that leaves the estate (R1.10): by what the estate before said of it."""

from __future__ import annotations

from pathlib import PurePosixPath

import msgspec

from secondsite.orchestration.estate.model import Estate, Host
from secondsite.orchestration.typed import ready


class Ending(msgspec.Struct, frozen=True):
    """Whether its replicas are deleted, and where the QEMU is that followed its disks. `hosts` are those of the target
    on which an agent's replica can be deleted, since the estate says how they are reached.
    """

    delete: bool = False
    qmp: str | None = None
    hosts: tuple[Host, ...] = ()

    def at(self, replica: str) -> tuple[Host, str] | None:
        """The host on which an agent keeps a replica, and the replica's folder there."""
        where, _, name = replica.removeprefix("secondsite://").partition("/")
        for host in self.hosts:
            if replica.startswith("secondsite://") and host.address == where and host.path:
                return host, str(PurePosixPath(host.path, name))
        return None

    def spares(self, replica: str) -> bool:
        """Whether a replica stays even where it was to be deleted: no host deletes what another one's agent has."""
        return replica.startswith("secondsite://") and self.at(replica) is None


def ending(machine: str, before: Estate | None) -> Ending:
    """By the policy that was in force when the item was removed, not by one that came with that."""
    if before is None:
        return Ending()
    policies = {one.name: one for one in before.policy}
    pairs = {one.name: policies[one.policy] for one in before.protection}
    machines = {one.name: one for one in before.machine}
    by = [one.protection for one in before.item if one.machine == machine]
    delete = any(pairs[one].delete_replica for one in by)
    targets = {one.target for one in before.protection if delete and one.name in by}
    hosts = tuple(one for one in before.host if one.cloud in targets and one.address and one.reach)
    return Ending(delete, machines[machine].qmp if machine in machines else None, hosts)


ready(Ending)
