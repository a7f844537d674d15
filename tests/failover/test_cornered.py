"""What must not leave an operator without a way on: a cancel without its source, an old machine that came up again, a
drill beside somebody's test.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest

from bench import Bench, plain, plainly
from secondsite.engine import errors
from secondsite.orchestration.drills.drill import Drills
from secondsite.orchestration.estate.model import Signal
from secondsite.orchestration.failover.intent import Options
from secondsite.orchestration.failover.trying import Tests
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection import ledger
from secondsite.orchestration.vault import holders


def test_a_cancel_whose_source_is_lost_gives_way_to_an_unplanned_failover(bench: Bench) -> None:
    """R9.8: the source can never be started again, so that the cancel never ends."""
    bench.cycle()
    bench.start_home()
    bench.text = lambda text: text.replace("start = {start}", 'start = ["false"]', 1)
    bench.apply()
    bench.failovers().fail_over("app1", "planned")
    first, contents = bench.item.away, bench.contents(bench.points[-1])
    with pytest.raises(errors.Refused, match="ended with 1"):
        bench.failovers().act("app1", "cancel")
    item = bench.item
    assert item.failover is not None and item.failover.phase == "cancelling"
    item = bench.failovers().fail_over("app1", "unplanned")
    assert (item.state, item.active) == (State.FAIL_OVER_WAITING_COMPLETION, "target")
    assert bench.runs("target") and not bench.runs("source")
    assert item.away is not None and first is not None and item.away.disks != first.disks
    assert plainly(bench.away()) == {path: plain(data) for path, data in contents.items()}
    assert len(list(bench.folder.glob("run2/**/*.overlay"))) == 2, "of the first there are none"
    item = bench.failovers().act("app1", "commit")
    assert (item.state, item.active) == (State.FAILED_OVER, "target") and bench.runs("target")


def test_a_machine_that_never_stopped_needs_no_start_at_a_cancel(bench: Bench) -> None:
    """Its user started it, and its host refuses to start it once more."""
    bench.cycle()
    bench.start_home()
    wanted, never = "start = {start}, stop = {stop}", 'start = ["false"], stop = ["false"]'
    bench.text = lambda text: text.replace(wanted, never, 1)
    bench.apply()
    with pytest.raises(errors.Refused):
        bench.failovers().fail_over("app1", "planned")
    item = bench.failovers().act("app1", "cancel")
    assert (item.state, item.failover) == (State.REPLICATING, None) and bench.runs("source")


def test_beside_an_old_machine_that_came_up_again_nothing_is_stopped_for_a_failback(bench: Bench) -> None:
    """R9.9: found out before the machine at the target is off."""
    bench.cycle()
    bench.failovers().fail_over("app1", "unplanned")
    bench.failovers().act("app1", "commit")
    bench.failovers().act("app1", "reverse")
    bench.cycle(write=False)
    bench.start_home()
    with pytest.raises(errors.Refused, match=r"R9\.9.*h1"):
        bench.failovers().fail_over("app1", "failback")
    assert bench.runs("target") and bench.item.active == "target"
    bench.power_off("source")
    (bench.folder / "guests/violation").unlink()  # its owner's doing, which is what this is about
    item = bench.failovers().fail_over("app1", "failback")
    assert item.active == "source" and bench.runs("source") and not bench.runs("target")


def test_beside_a_source_whose_host_cannot_tell_nothing_starts_unless_its_operator_can(bench: Bench) -> None:
    """R9.9: its host answers, and its hypervisor hangs, while the machine goes on writing. Nothing was begun."""
    bench.cycle()
    bench.start_home()
    bench.text = lambda text: text.replace("status = {status}", 'status = ["false"]', 1)
    bench.apply()
    with pytest.raises(errors.Refused, match=r"R9\.9: h1 answers, .* not known .*ended with 1.*--source-is-dead"):
        bench.failovers().fail_over("app1", "unplanned")
    assert (bench.item.state, bench.item.failover) == (State.REPLICATING, None) and not bench.runs("target")
    bench.text = lambda text: text
    bench.apply()
    bench.power_off("source")
    bench.text = lambda text: text.replace("status = {status}", 'status = ["false"]', 1)
    bench.apply()
    bench.failovers().fail_over("app1", "unplanned", options=Options(source_is_dead=True))
    assert bench.runs("target")


def test_old_disks_that_a_machine_writes_to_are_not_adopted(bench: Bench) -> None:
    """R9.9: it came up again at its side; the reverse goes on once it is off."""
    bench.cycle()
    bench.failovers().fail_over("app1", "unplanned")
    bench.failovers().act("app1", "commit")
    bench.start_home()
    with pytest.raises(errors.Refused, match=r"R9\.9.*h1"):
        bench.failovers().act("app1", "reverse")
    assert not list(bench.folder.glob("app1-back/*/replica.json"))
    bench.power_off("source")
    (bench.folder / "guests/violation").unlink()  # its owner's doing, which is what this is about
    assert bench.failovers().act("app1", "reverse").direction == "reverse"


def test_a_resync_that_a_cancelled_failover_ended_begins_again_by_itself(bench: Bench) -> None:
    """R7.3, R7.7: at the time that its window has."""
    bench.cycle()
    ledger.act(bench.database, "app1", "resync", bench.clock.now)
    bench.failovers().fail_over("app1", "unplanned")
    item = bench.failovers().act("app1", "cancel")
    assert item.state is State.WAITING_FOR_START_RESYNCHRONIZE and item.due < ledger.NEVER
    while bench.item.state is not State.REPLICATING:
        assert bench.clock.now < 1_800_000_000.0 + 2 * 86400
        with suppress(errors.Refused):
            bench.cycle()
    assert bench.contents(bench.points[-1]) == bench.source()


def test_what_came_home_is_as_old_as_the_points_of_its_target(bench: Bench) -> None:
    """R8.7: what was sent home meanwhile is not in the replica, and does not count."""
    bench.cycle()
    bench.failovers().fail_over("app1", "planned")
    bench.failovers().act("app1", "commit")
    for _ in range(3):
        bench.cycle(write=False)
    bench.failovers().fail_over("app1", "failback")
    item = bench.failovers().act("app1", "commit")
    (kept,) = (one for one in bench.points if one.direction == "forward")
    assert item.last == pytest.approx(datetime.fromisoformat(kept.time).timestamp())
    assert item.last < bench.clock.now - 9000


def test_a_drill_leaves_the_test_of_somebody_else_alone(bench: Bench) -> None:
    """R9.1: it is refused, and takes nothing away that is not its own."""
    bench.cycle()
    before = bench.tests().test("app1").test
    with pytest.raises(errors.Refused, match=r"R9\.1"):
        Drills(bench.failovers()).drill("app1", signal=Signal(agent=True, seconds=1))
    after = bench.item.test
    assert before is not None and after is not None and (after.number, after.phase) == (before.number, "running")
    bench.tests().cleanup("app1")


def test_what_a_drill_is_called_by_its_operator_makes_no_drill_of_it(bench: Bench) -> None:
    """Who made a test is his own word; whether it is a drill's is not told from that."""
    bench.cycle()
    failovers = bench.failovers()
    host, boot, *_ = holders.this_process().split(" ")
    failovers.who = f"drill by me ({host} {boot} 1 0)"  # as one that is gone
    before = Tests(failovers).test("app1").test
    with pytest.raises(errors.Refused, match=r"R9\.1"):
        Drills(bench.failovers()).drill("app1", signal=Signal(agent=True, seconds=1))
    assert before is not None and bench.item.test is not None and bench.item.test.number == before.number
    bench.tests().cleanup("app1")


def test_a_copy_that_rotted_is_not_proved_equal(bench: Bench) -> None:
    """R9.6, D10: its hashes are the source's, its bytes are not; the machine goes on where it is."""
    bench.cycle()
    bench.start_home()
    replica = next(place for path, place in bench.item.homes.items() if path.endswith("data.raw"))
    with (Path(replica) / "head.raw").open("r+b") as file:
        file.seek(200_000)
        old = file.read(1)
        file.seek(200_000)
        file.write(bytes([old[0] ^ 1]))
    with pytest.raises(errors.Damaged):
        bench.failovers().fail_over("app1", "planned")
    assert bench.item.active == "source" and not bench.runs("target")
    item = bench.failovers().act("app1", "cancel")
    assert item.state is State.REPLICATING and bench.runs("source")
