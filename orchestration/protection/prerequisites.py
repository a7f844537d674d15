"""What has to be so before the first byte of an item is sent (R12.10 to R12.13, R5.8), asked of the things themselves.

The estate was held to its rules when it was applied. Here its disks are opened, its storage account and its agents
asked and the room at the target looked at; then the same rules judge what was found. All that is wrong is told at once.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import msgspec

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.units import format_size
from secondsite.orchestration.estate.findings import Finding
from secondsite.orchestration.estate.model import Disk, Machine
from secondsite.orchestration.estate.pairs import Pair
from secondsite.orchestration.hosts.room import nearest
from secondsite.orchestration.protection.item import Held
from secondsite.orchestration.protection.said import Protected
from secondsite.orchestration.protection.worker import Worker
from secondsite.orchestration.scenarios import asked
from secondsite.orchestration.scenarios.check import pair_findings

# An account is asked once for all items that begin within so many seconds.
_ACCOUNT_SECONDS = 60.0
# Formats as an estate calls them.
_FORMATS = ("raw", "vhd", "vhdx", "vmdk", "qcow2")


class NotReady(errors.Refused):
    """What is wrong, all of it. It is asked again, since an operator mends it without telling (R6.4)."""

    retryable = True


@dataclass
class Prerequisites:
    worker: Worker
    _accounts: dict[str, tuple[float, list[Finding]]] = field(default_factory=dict)

    def check(self, item: Held, said: Protected) -> None:
        """Raises NotReady."""
        images, problems = self._open(item, said)
        problems += [_told(one) for one in pair_findings(_as_found(said, images), said.index)]
        problems += [_told(one) for one in self._account(said)]
        problems += [*self._target(item), *self._copies(said, images), *_room(item, said, images)]
        if problems:
            raise NotReady("; ".join(dict.fromkeys(problems)))

    def _open(self, item: Held, said: Protected) -> tuple[dict[str, engine.ImageInfo], list[str]]:
        """The disks, where they are this host's."""
        found: dict[str, engine.ImageInfo] = {}
        problems = []
        host = said.hosts.get(said.machine.host)
        for path in item.disks if host is None or not host.reach else ():
            try:
                found[path] = self.worker.image(path)
            except errors.Error as error:
                problems.append(f"R12.10: {error}")
        return found, problems

    def _account(self, said: Protected) -> list[Finding]:
        """R12.11."""
        account = said.pair.target.account
        if account is None:
            return []
        at, found = self._accounts.get(account.name, (-_ACCOUNT_SECONDS, []))
        if time.monotonic() - at > _ACCOUNT_SECONDS:
            found = list(asked.account(said.pair, said.index, self.worker.account))
            self._accounts[account.name] = time.monotonic(), found
        return found

    def _target(self, item: Held) -> Iterator[str]:
        """R12.12: an agent answers, and lets us in; a folder is there, or may be made."""
        for replica in item.disks.values():
            try:
                if replica.startswith("secondsite://"):
                    self.worker.arrived(replica)
                elif "://" not in replica and not os.access(nearest(replica), os.W_OK):
                    yield f"R5.8: {nearest(replica)}: it cannot be written"
            except errors.Error as error:
                yield f"R12.12: {error}"

    def _copies(self, said: Protected, images: dict[str, engine.ImageInfo]) -> Iterator[str]:
        """R5.4: the medium is there; R5.6: copies on this host are of the same disks."""
        medium = said.item.medium
        if said.policy.initial == "media" and medium is not None and not os.path.isdir(medium):
            yield f"R5.4: the medium {medium} is not there"
        if said.policy.initial != "existing" or any(host.reach or host.address for host in said.pair.target.hosts):
            return
        paths = [disk.path for disk in said.machine.disks if not disk.exclude]
        for path, copy in zip(paths, said.item.existing, strict=False):
            try:
                found = self.worker.image(copy)
            except errors.Error as error:
                yield f"R5.6: {error}"
                continue
            size = images[path].virtual_bytes if path in images else found.virtual_bytes
            if found.virtual_bytes != size:
                yield f"R5.6: {copy} has {found.virtual_bytes} bytes, its disk {path} has {size}"


def _as_found(said: Protected, images: dict[str, engine.ImageInfo]) -> Pair:
    """The pair with this machine alone, whose disks are what they were found to be."""
    disks = tuple(_disk(disk, images.get(disk.path)) for disk in said.machine.disks)
    machine: Machine = msgspec.structs.replace(said.machine, disks=disks)
    return replace(said.pair, machines=((said.item, machine),))


def _disk(disk: Disk, found: engine.ImageInfo | None) -> Disk:
    if found is None:
        return disk
    known = found.format if found.format in _FORMATS else disk.format
    return msgspec.structs.replace(disk, size=found.virtual_bytes, format=known)


def _room(item: Held, said: Protected, images: dict[str, engine.ImageInfo]) -> Iterator[str]:
    """R5.8, with R5.9: used blocks are sent, so what is used now has to fit where the first copy goes."""
    if said.policy.initial == "media":
        places = dict.fromkeys(item.disks, said.item.medium or "/")
    else:
        places = {path: replica for path, replica in item.disks.items() if "://" not in replica}
    wanted: dict[str, int] = {}
    for path, place in places.items():
        if path in images:
            used = min(images[path].allocated_bytes, images[path].virtual_bytes)
            wanted[nearest(place)] = wanted.get(nearest(place), 0) + used
    for folder, used in wanted.items():
        free = shutil.disk_usage(folder).free
        if free < used:
            told = f"{format_size(free)} free, and the disks hold {format_size(used)}"
            yield f"R5.8: {folder} has {told}: make room there"


def _told(one: Finding) -> str:
    return one.line(None)
