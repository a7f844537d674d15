"""Makes `qemukit` importable, and starts storage daemons."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from qemukit import Daemon, ScriptedAgent


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Start a storage daemon over disks of the given sizes; all are ended afterwards."""
    started: list[Daemon] = []

    def make(*sizes: int, **options: bool) -> Daemon:
        started.append(Daemon(tmp_path, sizes or (Daemon.SIZE,), **options))
        return started[-1]

    yield make
    for one in started:
        one.stop()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Callable[..., ScriptedAgent]]:
    """A guest agent that answers as it is told to."""
    started: list[ScriptedAgent] = []

    def make(**script: object) -> ScriptedAgent:
        started.append(ScriptedAgent(tmp_path / f"agent{len(started)}.sock", **script))
        return started[-1]

    yield make
    for one in started:
        one.close()
