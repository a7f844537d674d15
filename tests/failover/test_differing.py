"""A call that is made once more and says something else than what is under way: that is done, or refused, and never
passed over (R9.12).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from operators import Shell
from shellkit import gated, shell_of

from bench import Bench, plainly
from secondsite.engine import errors
from secondsite.orchestration.failover.intent import Options


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], bench: Bench) -> Shell:
    return shell_of(capsys, bench)


def closed(bench: Bench, host: str) -> Path:
    """The machines of this host start once that file is there."""
    gate, before = bench.folder / f"gate-{host}", bench.text
    bench.text = lambda text: gated(before(text), gate, host)
    bench.apply()
    return gate


def refused(shell: Shell, *arguments: str) -> str:
    """With one line, besides the one that says what goes on."""
    lines = [line for line in shell("failover", *arguments, status=3).splitlines() if line.startswith("secondsite: ")]
    assert len(lines) == 1, lines
    return lines[0]


def test_another_point_than_the_one_that_is_being_started(shell: Shell, bench: Bench) -> None:
    """Refused, with what is under way and what may be done; the same call goes on."""
    first, second = bench.cycle(), bench.cycle()
    gate = closed(bench, "h2")
    shell("failover", "unplanned", "app1", status=3)
    gate.touch()
    for more in (("--at", "1"), ("--prepare",), ("--synchronize",), ("--verify",)):
        told = refused(shell, "unplanned", "app1", *more)
        assert f"R9.12: 'app1': its failover to point {second.number} is being started" in told, told
        assert more[0] in told and "`secondsite failover start app1` goes on" in told
        assert "`secondsite failover cancel app1` takes it back" in told and "change-point" in told
        assert not bench.runs("target")
    assert bench.item.failover is not None and bench.item.failover.point == second.number
    assert shell.json("failover", "unplanned", "app1", "--at", str(second.number))["failover"]["phase"] == "running"
    assert shell.json("failover", "change-point", "app1", "--at", "1")["failover"]["point"] == first.number


def away(bench: Bench) -> None:
    """It runs at the target for good, and nothing replicates it."""
    bench.cycle()
    bench.failovers().fail_over("app1", "unplanned")
    bench.failovers().act("app1", "commit")


def test_another_host_or_copy_than_where_it_is_being_started(shell: Shell, bench: Bench) -> None:
    away(bench)
    gate = closed(bench, "h1")
    shell("failover", "failback", "app1", status=3)
    gate.touch()
    for more in (("--host", "h3"), ("--copy", "full"), ("--when", "during")):
        assert "R9.12" in refused(shell, "failback", "app1", *more)
        assert not bench.runs("source")
    assert "is being started on h1" in refused(shell, "failback", "app1", "--host", "h3")
    shell("failover", "failback", "app1", "--host", "h1", "--copy", "delta")  # as it is
    assert bench.runs("source")


def test_what_is_not_said_again_stays_as_it_was_said(shell: Shell, bench: Bench) -> None:
    """The call that is named to go on brings it to the host of the first one; and a copy that was said stays."""
    away(bench)
    there = bench.away()
    failovers = bench.failovers()
    failovers.told = ends_at("last delta")
    with pytest.raises(errors.Cancelled):
        failovers.fail_over("app1", "failback", options=Options(host="h3", copy="full"))
    assert bench.item.failover is not None and bench.item.failover.phase == "preparing"
    item = bench.failovers().fail_over("app1", "failback")
    assert item.failover is not None and item.failover.there is not None
    assert (item.failover.there.host, item.failover.options.copy) == ("h3", "full")
    assert plainly(bench.source()) == plainly(there)


def ends_at(last: str) -> Callable[[str, str], None]:
    """Who does it is stopped before this step."""

    def told(machine: str, effect: str) -> None:
        if effect == last:
            raise errors.Cancelled("stopped on request")

    return told


def fills(bench: Bench, name: str) -> Path:
    """There is a file where machines get their folders, so that their disks cannot be made."""
    folder = bench.folder / name
    folder.rename(bench.folder / "aside")
    folder.touch()
    return folder


def test_before_it_starts_another_point_is_taken(shell: Shell, bench: Bench) -> None:
    first, second = bench.cycle(), bench.cycle()
    contents = bench.contents(first)
    failovers = bench.failovers()
    failovers.told = lambda machine, effect: effect == "make disks" and fills(bench, "run2")
    with pytest.raises(errors.Error):
        failovers.fail_over("app1", "unplanned", point=second.number)
    way = bench.item.failover
    assert way is not None and way.phase == "preparing" and way.there is not None
    (bench.folder / "run2").unlink()
    (bench.folder / "aside").rename(bench.folder / "run2")
    assert shell.json("failover", "unplanned", "app1", "--at", "1")["failover"]["point"] == first.number
    assert bench.runs("target") and plainly(bench.away()) == plainly(contents)
    bench.failovers().act("app1", "cancel")
    assert not list(bench.folder.glob("run2/*"))


def test_a_planned_one_that_goes_on_has_what_was_written_meanwhile(bench: Bench) -> None:
    """R9.6: its machine was started again by its owner, after the disks of its last point were begun."""
    bench.cycle()
    bench.start_home()
    failovers = bench.failovers()
    failovers.told = lambda machine, effect: effect == "make disks" and fills(bench, "run2")
    with pytest.raises(errors.Error):
        failovers.fail_over("app1", "planned")
    way = bench.item.failover
    assert way is not None and way.phase == "preparing" and way.there is not None
    (bench.folder / "run2").unlink()
    (bench.folder / "aside").rename(bench.folder / "run2")
    bench.start_home()
    bench.power_off("source")
    bench.write()
    bench.failovers().fail_over("app1", "planned")
    assert bench.runs("target") and plainly(bench.away()) == plainly(bench.source())


def test_a_change_point_that_goes_on_keeps_its_point(shell: Shell, bench: Bench) -> None:
    """What an operator is told to call goes on with the point that was said, not with the newest."""
    first, second = bench.cycle(), bench.cycle()
    bench.cycle()
    bench.failovers().fail_over("app1", "unplanned", point=first.number)
    gate = closed(bench, "h2")
    # What runs keeps its own commands; what is made of another point has these.
    told = shell("failover", "change-point", "app1", "--at", str(second.number), status=3)
    assert "`secondsite failover change-point app1` goes on" in told
    gate.touch()
    assert shell.json("failover", "change-point", "app1")["failover"]["point"] == second.number
    assert bench.runs("target")


def test_a_reverse_that_goes_on_takes_the_copy_that_is_said(shell: Shell, bench: Bench) -> None:
    """As its help says: where the old disks are gone."""
    away(bench)
    (bench.folder / "data.raw").rename(bench.folder / "gone")
    with pytest.raises(errors.Error):
        bench.failovers().act("app1", "reverse")
    assert bench.item.failover is not None and bench.item.failover.phase == "reversing"
    assert shell.json("failover", "reverse", "app1", "--copy", "full")["direction"] == "reverse"


def test_a_test_of_another_point_or_network_is_refused(shell: Shell, bench: Bench) -> None:
    bench.cycle()
    bench.cycle()
    gate = closed(bench, "h2")
    shell("failover", "test", "app1", status=3)
    gate.touch()
    for more in (("--at", "1"), ("--network", "isolated")):
        told = refused(shell, "test", "app1", *more)
        assert "R9.1" in told and "point 2" in told and "test-cleanup" in told, told
    assert shell.json("failover", "test", "app1", "--at", "2")["test"]["phase"] == "running"
