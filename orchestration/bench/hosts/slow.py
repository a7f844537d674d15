"""A link of 100 Mbit/s: what a stream brings over it, against the link, against rsync -z, and against fixed codecs."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from secondsite.engine import errors
from secondsite.engine.units import MIB
from secondsite.orchestration.bench import process, rows, workload
from secondsite.orchestration.bench.context import Bench, remove
from secondsite.orchestration.bench.hosts.link import cable
from secondsite.orchestration.bench.hosts.loopback import Copies, Moves
from secondsite.orchestration.bench.hosts.sites import Place, Site, mover, rsync_daemon, site

BITS = 100_000_000
# Of real files; 20 seconds of the bare link.
FILES_BYTES, SMALL_BYTES = 256 * MIB, 4 * MIB
LINK_FIGURE, RSYNC_FIGURE = 0.95, 1.3


def slow_link(bench: Bench) -> None:
    """Skipped by name where there are no namespaces."""
    source = bench.folder / "files.raw"
    try:
        with cable(BITS) as place, site(bench, place) as made:
            _excerpt(bench.source, source, FILES_BYTES if bench.judged else SMALL_BYTES)
            _over(bench, made, place, source)
    except errors.Unreachable as error:
        bench.skipped["hosts, link of 100 Mbit/s"] = str(error)
    finally:
        remove(source)


def _excerpt(image: Path, target: Path, size: int) -> None:
    """Data from the middle of an image, where its files are, without the holes between them."""
    left = workload.data_bytes(image) // 2
    with image.open("rb") as source, target.open("wb") as file:
        for start, length in workload.extents(image):
            skipped = min(left, length)
            left -= skipped
            count = min(length - skipped, size - file.tell())
            file.write(os.pread(source.fileno(), count, start + skipped))


def _over(bench: Bench, made: Site, place: Place, source: Path) -> None:
    size, target = source.stat().st_size, bench.folder / "rsynced"
    target.mkdir()
    try:
        with mover(place) as moving, rsync_daemon(place, target) as url:
            ours, bare = Copies(made, source), Moves(moving, source, size // 8)
            peer = partial(_rsync, place, source, target, url)
            taken = rows.alternate(bench.rounds, {"ours": ours, "rsync": peer, "bare": bare})
    finally:
        remove(target)
    ours.end()
    seconds = [float(run.json["seconds"]) for run in ours.runs]
    ratios = [size / run.json["over_bytes"] for run in ours.runs]
    ratio = sorted(ratios)[len(ratios) // 2]
    note = f"packed {ratio:.2f}:1"
    for name, speed, figure in (
        ("what TCP moves x packing", [size / 8 / run for run in taken["bare"]], LINK_FIGURE),
        ("100 Mbit/s x packing", [BITS / 8] * len(ratios), None),
    ):
        limit = [size / each / packed for each, packed in zip(speed, ratios, strict=True)]
        bench.add(
            rows.compare("hosts", "100 Mbit/s, real files", seconds, name, limit, kind="engine",
                         figure=bench.figure(figure) if figure else None, size=size, note=note)
        )  # fmt: skip
    bench.add(
        rows.compare("hosts", "100 Mbit/s, real files, whole command", taken["ours"], "rsync -z, daemon",
                     taken["rsync"], figure=bench.figure(RSYNC_FIGURE), size=size, note=note)
    )  # fmt: skip


def _rsync(place: Place, source: Path, target: Path, url: str) -> float:
    remove(target / source.name)
    return process.run([*place.near, "rsync", "-z", "--inplace", str(source), url]).seconds
