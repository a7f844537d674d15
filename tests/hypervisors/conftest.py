"""Makes `machinekit`, and the kits of guests and networks, importable; gives machines that nothing stays of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent, *(HERE.parent / name for name in ("guests", "qemu", "networks", "remote"))):
    sys.path.insert(0, str(folder))

from machinekit import Machine  # noqa: E402


@pytest.fixture
def place() -> Iterator[str]:
    """The name of a network namespace that has nothing but a loopback."""
    from namespaces import row

    with row("vms") as (host,):
        yield host.namespace


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Callable[..., Machine]]:
    """Makes one, which runs nothing yet."""
    made: list[Machine] = []

    def make(name: str = "app1", **more: Any) -> Machine:
        made.append(Machine(tmp_path / "run", name, **more))
        return made[-1]

    yield make
    for one in made:
        one.end()
