"""One stream over the loopback: against `ssl` alone, and against rsync through its daemon, which encrypts nothing."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

from secondsite.engine import errors
from secondsite.engine.units import GIB, KIB, MIB
from secondsite.orchestration.bench import flows, process, rows, servers, workload
from secondsite.orchestration.bench.context import Bench, remove
from secondsite.orchestration.bench.hosts.sites import LOOPBACK, Moved, Mover, Site, mover, rsync_daemon

COMPARED_BYTES, SMALL_BYTES = 1 * GIB, 16 * MIB
# The least ratios: to ssl alone, and to rsync.
NOISE_FIGURE, HALF_FIGURE, FILES_FIGURE, DELTA_FIGURE = 0.6, 0.9, 1.5, 6.0
# What a delta may take on the link, by its raw bytes.
SENT_FIGURE = 1.02
_COPY, _FOLLOW = ["rsync", "--inplace"], ["rsync", "-I", "--inplace", "--no-whole-file"]


class Copies:
    """First copies, each into a replica that is not there yet; what they took."""

    def __init__(self, site: Site, source: Path) -> None:
        self.site, self.source = site, source
        self.runs: list[process.Ran] = []

    def __call__(self) -> float:
        name = self.site.names[0]
        self.site.forget(name)
        done = self.site.replicate(self.source, name)
        self.runs.append(done)
        return done.seconds

    def end(self) -> None:
        """The last one is proved and removed."""
        name = self.site.names[0]
        self.site.bench.prove(f"copy to another host of {self.source.name}", self.site.head(name), self.source)
        self.site.forget(name)


class Moves:
    """The same bytes by move.py."""

    def __init__(self, mover: Mover, source: Path, size: int) -> None:
        self.mover, self.source, self.size = mover, source, size
        self.runs: list[Moved] = []

    def __call__(self) -> float:
        done = self.mover.move(self.source, self.size)
        self.runs.append(done)
        return done.seconds


def against_ssl(bench: Bench, site: Site) -> None:
    """A full disk of noise, and one that packs to half."""
    size = COMPARED_BYTES if bench.judged else SMALL_BYTES
    for name, fill, figure in (
        ("noise", partial(servers.fill, seed=11), NOISE_FIGURE), ("packs 2:1", partial(fill_half, seed=12), HALF_FIGURE)
    ):  # fmt: skip
        source = bench.folder / f"{name.partition(' ')[0]}.raw"
        try:
            fill(source, size)
            _compare(bench, site, source, name, figure)
        finally:
            remove(source)


def _warm(bench: Bench, copies: Copies, *others: Callable[[], float]) -> None:
    """Each side once, which does not count."""
    sides: list[Callable[[], float]] = [copies, *others]
    for side in sides if bench.judged else []:
        side()
    copies.runs.clear()


def _compare(bench: Bench, site: Site, source: Path, name: str, figure: float) -> None:
    size = source.stat().st_size
    with mover(LOOPBACK, site.there / "identity") as moving:
        copies, moves = Copies(site, source), Moves(moving, source, size)
        _warm(bench, copies)
        rows.alternate(bench.rounds, {"ours": copies, "ssl": moves})
    copies.end()
    cipher = moves.runs[0].cipher
    bench.add(
        rows.compare(
            "hosts", f"initial copy, {name}", [float(run.json["seconds"]) for run in copies.runs], "ssl alone",
            [run.seconds for run in moves.runs], kind="engine", figure=bench.figure(figure), size=size, note=cipher,
        )
    )  # fmt: skip
    scale = GIB / size
    bench.add(
        rows.compare(
            "hosts", f"processor time of both ends a GiB, {name}", [run.cpu * scale for run in copies.runs],
            "ssl alone", [run.cpu * scale for run in moves.runs],
        )
    )  # fmt: skip


def fill_half(path: Path, size: int, *, seed: int) -> None:
    """A file that every codec packs to about half: of each KiB one half is noise, the other one byte over and over."""
    servers.fill(path, size, seed=seed)
    same = b"\x5a" * 512
    with path.open("r+b") as file:
        for at in range(0, size, MIB):
            data = bytearray(os.pread(file.fileno(), MIB, at))
            for start in range(0, len(data), KIB):
                data[start + 512 : start + KIB] = same
            os.pwrite(file.fileno(), data, at)


def against_rsync(bench: Bench, site: Site) -> None:
    """The image of real files, and deltas of it, each side with a copy of its own."""
    if process.which("rsync") is None:
        bench.skipped["hosts, rsync"] = "rsync is not installed"
        return
    target = bench.folder / "rsynced"
    try:
        target.mkdir()
        with rsync_daemon(LOOPBACK, target) as url:
            _copies(bench, site, target, url)
            _deltas(bench, site, target, url)
    finally:
        remove(target)


def _copies(bench: Bench, site: Site, target: Path, url: str) -> None:
    copy = target / bench.source.name

    def peer() -> float:
        remove(copy)
        bench.settle()
        return process.run([*_COPY, str(bench.source), url]).seconds

    ours = Copies(site, bench.source)
    _warm(bench, ours, peer)
    taken = rows.alternate(bench.rounds, {"ours": ours, "rsync": peer})
    ours.end()
    note = "not encrypted, does not sync"
    bench.add(
        rows.compare("hosts", "initial copy, real files", taken["ours"], "rsync --inplace, daemon", taken["rsync"],
                     figure=bench.figure(FILES_FIGURE), size=bench.work.data_bytes, note=note)
    )  # fmt: skip


def _deltas(bench: Bench, site: Site, target: Path, url: str) -> None:
    """Both have a copy already; ours was warmed up by the first ones."""
    name, blocks = site.names[0], 0
    site.replicate(bench.source, name)
    taken: dict[str, list[float]] = {"ours": [], "rsync": []}
    sent: list[float] = []

    def ours() -> float:
        done = site.replicate(bench.source, name)
        sent.append(done.json["over_bytes"] / done.json["sent_bytes"])
        return done.seconds

    sides = [("ours", ours), ("rsync", lambda: process.run([*_FOLLOW, str(bench.source), url]).seconds)]
    for turn in range(bench.rounds):
        bench.changes += 1
        blocks = workload.change(bench.source, flows.CHANGED, bench.changes)
        bench.settle()
        for side, run in sides[turn % 2 :] + sides[: turn % 2]:
            taken[side].append(run())
            bench.settle()
    bench.prove("deltas to another host", site.head(name), bench.source)
    bench.prove("deltas of rsync's daemon", target / bench.source.name, bench.source)
    peer = "rsync -I --inplace --no-whole-file, daemon"
    bench.add(
        rows.compare("hosts", "1 % changed", taken["ours"], peer, taken["rsync"], figure=bench.figure(DELTA_FIGURE),
                     size=blocks * workload.BLOCK, note="not encrypted, does not sync")
    )  # fmt: skip
    bench.add(rows.at_most("hosts", "1 % changed, sent of its raw bytes", max(sent), SENT_FIGURE, ""))
    site.forget(name)


def sent_bytes(bench: Bench, site: Site) -> None:
    """Deltas that nothing packs, in the block sizes at which a frame's table weighs least and most."""
    size, source, name = SMALL_BYTES, bench.folder / "noise.raw", site.names[0]
    chance = random.Random(13)
    try:
        for block, said in ((64 * KIB, "64K"), (4 * KIB, "4K")):
            servers.fill(source, size, seed=14)
            site.replicate(source, name, "--block-size", said)
            with source.open("r+b") as file:
                for place in chance.sample(range(size // block), size // block // 50):
                    file.seek(place * block)
                    file.write(chance.randbytes(block))
            done = site.replicate(source, name).json
            if not done["sent_bytes"]:
                raise errors.Damaged("nothing was sent where blocks changed", path=str(source))
            share, what = done["over_bytes"] / done["sent_bytes"], f"noise in blocks of {said}"
            bench.add(rows.at_most("hosts", f"{what}, sent of its raw bytes", share, SENT_FIGURE, ""))
            site.forget(name)
    finally:
        remove(source)
