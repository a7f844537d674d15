"""Both sides are lost: the item ends, so that its machine may be protected anew, and never while it may be writing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from shellkit import shell_of

from bench import Bench, plainly
from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.failover.giving_up import give_up
from secondsite.orchestration.failover.intent import Options
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import lookup
from secondsite.orchestration.vault import audit
from secondsite.orchestration.vault.inventory import Broken

LOST = 'reach = ["false"]\n'


def lose(bench: Bench, *hosts: str) -> None:
    """Nobody answers there any more; without one, all are there again."""
    lines = {f'name = "{host}"\n' for host in hosts}

    def text(estate: str) -> str:
        for line in lines:
            estate = estate.replace(line, line + LOST)
        return estate

    bench.text = text
    bench.apply()


def away(bench: Bench, *, reverse: bool = False) -> None:
    bench.move(reverse=reverse)
    bench.power_off("target")


def given_up(bench: Bench) -> None:
    told = give_up(bench.failovers(), "app1", gone=True)
    assert lookup.load(bench.database) == []
    noted = [one for one in audit.newest(bench.database) if one.what == "disable"]
    assert [(one.who, one.detail) for one in noted] == [(bench.failovers().who, f"given up; {told}")]


def protected_anew(bench: Bench) -> None:
    """From home, into what lies there."""
    lose(bench)
    bench.apply()
    made = bench.cycle()
    assert bench.item.state is State.REPLICATING and bench.contents(made) == bench.source()


def there_and_home(bench: Bench) -> None:
    """As any other."""
    bench.failovers().fail_over("app1", "planned")
    assert plainly(bench.away()) == plainly(bench.source())
    bench.failovers().act("app1", "commit")
    bench.cycle(write=False)
    there = bench.away()
    bench.failovers().fail_over("app1", "failback")
    assert plainly(bench.source()) == plainly(there) and bench.runs("source")
    bench.failovers().act("app1", "commit")


def what_both_sides_have_lost_after_a_commit(bench: Bench) -> None:
    away(bench)
    lose(bench, "h1", "h2")
    with pytest.raises(Broken, match=r"R1\.10: .*give it up"):
        bench.apply(protect=False)
    with pytest.raises(errors.Refused, match=r"R9\.9: whether 'app1' runs at h1 is not known.*--lost"):
        give_up(bench.failovers(), "app1", gone=False)
    assert bench.item.active == "target"
    given_up(bench)
    protected_anew(bench)


def with_a_way_back_that_had_begun_at_home(bench: Bench) -> None:
    """What came there may be the last that there is of it: it is set aside when the next way back begins."""
    away(bench, reverse=True)
    last = bench.contents(bench.points[-1])
    lose(bench, "h1", "h2")
    given_up(bench)
    protected_anew(bench)
    there_and_home(bench)
    kept = {path.parent.name + "/" + path.name: path for path in bench.folder.glob("app1-back/*.of-*")}
    assert len(kept) == 2 and [one.what for one in audit.newest(bench.database)].count("failover set aside") == 2
    for path, data in last.items():
        (replica,) = bench.folder.glob(f"app1-back/{Path(path).stem}.of-*")
        with engine.open_point(replica) as image:
            assert image.read(0, image.size) == data


def of_a_failover_that_can_be_neither_committed_nor_cancelled(bench: Bench) -> None:
    """The target is lost before its commit; it goes on at home, by hand."""
    bench.cycle()
    bench.failovers().fail_over("app1", "unplanned")
    bench.power_off("target")
    lose(bench, "h2")
    for action in ("cancel", "commit"):
        with pytest.raises(errors.Error):
            bench.failovers().act("app1", action)
    given_up(bench)
    bench.start_home()
    protected_anew(bench)


def that_was_placed_at_home_and_runs_nowhere(bench: Bench) -> None:
    """What lay at home before is named, and is there."""
    away(bench, reverse=True)
    old = bench.source()
    bench.failovers().start("app1")
    bench.failovers().fail_over("app1", "failback", options=Options(wait=True))
    lose(bench, "h2")
    assert "NAME.before-POINT" in give_up(bench.failovers(), "app1", gone=True)
    assert {path: next(bench.folder.glob(f"{Path(path).name}.before-*")).read_bytes() for path in old} == old


def but_not_what_may_be_writing(bench: Bench) -> None:
    """R9.9, whatever an operator says; where nothing runs, it takes his word that what it wrote is lost."""
    bench.cycle()
    with pytest.raises(errors.Refused, match=r"R1\.10.*runs where it belongs"):
        give_up(bench.failovers(), "app1", gone=True)
    bench.failovers().fail_over("app1", "unplanned")
    bench.failovers().act("app1", "commit")
    with pytest.raises(errors.Refused, match=r"R9\.9: 'app1' runs at h2; stop it there first"):
        give_up(bench.failovers(), "app1", gone=True)
    bench.power_off("target")
    bench.start_home()
    with pytest.raises(errors.Refused, match=r"R9\.9: 'app1' runs at h1"):
        give_up(bench.failovers(), "app1", gone=True)
    bench.power_off("source")
    with pytest.raises(errors.Refused, match=r"R1\.10: .*--lost alone.*run2.* on h2"):
        give_up(bench.failovers(), "app1", gone=False)
    assert bench.item.active == "target" and bench.item.held_until == 0.0


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("what", [
    what_both_sides_have_lost_after_a_commit, with_a_way_back_that_had_begun_at_home,
    of_a_failover_that_can_be_neither_committed_nor_cancelled, that_was_placed_at_home_and_runs_nowhere,
    but_not_what_may_be_writing,
])  # fmt: skip
def test_a_machine_is_given_up(bench: Bench, what: Callable[[Bench], None]) -> None:
    """One of them, all in the sweep."""
    what(bench)


def test_one_that_is_being_disabled_ends_whatever_does_not_answer(bench: Bench) -> None:
    """Its replicas were to be deleted, on a host that is gone for good (R1.10, R6.4)."""
    bench.text = lambda estate: estate.replace("additional = 15", "additional = 15\ndelete_replica = true")
    bench.apply()
    bench.cycle()
    bench.apply(protect=False)
    replicas = list(bench.item.homes.values())
    given_up(bench)
    assert all(Path(replica, "replica.json").exists() for replica in replicas)
    bench.apply()
    assert bench.contents(bench.cycle()) == bench.source()


def test_a_test_whose_host_is_gone_for_good_is_ended(bench: Bench) -> None:
    """R9.3: else its machine could never be disabled. It is prepared only, so that nothing runs on."""
    bench.cycle()
    bench.tests().test("app1", wait=True)
    lose(bench, "h2")
    with pytest.raises(errors.Unreachable):
        bench.tests().cleanup("app1")
    with pytest.raises(Broken, match=r"R9\.3"):
        bench.apply(protect=False)
    assert bench.tests().cleanup("app1", gone=True).test is None
    assert "run2" in next(str(one.detail) for one in audit.newest(bench.database) if one.what.endswith("left behind"))
    bench.apply(protect=False)


def test_an_operator_gives_it_up(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """Here before anything was started."""
    shell = shell_of(capsys, bench)
    bench.cycle()
    bench.failovers().fail_over("app1", "unplanned", options=Options(wait=True))
    lose(bench, "h1", "h2")
    told = shell("failover", "give-up", "app1", status=3)
    assert "R9.9" in told and len(told.splitlines()) == 1
    assert shell.json("failover", "give-up", "app1", "--lost")["given_up"] is True
    assert "no machine 'app1' is protected" in shell("failover", "status", "app1", status=3)
    done = [one.result for one in audit.newest(bench.database) if one.what == "failover give-up"]
    assert done == ["failed", "done"]
