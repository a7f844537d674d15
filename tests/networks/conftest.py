"""Makes `netkit`, the namespaces of tests/remote and the guest of tests/guests importable; gives namespaces."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent / "remote", HERE.parent / "guests"):
    sys.path.insert(0, str(folder))


@pytest.fixture
def place() -> Iterator[str]:
    """The name of a network namespace that has nothing but a loopback."""
    from namespaces import row

    with row("nets") as (host,):
        yield host.namespace
