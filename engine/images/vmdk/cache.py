"""A small cache that drops what was used longest ago: grain tables, and grains that were decompressed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable


class Cache:
    """At most `limit` byte strings by number. Two threads may make the same one; the later stays."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: int, make: Callable[[int], bytes]) -> bytes:
        """What is held under `key`, made now where it is not."""
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
                return found
        made = make(key)
        with self._lock:
            self._held[key] = made
            while len(self._held) > self.limit:
                self._held.popitem(last=False)
        return made
