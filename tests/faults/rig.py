"""A prepared replica that can be had again and again, and everything that must hold after a fault."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from secondsite import engine
from secondsite.engine import attempts, blockmap, filling
from secondsite.engine.delta import format as fmt
from secondsite.engine.files import Files, LocalFiles
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images import Image
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.replica import cycle
from secondsite.engine.replica.directory import Replica

BLOCK = 4096
SMALL_PAGE = 256
SMALL_BATCH = 64 * 1024
Snapshot = dict[str, bytes]


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Block maps of many pages and table groups that do not fit their cache, and cycles of many batches.

    With the real constants an image of 600 KiB is one page and one batch, and every step between two is untested.
    """
    pages, tables = SMALL_PAGE // 16, SMALL_PAGE // blockmap.DIGEST_BYTES
    small = {
        "PAGE_BYTES": SMALL_PAGE, "PAGE_BLOCKS": pages, "TABLE_PAGES": tables,
        "GROUP_BYTES": SMALL_PAGE * (1 + tables), "CACHE_PAGES": 3,
    }  # fmt: skip
    for name, value in small.items():
        patch.setattr(blockmap, name, value)
    for module in (attempts, filling, cycle):
        given = [name for name in ("BATCH_BYTES", "SMALL_BATCH_BYTES") if hasattr(module, name)]
        assert given, f"{module.__name__} has no batches to make small"
        for name in given:
            patch.setattr(module, name, SMALL_BATCH)
        if hasattr(module, "PAGE_BLOCKS"):
            patch.setattr(module, "PAGE_BLOCKS", pages)
    patch.setattr(fmt, "GROUP_BYTES", SMALL_BATCH // 2)


class Place(ABC):
    """A file system with room for one replica (`root`) and for restored images (`out`)."""

    root: str
    out: str
    history: str
    workers = 1

    @abstractmethod
    def empty(self) -> Files:
        """Everything gone, as a new file system."""

    @abstractmethod
    def source(self, data: bytes) -> Image | str:
        """These bytes as something to replicate."""

    def load(self, snapshot: Snapshot) -> Files:
        """The file system with exactly these files, durable."""
        files = self.empty()
        for folder in (self.root, f"{self.root}/points", parent(self.out)):
            files.mkdir(folder)
        for path, data in snapshot.items():
            with files.open(path, "create") as file:
                file.write(0, data)
                file.flush()
        for folder in (self.root, f"{self.root}/points", parent(self.out)):
            files.flush_dir(folder)
        return files

    def dump(self, files: Files) -> Snapshot:
        """Every file below the replica's folder."""
        names = [f"{self.root}/{name}" for name in files.listdir(self.root) if name != "points"]
        names += [f"{self.root}/points/{name}" for name in files.listdir(f"{self.root}/points")]
        return {name: files.read_bytes(name, 1 << 30) for name in names}

    def clear(self) -> None:
        self.empty()


class MemoryPlace(Place):
    def __init__(self, *, clones: bool) -> None:
        self.clones, self.root, self.out = clones, "/replica", "/out/disk"
        self.history = "clone" if clones else "undo"

    def empty(self) -> MemoryFiles:
        return MemoryFiles(clones=self.clones)

    def source(self, data: bytes) -> Image:
        return MemoryImage(data, "disk")


class DiskPlace(Place):
    """Below a folder of a real file system; `history` is what it can keep, or shall keep."""

    def __init__(self, folder: Path, history: str) -> None:
        self.folder, self.history = folder, history
        self.root, self.out = str(folder / "replica"), str(folder / "out" / "disk")
        self._sources: dict[bytes, str] = {}

    def empty(self) -> LocalFiles:
        for name in ("replica", "out"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        return LocalFiles()

    def source(self, data: bytes) -> str:
        """A file that is written once, so that a cycle need not wait until its times are old."""
        if data not in self._sources:
            path = self.folder / f"source-{len(self._sources)}"
            path.write_bytes(data)
            self._sources[data] = str(path)
        return self._sources[data]

    def clear(self) -> None:
        self.empty()
        for path in (*self._sources.values(), *self.folder.glob(".source-*.secondsite-*")):
            Path(path).unlink()  # the sources, and the clones by which they are tracked


def parent(path: str) -> str:
    return path.rpartition("/")[0]


def replicate(place: Place, files: Files, data: bytes, **options: object) -> engine.Replicated:
    defaults = {"workers": place.workers, "block_size": BLOCK, "history": place.history, "source_id": "disk"}
    options = defaults | options
    if options["history"] == "clone" and not isinstance(files, LocalFiles):
        options["history"] = "auto"  # a failing file system may also fail to clone
    return engine.replicate(place.source(data), place.root, files=files, **options)  # type: ignore[arg-type]


def build(place: Place, states: Iterable[bytes]) -> Files:
    """A new replica with one point for each of these contents."""
    files = place.empty()
    for data in states:
        replicate(place, files, data)
    return files


@dataclass
class Expected:
    """What a replica may be after a call that a fault ended.

    `points`: contents by name of every point that may be listed. `must`: those that have to be. `heads`: what the
    head may hold; None among them where there may be no point at all. `following`: a next content to replicate.
    """

    points: dict[str, bytes]
    must: set[str]
    heads: list[bytes | None]
    following: bytes
    label: str = ""
    seen: set[str] = field(default_factory=set)


def check(place: Place, files: Files, expected: Expected) -> None:
    """Reopen as a new process would, and hold it to everything that DESIGN section 6 asks."""
    if files.size(f"{place.root}/replica.json") >= 0:
        # What a reader sees before anybody repairs, and what is there after that.
        before = {point.point for point in engine.points(place.root, files=files)}
        assert expected.must <= before <= set(expected.points), f"{expected.label}: lists {before}"
        with Replica.open(place.root, files).writing():
            pass
        check_listed(place, files, expected, restoring=True)
    else:
        assert None in expected.heads, f"{expected.label}: the replica is gone"
    done = replicate(place, files, expected.following)
    assert done.kind in ("initial", "delta"), f"{expected.label}: the next cycle is {done.kind}"
    expected.points[done.point] = expected.following
    expected.must.add(done.point)
    expected.heads = [expected.following]
    check_listed(place, files, expected, restoring=False)
    check_tidy(place, files, expected.label)


def check_listed(place: Place, files: Files, expected: Expected, *, restoring: bool) -> None:
    """The head, each listed point through a view and through a restore, and `verify`."""
    label = expected.label
    listed = engine.points(place.root, files=files)
    names = [point.point for point in listed]
    assert expected.must <= set(names) <= set(expected.points), f"{label}: {names} are listed"
    assert not [point for point in listed if point.damaged], f"{label}: {listed}"
    if not names:
        assert None in expected.heads, f"{label}: no point is left"
        return
    head = files.read_bytes(f"{place.root}/head.raw", 1 << 30)
    assert head in expected.heads, f"{label}: the head is neither N nor N+1"
    assert head == expected.points[names[-1]], f"{label}: the head is not point {names[-1]}"
    for name in names:
        want = expected.points[name]
        with engine.open_point(place.root, name, files=files) as view:
            assert view.size == len(want) and view.read(0, view.size) == want, f"{label}: view of {name}"
        if restoring:
            restored = f"{place.out}-{name}"
            engine.restore(place.root, restored, at=name, files=files, workers=1)
            assert files.read_bytes(restored, 1 << 30) == want, f"{label}: point {name} restored"
            files.unlink(restored)
    verified = engine.verify(place.root, files=files, workers=1)
    assert verified.ok, f"{label}: {verified}"


def check_tidy(place: Place, files: Files, label: str) -> None:
    """Nothing is left over that no listed point needs."""
    known = {"replica.json", "head.raw", "head.map", "lock", "checked.json", "points"}
    strange = set(files.listdir(place.root)) - known
    assert not strange, f"{label}: left over: {strange}"
    names = files.listdir(f"{place.root}/points")
    listed = {name.partition(".")[0] for name in names if name.endswith(".json")}
    for name in names:
        stem, _, kind = name.partition(".")
        assert kind in ("json", "undo", "raw", "map"), f"{label}: left over: points/{name}"
        assert stem in listed, f"{label}: left over: points/{name}"


def open_files() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208
