"""Drills are tried with machines of QEMU whose disk says, from its first sector on, which point it is of."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), *(str(HERE.parent / name) for name in ("failover", "guests", "networks", "remote"))]

from drillkit import Drilled  # noqa: E402
from namespaces import row  # noqa: E402

from bench import Clock  # noqa: E402
from secondsite.orchestration.vault import database  # noqa: E402


@pytest.fixture
def drilled(short_path: Path) -> Iterator[Drilled]:
    """With two points."""
    folder = short_path  # sockets of machines lie below it
    with row("drills") as (host,), database.create(str(folder / "vault.db")) as vault:
        made = Drilled(folder, vault, Clock(time.time() - 9000), namespace=host.namespace)
        made.point()
        made.point()
        yield made
        made.end()
