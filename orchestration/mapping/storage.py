"""Where a disk's replica lies (R11.10, R11.11)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from secondsite.orchestration.estate.model import Classification, Disk, Host, Machine
from secondsite.orchestration.mapping.placement import Chosen, Facts


@dataclass
class Located:
    """The folder of each disk on one host; how many are where a mapping says; the least room that one of them has."""

    host: Host
    disks: dict[str, Chosen] = field(default_factory=dict)
    mapped: int = 0
    room: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def rank(self) -> tuple[int, int, int]:
        """The host where most disks have a place, most of them the mapped one, and most room."""
        return -len(self.problems), self.mapped, self.room


def locate(
    machine: Machine, host: Host, classes: Mapping[str, Classification], mapped: Mapping[str, str], facts: Facts
) -> Located:
    """Each disk of a machine on a host. Disks that are left out have no place (R6.6)."""
    found = Located(host)
    rooms = []
    for disk in machine.disks:
        if disk.exclude:
            continue
        target = mapped.get(disk.classification or "")
        chosen = _mapped(disk, host, classes[target], facts) if target else None
        found.mapped += chosen is not None
        chosen = found.disks[disk.path] = chosen or _default(disk, host, target)
        rooms.append(facts.free.get((host.name, chosen.value or ""), 0))
        if chosen.value is None:
            found.problems.append(f"{chosen.rule}: disk {disk.path!r}: {chosen.why}")
    found.room = min(rooms, default=0)
    return found


def _mapped(disk: Disk, host: Host, target: Classification, facts: Facts) -> Chosen | None:
    paths = [place.path for place in target.locations if place.host == host.name]
    fitting = [path for path in paths if fits(disk, facts.free.get((host.name, path)))]
    if not fitting:
        return None
    best = max(fitting, key=lambda path: facts.free.get((host.name, path), 0))
    many = f", the one with most room of {len(fitting)}" if len(fitting) > 1 else ""
    return Chosen(best, "R11.10", f"{disk.classification} is mapped to {target.name}{many}")


def fits(disk: Disk, free: int | None) -> bool:
    """R5.8: in the worst case a first copy takes all of the disk. What is not known does not count against it."""
    return free is None or disk.size is None or disk.size <= free


def _default(disk: Disk, host: Host, target: str | None) -> Chosen:
    why = "the disk has no classification"
    if disk.classification is not None:
        why = f"{target} has no room for it on {host.name}" if target else f"{disk.classification} is not mapped"
    if host.path is None:
        return Chosen(None, "R11.10", f"{why}, and {host.name} has no default location")
    return Chosen(host.path, "R11.10", f"the default location of {host.name}: {why}")
