"""Cycles that cost what changed: 64 MiB in an image of 16 GiB and in one of 1 TiB, against the scan of all of it.

A tracker that needs more than a file, a server for instance, adds a class to FOLLOWED.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from secondsite import engine
from secondsite.engine.units import GIB, MIB, TIB, format_size
from secondsite.orchestration.bench import process, rows, servers
from secondsite.orchestration.bench.context import Bench, remove

# The small image is full of data, as large as the benchmark's but at most this; the large one is sparse.
SMALL, LARGE = 16 * GIB, 1 * TIB
CHANGED = 64 * MIB
# The large image takes at most 1.3 times the small one's time; the scan of the small one at least 30 times as long.
LARGE_FIGURE, SCAN_FIGURE, UNCHANGED_SECONDS = 1 / 1.3, 30.0, 0.2


class Followed:
    """An image that a tracker follows from now on: what writes it, and the options of its cycles."""

    options: tuple[str, ...] = ("--tracker", "clone")

    def __init__(self, image: Path) -> None:
        self.image = image
        self._fd = os.open(image, os.O_RDWR)

    def write(self, offset: int, data: bytes) -> None:
        os.pwrite(self._fd, data, offset)

    def settle(self) -> None:
        """Written back, so that a cycle does not pay for the writer."""
        os.fsync(self._fd)

    def stop(self) -> None:
        os.close(self._fd)


class Tracked(Followed):
    """The image behind a tracking server, which its guest writes through."""

    options = ("--tracker", "nbd")

    def __init__(self, image: Path) -> None:
        with ExitStack() as stack:
            url = stack.enter_context(servers.serving(partial(servers.ours, image)))
            self._guest = stack.enter_context(engine.open_image(url, "rw"))
            self._open = stack.pop_all()

    def write(self, offset: int, data: bytes) -> None:
        self._guest.write(offset, data)

    def settle(self) -> None:
        self._guest.flush()

    def stop(self) -> None:
        self._open.close()


FOLLOWED: dict[str, type[Followed]] = {"clone": Followed, "nbd": Tracked}


class _Side:
    """One image with its replica, and what its cycles took."""

    def __init__(self, bench: Bench, name: str, size: int, data: int, kind: type[Followed]) -> None:
        self.bench, self.size = bench, size
        self.image, self.replica = bench.folder / f"{name}.raw", bench.folder / f"{name}-replica"
        fill(self.image, size, data)
        self.followed = kind(self.image)
        self.whole: list[float] = []
        self.seconds: list[float] = []
        self.unchanged: list[float] = []
        self.stalls: list[float] = []

    def cycle(self, *options: str) -> process.Ran:
        return self.bench.ours("replicate", self.image, self.replica, *(options or self.followed.options))

    def turn(self, chosen: random.Random) -> None:
        """A cycle over 64 MiB of changes and one over none."""
        count = min(CHANGED, self.size // 4) // MIB
        for place in sorted(chosen.sample(range(self.size // MIB), count)):
            self.followed.write(place * MIB, chosen.randbytes(MIB))
        self.followed.settle()
        self.bench.settle()
        done, again = self.cycle(), self.cycle()
        if done.json["read_bytes"] != count * MIB or again.json["read_bytes"]:
            told = f"cycles read {done.json['read_bytes']} bytes, {count * MIB} changed"
            raise engine.Error(told, path=str(self.image))
        self.whole.append(done.seconds)
        self.seconds.append(float(done.json["seconds"]))
        self.unchanged.append(float(again.json["seconds"]))
        self.stalls.append(float(done.json["stall_seconds"] or 0))

    def end(self) -> None:
        self.followed.stop()
        for path in (self.image, self.replica):
            remove(path)
        for path in self.image.parent.glob(f".{self.image.name}.secondsite-*"):
            remove(path)


def trackers(bench: Bench) -> None:
    """Every tracker that this folder can have."""
    for name, kind in FOLLOWED.items():
        try:
            _try(bench, kind)
        except engine.Error as error:
            bench.skipped[f"tracker {name}"] = str(error)
            continue
        _follow(bench, name, kind, small_bytes(bench))
    if not any(line.group == "trackers" for line in bench.lines):
        bench.ensure_replica()
        runs = [bench.ours("replicate", bench.source, bench.replica) for _ in range(bench.rounds)]
        taken = [float(run.json["seconds"]) for run in runs]
        bench.add(rows.compare("trackers", "scan, nothing follows", taken, kind="engine", size=bench.work.data_bytes))


def small_bytes(bench: Bench) -> int:
    """The size of the small image: it and its replica lie there at once, both full."""
    if bench.judged and shutil.disk_usage(bench.folder).free > 2.5 * SMALL:
        return SMALL
    return bench.work.virtual_bytes // MIB * MIB


def _try(bench: Bench, kind: type[Followed]) -> None:
    """A cycle of a small image; raises where this folder cannot have the tracker."""
    side = _Side(bench, "try", MIB, MIB, kind)
    try:
        side.cycle()
    finally:
        side.end()


def _follow(bench: Bench, name: str, kind: type[Followed], small: int) -> None:
    sides = [
        _Side(bench, "small", small, small, kind),
        _Side(bench, "large", LARGE if bench.judged else 4 * small, 0, kind),
    ]
    try:
        scan = _scan(bench, sides[0])
        for side in sides:
            side.cycle()
        for number in range(bench.rounds):
            for side in sides[number % 2 :] + sides[: number % 2]:
                side.turn(random.Random(f"{number} {side.size}"))
        _tell(bench, name, sides[0], sides[1], scan)
        for side in sides:
            if not bench.ours("verify", side.replica, "--source", side.image).json["ok"]:
                raise engine.Error("the replica is not what the image is", path=str(side.image))
    finally:
        for side in sides:
            side.end()


def _scan(bench: Bench, side: _Side) -> list[float]:
    side.cycle("--tracker", "scan")
    return [float(side.cycle("--tracker", "scan").json["seconds"]) for _ in range(bench.rounds)]


def _tell(bench: Bench, name: str, small: _Side, large: _Side, scan: list[float]) -> None:
    def row(what: str, ours: list[float], peer: str, theirs: list[float], figure: float) -> None:
        bench.add(
            rows.compare(
                "trackers", f"{name}: {what}", ours, peer, theirs, kind="engine", figure=bench.figure(figure),
                size=CHANGED,
            )
        )  # fmt: skip

    little, much = format_size(small.size), format_size(large.size)
    row(f"64 MiB changed of {much}", large.seconds, f"of {little}", small.seconds, LARGE_FIGURE)
    row(f"64 MiB changed of {little}", small.seconds, "its scan", scan, SCAN_FIGURE)
    row(f"64 MiB changed of {much}, sparse", large.seconds, f"scan of {little}", scan, SCAN_FIGURE)
    row(f"unchanged, {much}", large.unchanged, f"scan of {little}", scan, SCAN_FIGURE)
    worst = max(large.unchanged + small.unchanged)
    bench.add(
        rows.at_most("trackers", f"{name}: unchanged, slowest", worst, UNCHANGED_SECONDS, "s", judged=bench.judged)
    )
    bench.add(rows.compare("trackers", f"{name}: 64 MiB changed of {much}, whole command", large.whole))
    if any(large.stalls):
        bench.add(rows.compare("trackers", f"{name}: writers stood still", small.stalls, kind="engine"))


def fill(path: Path, size: int, data: int) -> None:
    """A new image of `size` bytes, the first `data` of them data."""
    with path.open("wb") as file:
        for piece in _pieces(data):
            file.write(piece)
        file.truncate(size)
        file.flush()
        os.fsync(file.fileno())


def _pieces(data: int) -> Iterable[bytes]:
    base = bytearray(random.Random(1).randbytes(MIB))
    for number in range(-(-data // MIB)):
        for block in range(0, MIB, 4096):
            base[block : block + 8] = (number * 256 + block // 4096).to_bytes(8, "little")
        yield bytes(base)
