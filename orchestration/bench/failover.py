"""Run from a point, and come back: how soon an overlay over the newest point, and over one of a day before, is served,
of an image of 16 GiB and of 1 TiB; and what the first cycle of the way back takes against an ordinary one.
"""

from __future__ import annotations

import datetime
import os
import random
import time
from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.units import KIB, MIB, format_size
from secondsite.orchestration.bench import rows, servers
from secondsite.orchestration.bench.context import Bench, remove
from secondsite.orchestration.bench.trackers import CHANGED, LARGE, fill, small_bytes

# A point an hour, and each with so many blocks changed.
HOURS, BLOCKS = 24, 64
# An overlay is made and served in this time, as a call takes it; starting two commands is told beside it.
SERVED_SECONDS = 0.3
# The way back takes at most twice a cycle of as much, where trackers know what changed.
REVERSE_FIGURE = 0.5
_NEWEST = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


class _Home:
    """An image with a day of points, and where its machine runs after a failover."""

    def __init__(self, bench: Bench, name: str, size: int, data: int) -> None:
        self.bench, self.size, self.folder = bench, size, bench.folder / name
        self.folder.mkdir()
        self.image, self.forward = self.folder / "disk.raw", self.folder / "forward"
        self.back, self.overlay = self.folder / "back", self.folder / "disk.overlay"
        self.chance, self.copies = random.Random(size), 0
        fill(self.image, size, data)
        for hour in range(HOURS, -1, -1) if bench.judged else (HOURS, 1, 0):
            if hour < HOURS:
                self.write_home(BLOCKS, 64 * KIB)
            engine.replicate(self.image, self.forward, clock=partial(_ago, hour))

    def write_home(self, count: int, length: int) -> None:
        """So many pieces of the image, which nobody serves."""
        with self.image.open("r+b") as file:
            for place in self._places(count, length):
                os.pwrite(file.fileno(), self.chance.randbytes(length), place)
            os.fsync(file.fileno())

    def write_there(self, guest: engine.Image, count: int) -> None:
        for place in self._places(count, MIB):
            guest.write(place, self.chance.randbytes(MIB))
        guest.flush()

    def _places(self, count: int, length: int) -> list[int]:
        chosen = self.chance.sample(range(self.size // length), min(count, self.size // length // 4))
        return [place * length for place in sorted(chosen)]

    def served(self, at: str, *, commands: bool) -> float:
        """Seconds from the wish to run from a point to the first bytes."""
        self.bench.settle()
        began = time.monotonic()
        if commands:
            self.bench.ours("overlay", "create", self.overlay, self.forward, "--at", at)
            with servers.serving(partial(servers.ours, self.overlay)) as url:
                seconds = _first_bytes(url, began)
        else:
            engine.create_overlay(self.overlay, self.forward, at)
            with TemporaryDirectory() as folder, engine.track([self.overlay], socket=f"{folder}/s") as tracking:
                seconds = _first_bytes(tracking.urls[0], began)
        engine.remove_overlay(self.overlay)
        return seconds

    def reversed(self) -> tuple[float, float, float]:
        """Adopting the old disk, the first cycle back, and an ordinary cycle of as much, in seconds."""
        engine.create_overlay(self.overlay, self.forward)
        self.write_home(CHANGED // MIB, MIB)
        with (
            TemporaryDirectory() as folder,
            engine.track([self.overlay], socket=f"{folder}/s") as tracking,
            engine.open_image(tracking.urls[0], "rw") as guest,
        ):
            self.write_there(guest, CHANGED // MIB)
            self.bench.settle()
            adopted = engine.adopt(self.image, self.back, like=self.forward)
            first = self._cycle()
            self.write_there(guest, 2 * CHANGED // MIB)
            self.bench.settle()
            normal = self._cycle()
        if adopted.read_bytes > 2 * CHANGED and adopted.method == "clone":
            raise engine.Error(f"adopting read {adopted.read_bytes} bytes", path=str(self.image))
        if not engine.verify(self.back, source=self.overlay).ok:
            raise engine.Error("the replica is not what the overlay is", path=str(self.overlay))
        engine.remove_overlay(self.overlay)
        remove(self.back)
        # As before: the machine at home has written nothing since its last cycle.
        engine.replicate(self.image, self.forward)
        return adopted.seconds, first, normal

    def _cycle(self) -> float:
        done = engine.replicate(self.overlay, self.back, tracker="nbd")
        if done.scanned:
            raise engine.Error("a cycle of the way back read all of the disk", path=str(self.overlay))
        return done.seconds

    def end(self) -> None:
        remove(self.folder)


def _ago(hours: int) -> datetime.datetime:
    return _NEWEST - datetime.timedelta(hours=hours)


def _first_bytes(url: str, began: float) -> float:
    with engine.open_image(url) as guest:
        guest.read_into(0, bytearray(4 * KIB))
    return time.monotonic() - began


def failover(bench: Bench) -> None:
    """Both images, one after the other."""
    try:
        _both(bench)
    except engine.Error as error:
        if not isinstance(error, errors.Refused | errors.Unreachable):
            raise
        bench.skipped["failover"] = str(error)


def _both(bench: Bench) -> None:
    small = small_bytes(bench)
    for name, size, data in (("full", small, small), ("sparse", LARGE if bench.judged else 4 * small, 64 * MIB)):
        home = _Home(bench, f"failover-{name}", size, data)
        try:
            _serve(bench, home)
            _reverse(bench, home)
        finally:
            home.end()


def _serve(bench: Bench, home: _Home) -> None:
    day_before = _ago(HOURS).isoformat()
    what = {"latest": "newest point", day_before: f"point {HOURS} h back"}
    for commands in (False, True):
        sides: dict[str, Callable[[], float]] = {at: partial(home.served, at, commands=commands) for at in what}
        for at, seconds in rows.alternate(bench.rounds, sides).items():
            name = f"{what[at]} of {format_size(home.size)} served"
            if commands:
                bench.add(rows.compare("failover", f"{name}, two commands", seconds))
            else:
                worst = max(seconds)
                bench.add(rows.at_most("failover", name, worst, SERVED_SECONDS, "s", judged=bench.judged))


def _reverse(bench: Bench, home: _Home) -> None:
    taken = [home.reversed() for _ in range(bench.rounds)]
    adopted, first, normal = (list(each) for each in zip(*taken, strict=True))
    both = [one + other for one, other in zip(adopted, first, strict=True)]
    changed, size = format_size(CHANGED), format_size(home.size)
    bench.add(
        rows.compare(
            "failover", f"way back, {changed} changed on each side of {size}", both, "a cycle of as much", normal,
            kind="engine", figure=bench.figure(REVERSE_FIGURE), size=2 * CHANGED,
        )
    )  # fmt: skip
    bench.add(rows.compare("failover", f"of that, the old disk of {size} adopted", adopted, kind="engine"))
