"""Protection is tried with real images in folders, on a vault of each kind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "remote"))
sys.path.insert(0, str(Path(__file__).parents[1] / "vault"))

from hosting import Site, site
from vaultkit import server, url, vault

from secondsite.orchestration.vault import database
from secondsite.orchestration.vault.database import Database

sys.path.insert(0, str(Path(__file__).parent))

__all__ = ["server", "url", "vault"]

# Nothing of these depends on the kind of the vault. Cycles, sharing, kills, disabling and commands are tried on both.
_ON_SQLITE = {
    f"test_{name}" for name in ("application", "disks", "initial", "prerequisites", "resync", "tripwire")
}  # fmt: skip


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Database]:
    with database.create(str(tmp_path / "lite.db")) as made:
        yield made


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in _ON_SQLITE and "url" in metafunc.fixturenames:
        metafunc.definition.add_marker(pytest.mark.parametrize("url", ["sqlite"], indirect=True))
