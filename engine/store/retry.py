"""A store whose calls are made again where that may help: the only place that does, with limits, and not in silence.

A call that got no answer may have been carried out, now or later. So each object that is written carries a number of
its own: where the next attempt finds the name taken or the etag gone, that number tells whether it was we. A deletion
that comes late finds what has the name by then: names are not used twice.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from secondsite.engine import errors
from secondsite.engine.store.base import (
    MAX_FENCE,
    Absent,
    Changed,
    Content,
    Entry,
    Exists,
    Failed,
    Fence,
    Store,
    new_holder,
)
from secondsite.engine.store.gate import Gate

T = TypeVar("T")
PUT_ID = "put"
_LOOK_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one call: at most so many attempts, in at most so many seconds. The pauses between them begin with `first`
    seconds and double up to `longest`; each is shortened by up to a half at random, so that not all come back at once.
    """

    attempts: int = 8
    seconds: float = 300.0
    first: float = 0.5
    longest: float = 30.0


@dataclass(frozen=True, slots=True)
class Retry:
    """What is told before each further attempt. `limit` requests may be on their way at once now."""

    error: Failed
    attempt: int
    wait: float
    limit: int

    def __str__(self) -> str:
        return f"{self.error}; attempt {self.attempt} in {self.wait:.1f} s, {self.limit} requests at once"


class Retrying(Store):
    """`told` hears of each retry. `cancel` is asked while it waits."""

    def __init__(
        self, store: Store, *, limits: Limits | None = None, told: Callable[[Retry], object] = lambda retry: None,
        cancel: Callable[[], bool] = lambda: False, gate: Gate | None = None,
        sleep: Callable[[float], None] = time.sleep, chance: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        self.store, self.label, self.limits, self.told = store, store.label, limits or Limits(), told
        self.cancel, self.sleep, self.chance = cancel, sleep, chance
        self.gate = gate or Gate(check=self._check)
        # Who holds a fence must renew it in time, however long the bodies of others take.
        self.fences = Gate(check=self._check)
        self._peeked: dict[str, Content] = {}

    def _check(self) -> None:
        if self.cancel():
            raise errors.Cancelled("stopped on request")

    def _run(self, call: Callable[[bool], T], gate: Gate | None = None) -> T:
        """`call`, which is told whether it was tried before."""
        began, attempt = time.monotonic(), 1
        while True:
            with gate or self.gate:
                started = self.gate.clock()
                try:
                    done = call(attempt > 1)
                    self.gate.well()
                    return done
                except Failed as error:
                    failed = error
                    if error.busy:
                        self.gate.busy(started, error.after)
            wait = self._pause(failed, attempt, time.monotonic() - began)
            attempt += 1
            self.told(Retry(failed, attempt, wait, self.gate.limit))
            self._wait(wait)

    def _pause(self, error: Failed, attempt: int, spent: float) -> float:
        """Seconds before the next attempt. Raises the error where there is none any more."""
        limits = self.limits
        longest = min(limits.first * 2.0 ** (attempt - 1), limits.longest)
        wait = max(longest * (1 - self.chance() / 2), error.after or 0.0)
        if attempt >= limits.attempts or spent + wait > limits.seconds:
            told = f"{error.message}; given up after {attempt} attempts in {spent:.0f} s"
            raise Failed(told, path=error.path or self.label, busy=error.busy, after=error.after) from None
        return wait

    def _wait(self, seconds: float) -> None:
        while seconds > 0:
            self._check()
            self.sleep(min(seconds, _LOOK_SECONDS))
            seconds -= _LOOK_SECONDS

    def calling(self, call: Callable[[bool], T]) -> T:
        """Any other call to the same service, made again in the same way; it is told whether it was tried before."""
        return self._run(call)

    # -- the calls ---------------------------------------------------------------------------------------------

    def put_if_absent(
        self, name: str, data: bytes | bytearray | memoryview, metadata: Mapping[str, str] | None = None
    ) -> str:
        ours, told = _numbered(metadata)

        def attempt(again: bool) -> str:
            try:
                return self.store.put_if_absent(name, data, told)
            except Exists:
                return self._ours(name, ours, again)

        return self._run(attempt)

    def replace(
        self, name: str, data: bytes, etag: str, metadata: Mapping[str, str] | None = None, fence: Fence | None = None
    ) -> str:
        ours, told = _numbered(metadata)
        inner = fence.inner if isinstance(fence, _RetryingFence) else fence

        def attempt(again: bool) -> str:
            try:
                return self.store.replace(name, data, etag, told, inner)
            except Changed:
                return self._ours(name, ours, again)

        return self._run(attempt)

    def _ours(self, name: str, ours: str, again: bool) -> str:
        """The etag of what is there, if we put it there before; else the error that is being handled."""
        if not again:
            raise
        try:
            found = self.store.get(name)
        except Absent:
            found = None
        if found is None or found.metadata.get(PUT_ID) != ours:
            raise
        return found.etag

    def get(self, name: str, start: int = 0, length: int | None = None) -> Content:
        if (held := self._peeked.pop(name, None)) is not None:
            return replace(held, data=held.data[start:] if length is None else held.data[start : start + length])
        return self._run(lambda again: self.store.get(name, start, length))

    def peek(self, name: str, most: int) -> Content | None:
        """An object that is about to be asked for, its first bytes at least, or None: the next `get` of it asks nobody.
        """
        try:
            found = self.get(name, 0, most)
        except Absent:
            return None
        if found.size <= most:
            self._peeked[name] = found
        return found

    def stat(self, name: str) -> Entry | None:
        return self._run(lambda again: self.store.stat(name))

    def list(self, folder: str = "") -> Iterator[Entry]:
        found = _Listing(self.store, folder)
        while (entry := self._run(found.next)) is not None:
            yield entry

    def removes(self) -> bool:
        return self._run(lambda again: self.store.removes())

    def delete(self, name: str) -> None:
        self._run(lambda again: self.store.delete(name))

    def fence(
        self, name: str, seconds: int = MAX_FENCE, *, take: bool = False, holder: str | None = None
    ) -> Fence:
        who = holder or new_holder()
        made = self._run(lambda again: self.store.fence(name, seconds, take=take, holder=who))
        return _RetryingFence(self, made)

    def close(self) -> None:
        self.store.close()


class _RetryingFence(Fence):
    def __init__(self, outer: Retrying, inner: Fence) -> None:
        self.outer, self.inner = outer, inner
        self.name, self.seconds = inner.name, inner.seconds

    def renew(self) -> None:
        self.outer._run(lambda again: self.inner.renew(), self.outer.fences)

    def release(self) -> None:
        self.outer._run(lambda again: self.inner.release(), self.outer.fences)


class _Listing:
    """Goes on behind the last name where a list broke off: names ascend."""

    def __init__(self, store: Store, folder: str) -> None:
        self.store, self.folder, self.last = store, folder, ""
        self._entries: Iterator[Entry] | None = None

    def next(self, again: bool) -> Entry | None:
        if again or self._entries is None:
            self._entries = self.store.list(self.folder)
        for entry in self._entries:
            if entry.name > self.last:
                self.last = entry.name
                return entry
        return None


def _numbered(metadata: Mapping[str, str] | None) -> tuple[str, dict[str, str]]:
    ours = os.urandom(8).hex()
    return ours, {**(metadata or {}), PUT_ID: ours}
