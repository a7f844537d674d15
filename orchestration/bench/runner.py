"""Run the groups in one folder and make the report."""

from __future__ import annotations

import datetime
import os
import shutil
import tempfile
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from secondsite.engine import errors
from secondsite.engine.units import KIB, MIB, format_size
from secondsite.orchestration.bench import (
    failover,
    flows,
    formats,
    host,
    hosts,
    peers,
    servers,
    stages,
    store,
    trackers,
    workload,
)
from secondsite.orchestration.bench.context import Bench, digest

GROUPS: dict[str, Callable[[Bench], None]] = {
    "read": stages.read,
    "scan": stages.scan,
    "hash": stages.hash_,
    "codec": stages.codec,
    "initial": flows.initial,
    "unchanged": flows.unchanged,
    "delta": flows.delta,
    "verify": flows.verify,
    "restore": flows.restore,
    "sparse": flows.sparse,
    "formats": formats.formats,
    "trackers": trackers.trackers,
    "servers": servers.servers,
    "points": servers.points,
    "failover": failover.failover,
    "hosts": hosts.hosts,
    "store": store.store,
}
MIN_BYTES = 16 * MIB
# What lies in the folder at once, in images: the source, the replica and one copy; and each repository's share.
_IMAGES, _REPOSITORY = 3.2, 0.9


def quiet(_: str) -> None:
    """For callers that do not want to be told."""


def room_needed(size: int) -> int:
    """Bytes that a run of this size may take at once."""
    repositories = sum(peer.keeps_points for peer in peers.installed(peers.UPDATES))
    return int(size * (_IMAGES + _REPOSITORY * repositories)) + min(size, stages.SAMPLE_BYTES) + 256 * MIB


def check_room(folder: Path, size: int) -> None:
    """Raises Full where the folder, or the memory behind it, has not enough room."""
    need, free = room_needed(size), shutil.disk_usage(folder).free
    where = "are free"
    if host.file_system(folder) in ("tmpfs", "ramfs") and host.available_memory() < free:
        free, where = host.available_memory(), "of memory are free"
    if free < need:
        raise errors.Full(
            f"a benchmark of {format_size(size)} needs {format_size(need)}, {format_size(free)} {where} "
            "(--size makes it smaller, --dir takes another folder)",
            path=str(folder),
        )  # fmt: skip


def measure(
    size: int,
    folder: Path,
    *,
    rounds: int = 3,
    only: Collection[str] = (),
    say: Callable[[str], None] = quiet,
) -> dict[str, Any]:
    """Measure in a new folder inside `folder`, which is removed again; the report.

    Raises Full where there is not enough room, Damaged where a copy was not what it should be, and Usage.
    """
    if size < MIN_BYTES:
        raise errors.Usage(f"a benchmark of less than {format_size(MIN_BYTES)} measures nothing")
    if rounds < 1:
        raise errors.Usage("there must be at least one round")
    unknown = sorted(set(only) - set(GROUPS))
    if unknown:
        raise errors.Usage(f"no measurement {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    if not folder.is_dir():
        raise errors.Usage("is no folder", path=str(folder))
    check_room(folder, size)
    began = host.describe(folder)
    started = datetime.datetime.now(datetime.UTC)
    with tempfile.TemporaryDirectory(prefix="secondsite-bench-", dir=folder) as made:
        bench = _prepare(Path(made), size, rounds, say)
        for name, group in GROUPS.items():
            if not only or name in only:
                say(f"measuring: {name}")
                group(bench)
        bench.checks["source at the end"] = digest(bench.source)
        return _report(bench, began, started)


def _prepare(folder: Path, size: int, rounds: int, say: Callable[[str], None]) -> Bench:
    threads = max(1, min(len(os.sched_getaffinity(0)), 4))
    say(f"making an image of {format_size(size)}")
    work = workload.make(folder / "source.raw", size // (64 * KIB) * (64 * KIB))
    bench = Bench(folder, work, rounds, threads, say)
    bench.settle()
    bench.warm_up()
    bench.checks["source"] = digest(work.path)  # which also brings it into the page cache
    return bench


def _report(bench: Bench, described: dict[str, object], started: datetime.datetime) -> dict[str, Any]:
    took = (datetime.datetime.now(datetime.UTC) - started).total_seconds()
    return {
        "host": {**described, "load_after": round(os.getloadavg()[0], 2)},
        "time": started.isoformat(timespec="seconds"),
        "seconds": round(took, 1),
        "parameters": {
            "workload": bench.work.kind,
            "virtual_bytes": bench.work.virtual_bytes,
            "data_bytes": bench.work.data_bytes,
            "files": bench.work.files,
            "rounds": bench.rounds,
            "threads": bench.threads,
            "changed": flows.CHANGED,
        },
        "rows": [asdict(row) for row in bench.lines],
        "checksum": bench.checks,
        "not_installed": peers.missing(),
        "skipped": bench.skipped,
    }
