"""A replica in a store, version 1, as it was first written, is read for ever, and goes on."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from secondsite.engine.progress import Monitor
from secondsite.engine.store.base import Store
from secondsite.engine.store.folder import FolderStore
from secondsite.engine.store.log import condemned, prune, readers
from secondsite.engine.store.log import head as heads
from secondsite.engine.store.log.collect import unnamed
from secondsite.engine.store.log.reading import Replica, verify
from secondsite.engine.store.log.writing import holding
from secondsite.engine.store.memory import MemoryStore

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "store1"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """SHA-256 of what a reader must find."""
    found: dict[str, Any] = json.loads((FOLDER / "contents.json").read_text())
    return found


@pytest.fixture
def files() -> dict[str, bytes]:
    found = {path.relative_to(FOLDER).as_posix(): path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    del found["contents.json"]
    return found


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, files: dict[str, bytes], tmp_path: Path) -> Store:
    made: Store = MemoryStore() if request.param == "memory" else FolderStore(str(tmp_path))
    for name, data in files.items():
        made.put_if_absent(name, data)
    return made


def test_the_files_are_those_that_were_committed(files: dict[str, bytes], said: dict[str, Any]) -> None:
    assert {name: sha256(data) for name, data in files.items()} == said["files"]
    kinds = {name.partition("/")[0] for name in files}
    assert kinds == {
        "replica.json", "head.json", "catalogue", "points", "maps", "segments", "condemned", "readers"
    }  # fmt: skip


def test_it_is_read(store: Store, said: dict[str, Any]) -> None:
    replica = Replica.open(store)
    assert replica.head.pages and replica.head.epoch == 1 and replica.head.source == "name:golden"
    rows = list(replica.catalogue.rows())
    assert [row.generation for row in rows] == [1, 2, 3, 5, 6, 7, 8, 10]
    assert rows[0].time == "2026-11-26T09:01:00.000000Z" and {row.kind for row in rows} == {"initial", "delta"}
    for row in rows:
        with replica.choose(row.name) as point:
            assert sha256(point.read(0, point.size)) == said["points"][row.name]
            verify(point, Monitor())
    with replica.choose("2026-11-26T09:05:30") as point:
        assert point.point.generation == 5
    [one] = replica.head.condemned
    assert len(condemned.load(store, replica.head.replica_id, one)) == one.count > 3
    assert readers.alive(store, min(entry.modified for entry in store.list("readers/"))) == {3}


def test_it_goes_on(store: Store, said: dict[str, Any]) -> None:
    """What was condemned goes, points are dropped, and nothing else is missing afterwards."""
    identity = heads.load_identity(store)
    with holding(store, identity, 60) as fence:
        made = prune.Pruning(store, identity, heads.load(store, identity), fence)
        assert unnamed(store, identity, made.head, Monitor()) == {}
        made.keep(3)
        made.sweep(0)
        assert made.tally.points == 5 and made.tally.freed_bytes > 0 and not made.tally.warnings
        assert unnamed(store, identity, made.head, Monitor()) == {}
    replica = Replica.open(store)
    for row in replica.catalogue.rows():
        with replica.choose(row.name) as point:
            assert sha256(point.read(0, point.size)) == said["points"][row.name]


def test_what_is_written_today_is_the_same(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> None:
    """But for what a compressor made, which another version of it may pack differently, and what names that."""
    import secrets

    from secondsite.engine.store.log import named

    spec = importlib.util.spec_from_file_location("make_store", HERE / "make_store.py")
    assert spec is not None and spec.loader is not None
    maker: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    for where, name in ((heads, "INLINE"), (heads, "_KEPT"), (named, "turn"), (secrets, "randbelow")):
        monkeypatch.setattr(where, name, getattr(where, name))
    made = maker.fixed()
    plain = [name for name in made if name == "replica.json" or name.startswith("readers/")]
    assert len(plain) == 2 and [made[name] for name in plain] == [files[name] for name in plain]
    assert {kind(name) for name in made} == {kind(name) for name in files} and len(made) == len(files)
    uncompressed = {name: data for name, data in files.items() if name.startswith("segments/000000000003/")}
    assert uncompressed and all(made[name] == data for name, data in uncompressed.items())


def kind(name: str) -> str:
    return name[: name.find("/") + 13]
