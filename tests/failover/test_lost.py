"""A side that is lost on the way back: what runs goes on, nothing older takes its place, and there is a way on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import Bench, plain, plainly
from secondsite.engine import errors
from secondsite.orchestration.failover.intent import Options
from secondsite.orchestration.health.states import State
from secondsite.orchestration.vault import audit

Happens = Callable[[Bench], None]


def lose(bench: Bench) -> None:
    """Nobody answers at h2 any more."""
    bench.text = lambda text: text.replace('name = "h2"\n', 'name = "h2"\nreach = ["false"]\n')
    bench.apply()


def lose_home(bench: Bench) -> None:
    """Nobody answers at h1."""
    bench.text = lambda text: text.replace('name = "h1"\n', 'name = "h1"\nreach = ["false"]\n')
    bench.apply()


def empty(bench: Bench) -> None:
    """The folder of its machines is gone."""
    for folder in (bench.folder / "run2").iterdir():
        shutil.rmtree(folder)


def what_came_home_is_not_given_up_for_a_target_that_is_lost(bench: Bench, happens: Happens) -> None:
    """R9.10: told before anything is stopped, with what stays behind; the commit keeps it, and notes that, too."""
    bench.move(reverse=False)
    bench.failovers().fail_over("app1", "failback")
    happens(bench)
    with pytest.raises(errors.Refused, match=r"R9\.10: 'app1' cannot go back: .*h2.*commit app1.*behind is .*run2"):
        bench.failovers().act("app1", "cancel")
    way = bench.item.failover
    assert way is not None and way.phase == "running" and bench.runs("source")
    item = bench.failovers().act("app1", "commit")
    assert (item.state, item.active) == (State.RESYNCHRONIZING, "source") and bench.runs("source")
    noted = [one.detail for one in audit.newest(bench.database) if one.what == "failover left behind"]
    if happens is lose:
        assert len(noted) == 1 and "run2" in str(noted[0]) and item.reason == f"left behind: {noted[0]}"
    else:
        assert not noted


def from_a_failback_that_cannot_be_taken_back_a_point_is_taken_at_home(bench: Bench, happens: Happens) -> None:
    """R9.8: the machine is off and its target lost. What it wrote is there in the point of its last delta; its disks
    are never made anew from the point that it began with.
    """
    bench.move(reverse=False)
    bench.failovers().fail_over("app1", "failback", options=Options(wait=True))
    has = bench.contents(bench.failovers().chosen("app1", None) or pytest.fail("no point"))
    happens(bench)
    with pytest.raises(errors.Unreachable):
        bench.failovers().act("app1", "cancel")
    assert not list(bench.folder.glob("run2/**/*.overlay")) or happens is lose
    assert bench.item.failover is not None and bench.item.failover.phase == "cancelling"
    item = bench.failovers().fail_over("app1", "unplanned")
    assert (item.state, item.active) == (State.FAIL_OVER_WAITING_COMPLETION, "source") and bench.runs("source")
    assert plainly(bench.source()) == {path: plain(data) for path, data in has.items()}
    item = bench.failovers().act("app1", "commit")
    assert (item.state, item.active) == (State.FAILED_OVER, "source") and bench.runs("source")
    assert bench.failovers().act("app1", "reverse").direction == "forward"


def an_operator_who_says_that_it_is_lost_ends_the_cancel(bench: Bench, happens: Happens) -> None:
    """It is as before but for the machine, which runs nowhere; of its points at home one is taken then."""
    bench.move(reverse=True)
    bench.failovers().fail_over("app1", "failback", options=Options(wait=True))
    old = bench.source()
    happens(bench)
    item = bench.failovers().act("app1", "cancel", lost=True)
    assert (item.state, item.active, item.direction, item.failover) == (State.REPLICATING, "target", "reverse", None)
    assert item.reason is not None and "run2" in item.reason and bench.source() != old, "the old disks are back"
    item = bench.failovers().fail_over("app1", "unplanned")
    assert item.active == "source" and bench.runs("source")


def another_point_takes_the_place_of_the_one_that_was_prepared(bench: Bench, happens: Happens) -> None:
    """Of a failback that was prepared, an older point is chosen; the old disks stay until the commit (M12)."""
    bench.move(reverse=True)
    first, old = bench.points[-1], bench.source()
    has = bench.contents(first)
    bench.failovers().fail_over("app1", "failback", options=Options(wait=True))
    happens(bench)
    item = bench.failovers().fail_over("app1", "unplanned", point=first.number)
    assert item.active == "source" and plainly(bench.source()) == plainly(has)
    kept = {path.name.partition(".before-")[0]: path.read_bytes() for path in bench.folder.glob("*.before-*")}
    assert kept == {path.rpartition("/")[2]: data for path, data in old.items()}


def a_reverse_whose_old_side_is_lost_is_taken_back(bench: Bench, happens: Happens) -> None:
    """R5.7, R10.1: nothing came there yet. It says what to do; then it comes to another host, or is reversed anew."""
    bench.move(reverse=False)
    bench.failovers().act("app1", "reverse")
    old = bench.text
    happens(bench)
    for action in ("planned", "unplanned", "failback"):
        with pytest.raises(errors.Refused, match=r"R5\.7: .*cancel ends the reverse.*failback --host"):
            bench.failovers().fail_over("app1", action)
    item = bench.failovers().act("app1", "cancel")
    assert (item.state, item.active, item.direction) == (State.FAILED_OVER, "target", "forward")
    assert bench.runs("target")
    has = bench.away()
    item = bench.failovers().fail_over("app1", "failback", options=Options(host="h3"))
    assert item.active == "source" and plainly(bench.source()) == plainly(has)
    bench.failovers().act("app1", "cancel")
    bench.text = old
    bench.apply()
    for path in bench.item.homes:
        Path(path).unlink()
    bench.failovers().act("app1", "reverse", copy="full")
    made = bench.cycle(write=False)
    assert bench.contents(made) == bench.away()
    with pytest.raises(errors.Refused, match=r"R9\.10"):
        bench.failovers().act("app1", "cancel")


def test_what_runs_is_not_given_up_for_disks_at_home_that_are_gone(bench: Bench) -> None:
    """R9.10: a cancel would start it from them again. The commit keeps it, or they come back."""
    bench.cycle()
    bench.start_home()
    bench.failovers().fail_over("app1", "planned")
    disk = bench.folder / "data.raw"
    disk.rename(disk.with_suffix(".aside"))
    with pytest.raises(errors.Refused, match=r"R9\.10: 'app1' cannot go back: h1: .*data\.raw is gone; .* commit app1"):
        bench.failovers().act("app1", "cancel")
    assert bench.runs("target") and bench.item.failover is not None and bench.item.failover.phase == "running"
    failovers = bench.failovers()
    for back in (lambda: failovers.act("app1", "commit"), lambda: failovers.fail_over("app1", "failback")):
        with pytest.raises(errors.Unreachable, match=r"data\.raw: R10\.3: the old disk is not there; with --copy full"):
            back()
        if bench.item.failover is not None:  # the reverse behind the commit
            bench.failovers().act("app1", "cancel")
    assert bench.runs("target") and bench.item.failover is None
    disk.with_suffix(".aside").rename(disk)
    bench.failovers().fail_over("app1", "failback")
    assert bench.runs("source") and not bench.runs("target")


def a_reverse_that_cannot_adopt_is_taken_back(bench: Bench, happens: Happens) -> None:
    """The old side is lost before anything is made there."""
    bench.move(reverse=False)
    happens(bench)
    with pytest.raises(errors.Unreachable):
        bench.failovers().act("app1", "reverse")
    assert bench.item.failover is not None and bench.item.failover.phase == "reversing"
    item = bench.failovers().act("app1", "cancel")
    assert (item.state, item.active, item.failover) == (State.FAILED_OVER, "target", None) and bench.runs("target")


@pytest.mark.sweep(sample=2)
@pytest.mark.parametrize(("way", "happens"), [
    (what_came_home_is_not_given_up_for_a_target_that_is_lost, lose),
    (what_came_home_is_not_given_up_for_a_target_that_is_lost, empty),
    (from_a_failback_that_cannot_be_taken_back_a_point_is_taken_at_home, lose),
    (from_a_failback_that_cannot_be_taken_back_a_point_is_taken_at_home, empty),
    (an_operator_who_says_that_it_is_lost_ends_the_cancel, lose),
    (another_point_takes_the_place_of_the_one_that_was_prepared, lose),
    (a_reverse_whose_old_side_is_lost_is_taken_back, lose_home),
    (a_reverse_that_cannot_adopt_is_taken_back, lose_home),
])  # fmt: skip
def test_a_side_that_is_lost(bench: Bench, way: Callable[[Bench, Happens], None], happens: Happens) -> None:
    """Two of them, all in the sweep."""
    way(bench, happens)
