"""What the measurements share: the folder, the image, and what earlier ones left for later ones."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from secondsite.engine import errors
from secondsite.engine.units import GIB, MIB
from secondsite.orchestration.bench import peers, process, rows
from secondsite.orchestration.bench.workload import Workload

# The figures that the project set itself, for a 4 GiB image.
PEAK_BYTES = 160 * MIB
SPARSE_EXTRA_BYTES = 40 * MIB


@dataclass
class Bench:
    """One run in one folder."""

    folder: Path
    work: Workload
    rounds: int
    threads: int
    say: Callable[[str], None]
    lines: list[rows.Row] = field(default_factory=list)
    checks: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    updated: dict[peers.Peer, Path] = field(default_factory=dict)
    changes: int = 0

    @property
    def source(self) -> Path:
        """The image that is replicated."""
        return self.work.path

    @property
    def replica(self) -> Path:
        """The replica that the measurements after the first go on with."""
        return self.folder / "replica"

    @property
    def head(self) -> Path:
        """The replica's plain image."""
        return Path(str(self.ours("info", self.replica).json["head"]))

    def ours(self, *arguments: str | Path) -> process.Ran:
        """One of our commands."""
        return process.ours(*arguments, bytecode=self.folder / "bytecode")

    def warm_up(self) -> None:
        """Have the commands that are measured compiled once, as an installed package is."""
        image, replica, restored = (self.folder / f"warm-{what}" for what in ("image", "replica", "restored"))
        image.write_bytes(b"warm" * (1 << 18))
        for command in (("replicate", image, replica), ("verify", replica), ("restore", replica, restored)):
            self.ours(*command)
        self.ours("info", replica)
        for path in (image, replica, restored):
            remove(path)

    @property
    def judged(self) -> bool:
        """Is the image large enough for the figures to mean anything?"""
        return self.work.virtual_bytes >= rows.JUDGED_BYTES

    def figure(self, value: float) -> float | None:
        """A figure, where it counts."""
        return value if self.judged else None

    def add(self, row: rows.Row) -> None:
        """Keep a line of the report."""
        self.lines.append(row)

    def peak(self, group: str, name: str, value: int) -> None:
        """A line about the memory of one of our processes."""
        limit = PEAK_BYTES * max(self.work.virtual_bytes / (4 * GIB), 1)
        self.add(rows.peak(group, name, value, int(limit), judged=self.judged))

    def ensure_replica(self) -> None:
        """Have a replica of the source."""
        if not self.replica.exists():
            self.ours("replicate", self.source, self.replica)

    def ensure_updates(self) -> list[peers.Peer]:
        """Have every peer that can follow a source do so once."""
        for number, peer in enumerate(peers.installed(peers.UPDATES)):
            if peer in self.updated:
                continue
            target = self.folder / f"follows-{number}"
            try:
                peer.prepare(self.source, target)
                peer.run(self.source, target)
            except errors.Unreachable as error:
                self.skipped[peer.name] = str(error)
                remove(target)
                continue
            self.updated[peer] = target
        return list(self.updated)

    def drop_updates(self) -> None:
        """Make room."""
        for target in self.updated.values():
            remove(target)
        self.updated.clear()

    def settle(self) -> None:
        """Write out what earlier runs left in memory, so that nobody pays for somebody else's writes."""
        subprocess.run(["sync", "-f", str(self.folder)], check=False)

    def prove(self, name: str, left: Path, right: Path) -> None:
        """Note the digest of two files that must be the same, or raise Damaged."""
        own, other = digest(left), digest(right)
        if own != other:
            raise errors.Damaged(f"differs from {right} after {name}", path=str(left))
        self.checks[name] = own


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove(path: Path) -> None:
    """Remove a file or a folder, and what borg keeps beside a repository."""
    for each in (path, path.with_name(path.name + ".borg")):
        if each.is_dir():
            shutil.rmtree(each)
        elif each.exists():
            os.unlink(each)
