"""Makes what was written durable in the background, one flush at a time, while more comes in."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Flusher:
    """What failed in the background is raised by the next call, and by each one after it."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._running: Future[None] | None = None

    def start(self, flush: Callable[[], object], done: Callable[[], object]) -> None:
        """Begin a flush, and call `done` from its thread afterwards. Waits for the one before."""
        self.wait()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="flush")
        self._running = self._pool.submit(_run, flush, done)

    def check(self) -> None:
        """Raise what failed, if it is known already."""
        if self._running is not None and self._running.done():
            self._running.result()

    def wait(self) -> None:
        """Until nothing runs any more."""
        if self._running is not None:
            self._running.result()

    def close(self) -> None:
        """Wait without asking how it came out."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)


def _run(flush: Callable[[], object], done: Callable[[], object]) -> None:
    flush()
    done()
