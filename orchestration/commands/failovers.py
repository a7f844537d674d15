"""What the commands share that fail machines over: the vault, signals, and a line for each step."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from secondsite import engine
from secondsite.orchestration import output
from secondsite.orchestration.commands import vaults

if TYPE_CHECKING:
    from secondsite.orchestration.failover.failovers import Failovers

# A step that took longer says how long.
_PATIENCE_SECONDS = 2.0


class Steps:
    """A line on standard error as each step begins, and what the one before it took where that was long."""

    def __init__(self) -> None:
        self._began = 0.0

    def __call__(self, machine: str, effect: str) -> None:
        from secondsite.orchestration.failover import effects

        now = time.monotonic()
        took = now - self._began if self._began else 0.0
        before = f" (after {took:.0f} s)" if took > _PATIENCE_SECONDS else ""
        self._began = now
        print(f"{output.one_line(machine)}: {effects.words(effect)}{before}", file=sys.stderr, flush=True)


def read_key() -> AbstractContextManager[None]:
    """A block with the key that was given, which is read now: one that is not there stops no machine, whose replicas
    may not even need it. Raises what reading it does.
    """
    key = engine.current_key()
    return engine.using_key(replace(key, held=key.secret()) if key.given else key)


@contextmanager
def opened(vault: str | None, state: str | None, *, quiet: bool) -> Iterator[Failovers]:
    """Failovers of a vault, for one command. A signal ends it between two steps. Raises what opening a vault does, and
    what read_key does.
    """
    with read_key(), output.watching() as watch, vaults.opened(vault, state) as database:
        from secondsite.orchestration.failover.failovers import Failovers
        from secondsite.orchestration.protection.worker import EngineWorker

        failovers = Failovers(database, worker=EngineWorker(state), state=state, stops=watch.cancelled)
        if not quiet:
            failovers.told = Steps()
        yield failovers
