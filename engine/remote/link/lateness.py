"""When one of several connections is not worth waiting for any more: it alone holds what all others are done with."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

# A straggler is waited for as long as all before it took, and at least so long: then what it holds goes another way.
LATE_SECONDS = 15.0


@dataclass
class Lateness:
    """Of a transfer that began when this was made."""

    began: float = field(default_factory=time.monotonic)
    _since: float | None = None
    _most: float = 0.0

    def over(self, others_are_done: bool) -> bool:
        """Asked again and again while the end is waited for: has it taken too long since others were done?"""
        now = time.monotonic()
        if not others_are_done:
            self._since = None
        elif self._since is None:
            self._since, self._most = now, max(LATE_SECONDS, now - self.began)
        return self._since is not None and now - self._since > self._most
