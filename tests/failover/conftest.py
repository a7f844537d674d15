"""Failovers are tried with real replicas and overlays, and machines that are processes of a host's own commands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from secondsite.orchestration.vault import database
from secondsite.orchestration.vault.database import Database

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "guests")]

from azurite.emulator import Azurite, configure, running  # noqa: E402
from linuxkit import Linux, Make  # noqa: E402

from bench import Bench  # noqa: E402


@pytest.fixture
def folder(short_path: Path) -> Path:
    """Sockets of machines lie below it."""
    return short_path


@pytest.fixture
def vault(folder: Path) -> Iterator[Database]:
    with database.create(str(folder / "vault.db")) as made:
        yield made


@pytest.fixture
def bench(folder: Path, vault: Database) -> Iterator[Bench]:
    made = Bench(folder, vault)
    yield made
    made.end()


@pytest.fixture
def linux(folder: Path, vault: Database) -> Iterator[Make]:
    """Makes a Linux that was replicated once, and runs at home where `boot` says so."""
    made: list[Linux] = []

    def make(*disks: str, boot: bool = True) -> Linux:
        made.append(Linux(folder, vault, disks=disks or ("raw",)))
        if boot:
            made[0].start_home()
            assert made[0].ready() == 0
        made[0].cycle(write=False)
        return made[0]

    yield make
    for one in made:
        one.end()


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    with running() as emulator:
        yield emulator


@pytest.fixture
def cloud(folder: Path, vault: Database, azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """The same machine, protected in an account of Azure."""
    import cloudkit

    configure(azurite, folder, monkeypatch)
    made = cloudkit.Cloud(folder, vault, azurite)
    yield made
    made.end()
