"""Compression `auto`: what packs the next frames, by what the link took and what packing cost a moment ago.

A batch that became s bytes in p seconds of one thread takes the link, of l bytes a second, s / l seconds. Of w threads
one sends while the others pack, so a batch goes over every max(s / l, (p + s / l) / w) seconds. The codec that makes
this least is used, of those that come to the same the cheapest.

Real files pack to a half here and to a tenth there, so two codecs are only ever compared over the same bytes: now and
then a batch is packed by a rival too. Where packing is what is waited for, a harder codec cannot win and is not tried.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from secondsite.engine.delta import format as fmt

LADDER: tuple[tuple[int, int], ...] = (
    (fmt.NONE, 0), (fmt.LZ4, 1), (fmt.ZSTD, 1), (fmt.ZSTD, 3), (fmt.ZSTD, 6), (fmt.ZSTD, 9),
)  # fmt: skip
# The rivals in turn, as steps on the ladder. Two up: data of which LZ4 finds nothing may have what zstd finds.
_RIVALS = (1, -1, 2)
# Batches between two trials: soon after a change, doubled by each trial that changes nothing, up to the second number
# where the threads would only have waited for the link, else to the third: a trial of zstd in 64 batches of 1 MiB that
# are not packed costs about a hundredth.
_SOON, _OFTEN, _SELDOM = 2, 8, 64
# How much of a sum stays when the next batch comes. Trials are few. The first MiB go into buffers of the system at
# once, and are to be forgotten soon.
_KEPT_OF_TRIALS, _KEPT_OF_SENDING = 0.7, 0.8
# A harder codec must save so much time, an easier one may cost so much: without it two that are equal would take turns.
_BETTER, _AS_GOOD = 0.98, 1.01


@dataclass
class Packed:
    """Bytes that came out and seconds of one thread: of one batch, or summed over the last ones."""

    size: float = 0.0
    seconds: float = 0.0

    def add(self, size: float, seconds: float, kept: float) -> None:
        self.size, self.seconds = kept * self.size + size, kept * self.seconds + seconds


@dataclass
class Choice:
    """Safe from several threads. `workers` pack and send at once."""

    workers: int
    current: int = 1
    _link: Packed = field(default_factory=Packed)
    _own: Packed = field(default_factory=Packed)
    _trials: dict[int, tuple[Packed, Packed]] = field(default_factory=dict)
    _left: int = _SOON
    _pause: int = _SOON
    _turn: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> tuple[int, int | None]:
        """The place on the ladder for the next batch, and of a rival that is to pack it too."""
        with self._lock:
            self._left -= 1
            if self._left > 0 or not self._link.seconds or not self._own.size:
                return self.current, None
            self._left = self._pause
            return self.current, self._rival()

    def _rival(self) -> int | None:
        idle = self._has_time(self._own.size, self._own.seconds)
        step = _RIVALS[self._turn % len(_RIVALS)] if idle else -1
        self._turn += 1
        found = self.current + step
        return found if 0 <= found < len(LADDER) else None

    def packed(self, step: int, size: float, seconds: float) -> None:
        """A batch became `size` bytes in `seconds`."""
        with self._lock:
            if step == self.current:
                self._own.add(size, seconds, _KEPT_OF_SENDING)

    def compared(self, step: int, rival: int, own: Packed, other: Packed) -> None:
        """The same batch by the one that was chosen for it and by its rival."""
        with self._lock:
            if step != self.current:
                return  # another thread's trial has decided meanwhile
            sums = self._trials.setdefault(rival, (Packed(), Packed()))
            for total, one in zip(sums, (own, other), strict=True):
                total.add(one.size, one.seconds, _KEPT_OF_TRIALS)
            ours, theirs = map(self._time, sums)
            if theirs <= ours * (_BETTER if rival > step else _AS_GOOD):
                self.current, self._own = rival, sums[1]
                self._trials = {}
                self._pause = self._left = _SOON
            else:
                free = self._has_time(own.size, own.seconds + other.seconds)
                self._pause = min(2 * self._pause, _OFTEN if free else _SELDOM)

    def sent(self, size: int, seconds: float) -> None:
        """The link took `size` bytes in `seconds`."""
        with self._lock:
            self._link.add(size, seconds, _KEPT_OF_SENDING)

    def _on_link(self, size: float) -> float:
        return size * self._link.seconds / self._link.size if self._link.size else 0.0

    def _time(self, packed: Packed) -> float:
        sending = self._on_link(packed.size)
        return max(sending, (packed.seconds + sending) / self.workers)

    def _has_time(self, size: float, seconds: float) -> bool:
        """Would packing for so long be over before the link has taken what other threads had packed?"""
        return seconds <= max(self.workers - 1, 1) * self._on_link(size)
