"""Several orchestrators on one vault: one works on a failover, and a cycle gives way to the unplanned ones (R7.7)."""

from __future__ import annotations

import pytest

from bench import Bench
from secondsite.engine import errors
from secondsite.orchestration.failover import failovers, record
from secondsite.orchestration.failover.renewing import Lease
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import leases, ledger
from secondsite.orchestration.vault import holders


def test_a_cycle_that_runs_gives_way_to_an_unplanned_failover_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the cycle ends with does not count any more; the planned one waits for it, for a while."""
    bench.cycle()
    monkeypatch.setattr(failovers, "_WAIT_SECONDS", 0.1)
    cycling = holders.new()
    assert leases.claim(bench.database, cycling, bench.clock.now + 1e9, 1)
    bench.clock.now += 1e9
    with pytest.raises(errors.Busy, match="is being replicated"):
        bench.failovers().begin("app1", "planned")
    item = bench.failovers().begin("app1", "unplanned")
    assert item.failover is not None and item.failover.epoch == item.epoch == 2
    with pytest.raises(errors.Refused, match="another orchestrator"):
        ledger.end(bench.database, cycling, item.id, {"state": int(State.REPLICATING)})
    with pytest.raises(errors.Busy, match="works on the failover"):
        bench.failovers().act("app1", "cancel")


def test_of_two_that_go_on_with_one_failover_one_does(bench: Bench) -> None:
    """A lease that was lost is not written with; the one who took it over ends it."""
    bench.cycle()
    first, second = bench.failovers(), bench.failovers()
    first.begin("app1", "unplanned")
    with pytest.raises(errors.Busy):
        second.resume("app1")
    bench.clock.now += leases.LEASE_SECONDS + 1
    assert second.waiting() == ["app1"]
    item = second.resume("app1")
    assert item is not None and item.failover is not None and item.failover.phase == "running"
    with pytest.raises(errors.Refused, match="another orchestrator"):
        record.save(bench.database, first.holder, item, item.failover)
    assert bench.runs("target")


def test_what_a_host_says_of_its_caller_is_not_what_an_operator_is_told() -> None:
    """R9.7: who stopped it with Ctrl-C learns how it goes on."""
    with pytest.raises(errors.Cancelled, match="stopped on request; the same call goes on"), Lease(bool, lambda: True):
        raise errors.Cancelled("the caller is gone")
    with pytest.raises(errors.Cancelled, match="the caller is gone"), Lease(lambda: True, lambda: False):
        raise errors.Cancelled("the caller is gone")
