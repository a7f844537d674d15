"""What a machine must be to be protected where Azure is to run it (R12.10), and what holds for each machine."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import resources

import msgspec

from secondsite.engine.units import format_size
from secondsite.orchestration.estate.findings import Finding
from secondsite.orchestration.estate.model import Item, Machine
from secondsite.orchestration.estate.pairs import Pair
from secondsite.orchestration.estate.references import Index
from secondsite.orchestration.typed import ready

RULE = "R12.10"
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    os_disk: tuple[int, int]
    data_disk: tuple[int, int]
    data_disks: int
    generations: tuple[int, ...]
    bits: tuple[int, ...]
    generation2_os_disk: int | None = None


class _Profiles(msgspec.Struct, frozen=True):
    profile: dict[str, Limits]


ready(_Profiles)


@cache
def limits(profile: str) -> Limits:
    text = resources.files("secondsite.orchestration.scenarios").joinpath("limits.toml").read_text()
    return msgspec.convert(tomllib.loads(text), _Profiles).profile[profile]


def check(pair: Pair, index: Index) -> Iterator[Finding]:
    """Every machine of a pair. Raises nothing: what is not known (a size) is checked when the disk is opened."""
    seen: dict[tuple[str, str], str] = {}
    for item, machine in pair.machines:
        yield from _anywhere(machine, index)
        yield from _elsewhere(machine, seen, index)
        if pair.target.kind == "account":
            yield from _for_azure(item, machine, index)


def _anywhere(machine: Machine, index: Index) -> Iterator[Finding]:
    kept = [disk for disk in machine.disks if not disk.exclude]
    if not kept:
        yield Finding("R6.6", index.place(machine, "disks"), f"machine {machine.name!r} has no disk to protect")
    for place, disk in enumerate(machine.disks):
        if disk.path in (one.path for one in machine.disks[:place]):
            where = index.place(machine, "disks", place, "path")
            yield Finding("name", where, f"machine {machine.name!r} has the disk {disk.path!r} twice")
        if disk.os and disk.exclude:
            where = index.place(machine, "disks", place, "exclude")
            yield Finding("R6.6", where, f"the system disk of {machine.name!r} cannot be left out")


def _elsewhere(machine: Machine, seen: dict[tuple[str, str], str], index: Index) -> Iterator[Finding]:
    """Disks of a host that another machine has, which is more likely to have been copied in the file than to be so."""
    for place, disk in enumerate(machine.disks):
        if disk.exclude or disk.shared:
            continue
        before = seen.setdefault((machine.host, disk.path), machine.name)
        if before != machine.name:
            message = f"disk {disk.path!r} of machine {machine.name!r} is one of {before!r}, too"
            yield Finding("name", index.place(machine, "disks", place, "path"), message, "shared = true where it is so")


def _for_azure(item: Item, machine: Machine, index: Index) -> Iterator[Finding]:
    found = limits(index.estate.vault.profile)
    name = item.target_name or machine.name
    if not _NAME.fullmatch(name):
        where = index.place(item, "target_name") if item.target_name else index.place(machine, "name")
        remedy = "1 to 63 of A-Z, a-z, 0-9 and -, no - at an end"
        yield Finding(RULE, where, f"{name[:80]!r} is no name for Azure", remedy)
    if machine.bits not in found.bits:
        yield Finding(RULE, index.place(machine, "bits"), f"the guest of {machine.name!r} is not of 64 bits")
    if machine.generation not in found.generations:
        where = index.place(machine, "generation")
        yield Finding(RULE, where, f"machine {machine.name!r} is of generation {machine.generation}")
    if machine.iscsi:
        yield Finding(RULE, index.place(machine, "iscsi"), f"machine {machine.name!r} has an iSCSI or FC disk inside")
    yield from _disks(machine, found, index)


def _disks(machine: Machine, found: Limits, index: Index) -> Iterator[Finding]:
    system = [disk for disk in machine.disks if disk.os]
    where = index.place(machine, "disks")
    if len(system) != 1:
        yield Finding(RULE, where, f"machine {machine.name!r} has {len(system)} system disks, not 1", "os = true")
    if len(machine.disks) - len(system) > found.data_disks:
        yield Finding(RULE, where, f"machine {machine.name!r} has more than {found.data_disks} data disks")
    for place, disk in enumerate(machine.disks):
        if disk.shared:
            yield Finding(RULE, (*where, place, "shared"), f"disk {disk.path!r} is shared")
        least, most = found.os_disk if disk.os else found.data_disk
        if disk.os and machine.generation == 2 and found.generation2_os_disk is not None:
            most = found.generation2_os_disk
        if disk.size is not None and not least <= disk.size <= most:
            message = f"disk {disk.path!r} has {format_size(disk.size)}"
            remedy = f"{format_size(least)} to {format_size(most)}"
            yield Finding(RULE, (*where, place, "size"), message, remedy)
