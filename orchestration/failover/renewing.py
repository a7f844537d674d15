"""A lease that is held as long as somebody works, by a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from secondsite.engine import errors
from secondsite.orchestration.protection import leases

_RENEW_SECONDS = leases.LEASE_SECONDS / 4


class Lease:
    """`renew` says whether it is ours yet; `stops`, whether somebody wants this process to end."""

    def __init__(self, renew: Callable[[], bool], stops: Callable[[], bool]) -> None:
        self._renew, self._stops = renew, stops
        self._lost, self._done = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        if isinstance(error, errors.Cancelled):
            self.check()  # a host knows no more than that its caller is gone

    def cancelled(self) -> bool:
        return self._lost.is_set() or self._stops()

    def check(self) -> None:
        """Before each step: is it ours yet? Raises Busy, Cancelled."""
        if self._lost.is_set():
            raise errors.Busy("another orchestrator has this item now")
        if self._stops():
            raise errors.Cancelled("stopped on request; the same call goes on with it")

    def _run(self) -> None:
        while not self._done.wait(_RENEW_SECONDS):
            try:
                held = self._renew()
            except errors.Error:
                continue  # the vault does not answer; the lease runs on, and is asked for once more
            if not held:
                self._lost.set()
                return
