"""Values that are fetched once however many threads want them; the last used ones are kept, up to a bound."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """Of all that has come values that weigh `most` together are kept. What is on its way weighs nothing yet."""

    def __init__(self, most: int) -> None:
        self.most, self.weight = most, 0
        self._values: OrderedDict[K, Future[V]] = OrderedDict()
        self._weights: dict[K, int] = {}
        self._lock = threading.Lock()

    def claim(self, keys: Iterable[K]) -> tuple[dict[K, Future[V]], list[K]]:
        """The values of these keys, and of which of them nothing is here: the caller brings each of those, by `put` or
        `fail`, and others wait for him.
        """
        found: dict[K, Future[V]] = {}
        missing = []
        with self._lock:
            for key in keys:
                if key in self._values:
                    self._values.move_to_end(key)
                else:
                    self._values[key] = Future()
                    missing.append(key)
                found[key] = self._values[key]
        return found, missing

    def put(self, key: K, value: V, weight: int) -> None:
        """What was claimed has come."""
        with self._lock:
            future = self._values[key]
            self._weights[key] = weight
            self.weight += weight
            self._drop()
        future.set_result(value)

    def fail(self, keys: Iterable[K], error: BaseException) -> None:
        """Of what was claimed these did not come: who waits for them raises it, and who comes next tries again."""
        with self._lock:
            futures = [self._values.pop(key) for key in keys if key in self._values and key not in self._weights]
        for future in futures:
            future.set_exception(error)

    def end(self, error: BaseException) -> None:
        """Nothing comes any more."""
        with self._lock:
            coming = [key for key in self._values if key not in self._weights]
        self.fail(coming, error)

    def _drop(self) -> None:
        """The oldest first. Whoever has a value in hand goes on with it."""
        while self.weight > self.most and self._weights:
            oldest = next(key for key in self._values if key in self._weights)
            del self._values[oldest]
            self.weight -= self._weights.pop(oldest)
