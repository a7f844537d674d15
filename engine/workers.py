"""Threads: how many a pass uses, and one that looks after something beside a block."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Two threads reach 13.1 GB/s of a two-core machine's 15.3 for reads alone. Larger machines were not measured; the bound
# keeps the memory of batches and buffers, which each worker owns, at a known size.
MAX_WORKERS = 4


def default_workers() -> int:
    """One a core that this process may use, at most MAX_WORKERS."""
    return max(1, min(len(os.sched_getaffinity(0)), MAX_WORKERS))


@contextmanager
def looking(seconds: float, look: Callable[[], bool], name: str) -> Iterator[None]:
    """While the block runs, call `look` every so many seconds in a thread, until it returns False."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(seconds) and look():
            pass

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
