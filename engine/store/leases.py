"""Fences where a store has none: an object beside the fenced one says who holds it, and moves by compare-and-swap.

Its age is taken by the store's clock alone, so that no skew between hosts matters. Between the look at it and the write
that it guards it may be lost: the write compares the etag of the object itself, so a new holder must change that first.
"""

from __future__ import annotations

import json
import os
import threading
import time
from abc import abstractmethod

from secondsite.engine import errors
from secondsite.engine.store.base import (
    MAX_FENCE,
    Absent,
    Changed,
    Exists,
    Fence,
    Fenced,
    Held,
    Store,
    check_seconds,
    new_holder,
)

# Behind the name of what is fenced.
SUFFIX = ".lease"
# A store's clock may count in whole seconds.
_TICK = 1.0


class ObjectFence(Fence):
    """`etag` is of the object that says that we hold it."""

    def __init__(self, store: FencedStore, name: str, seconds: int, holder: str) -> None:
        self.store, self.name, self.seconds, self.holder = store, name, seconds, holder
        self.etag, self.until = "", 0.0
        self._lock = threading.Lock()

    def take(self, over: str | None) -> None:
        """Write ourselves down, over the object with this etag or where there is none. Raises Changed or Exists."""
        with self._lock:
            said = _said(self.holder, self.seconds)
            began = time.monotonic()
            if over is None:
                self.etag = self.store.put_if_absent(self.name + SUFFIX, said)
            else:
                self.etag = self.store.replace(self.name + SUFFIX, said, over)
            self.until = began + self.seconds

    def renew(self) -> None:
        try:
            self.take(self.etag)
        except Changed:
            self.take(self._still())  # a renewal of ours whose answer was lost has moved it

    def _still(self) -> str:
        """The etag of the object, where it still says that we hold it. Raises Fenced."""
        try:
            found = self.store.get(self.name + SUFFIX)
        except Absent:
            found = None
        if found is None or _held(found.data) != (self.holder, self.seconds):
            raise Fenced("another holder took the fence", path=self.store.path(self.name))
        return found.etag

    def check(self) -> None:
        """Raises Fenced where it is not ours any more."""
        found = self.store.stat(self.name + SUFFIX)
        if found is None or found.etag != self.etag or time.monotonic() > self.until:
            raise Fenced("the fence was lost", path=self.store.path(self.name))

    def release(self) -> None:
        with self._lock:
            try:
                self.store.replace(self.name + SUFFIX, _said("", 0), self.etag)
            except Changed:
                pass


class FencedStore(Store):
    """A store whose fences are objects."""

    @abstractmethod
    def now(self) -> float:
        """Seconds since 1970 by the store's clock."""

    def new_fence(self, name: str, seconds: int, holder: str) -> ObjectFence:
        """One that is not held yet."""
        return ObjectFence(self, name, seconds, holder)

    def gone(self, holder: str) -> bool:
        """Whether who held a fence is known to live no more."""
        return False

    def fence(self, name: str, seconds: int = MAX_FENCE, *, take: bool = False, holder: str | None = None) -> Fence:
        made = self.new_fence(name, check_seconds(seconds), holder or new_holder())
        if self.stat(name) is None:
            raise Absent("there is nothing to fence", path=self.path(name))
        try:
            made.take(self._free(name, take, made.holder))
        except (Changed, Exists):
            raise Held("another holder took the fence just now", path=self.path(name)) from None
        return made

    def _free(self, name: str, take: bool, ours: str) -> str | None:
        """The etag of a fence that may be taken. Raises Held."""
        try:
            found = self.get(name + SUFFIX)
        except Absent:
            return None
        holder, seconds = _held(found.data)
        if take or holder == ours:
            return found.etag
        entry = self.stat(name + SUFFIX) if seconds else None
        if entry is not None and self.now() - entry.modified <= seconds + _TICK and not self.gone(holder):
            raise Held("somebody else holds it, or was cut off within the last minute", path=self.path(name))
        return found.etag

    def guard(self, fence: Fence | None) -> None:
        """Raises Fenced where a write's fence is not held any more."""
        if isinstance(fence, ObjectFence):
            fence.check()
        elif fence is not None:
            raise errors.Usage("a fence of another store")


def _said(holder: str, seconds: int) -> bytes:
    """What the object holds; unlike all that it held before, as `replace` wants it."""
    return json.dumps({"holder": holder, "seconds": seconds, "turn": os.urandom(8).hex()}).encode()


def _held(said: bytes) -> tuple[str, int]:
    """(holder, seconds). What makes no sense counts as held for long, since somebody may mean something by it."""
    try:
        found = json.loads(said)
        return str(found["holder"]), min(max(int(found["seconds"]), 0), MAX_FENCE)
    except (ValueError, TypeError, KeyError):
        return "?", MAX_FENCE
