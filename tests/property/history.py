"""A random life of one replica, held against a model after every step."""

from __future__ import annotations

import random
from pathlib import Path

from disk import Disk

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.files import Files, LocalFiles
from secondsite.engine.files.memory import MemoryFiles

STEPS = (
    "replicate", "replicate", "replicate", "replicate", "replicate", "resync", "drop", "keep", "restore",
    "in_place", "read", "against_source",
)  # fmt: skip
CODECS = ("auto", "none", "lz4", "zstd", "zstd:3", "zstd:-5")


class History:
    """`points`: name to content, oldest first, as they should be listed."""

    def __init__(self, seed: int, folder: Path, mode: str) -> None:
        self.chance = random.Random(f"{mode} {seed}")
        self.mode, self.folder = mode, folder
        self.block_size = 4096 << self.chance.choice((0, 0, 0, 0, 1, 2, 4, 6, 8))
        self.files: Files = LocalFiles() if mode in ("disk", "reflink") else MemoryFiles(clones=mode == "clones")
        self.root = str(folder / "replica")
        self.out = folder / "out"
        self.disk = Disk(folder / "source", self.chance, self.block_size)
        self.points: dict[str, bytes] = {}
        self.log: list[str] = [f"{mode}, block size {self.block_size}, {len(self.disk.data)} bytes"]

    def run(self) -> None:
        """Some steps, each checked; `verify` at the end."""
        self.replicate()
        for _ in range(self.chance.randrange(4, 11)):
            for _ in range(self.chance.randrange(4)):
                self.log.append(self.disk.change())
            step = self.chance.choice(STEPS)
            self.log.append(step)
            getattr(self, step)()
            self.check()
        self.workers = self.chance.choice((1, 2))
        verified = engine.verify(self.root, files=self.files, workers=self.workers)
        assert verified.ok, verified
        for name in self.points:
            self._restore(name)

    # -- steps -------------------------------------------------------------------------------------------------

    def replicate(self, *, resync: bool = False, keep: int | None = None) -> None:
        data, chance = bytes(self.disk.data), self.chance
        history = "undo" if self.mode == "disk" or chance.random() < 0.2 else "auto"
        done = engine.replicate(
            self.disk.path, self.root, files=self.files, codec=chance.choice(CODECS), resync=resync, keep=keep,
            history=history, workers=chance.choice((1, 1, 2)), block_size=None if self.points else self.block_size,
        )  # fmt: skip
        latest = list(self.points.values())[-1] if self.points else None
        kind = "initial" if latest is None else "resync" if resync else "unchanged" if data == latest else "delta"
        assert done.kind == kind, f"{done.kind}, {kind} was expected"
        if data == latest:
            assert done.point == list(self.points)[-1]
        else:
            assert done.point not in self.points
            self.points[done.point] = data
        if keep:
            self._forget(list(self.points)[:-keep])
        self.log[-1] += f" {history} {done.kind} {done.point} keep {keep}"

    def resync(self) -> None:
        self.replicate(resync=True)

    def keep(self) -> None:
        self.replicate(keep=self.chance.randrange(1, 5))

    def drop(self) -> None:
        """Some points but the newest, anywhere."""
        older = list(self.points)[:-1]
        chosen = self.chance.sample(older, self.chance.randrange(len(older) + 1))
        self.log[-1] += f" {chosen} of {older}"
        try:
            assert engine.prune(self.root, drop=chosen, files=self.files) == len(chosen)
        except errors.Refused as error:
            # Clones and undo deltas in one replica: it says so, and drops none of them.
            assert self.mode in ("clones", "reflink") and "leads through the clone" in str(error), error
            self.log[-1] += " refused"
            return
        self._forget(chosen)

    def _forget(self, names: list[str]) -> None:
        for name in names:
            del self.points[name]

    def restore(self) -> None:
        self._restore(self.chance.choice(list(self.points)))

    def _restore(self, name: str) -> None:
        """As a new file."""
        target = str(self.out)
        engine.restore(self.root, target, at=name, files=self.files, workers=self.chance.choice((1, 2)))
        assert self.files.read_bytes(target, 1 << 30) == self.points[name], f"point {name} as a new file"
        self.files.unlink(target)

    def in_place(self) -> None:
        """Over another image: another point, or rubbish."""
        name = self.chance.choice(list(self.points))
        before = self.chance.choice([*self.points.values(), self.chance.randbytes(100_000)])
        target = str(self.out)
        with self.files.open(target, "create") as image:
            image.write(0, before)
        engine.restore(self.root, target, at=name, in_place=True, files=self.files, workers=self.chance.choice((1, 2)))
        assert self.files.read_bytes(target, 1 << 30) == self.points[name], f"point {name} in place"
        self.files.unlink(target)

    def read(self) -> None:
        """Any bytes of any point, through a view."""
        for name in self.chance.sample(list(self.points), min(3, len(self.points))):
            want = self.points[name]
            with engine.open_point(self.root, name, files=self.files) as view:
                assert view.size == len(want), f"size of point {name}"
                for _ in range(6):
                    start = self.chance.randrange(len(want) + 1)
                    length = min(self.chance.choice((1, 512, 5000, 1 << 20)), len(want) - start)
                    assert view.read(start, length) == want[start : start + length], f"{start}+{length} of {name}"

    def against_source(self) -> None:
        """`verify` against the source sees exactly whether it differs; of a kept clone it is the point's own state."""
        name = self.chance.choice(list(self.points))
        found = engine.verify(self.root, source=self.disk.path, at=name, files=self.files, workers=1)
        if found.against == "kept clone":
            assert self.mode == "reflink" and name == list(self.points)[-1] and found.ok, found
            return
        assert found.ok == (bytes(self.disk.data) == self.points[name]), found

    # -- what must hold ----------------------------------------------------------------------------------------

    def check(self) -> None:
        listed = engine.points(self.root, files=self.files)
        assert [point.point for point in listed] == list(self.points), [point.point for point in listed]
        assert [point.virtual_bytes for point in listed] == [len(data) for data in self.points.values()]
        assert not [point for point in listed if point.damaged], listed
        assert self.files.read_bytes(f"{self.root}/head.raw", 1 << 30) == list(self.points.values())[-1], "head"
        if self.chance.random() < 0.4:
            self.restore()
