"""The way back: reverse replication, failback, and forward again; and again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench import Bench, plainly
from secondsite.engine import errors
from secondsite.orchestration.failover.intent import Options
from secondsite.orchestration.health.states import State


def there_and_home_again(bench: Bench) -> None:
    """R9.6, R10.1, M12: the last writes are there each time; until the commit the old disks are; and then only what
    differs is sent. Twice.
    """
    bench.cycle()
    bench.start_home()
    for _ in range(2):
        _there(bench)
        _home(bench)


def _there(bench: Bench) -> None:
    bench.failovers().fail_over("app1", "planned")
    before = bench.source()
    item = bench.failovers().act("app1", "commit")
    assert (item.state, item.active, item.direction) == (State.RESYNCHRONIZING, "target", "reverse")
    made = bench.cycle(write=False)
    assert bench.item.state is State.REPLICATING
    assert bench.contents(made) == bench.away() and bench.source() == before


def _home(bench: Bench) -> None:
    old, there = bench.source(), bench.away()
    item = bench.failovers().fail_over("app1", "failback")
    assert (item.state, item.active) == (State.FAIL_OVER_WAITING_COMPLETION, "source")
    assert bench.runs("source") and not bench.runs("target")
    assert {path: next(bench.folder.glob(f"{Path(path).name}.before-*")).read_bytes() for path in old} == old
    assert plainly(bench.source()) == plainly(there)
    item = bench.failovers().act("app1", "commit")
    assert (item.state, item.active, item.direction) == (State.RESYNCHRONIZING, "source", "forward")
    assert not list(bench.folder.glob("*.before-*")) and not (bench.folder / "app1-back").exists()
    assert not list(bench.folder.glob("run2/*"))
    made = bench.cycle(write=False)
    assert bench.item.state is State.REPLICATING and bench.contents(made) == bench.source()
    assert made.changed_bytes < 4 * 65536, "only what differs"


def copied_while_it_runs_and_completed_by_its_operator(bench: Bench) -> None:
    """R10.3, R10.4: after an unplanned failover that nothing replicates back from."""
    bench.cycle()
    bench.failovers().fail_over("app1", "unplanned")
    bench.failovers().act("app1", "commit")
    old = bench.source()
    item = bench.failovers().fail_over("app1", "copy-back")
    assert item.failover is not None and item.failover.phase == "copied" and bench.runs("target")
    there = bench.away()
    item = bench.failovers().act("app1", "complete")
    assert bench.runs("source") and not bench.runs("target") and plainly(bench.source()) == plainly(there)
    item = bench.failovers().act("app1", "cancel")
    assert (item.state, item.active) == (State.FAILED_OVER, "target")
    assert bench.source() == old and bench.runs("target"), "the old disks stay (M12, R10.7)"
    full = Options(copy="full")
    item = bench.failovers().fail_over("app1", "failback", options=full)
    assert bench.runs("source") and plainly(bench.source()) == plainly(there)


def home_without_the_target(bench: Bench) -> None:
    """R9's table, both ways: what ran at the target is lost but for its points; it comes home from one of them."""
    bench.cycle()
    bench.failovers().fail_over("app1", "unplanned")
    bench.failovers().act("app1", "commit")
    bench.failovers().act("app1", "reverse")
    made = bench.cycle(write=False)
    there = bench.contents(made)
    with pytest.raises(errors.Refused, match=r"R9\.9"):
        bench.failovers().fail_over("app1", "unplanned")
    bench.power_off("target")
    item = bench.failovers().fail_over("app1", "unplanned", point=made.number)
    assert (item.active, item.direction) == ("source", "reverse") and plainly(bench.source()) == plainly(there)
    item = bench.failovers().act("app1", "commit")
    assert item.state is State.FAILED_OVER and bench.runs("source")
    item = bench.failovers().act("app1", "reverse")
    assert (item.state, item.active, item.direction) == (State.RESYNCHRONIZING, "source", "forward")
    assert bench.contents(bench.cycle(write=False)) == bench.source()


def home_to_another_host_where_nothing_of_it_is(bench: Bench) -> None:
    """R10.5: its disks are made there; it is committed once the estate says that it lives there."""
    bench.cycle()
    bench.failovers().fail_over("app1", "unplanned")
    bench.failovers().act("app1", "commit")
    there, options = bench.away(), Options(host="h3")
    for path in bench.item.homes:
        Path(path).unlink()
    bench.power_off("target")
    item = bench.failovers().fail_over("app1", "failback", options=options)
    assert item.failover is not None and item.failover.there is not None and item.failover.there.host == "h3"
    assert plainly(bench.source()) == plainly(there)
    with pytest.raises(errors.Refused, match=r"R10\.5"):
        bench.failovers().act("app1", "commit")
    bench.text = lambda estate: estate.replace('name = "app1"\nhost = "h1"', 'name = "app1"\nhost = "h3"')
    bench.apply()
    item = bench.failovers().act("app1", "commit")
    assert item.active == "source" and bench.runs("source")


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("way", [
    there_and_home_again, copied_while_it_runs_and_completed_by_its_operator,
    home_without_the_target, home_to_another_host_where_nothing_of_it_is,
])  # fmt: skip
def test_the_way_back(bench: Bench, way: Callable[[Bench], None]) -> None:
    """One of them, all in the sweep."""
    way(bench)
