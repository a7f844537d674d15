"""Test failovers: beside the real machine, one at a time, cleaned up by hand or after two weeks (R9.1 to R9.5)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from bench import ESTATE, Bench, plain
from secondsite.engine import errors
from secondsite.orchestration.failover import going_on, rehearsals
from secondsite.orchestration.health.states import State
from secondsite.orchestration.plans.machines import Failing
from secondsite.orchestration.protection import ledger
from secondsite.orchestration.protection.cycle import Cycles
from secondsite.orchestration.protection.orchestrator import Orchestrator
from secondsite.orchestration.protection.worker import EngineWorker
from secondsite.orchestration.vault import holders, inventory


def wait(done: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_beside_the_real_one_and_replication_goes_on(bench: Bench) -> None:
    """R9.1, R9.3: named after it, from a point that stays; its notes are kept."""
    first = bench.cycle()
    contents = bench.contents(first)
    bench.start_home()
    item = bench.tests().test("app1", point=first.number)
    assert item.test is not None and item.test.phase == "running" and item.state is State.REPLICATING
    placed = item.test.there
    assert placed is not None and placed.spec is not None and placed.spec.name == "app1 - Test"
    assert bench.images(placed).keys() == contents.keys()
    for path, data in bench.images(placed).items():
        assert plain(data) == plain(contents[path])
    with pytest.raises(errors.Refused, match=r"R9\.1"):
        bench.tests().test("app1")
    bench.cycle()
    assert bench.runs("source") and len(bench.points) == 2
    item = bench.tests().cleanup("app1", notes="it came up")
    assert item.test is None and not list(bench.folder.glob("run2/*"))
    assert bench.runs("source") and bench.contents(bench.points[0]) == contents
    told = rehearsals.notes(bench.database, "app1")
    assert [(one["point"], one["notes"], one["forced"]) for one in told] == [(first.number, "it came up", False)]
    with pytest.raises(errors.Refused, match=r"R9\.3"):
        bench.tests().cleanup("app1")


def test_after_two_weeks_it_is_cleaned_up_by_whoever_runs_cycles(bench: Bench) -> None:
    """R9.3; and one whose orchestrator died is gone on with."""
    bench.cycle()
    bench.tests().test("app1", wait=True)
    item = bench.item
    assert item.test is not None and item.test.phase == "prepared" and item.test.there is not None
    heard: list[object] = []
    going_on.tests(bench.failovers(), lambda item, error: heard.append(error))
    assert bench.item.test is not None and not heard
    bench.clock.now += rehearsals.LONGEST_SECONDS + 1
    cycles = Cycles(bench.database, holders.new(), EngineWorker(), bench.clock.clocks())
    runs = Orchestrator(bench.database, cycles)
    thread = threading.Thread(target=runs.run)
    thread.start()
    wait(lambda: bench.item.test is None)
    runs.stop()
    thread.join(30)
    assert not thread.is_alive() and not list(bench.folder.glob("run2/**/*.overlay"))
    assert [one["forced"] for one in rehearsals.notes(bench.database, "app1")] == [True]


def test_what_its_test_stands_on_is_neither_committed_nor_disabled(bench: Bench) -> None:
    """R9.3, R1.10."""
    first = bench.cycle()
    bench.tests().test("app1", point=first.number, wait=True)
    bench.failovers().fail_over("app1", "unplanned")
    with pytest.raises(errors.Refused, match=r"R9\.3"):
        bench.failovers().act("app1", "commit")
    bench.failovers().act("app1", "cancel")
    with pytest.raises(errors.Refused, match=r"R9\.3"):
        bench.apply(protect=False)
    bench.tests().cleanup("app1")
    bench.apply(protect=False)
    assert bench.item.ending is not None


def test_what_runs_from_its_replica_is_not_disabled(bench: Bench) -> None:
    """R1.10."""
    bench.cycle()
    bench.failovers().fail_over("app1", "unplanned")
    with pytest.raises(errors.Refused, match=r"R9\.12"):
        bench.apply(protect=False)
    bench.failovers().act("app1", "commit")
    with pytest.raises(errors.Refused, match=r"R1\.10"):
        bench.apply(protect=False)
    with bench.database.reading() as connection:
        estate = inventory.last_estate(connection)
    assert estate is not None and estate.item
    with pytest.raises(errors.Refused, match=r"R8\.1"):
        ledger.act(bench.database, "app1", "pause", bench.clock.now)


def test_the_disks_of_what_failed_over_are_those_of_before(bench: Bench) -> None:
    """R9.12: one that comes into the estate, or leaves it, waits until the machine is at home again."""
    bench.cycle()
    bench.failovers().fail_over("app1", "unplanned")
    before = bench.item.disks
    (bench.folder / "third.raw").write_bytes(bytes(1 << 20))
    data = '{{ path = "{folder}/data.raw" }}'
    for other in (f'{data}, {{{{ path = "{{folder}}/third.raw" }}}}', '{{ path = "{folder}/third.raw" }}'):
        bench.text = lambda text, other=other: text.replace(data, other)
        assert bench.text(ESTATE) != ESTATE
        with pytest.raises(errors.Refused, match=r"R9\.12: machine 'app1' fails over, or runs .*third\.raw"):
            bench.apply()
    bench.text = lambda text: text.replace("additional = 15", "additional = 14")
    bench.apply()
    assert bench.item.disks == before
    bench.failovers().act("app1", "cancel")
    bench.text = lambda text: text.replace(data, f'{data}, {{{{ path = "{{folder}}/third.raw" }}}}')
    bench.apply()
    assert len(bench.item.disks) == 3


def test_a_plan_does_not_say_that_it_started_what_was_taken_back(bench: Bench) -> None:
    """An operator cancels a machine by hand, while its run waits for a manual step; it runs at home."""
    bench.cycle()
    bench.start_home()
    run = Failing(bench.failovers(), ["app1"], "run")
    run.prepare("app1", "planned", "latest")
    bench.failovers().act("app1", "cancel")
    assert bench.runs("source") and run.lost("app1", "planned") == "was started, and taken back since"
    with pytest.raises(errors.Refused, match=r"R9\.6: 'app1' is not prepared, .* resume the run"):
        run.start("app1", "planned")
    bench.failovers().fail_over("app1", "planned")
    run.start("app1", "planned")
    assert run.lost("app1", "planned") is None and bench.runs("target")


def test_r11_9_a_test_at_the_target_has_the_cards_of_its_size_and_one_at_home_all(bench: Bench) -> None:
    before = bench.text
    bench.text = lambda text: (
        before(text).replace('host = "h1"\n', 'host = "h1"\nnics = [{{ }}, {{ }}]\n') + "cards = 1\n"
    )
    bench.apply()
    made, item = bench.cycle(), bench.item
    there = bench.known().test(item, made, "1", network="none")
    home = bench.known().test(replace(item, direction="reverse", backs=item.homes), made, "2", network="none")
    assert there.spec is not None and home.spec is not None
    assert (len(there.spec.nics), len(home.spec.nics)) == (1, 2)
