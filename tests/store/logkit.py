"""A replica in a store and what each of its points must be; and a store whose n-th call fails."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from secondsite.engine.admission import Terms
from secondsite.engine.delta import format as fmt
from secondsite.engine.files import LocalFiles
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images import Image
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.progress import Monitor
from secondsite.engine.remote.sending.mapcache import MapCache
from secondsite.engine.remote.sending.sender import Sending, Transfer
from secondsite.engine.source import Source
from secondsite.engine.store.base import Failed, Store
from secondsite.engine.store.log.reading import Replica, restore, verify
from secondsite.engine.store.log.writing import Into, attempt
from secondsite.engine.trackers.scan import RangesTracker, ScanTracker

BLOCK = 4096


class Cycled(NamedTuple):
    """How a cycle came out, and of what it sent."""

    sending: Sending
    generation: int
    sent_bytes: int
    map_bytes: int
    resumed_blocks: int
    moved_bytes: int


class Lab:
    """Cycles of one disk into one store. `forget` makes a host that knows nothing of it; maps lie in `folder`, or in
    memory.
    """

    def __init__(
        self, store: Store, folder: str | None = None, *, codec: tuple[int, int] | None = (fmt.LZ4, 1),
        workers: int = 1, block_size: int = BLOCK,
    ) -> None:  # fmt: skip
        self.store, self.folder, self.codec, self.workers = store, folder, codec, workers
        self.block_size: int | None = block_size
        self.source = "disk"
        self.contents: dict[int, bytes] = {}
        self.forget()

    def forget(self) -> None:
        self.files = LocalFiles() if self.folder else MemoryFiles()
        self.cache = MapCache(self.folder or "/maps", self.files)

    def cycle(
        self, data: bytes | bytearray | Image, store: Store | None = None, *,
        named: list[tuple[int, int]] | None = None, keep: int | None = None, resync: bool = False, **terms: Any,
    ) -> Cycled:  # fmt: skip
        """One attempt, through `store` where one is given. A tracker names what changed, or nobody does."""
        origin = Source(MemoryImage(bytes(data)) if not isinstance(data, Image) else data, self.source)
        into = Into(store or self.store, lambda: self.files.temporary(self.cache.folder), keep=keep, resync=resync)
        tracker = ScanTracker(origin) if named is None else RangesTracker("test", origin, lambda: named)
        transfer = Transfer(
            origin, lambda state: tracker, self.cache, codec=self.codec, workers=self.workers, resync=resync
        )
        began = time.monotonic()
        with attempt(into, origin, Terms(block_size=self.block_size, **terms)) as target:
            found = transfer.attempt(target, origin.image.size, began)
        if not isinstance(data, Image):
            self.contents[found.done.generation] = bytes(data)
        return Cycled(
            found, found.done.generation, target.sent_bytes, target.map_bytes, target.spool.blocks,
            target.moved_bytes,
        )

    def restored(self, generation: int) -> bytes:
        with Replica.open(self.store).point(generation) as point, MemoryImage() as output:
            restore(point, output, Monitor())
            return bytes(output.read(0, output.size))

    def generations(self) -> list[int]:
        return [row.generation for row in Replica.open(self.store).catalogue.rows()]

    def check(self) -> None:
        """Every point that is listed restores to what it was, and is proved."""
        for generation in self.generations():
            assert self.restored(generation) == self.contents[generation], generation
            with Replica.open(self.store).point(generation) as point:
                verify(point, Monitor())


def changing(seed: int, blocks: int = 30) -> Callable[[], bytes]:
    """A disk that changes a little at every call: writes, zeros, other sizes with odd tails."""
    chance = random.Random(seed)
    data = bytearray(chance.randbytes(blocks * BLOCK + 99))
    data[5 * BLOCK : 9 * BLOCK] = bytes(4 * BLOCK)

    def step() -> bytes:
        for _ in range(chance.randrange(1, 5)):
            at = chance.randrange(len(data) - 20)
            data[at : at + 20] = chance.randbytes(20)
        if chance.random() < 0.5:
            at = chance.randrange(len(data) // BLOCK) * BLOCK
            data[at : at + 2 * BLOCK] = bytes(len(data[at : at + 2 * BLOCK]))
        if chance.random() < 0.4:
            size = chance.randrange(2 * BLOCK, 2 * blocks * BLOCK)
            data[size:] = b""
            data.extend(bytes(size - len(data)))
        return bytes(data)

    return step


class Failing(Store):
    """Over another store: the call number `at` fails, before or after it was carried out, and so do all later ones.
    `asked` counts by method, `sent` the bytes of what was put.
    """

    def __init__(self, inner: Store, at: int | None = None, *, after: bool = False) -> None:
        self.inner, self.label, self.at, self.after = inner, inner.label, at, after
        self.calls, self.sent, self.asked = 0, 0, dict[str, int]()

    def _do(self, name: str, *args: Any, **more: Any) -> Any:
        self.calls += 1
        self.asked[name] = self.asked.get(name, 0) + 1
        over = self.at is not None and self.calls >= self.at
        if over and not (self.after and self.calls == self.at):
            raise Failed("the link is cut", path=self.label)
        done = getattr(self.inner, name)(*args, **more)
        if name in ("put_if_absent", "replace"):
            self.sent += len(args[1])
        if over:
            raise Failed("the link is cut", path=self.label)
        return done

    def put_if_absent(self, *args: Any, **more: Any) -> Any:
        return self._do("put_if_absent", *args, **more)

    def replace(self, *args: Any, **more: Any) -> Any:
        return self._do("replace", *args, **more)

    def get(self, *args: Any, **more: Any) -> Any:
        return self._do("get", *args, **more)

    def stat(self, *args: Any, **more: Any) -> Any:
        return self._do("stat", *args, **more)

    def list(self, *args: Any, **more: Any) -> Any:
        return self._do("list", *args, **more)

    def delete(self, *args: Any, **more: Any) -> Any:
        return self._do("delete", *args, **more)

    def fence(self, *args: Any, **more: Any) -> Any:
        return self._do("fence", *args, **more)

    def close(self) -> None:
        self.inner.close()
