"""What the tests of the command line share: a shell, a disk, and a replica with two points."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# pytest's importlib mode imports each test file alone: what they share is found by this.
sys.path.insert(0, str(Path(__file__).parent))

import clikit

from secondsite import engine


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> clikit.Shell:
    return clikit.Shell(capsys)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return clikit.make_disk(tmp_path / "vm.raw")


@pytest.fixture
def pair(disk: Path, tmp_path: Path) -> clikit.Pair:
    root, first = tmp_path / "replica", disk.read_bytes()
    engine.replicate(disk, root, block_size=4096, history="undo", workers=1)
    clikit.change(disk, 10_000)
    engine.replicate(disk, root, workers=1, history="undo")
    return clikit.Pair(disk, root, first, disk.read_bytes())
