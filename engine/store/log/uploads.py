"""Objects that are on their way: several at once, and never more than so many bytes of them in memory."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

from secondsite.engine.store.base import Store

# Four threads keep the emulator and a line of 1 Gbit/s full; with two segments more that wait, 48 MiB at most.
UPLOADS = 4
_WAITING = 2


class Uploads:
    """Puts objects that are not there yet. The first failure is raised by whoever comes next, and by `wait`."""

    def __init__(self, store: Store) -> None:
        self.store, self.bytes, self.objects = store, 0, 0
        self._room = threading.BoundedSemaphore(UPLOADS + _WAITING)
        self._pool = ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload")
        self._futures: list[Future[None]] = []
        self._failed: BaseException | None = None
        self._lock = threading.Lock()

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Returns once there is room for it."""
        self._room.acquire()
        if self._failed is not None:
            self._room.release()
            raise self._failed
        self._futures.append(self._pool.submit(self._put, name, data))

    def _put(self, name: str, data: bytes | memoryview) -> None:
        try:
            if self._failed is None:
                self.store.put_if_absent(name, data)
                with self._lock:
                    self.bytes, self.objects = self.bytes + len(data), self.objects + 1
        except BaseException as error:
            self._failed = self._failed or error
        finally:
            self._room.release()

    def wait(self) -> None:
        """Until all of them are there."""
        for future in self._futures:
            future.result()
        self._futures.clear()
        if self._failed is not None:
            raise self._failed

    def close(self) -> None:
        """Let go; what is on its way arrives or not."""
        self._failed = self._failed or RuntimeError("closed")
        self._pool.shutdown()
