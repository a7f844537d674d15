"""Compression `auto`: what packs the next frames, by what the link took and what packing cost a moment ago.

Of a codec with ratio r (raw over packed) that packs p raw bytes a second in one thread, a link of l bytes a second and
w threads: raw bytes go over at min(l * r, w * p) a second. The codec with the highest of these is used. All figures are
measured while the transfer runs, over the last seconds, so that both a link that fills and data that changes its kind
are followed; a codec that was not tried lately is tried for one batch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from secondsite.engine.delta import format as fmt

LADDER: tuple[tuple[int, int], ...] = (
    (fmt.NONE, 0), (fmt.LZ4, 1), (fmt.ZSTD, 1), (fmt.ZSTD, 3), (fmt.ZSTD, 6), (fmt.ZSTD, 9),
)  # fmt: skip
# Weight of the newest figure, and how often what is not in use is tried: 1 batch of 1 MiB in 32 costs at most a few
# percent, also where that codec is ten times slower.
_WEIGHT = 0.3
_TRY_EVERY = 32
# Another codec must promise so much more; without it two that are equal would take turns.
_BETTER = 1.05


@dataclass
class Figures:
    """Of one codec, smoothed: raw bytes a packed byte, and raw bytes a second of one thread."""

    ratio: float
    speed: float
    seen: int = 0


class Choice:
    """Safe from several threads. `workers` pack at once."""

    def __init__(self, workers: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.workers, self.clock = workers, clock
        self.figures: dict[int, Figures] = {}
        self.current = 1
        self.link: float | None = None
        self._batches = 0
        self._lock = threading.Lock()

    def next(self) -> int:
        """The place on the ladder for the next batch."""
        with self._lock:
            self._batches += 1
            if self._batches % _TRY_EVERY:
                return self.current
            near = [step for step in (self.current + 1, self.current - 1) if 0 <= step < len(LADDER)]
            return min(near, key=lambda step: self.figures[step].seen if step in self.figures else -1)

    def packed(self, step: int, raw: int, size: int, seconds: float) -> None:
        """A batch of `raw` bytes became `size` bytes in `seconds` of one thread."""
        if raw <= 0 or size <= 0:
            return
        ratio, speed = raw / size, raw / max(seconds, 1e-6)
        with self._lock:
            old = self.figures.get(step)
            if old is None:
                self.figures[step] = Figures(ratio, speed, self._batches)
            else:
                old.ratio += _WEIGHT * (ratio - old.ratio)
                old.speed += _WEIGHT * (speed - old.speed)
                old.seen = self._batches
            self._choose()

    def sent(self, size: int, seconds: float) -> None:
        """The link took `size` bytes in `seconds`."""
        if size <= 0:
            return
        rate = size / max(seconds, 1e-6)
        with self._lock:
            self.link = rate if self.link is None else self.link + _WEIGHT * (rate - self.link)
            self._choose()

    def _choose(self) -> None:
        if self.link is None or self.current not in self.figures:
            return
        best = max(self.figures, key=lambda step: self._rate(self.figures[step]))
        if self._rate(self.figures[best]) > _BETTER * self._rate(self.figures[self.current]):
            self.current = best

    def _rate(self, figures: Figures) -> float:
        """Raw bytes a second that this codec would bring over."""
        return min((self.link or 0.0) * figures.ratio, self.workers * figures.speed)
