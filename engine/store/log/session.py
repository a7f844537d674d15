"""A store that is open for one call, or for many cycles, and how those get over."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from secondsite.engine import errors
from secondsite.engine.remote.link.schedule import Throttle
from secondsite.engine.remote.sending import outbound, retry
from secondsite.engine.remote.sending.outbound import Link
from secondsite.engine.store.again import Again
from secondsite.engine.store.base import Absent, Store
from secondsite.engine.store.log import head as heads
from secondsite.engine.store.log.writing import Known
from secondsite.engine.store.opening import open_replica

T = TypeVar("T")


class Opened(Again):
    """What the log of a replica lies in, opened when it is first asked for; one that is made is encrypted where
    `encrypt` says so.
    """

    def __init__(
        self, url: str, cancel: Callable[[], bool] | None, state: str | os.PathLike[str] | None = None,
        pace: Throttle | None = None, *, encrypt: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self._made: Store | None = None
        self._open = partial(
            open_replica, url, told=self.told, cancel=cancel or (lambda: False), pace=pace, encrypt=encrypt, state=state
        )
        self.known = Known()

    @property
    def store(self) -> Store:
        """Raises Usage, Refused, Locked, and what the store raises."""
        self._made = self._made or self._open()
        return self._made

    def look(self) -> None:
        """Reach it."""
        try:
            self.known.identity = self.known.identity or heads.load_identity(self.store)
        except Absent:
            pass  # the cycle makes it

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._made is not None:
            self._made.close()


@dataclass
class Route(Link):
    """A Link to a store that stays open between cycles."""

    opened: Opened = field(kw_only=True)


def staying_open(
    link: Link, url: str, cancel: Callable[[], bool] | None, state: str | os.PathLike[str] | None, *, encrypt: bool
) -> Route:
    """For many cycles, whose caller tries again himself; he closes `opened`."""
    opened = Opened(url, cancel, state, link.pace, encrypt=encrypt)
    return Route(0, link.delays, link.pace, link.notify, link.sent, opened=opened)


def run(cycle: Callable[[], T], opened: Opened, link: Link, cancel: Callable[[], bool] | None) -> T:
    """A cycle, again where that may help. Without a number of retries that is after the store was reached once, and
    never where somebody else writes: a second writer is refused, as in a folder.
    """
    unsaid = link.retries is None
    if unsaid:
        opened.look()

    def say(error: errors.Error, seconds: float) -> None:
        link.notify(f"{error}; tried again in {seconds:g} s")

    return retry.run(
        cycle, sleep=time.sleep, cancel=cancel or (lambda: False), say=say, told=link.delays,
        attempts=1 + (outbound.RETRIES if link.retries is None else link.retries),
        progressed=lambda: link.sent.durable, ends=lambda error: unsaid and isinstance(error, errors.Busy),
    )  # fmt: skip
