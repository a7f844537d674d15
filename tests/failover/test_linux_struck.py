"""A Linux on its way, and what strikes it: its QEMU killed before it is stopped or after it was started, the server of
its disks killed under it; and the ways home that are not the usual one. It runs on one side at most, and loses nothing
that it had synced.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from linuxkit import Linux, Make

from secondsite.engine import errors
from secondsite.orchestration.failover.intent import Options
from secondsite.orchestration.health.states import State

pytestmark = [pytest.mark.needs("guest"), pytest.mark.timeout(900)]


def killed_before_it_is_stopped(linux: Linux) -> None:
    """R9.6: what it had synced is sent and proved, as of a machine that is off."""
    failovers, synced = linux.failovers(), linux.write_on(3)

    def strike(machine: str, effect: str) -> None:
        if effect == "stop here":
            linux.kill("source")

    failovers.told = strike
    item = failovers.fail_over("app1", "planned")
    assert item.state is State.FAIL_OVER_WAITING_COMPLETION
    assert linux.ready() >= synced and linux.sides() == {"source": "stopped", "target": "running"}
    records = linux.records(linux.contents(linux.points[-1]))
    assert synced <= len(records) == linux.number("GUEST READY")


def killed_after_it_was_started_there_and_started_again(linux: Linux) -> None:
    """Its status says so, and nothing that it wrote there is lost."""
    linux.write_on(3)
    linux.failovers().fail_over("app1", "planned")
    linux.ready()
    synced = linux.write_on(3)
    linux.kill("target")
    assert linux.sides() == {"source": "stopped", "target": "stopped"}
    linux.failovers().start("app1")
    assert linux.ready() >= synced and linux.sides() == {"source": "stopped", "target": "running"}
    linux.failovers().act("app1", "commit")
    linux.cycle(write=False)
    assert linux.item.state is State.REPLICATING


def killed_after_it_was_started_there_and_taken_back(linux: Linux) -> None:
    """R9.10: as it was when it was stopped at home."""
    linux.write_on(3)
    home = linux.where()
    linux.failovers().fail_over("app1", "planned")
    last = linux.said("GUEST DOWN", home)
    linux.ready()
    linux.kill("target")
    linux.failovers().act("app1", "cancel")
    assert last is not None and linux.ready() == int(last)
    assert linux.sides() == {"source": "running"}


def copied_back_while_it_runs(linux: Linux) -> None:
    """R10.4: before, it runs; then the rest goes, and it is home."""
    _committed_there(linux)
    away = linux.where()
    linux.failovers().fail_over("app1", "copy-back")
    assert linux.sides() == {"source": "stopped", "target": "running"}
    linux.write_on(3)
    linux.failovers().act("app1", "complete")
    last = linux.said("GUEST DOWN", away)
    assert last is not None and linux.ready() == int(last)
    linux.failovers().act("app1", "commit")
    assert linux.sides() == {"source": "running"} and linux.item.active == "source"


def home_to_another_host(linux: Linux) -> None:
    """R10.5: it boots there from disks that were made there."""
    _committed_there(linux)
    away = linux.where()
    for path in linux.paths:
        path.unlink()
    linux.failovers().fail_over("app1", "failback", options=Options(host="h3"))
    last, way = linux.said("GUEST DOWN", away), linux.item.failover
    assert way is not None and way.there is not None and way.there.host == "h3" and last is not None
    assert linux.wait("GUEST READY", placed=way.there) == int(last)
    with pytest.raises(errors.Refused, match=r"R10\.5"):
        linux.failovers().act("app1", "commit")
    linux.host = "h3"
    linux.apply()
    linux.failovers().act("app1", "commit")
    linux.write_on(3)
    assert linux.sides() == {"source": "running"}


def home_from_disks_that_nobody_serves(linux: Linux) -> None:
    """It could not shut down: they are served again first, and nothing is lost."""
    _committed_there(linux)
    away = linux.where()
    linux.kill_server(away)
    linux.failovers().fail_over("app1", "failback")
    last = linux.said("GUEST DOWN", away)
    assert last is not None and linux.ready() == int(last)
    assert linux.sides() == {"source": "running", "target": "stopped"}


def _committed_there(linux: Linux) -> None:
    linux.kill("source", whole_host=True)
    linux.failovers().fail_over("app1", "unplanned")
    linux.ready()
    linux.failovers().act("app1", "commit")
    linux.write_on(3)


@pytest.mark.sweep(sample=0)
@pytest.mark.parametrize("story", [
    killed_before_it_is_stopped, killed_after_it_was_started_there_and_started_again,
    killed_after_it_was_started_there_and_taken_back, copied_back_while_it_runs, home_to_another_host,
    home_from_disks_that_nobody_serves,
])  # fmt: skip
def test_struck_on_its_way(linux: Make, story: Callable[[Linux], None]) -> None:
    """Two or three boots each."""
    story(linux())


def test_the_server_of_its_disks_is_killed_under_it_and_started_again(linux: Make) -> None:
    """It stands still, which its status tells; then it goes on as if nothing had been."""
    one = linux(boot=False)
    one.failovers().fail_over("app1", "unplanned")
    one.ready()
    placed = one.where()
    before = one.machine(placed, "status")
    one.kill_server(placed)
    assert one.sides()["target"] == "running, but the server of its disks is gone; failover start brings it back"
    synced = one.number("SYNCED")
    one.failovers().start("app1")
    one.wait("SYNCED", synced + 2)
    assert one.sides() == {"source": "stopped", "target": "running"}
    after = one.machine(placed, "status")
    assert after["pid"] == before["pid"] and not after["wrong"], "it was not started anew"
    one.machine(placed, "stop", how=("agent", "acpi"), seconds=60)
    assert len(one.records(one.away())) == int(one.said("GUEST DOWN") or -1)
