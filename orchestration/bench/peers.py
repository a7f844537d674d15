"""The tools that do the same job, as commands. What is not installed is left out, and listed as such."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from secondsite.orchestration.bench import process

Command = Callable[[Path, Path], list[str]]


@dataclass(frozen=True, slots=True)
class Peer:
    """`command(source, target)`; `init`, where the target must first be made. `durable`: it syncs what it wrote."""

    name: str
    tool: str
    command: Command
    init: Command | None = None
    durable: bool = False
    keeps_points: bool = False

    @property
    def installed(self) -> bool:
        """Is its command here?"""
        return process.which(self.tool) is not None

    def prepare(self, source: Path, target: Path) -> None:
        """Make a repository, where the tool has such a thing."""
        if self.init is not None:
            process.run(self.init(source, target), env=self._env(target))

    def run(self, source: Path, target: Path) -> float:
        """Bring the target to the source's content; the seconds of the whole command."""
        return process.run(self.command(source, target), env=self._env(target)).seconds

    def _env(self, target: Path) -> dict[str, str]:
        return {
            "RESTIC_PASSWORD": "bench",
            "BORG_BASE_DIR": str(target.with_name(target.name + ".borg")),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        }


def _borg(source: Path, target: Path) -> list[str]:
    return ["borg", "create", "--files-cache=disabled", f"{target}::{time.time_ns()}", str(source)]


def _restic(source: Path, target: Path) -> list[str]:
    return ["restic", "-q", "--no-cache", "-r", str(target), "backup", "--force", str(source)]


BORG = Peer(
    "borg create", "borg", _borg, lambda _, target: ["borg", "init", "-e", "none", str(target)],
    durable=True, keeps_points=True,
)  # fmt: skip
RESTIC = Peer(
    "restic backup", "restic", _restic, lambda _, target: ["restic", "-q", "--no-cache", "-r", str(target), "init"],
    durable=True, keeps_points=True,
)  # fmt: skip
CP = Peer("cp --sparse=always", "cp", lambda s, t: ["cp", "--sparse=always", str(s), str(t)])
CP_SYNC = Peer(
    "cp --sparse=always; sync", "cp",
    lambda s, t: ["sh", "-c", 'cp --sparse=always "$1" "$2" && sync "$2"', "sh", str(s), str(t)],
    durable=True,
)  # fmt: skip
RSYNC_COPY = Peer("rsync --inplace", "rsync", lambda s, t: ["rsync", "--inplace", str(s), str(t)])
RSYNC = Peer(
    "rsync -I --inplace --no-whole-file", "rsync",
    lambda s, t: ["rsync", "-I", "--inplace", "--no-whole-file", str(s), str(t)],
)  # fmt: skip
QEMU_IMG = Peer(
    "qemu-img convert", "qemu-img",
    lambda s, t: ["qemu-img", "convert", "-f", "raw", "-O", "raw", str(s), str(t)],
)  # fmt: skip
NBDCOPY = Peer("nbdcopy", "nbdcopy", lambda s, t: ["nbdcopy", str(s), str(t)])

COPIES = (CP, CP_SYNC, RSYNC_COPY, QEMU_IMG, NBDCOPY, BORG, RESTIC)
UPDATES = (RSYNC, BORG, RESTIC)
# What the kernels are compared with.
TOOLS = ("xxhsum", "sha256sum", "lz4", "zstd")


def installed(peers: tuple[Peer, ...]) -> list[Peer]:
    """Those of them that are here."""
    return [peer for peer in peers if peer.installed]


def missing() -> list[str]:
    """Names of the tools that a report would compare with and that are not here."""
    tools = [*TOOLS, *(peer.tool for peer in (*COPIES, *UPDATES))]
    return sorted({tool for tool in tools if process.which(tool) is None})
