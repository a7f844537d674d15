"""Hosts that are reached through a command, as over ssh: the same failovers, and errors of the same kinds."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import Bench, plainly
from secondsite.engine import errors
from secondsite.orchestration.health.states import State
from secondsite.orchestration.vault.database import Database


@pytest.fixture
def far(folder: Path, vault: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Both hosts behind a command that a test can break."""
    programs = folder / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    for name in ("one", "two"):
        (programs / name).write_text('#!/bin/sh\nexec "$@"\n')
        (programs / name).chmod(0o755)

    def text(estate: str) -> str:
        first, second = 'name = "h1"\ncloud', 'name = "h2"\ncloud'
        return estate.replace(first, f'reach = ["one"]\n{first}').replace(second, f'reach = ["two"]\n{second}')

    made = Bench(folder, vault, text=text)
    yield made
    made.end()


def lose(bench: Bench, host: str) -> None:
    """Nobody answers there any more."""
    (bench.folder / "bin" / host).write_text("#!/bin/sh\nexit 255\n")


def test_there_and_back_over_commands(far: Bench, sweep: bool) -> None:
    """The way back in the sweep: each call starts the program once more."""
    far.cycle()
    far.start_home()
    far.failovers().fail_over("app1", "planned")
    far.failovers().act("app1", "commit")
    made = far.cycle(write=False)
    there = far.away()
    assert far.contents(made) == there
    if not sweep:
        return
    far.failovers().fail_over("app1", "failback")
    assert far.runs("source") and plainly(far.source()) == plainly(there)


def test_a_source_that_is_gone_keeps_nobody_from_failing_over(far: Bench) -> None:
    """R9.8; a planned one is refused, with one line, and may give way to an unplanned one."""
    made = far.cycle()
    contents = far.contents(made)
    lose(far, "one")
    with pytest.raises(errors.Refused, match=r"R9\.6"):
        far.failovers().fail_over("app1", "planned")
    item = far.failovers().fail_over("app1", "unplanned")
    assert (item.state, item.active) == (State.FAIL_OVER_WAITING_COMPLETION, "target")
    assert plainly(far.away()) == plainly(contents)


def test_a_target_that_is_gone_fails_with_a_line_and_nothing_was_begun(far: Bench) -> None:
    far.cycle()
    lose(far, "two")
    with pytest.raises(errors.Unreachable, match="h2"):
        far.failovers().fail_over("app1", "unplanned")
    item = far.item
    assert item.reason is not None and "h2" in item.reason
    assert (item.state, item.active, item.failover) == (State.REPLICATING, "source", None)
