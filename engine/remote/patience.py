"""Waiting a bounded time for who holds a replica just now."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from secondsite.engine import errors

T = TypeVar("T")

SECONDS = 60.0
_STEP_SECONDS = 0.1


def patiently(take: Callable[[], T], *, seconds: float = SECONDS, check: Callable[[], object] = lambda: None) -> T:
    """What `take` returns, tried again where it raises Busy, for so many seconds; `check` may end that by raising."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return take()
        except errors.Busy:
            if time.monotonic() >= deadline:
                raise
        check()
        time.sleep(_STEP_SECONDS)
