"""An item that is held while something is done about it that the vault has no intent of."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from secondsite.engine import errors
from secondsite.orchestration.failover import record
from secondsite.orchestration.failover.renewing import Lease
from secondsite.orchestration.protection import leases
from secondsite.orchestration.protection.item import Held
from secondsite.orchestration.vault.database import Database

# A cycle that runs is waited for.
_WAIT_SECONDS = 60.0
_LOOK_SECONDS = 0.2


@contextmanager
def held(
    database: Database, holder: str, machine: str, now: Callable[[], float], stops: Callable[[], bool], *,
    ending: bool = False,
) -> Iterator[tuple[Held, Lease]]:  # fmt: skip
    """Nobody else works on it meanwhile; see ledger.find for `ending`. Raises Refused, Busy, Cancelled."""
    item = _taken(database, holder, machine, now, stops, ending)
    lease = Lease(lambda: bool(leases.renew(database, holder, [item.id], now())), stops)
    try:
        with lease:
            yield item, lease
    finally:
        record.let_go(database, holder, item)


def _taken(
    database: Database, holder: str, machine: str, now: Callable[[], float], stops: Callable[[], bool], ending: bool
) -> Held:  # fmt: skip
    until = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            return record.hold(database, holder, machine, now(), ending=ending)
        except errors.Busy:
            if time.monotonic() > until:
                raise
        if stops():
            raise errors.Cancelled("stopped on request; nothing was begun")
        time.sleep(_LOOK_SECONDS)
