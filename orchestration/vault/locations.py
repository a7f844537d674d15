"""Where the replica of each disk of a machine lies: a path, or the URL of an agent or of a storage account."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from secondsite.orchestration.estate.model import Host, Machine
from secondsite.orchestration.estate.pairs import Pair
from secondsite.orchestration.mapping.placement import Placement

_OTHER = re.compile(r"[^A-Za-z0-9_+@-]+")


def replicas(
    pair: Pair, machine: Machine, placement: Placement, hosts: Mapping[str, Host], known: Mapping[str, str]
) -> dict[str, str]:
    """By path of the disk; what is `known` stays where it is (R1.6). Disks that have no place are left out."""
    named = names([disk.path for disk in machine.disks if not disk.exclude])
    host = hosts.get(placement.host.value or "") if placement.host else None
    found = {}
    for path, name in named.items():
        chosen = placement.disks.get(path)
        if path in known:
            found[path] = known[path]
        elif chosen is not None and chosen.value is not None:
            found[path] = _where(pair, machine.name, name, chosen.value, host)
    return found


def seeds(machine: Machine, medium: str) -> dict[str, str]:
    """Where on a medium the seed of each disk lies, by the disk's path (R5.4)."""
    named = names([disk.path for disk in machine.disks if not disk.exclude])
    return {path: str(PurePosixPath(medium, _plain(machine.name), name)) for path, name in named.items()}


def _where(pair: Pair, machine: str, name: str, location: str, host: Host | None) -> str:
    """An agent has one folder with all its replicas side by side; everywhere else each machine has its own."""
    if pair.target.account is not None:
        return f"{location.rstrip('/')}/{_plain(machine)}/{name}"
    return place(machine, name, location, host)


def place(machine: str, name: str, location: str, host: Host | None) -> str:
    """Of a replica in a folder, as other hosts name it: below `location`, or at the host's agent."""
    if host is not None and host.address is not None:
        return f"secondsite://{host.address}/{_plain(machine)}.{name}"
    return str(PurePosixPath(location, _plain(machine), name))


def names(paths: list[str]) -> dict[str, str]:
    """A short name for each disk: that of its file, and more where two files have the same."""
    plain = {path: _plain(PurePosixPath(path).stem) for path in paths}
    counts = list(plain.values())
    return {
        path: name if counts.count(name) == 1 else f"{name}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"
        for path, name in plain.items()
    }


def _plain(text: str) -> str:
    """Letters, digits and what replicas may be called besides; other names are told apart by a digest."""
    made = _OTHER.sub("-", text)[:80].strip("-")
    if made == text:
        return made
    return f"{made or 'x'}-{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:8]}"
