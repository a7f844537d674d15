"""What a measurement was taken on. Nothing here names the machine or its user."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from secondsite.engine import kernel
from secondsite.orchestration.bench import process

# How each tool says its version.
_TOOLS = {
    "cp": ["cp", "--version"],
    "rsync": ["rsync", "--version"],
    "qemu-img": ["qemu-img", "--version"],
    "nbdcopy": ["nbdcopy", "--version"],
    "borg": ["borg", "--version"],
    "restic": ["restic", "version"],
    "lz4": ["lz4", "--version"],
    "zstd": ["zstd", "--version"],
    "mke2fs": ["mke2fs", "-V"],
    "rclone": ["rclone", "version"],
    "azurite-blob": ["azurite-blob", "--version"],
}
# Above this load a core, somebody else is using the machine and the figures say little.
BUSY_LOAD = 0.5


def describe(folder: Path) -> dict[str, object]:
    """Processor, memory, kernel, file system of `folder`, load, and the versions of everything that is compared."""
    load = os.getloadavg()[0]
    return {
        "cpu": _field("/proc/cpuinfo", r"model name\s*: (.+)") or platform.processor() or platform.machine(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(_field("/proc/meminfo", r"MemTotal:\s*(\d+)") or 0) * 1024,
        "system": f"{platform.system()} {platform.release()}",
        "file_system": file_system(folder),
        "load": round(load, 2),
        "busy": load > BUSY_LOAD * len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "secondsite": _own_version(),
        "kernels": kernel.NAME,
        "tools": {name: found for name, command in _TOOLS.items() if (found := _tool(command))},
    }


def available_memory() -> int:
    """Bytes that can be used without swapping; a folder in memory takes them from here."""
    return int(_field("/proc/meminfo", r"MemAvailable:\s*(\d+)") or 0) * 1024


def file_system(folder: Path) -> str:
    """The type of the file system that holds a folder: `ext4`, `tmpfs`."""
    best, found = "", "unknown"
    where = str(folder.resolve())
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return found
    for line in mounts:
        left, _, right = line.partition(" - ")
        point = left.split()[4].replace("\\040", " ")
        inside = point == "/" or where == point or where.startswith(point + "/")
        if inside and len(point) >= len(best):
            best, found = point, right.split()[0]
    return found


def _field(path: str, pattern: str) -> str | None:
    try:
        match = re.search(pattern, Path(path).read_text())
    except OSError:
        return None
    return match[1].strip() if match else None


def _own_version() -> str:
    try:
        return version("secondsite")
    except PackageNotFoundError:
        return "unknown"


def _tool(command: list[str]) -> str | None:
    """The first number of version form in what the tool prints, or None where it is not installed."""
    path = process.which(command[0])
    if path is None:
        return None
    try:
        done = subprocess.run([path, *command[1:]], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\d+\.\d+(?:\.\d+)?", done.stdout + done.stderr)
    return match[0] if match else "unknown"
