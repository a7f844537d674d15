"""What is refused before anything is done was never begun: it is as before, and nobody cancels it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import Bench
from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.failover import rehearsals
from secondsite.orchestration.health.states import State


def away(bench: Bench) -> None:
    """It runs at the target and replicates back."""
    bench.cycle()
    bench.failovers().fail_over("app1", "unplanned")
    bench.failovers().act("app1", "commit")
    bench.failovers().act("app1", "reverse")
    bench.cycle(write=False)


def test_a_failback_that_is_refused_leaves_its_cycles_going(bench: Bench) -> None:
    """R9.9: it is as it was, so that the next cycle runs, and says why."""
    away(bench)
    bench.start_home()
    before = bench.item
    with pytest.raises(errors.Refused, match=r"R9\.9.*h1"):
        bench.failovers().fail_over("app1", "failback")
    after = bench.item
    assert (after.state, after.active, after.direction) == (before.state, before.active, before.direction)
    assert after.failover is None and after.reason is not None and "R9.9" in after.reason
    bench.cycle(write=False)
    assert bench.runs("target")
    bench.power_off("source")
    (bench.folder / "guests/violation").unlink()  # its owner's doing


@pytest.mark.parametrize("kind", ["planned", "unplanned"])
def test_an_old_copy_of_the_vault_starts_no_second_machine(bench: Bench, kind: str) -> None:
    """R9.9: who failed over since had the epochs that it would give next, and it may run there. However often it is
    tried, it stays refused, and no cycle of that vault is taken.
    """
    bench.cycle()
    bench.start_home()
    for replica in bench.item.homes.values():
        engine.raise_epoch(replica, bench.item.epoch + 2)
    before = bench.item
    for _ in range(3):
        with pytest.raises(errors.Refused, match=r"replicas.*: R9\.9: .* failed over already, in epoch \d"):
            bench.failovers().fail_over("app1", kind)
        assert (bench.item.epoch, bench.item.failover) == (before.epoch, None)
    assert bench.runs("source") and not bench.runs("target")
    with pytest.raises(errors.Refused, match="a failover happened in between"):
        bench.cycle()


def test_what_failed_after_its_source_was_stopped_is_there_to_be_gone_on_with(bench: Bench) -> None:
    """R9.7: the source is off, so that somebody has to say what is to be."""
    bench.cycle()
    bench.start_home()
    head = Path(next(place for path, place in bench.item.homes.items() if path.endswith("data.raw")), "head.raw")
    _flip(head)
    with pytest.raises(errors.Damaged):
        bench.failovers().fail_over("app1", "planned")
    way = bench.item.failover
    assert way is not None and way.phase == "preparing" and way.touched and not bench.runs("source")
    _flip(head)
    item = bench.failovers().fail_over("app1", "planned")
    assert item.active == "target" and bench.runs("target")


def _flip(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(200_000)
        old = opened.read(1)
        opened.seek(200_000)
        opened.write(bytes([old[0] ^ 1]))


def test_a_test_of_a_point_that_is_gone_was_never_begun(bench: Bench) -> None:
    """R9.1: another one may begin at once."""
    first = bench.cycle()
    bench.cycle()
    replica = Path(next(iter(bench.item.homes.values())))
    for name in (replica / "points").glob("*1.json"):
        name.unlink()
    with pytest.raises(errors.Refused, match=f"point {first.number} is gone"):
        bench.tests().test("app1", point=first.number)
    assert bench.item.test is None and bench.item.state is State.REPLICATING
    assert not rehearsals.notes(bench.database, "app1")
    assert bench.tests().test("app1").test is not None
    bench.tests().cleanup("app1")


def run_in(bench: Bench, name: str) -> None:
    """What fails over runs in this folder of the target."""
    bench.text = lambda text: text.replace("{folder}/run2", f"{{folder}}/{name}")
    bench.apply()


def test_a_folder_that_is_too_deep_for_sockets_is_told_before_anything_stops(bench: Bench) -> None:
    """A hypervisor that is not ours opens the socket of its disks by its path, of at most 107 bytes."""
    bench.cycle()
    bench.start_home()
    deepest = "d" * (107 - len(f"{bench.folder}//12345678/app1/disks"))
    run_in(bench, f"{deepest}d")
    for act in (lambda: bench.failovers().fail_over("app1", "planned"), lambda: bench.tests().test("app1")):
        with pytest.raises(errors.Usage, match="more than 107 bytes; give the host a shorter `run`"):
            act()
        assert (bench.item.state, bench.item.failover, bench.item.test) == (State.REPLICATING, None, None)
    assert bench.runs("source")
    run_in(bench, deepest)
    assert bench.failovers().fail_over("app1", "planned").active == "target" and bench.runs("target")
