"""A point in a store for who reads it as long as he likes: the store may be away meanwhile."""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import ExitStack

from secondsite.engine import errors
from secondsite.engine.images.base import Buffer
from secondsite.engine.store.again import Again
from secondsite.engine.store.log import readers
from secondsite.engine.store.log.reading import LogPoint, Replica
from secondsite.engine.store.opening import open_replica
from secondsite.engine.store.retry import Limits

# How long a read waits for a store that does not answer, then it fails; the next one asks again. A guest's disk that
# says nothing for a minute is reset by most kernels.
PATIENCE = Limits(attempts=1000, seconds=30.0, longest=4.0)
_REQUEST_SECONDS = 15.0
# In the end the store is told that nobody reads any more.
_PARTING_SECONDS = 3.0
# A read that fails is told, the same again only so much later: a guest asks often.
_SILENT_SECONDS = 60.0
_log = logging.getLogger("secondsite.store")


class StoredPoint(LogPoint):
    """`at` is as `Replica.choose` takes it. The store is this point's own, and each call that is made again is told."""

    fd = -1

    def __init__(self, url: str, at: str = "latest", state: str | os.PathLike[str] | None = None) -> None:
        self._ending, self._until = threading.Event(), 0.0
        self._complained, self._complained_at = "", 0.0
        told = Again()
        store = open_replica(
            url, told=told.told, cancel=self._given_up, limits=PATIENCE, timeout=_REQUEST_SECONDS, state=state
        )
        self._held = ExitStack()
        try:
            self._held.callback(store.close)
            replica = Replica.open(store)
            reading = readers.reading(store, replica.identity, replica.head, at, told.say)
            super().__init__(store, replica.identity, self._held.enter_context(reading))
        except BaseException:
            self._held.close()
            raise

    @property
    def name(self) -> str:
        return self.point.name

    @property
    def over(self) -> dict[str, str | int]:
        """What tells this point from all others."""
        return {"replica": self.point.replica_id, "generation": self.point.generation, "seal": self.point.seal}

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Whoever reads over NBD learns a number alone: why it failed is logged."""
        try:
            super().read_into(offset, buffer)
        except errors.Error as error:
            self._complain(str(error))
            raise

    def _complain(self, text: str) -> None:
        now = time.monotonic()
        if text != self._complained or now - self._complained_at > _SILENT_SECONDS:
            self._complained, self._complained_at = text, now
            _log.warning("a read failed: %s", text)

    def follow(self) -> None:
        """Nothing in a store changes, but for what is deleted."""
        return None

    def _given_up(self) -> bool:
        return self._ending.is_set() and time.monotonic() > self._until

    def give_up(self) -> None:
        self._ending.set()

    def close(self) -> None:
        self._ending.set()
        super().close()
        self._until = time.monotonic() + _PARTING_SECONDS
        self._held.close()
