"""What the fault tests share: the places where replicas lie."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# pytest's importlib mode imports each test file alone: what they share is found by this.
sys.path.insert(0, str(Path(__file__).parent))

import rig


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rig.make_small(monkeypatch)


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies leaves everything with the kernel: what only a power loss undoes need not be waited for."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)


@pytest.fixture
def memory_undo() -> rig.Place:
    return rig.MemoryPlace(clones=False)


@pytest.fixture
def memory_clones() -> rig.Place:
    return rig.MemoryPlace(clones=True)


@pytest.fixture
def disk_undo(tmp_path: Path, no_sync: None) -> rig.Place:
    return rig.DiskPlace(tmp_path, "undo")


@pytest.fixture
def disk_clones(xfs_dir: Path, no_sync: None, request: pytest.FixtureRequest) -> Iterator[rig.Place]:
    folder = xfs_dir / f"faults-{abs(hash(request.node.nodeid))}"
    folder.mkdir()
    place = rig.DiskPlace(folder, "clone")
    yield place
    place.clear()
    folder.rmdir()


@pytest.fixture
def sweep_all(sweep: bool) -> bool:
    """`--sweep` under a name that the module `sweep` does not hide."""
    return sweep
