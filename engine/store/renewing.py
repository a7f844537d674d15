"""A fence held for as long as a block runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from secondsite.engine import errors
from secondsite.engine.store.base import Fence
from secondsite.engine.workers import looking

_RENEWALS = 4


@contextmanager
def renewed(fence: Fence) -> Iterator[Fence]:
    """Renew it in a thread, and release it behind the block. Where it is lost the next write says so. One that ran out
    while the store was not to be reached can be renewed as long as nobody else had it.
    """

    def renew() -> bool:
        try:
            fence.renew()
        except errors.Unreachable as error:
            return error.retryable
        except errors.Error:
            return False
        return True

    with looking(fence.seconds / _RENEWALS, renew, "fence"):
        try:
            yield fence
        finally:
            try:
                fence.release()
            except errors.Error:
                pass  # it runs out by itself
