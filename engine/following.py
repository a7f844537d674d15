"""A disk of Azure that is kept equal to the newest point of a replica, once or for ever."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from secondsite.engine import errors
from secondsite.engine.materialization import WORKERS
from secondsite.engine.progress import Monitor, Progress
from secondsite.engine.results.outputs import Followed, Materialized
from secondsite.engine.store.again import Again
from secondsite.engine.store.base import Fenced
from secondsite.engine.store.opening import open_page_blob
from secondsite.engine.watching import Schedule, check_every, retry_seconds

if TYPE_CHECKING:
    from secondsite.engine.follower import Follower

# How soon a wait sees that it is to end.
_STEP_SECONDS = 0.1


def standby(
    replica: str | os.PathLike[str],
    output: str,
    *,
    every: float | None = None,
    snapshots: int | None = None,
    in_place: bool = False,
    take: bool = False,
    workers: int | None = None,
    observe: Callable[[Followed], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    state: str | os.PathLike[str] | None = None,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Materialized:
    """Bring the page blob azure://CONTAINER/NAME.vhd to the newest point by the blocks that changed, which are read
    back; then take a snapshot of it, and delete our snapshots of points that the replica has no more. Of them at most
    `snapshots` are kept; with 0 none is taken. With `every` it goes on, a step every so many seconds, until `cancel`
    returns True; `observe` is called after each. Who has the lease is waited for then.

    A blob that is not there is made. One that is of another replica, or was written by somebody since we left it, is
    Refused, unless `in_place`: then all of it is compared. The lease is ours meanwhile; `take` takes it from another.

    Raises as `materialize`, Fenced where the lease was taken from us, and Cancelled in the end.
    """
    if every is not None:
        check_every(every)
    if snapshots is not None and snapshots < 0:
        raise errors.Usage("snapshots cannot be fewer than 0")
    stopping = cancel or (lambda: False)
    told, monitor = Again(), Monitor(progress, cancel)
    with open_page_blob(output, told=told.told, cancel=stopping) as blob:
        from secondsite.engine.follower import Follower  # which loads Azure's SDK

        follower = Follower(
            os.fspath(replica), blob, told, monitor, workers=workers or WORKERS, limit=snapshots, in_place=in_place,
            state=state,
        )  # fmt: skip
        with ExitStack() as stack:
            if every is None:
                stack.enter_context(follower.holding(take=take))
                return follower.step()
            return _Loop(follower, take, stack, every, observe or (lambda _: None), stopping, monotonic, sleep).run()


class _Loop:
    """Steps that never overlap, once the lease is ours, until the stack is closed. What may pass is tried again, in the
    rhythm of cycles (R6.4).
    """

    def __init__(
        self, follower: Follower, take: bool, stack: ExitStack, every: float, observe: Callable[[Followed], None],
        cancel: Callable[[], bool], monotonic: Callable[[], float], sleep: Callable[[float], None],
    ) -> None:  # fmt: skip
        self._follower, self._observe, self._cancel = follower, observe, cancel
        self._take, self._stack, self._holds = take, stack, False
        self._monotonic, self._sleep = monotonic, sleep
        self._schedule = Schedule(monotonic(), every)
        self._failures = 0

    def run(self) -> Materialized:
        """Until `cancel` says so (Cancelled), or an error that no retry mends."""
        late = False
        while True:
            self._check()
            self._schedule.begin(self._monotonic(), late=late)
            wait = self._attempt()
            late = self._failures > 0 or wait <= 0
            end = self._monotonic() + wait
            while (left := end - self._monotonic()) > 0:
                self._check()
                self._sleep(min(left, _STEP_SECONDS))

    def _check(self) -> None:
        if self._cancel():
            raise errors.Cancelled("stopped on request; what was written stays, and the next call goes on")

    def _attempt(self) -> float:
        """One step; how long to wait for the next."""
        try:
            if not self._holds:
                self._stack.enter_context(self._follower.holding(take=self._take))
                self._holds = True
            done = self._follower.step()
        except errors.Error as error:
            lost = self._holds and isinstance(error, Fenced)
            if not error.retryable and not (lost and self._follower.still_ours()):
                raise
            self._failures += 1
            pause = retry_seconds(self._failures, self._schedule.every)
            self._observe(Followed(error=str(error), retry=pause))
            return pause
        self._failures = 0
        self._observe(Followed(done=done))
        return self._schedule.wait(self._monotonic())
