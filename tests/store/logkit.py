"""A replica in a store and what each of its points must be; and a store whose n-th call fails."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from secondsite.engine.files import LocalFiles
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.progress import Monitor
from secondsite.engine.remote.sending.mapcache import MapCache
from secondsite.engine.store.base import Failed, Store
from secondsite.engine.store.log.reading import Replica, restore, verify
from secondsite.engine.store.log.writing import Log, Wish, Written

BLOCK = 4096


class Lab:
    """Cycles of one disk into one store. `forget` makes a host that knows nothing of it; maps lie in `folder`, or in
    memory.
    """

    def __init__(self, store: Store, folder: str | None = None, **wish: Any) -> None:
        self.folder = folder
        self.store, self.wish = store, Wish(source="disk", block_size=BLOCK, **wish)
        self.contents: dict[int, bytes] = {}
        self.forget()

    def forget(self) -> None:
        files = LocalFiles() if self.folder else MemoryFiles()
        self.cache = MapCache(self.folder or "/maps", files)
        self.log = Log(self.store, files, self.cache)

    def cycle(self, data: bytes | bytearray) -> Written:
        done = self.log.replicate(MemoryImage(bytes(data)), self.wish)
        self.contents[done.head.generation] = bytes(data)
        return done

    def restored(self, generation: int) -> bytes:
        with Replica.open(self.store).point(generation) as point, MemoryImage() as output:
            restore(point, output, Monitor())
            return bytes(output.read(0, output.size))

    def generations(self) -> list[int]:
        return [row.generation for row in Replica.open(self.store).head.points]

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
