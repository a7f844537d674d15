"""Vaults are lost and made anew from real replicas, on a vault of each kind."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "vault"))
sys.path.insert(0, str(Path(__file__).parents[1] / "protection"))

import postgresql
from vaultkit import server, url, vault

from secondsite.orchestration.vault import database
from secondsite.orchestration.vault.database import Database

sys.path.insert(0, str(Path(__file__).parent))

__all__ = ["server", "url", "vault"]

_NUMBER = itertools.count(1)


@pytest.fixture
def fresh(request: pytest.FixtureRequest, url: str, tmp_path: Path) -> Iterator[Callable[[], Database]]:
    """Makes empty vaults of the same kind as `vault`."""

    def make() -> Database:
        number = next(_NUMBER)
        if "://" in url:
            place = postgresql.database(request.getfixturevalue("server"), f"r{os.getpid()}_{number}")
        else:
            place = str(tmp_path / f"rebuilt-{number}.db")
        return stack.enter_context(database.create(place))

    with ExitStack() as stack:
        yield make
