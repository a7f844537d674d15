"""What all attempts of one cycle sent, for the figure of bytes that went over twice (P14)."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Sent:
    """What all attempts of one cycle sent, in bytes of frames; `again`: lost on the way and sent another time.
    `durable` is how long the replica's spool is known to be: an attempt that moved it got further. `all_bytes` and
    `all_again` count on over all cycles.
    """

    frames: int = 0
    bytes: int = 0
    again: int = 0
    attempts: int = 0
    durable: int = 0
    all_bytes: int = 0
    all_again: int = 0
    _spooled: int = field(default=0, repr=False)

    def resumed(self, spooled: int) -> None:
        """The replica has so many bytes in its spool at the beginning of an attempt."""
        if self.attempts:
            self.again += max(self._spooled - spooled, 0)
            self.all_again += max(self._spooled - spooled, 0)
        self.attempts += 1
        self._spooled = self.durable = spooled

    def add(self, count: int) -> None:
        self.frames += 1
        self.bytes += count
        self.all_bytes += count
        self._spooled += count

    def begin(self) -> None:
        """Another cycle: nothing was sent."""
        self.frames = self.bytes = self.again = self.attempts = self.durable = self._spooled = 0
