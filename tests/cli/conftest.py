"""What the tests of the command line share: a shell, a disk, and a replica with two points."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# pytest's importlib mode imports each test file alone: what they share is found by this.
sys.path.insert(0, str(Path(__file__).parent))

import clikit

from secondsite import engine


@pytest.fixture(scope="session")
def azure() -> Iterator[Any]:
    """The emulator of Azure's storage, with an empty container `backup`."""
    from azure.storage.blob import ContainerClient
    from azurite.emulator import running

    with running() as made:
        client = ContainerClient.from_connection_string(made.connection_string, "backup", api_version="2026-06-06")
        client.create_container()
        yield made


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The URL of a server that speaks S3, with a bucket `bucket`."""
    from store.storekit import s3_server

    with s3_server() as url:
        yield url


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
