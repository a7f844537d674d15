"""What an item says of its first copy (R5): its medium, or copies that lie at the target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from secondsite.orchestration.estate import zones
from secondsite.orchestration.estate.findings import Finding
from secondsite.orchestration.estate.model import Item, Machine
from secondsite.orchestration.estate.pairs import Pair
from secondsite.orchestration.estate.references import Index

# R5.2: a first copy begins at most so many days after it was asked for.
MOST_DAYS = 7


def check(pair: Pair, index: Index) -> Iterator[Finding]:
    """Every item of a pair."""
    kept = _kept(index) if any(item.medium for item, _ in pair.machines) else {}
    for item, machine in pair.machines:
        yield from _method(pair, item, index)
        if item.medium is not None:
            yield from _medium(item, machine, kept, index)
        if item.existing:
            yield from _existing(item, machine, index)


def _method(pair: Pair, item: Item, index: Index) -> Iterator[Finding]:
    """R5.1: what the method needs is said, and nothing that it has no use for."""
    method, name = pair.policy.initial, item.machine
    if method == "media" and item.medium is None:
        where, remedy = index.place(item), 'medium = "/DIR"'
        yield Finding("R5.4", where, f"machine {name!r} has no medium for its first copy", remedy)
    if method == "existing" and not item.existing:
        where, remedy = index.place(item), 'existing = ["/FILE", ...]'
        yield Finding("R5.6", where, f"machine {name!r} names no copies at the target", remedy)
    for key, wanted in (("medium", "media"), ("existing", "existing")):
        if getattr(item, key) and method != wanted:
            message = f"{key} is for a first copy by {wanted}; the policy of {name!r} says {method}"
            yield Finding("R5.1", index.place(item, key), message)


def _medium(item: Item, machine: Machine, kept: Mapping[PurePosixPath, str], index: Index) -> Iterator[Finding]:
    """R5.5: a medium leaves the host that it is written on, so it is none of its own folders. The root folder, where
    somebody keeps a disk in it, holds all media.
    """
    where, path = index.place(item, "medium"), PurePosixPath(item.medium or "")
    if not path.is_absolute():
        yield Finding("R5.4", where, f"medium {item.medium!r} is no absolute path")
        return
    beside = {PurePosixPath(disk.path).parent: "beside a disk of the machine" for disk in machine.disks}
    for folder in (path, *path.parents)[:-1]:
        if whose := beside.get(folder) or kept.get(folder):
            message = f"medium {item.medium!r} lies in {str(folder)!r}, {whose}"
            yield Finding("R5.5", where, message, "a medium, or a share of another host")
            return


def _kept(index: Index) -> dict[PurePosixPath, str]:
    """Folders with replicas in them."""
    found = {PurePosixPath(host.path): f"where {host.name!r} keeps replicas" for host in index.estate.host if host.path}
    for row in index.estate.classification:
        found |= {PurePosixPath(one.path): f"a place of {row.name!r}" for one in row.locations}
    return found


def _existing(item: Item, machine: Machine, index: Index) -> Iterator[Finding]:
    """R5.6: the same disks."""
    where, copies = index.place(item, "existing"), item.existing
    disks = [disk for disk in machine.disks if not disk.exclude]
    if len(copies) != len(disks):
        message = f"machine {item.machine!r} has {len(disks)} disks to protect, and {len(copies)} copies are named"
        yield Finding("R5.6", where, message, "one for each disk, in their order")
    if len(set(copies)) != len(copies):
        yield Finding("R5.6", where, f"a copy of {item.machine!r} is named twice")
    for copy in copies:
        if not PurePosixPath(copy).is_absolute():
            yield Finding("R5.6", where, f"copy {copy!r} is no absolute path")
        elif copy in {disk.path for disk in machine.disks}:
            yield Finding("R5.6", where, f"copy {copy!r} is the disk itself")


def hosts(index: Index) -> Iterator[Finding]:
    """R5.2, R7.3: local time is that of a zone which there is."""
    for host in index.estate.host:
        try:
            zones.of(host)
        except ValueError as error:
            where = index.place(host, "zone")
            yield Finding("R5.2", where, f"host {host.name!r}: {error}", "Europe/Amsterdam, UTC, ...")
