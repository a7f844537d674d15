"""A machine that went down where a failover brought it, or whose disks did, is started there again, as it was."""

from __future__ import annotations

import pytest

from bench import Bench, plainly
from secondsite import engine
from secondsite.engine import errors


def is_up(bench: Bench, side: str) -> None:
    """Twice is one machine, with what it had written."""
    bench.power_off(side)
    assert not bench.runs(side)
    before = plainly(bench.away() if side == "target" else bench.source())
    for _ in range(2):
        bench.failovers().start("app1")
        assert bench.runs(side)
    assert plainly(bench.away() if side == "target" else bench.source()) == before


def test_where_a_failover_brought_it_and_at_home_again(bench: Bench) -> None:
    """Before the commit, after it, and at home on both sides of one."""
    bench.cycle()
    bench.failovers().fail_over("app1", "unplanned")
    is_up(bench, "target")
    bench.failovers().act("app1", "commit")
    is_up(bench, "target")
    bench.failovers().act("app1", "reverse")
    bench.cycle(write=False)
    bench.failovers().fail_over("app1", "failback")
    is_up(bench, "source")
    bench.failovers().act("app1", "commit")
    is_up(bench, "source")
    bench.power_off("source")
    engine.raise_epoch(next(iter(bench.item.homes.values())), bench.item.epoch + 1)  # this vault is an old copy
    with pytest.raises(errors.Refused, match=r"R9\.9: .* failed over already"):
        bench.failovers().start("app1")
    assert not bench.runs("source")


def test_not_beside_the_other_side_and_not_from_an_empty_disk(bench: Bench) -> None:
    """R9.9; and what it wrote is never left out silently."""
    bench.cycle()
    with pytest.raises(errors.Refused, match=r"R9\.6.*was not started from here"):
        bench.failovers().start("app1")
    bench.failovers().fail_over("app1", "unplanned")
    bench.failovers().act("app1", "commit")
    bench.power_off("target")
    bench.start_home()
    with pytest.raises(errors.Refused, match=r"R9\.9: 'app1' runs at h1"):
        bench.failovers().start("app1")
    bench.power_off("source")
    (bench.folder / "run2").rename(bench.folder / "elsewhere")
    (bench.folder / "run2").mkdir()
    with pytest.raises(errors.Unreachable, match=r"^h2: the folder of 'app1' in .*run2/.* is not there; is its"):
        bench.failovers().start("app1")
    (bench.folder / "run2").rmdir()
    (bench.folder / "elsewhere").rename(bench.folder / "run2")
    overlay = next(bench.folder.glob("run2/**/*.overlay"))
    overlay.rename(overlay.with_name("aside"))
    with pytest.raises(errors.Refused, match=r"the disk that it wrote on is gone"):
        bench.failovers().start("app1")
    assert not bench.runs("target") and not overlay.exists()
    overlay.with_name("aside").rename(overlay)
    bench.failovers().start("app1")
    assert bench.runs("target")
