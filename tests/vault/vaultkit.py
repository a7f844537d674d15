"""Fixtures: every test of the vault runs on SQLite and on a PostgreSQL that the run starts."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
import postgresql

from secondsite.orchestration.vault import database
from secondsite.orchestration.vault.database import Database

_NUMBER = itertools.count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """One PostgreSQL for all tests of a process."""
    with postgresql.server() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("postgresql"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a vault may be made; nothing is there yet."""
    if request.param == "sqlite":
        yield str(tmp_path / "vault.db")
        return
    made = postgresql.database(request.getfixturevalue("server"), f"v{os.getpid()}_{next(_NUMBER)}")
    yield made
    postgresql.drop(made)


@pytest.fixture
def vault(url: str) -> Iterator[Database]:
    with database.create(url) as made:
        yield made
