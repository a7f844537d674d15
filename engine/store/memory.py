"""A store in memory: what the others are compared with, and where tests look inside."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from secondsite.engine.store.base import Absent, Changed, Content, Entry, Exists, Fence, check_name
from secondsite.engine.store.leases import FencedStore


@dataclass(frozen=True, slots=True)
class _Object:
    data: bytes
    etag: str
    modified: float
    metadata: Mapping[str, str]


class MemoryStore(FencedStore):
    """Etags are of the content, as S3 has them. `clock` is the store's."""

    def __init__(self, label: str = "memory://store", clock: Callable[[], float] = time.time) -> None:
        self.label, self.now_ = label, clock
        self.objects: dict[str, _Object] = {}
        self._lock = threading.Lock()

    def now(self) -> float:
        return self.now_()

    def _put(self, name: str, data: bytes | bytearray | memoryview, metadata: Mapping[str, str] | None) -> str:
        made = bytes(data)
        etag = hashlib.sha256(made).hexdigest()[:16]
        self.objects[check_name(name)] = _Object(made, etag, self.now(), dict(metadata or {}))
        return etag

    def put_if_absent(
        self, name: str, data: bytes | bytearray | memoryview, metadata: Mapping[str, str] | None = None
    ) -> str:
        with self._lock:
            if name in self.objects:
                raise Exists("it is there already", path=self.path(name))
            return self._put(name, data, metadata)

    def replace(
        self, name: str, data: bytes, etag: str, metadata: Mapping[str, str] | None = None, fence: Fence | None = None
    ) -> str:
        self.guard(fence)
        with self._lock:
            held = self.objects.get(name)
            if held is None or held.etag != etag:
                raise Changed("somebody else changed it", path=self.path(name))
            return self._put(name, data, metadata)

    def get(self, name: str, start: int = 0, length: int | None = None) -> Content:
        held = self.objects.get(name)
        if held is None:
            raise Absent("there is no such object", path=self.path(name))
        end = None if length is None else start + length
        return Content(held.data[start:end], len(held.data), held.etag, held.metadata)

    def stat(self, name: str) -> Entry | None:
        held = self.objects.get(name)
        return Entry(name, len(held.data), held.etag, held.modified) if held is not None else None

    def list(self, folder: str = "") -> Iterator[Entry]:
        with self._lock:
            found = sorted((name, held) for name, held in self.objects.items() if name.startswith(folder))
        for name, held in found:
            yield Entry(name, len(held.data), held.etag, held.modified)

    def delete(self, name: str) -> None:
        with self._lock:
            self.objects.pop(name, None)

    def close(self) -> None:
        return None
