"""How an item ends that leaves the estate (R1.10): by what the estate before said of it."""

from __future__ import annotations

import msgspec

from secondsite.orchestration.estate.model import Estate


class Ending(msgspec.Struct, frozen=True):
    """Whether its replicas are deleted, and where the QEMU is that followed its disks."""

    delete: bool = False
    qmp: str | None = None


def ending(machine: str, before: Estate | None) -> Ending:
    """By the policy that was in force when the item was removed, not by one that came with that."""
    if before is None:
        return Ending()
    policies = {one.name: one for one in before.policy}
    pairs = {one.name: policies[one.policy] for one in before.protection}
    machines = {one.name: one for one in before.machine}
    delete = any(pairs[one.protection].delete_replica for one in before.item if one.machine == machine)
    return Ending(delete, machines[machine].qmp if machine in machines else None)
