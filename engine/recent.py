"""What was made a moment ago, kept for who wants it again, up to so many bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """At most `limit` bytes, as `weigh` counts them, and always the newest one. For one thread at a time."""

    def __init__(self, limit: int, weigh: Callable[[Value], int]) -> None:
        self._limit, self._weigh, self._bytes = limit, weigh, 0
        self._kept: OrderedDict[Key, Value] = OrderedDict()

    def take(self, key: Key, make: Callable[[], Value]) -> Value:
        """The one that is kept, or one that `make` makes now; what was not wanted for longest gives way."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return found
        found = self._kept[key] = make()
        self._bytes += self._weigh(found)
        while self._bytes > self._limit and len(self._kept) > 1:
            self._bytes -= self._weigh(self._kept.popitem(last=False)[1])
        return found
