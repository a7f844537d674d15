"""A failback that failed when a disk was in place at home already, whose machine its operator then started by hand."""

from __future__ import annotations

import fcntl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import Bench, plainly
from secondsite.engine import errors
from secondsite.orchestration.health.states import State

F_OFD_SETLK = 37


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """As another program's."""
    with path.open("r+b") as file:
        fcntl.fcntl(file, F_OFD_SETLK, struct.pack("hh4xqqi4x", fcntl.F_WRLCK, 0, 0, 1, 0))
        yield


def half_home(bench: Bench) -> None:
    """One of its two disks is in place."""
    bench.cycle()
    bench.failovers().fail_over("app1", "unplanned")
    bench.failovers().act("app1", "commit")
    bench.failovers().act("app1", "reverse")
    bench.cycle(write=False)
    with locked(bench.folder / "system.raw"), pytest.raises(errors.Busy, match="another program has it open"):
        bench.failovers().fail_over("app1", "failback")
    assert len(list(bench.folder.glob("*.before-*"))) == 1 and not bench.runs("target")


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("by_hand", [True, False])
def test_what_was_written_at_home_meanwhile_is_not_taken_for_the_point(bench: Bench, by_hand: bool) -> None:
    """R9.9, M12: the next try does not start a machine of which one disk is of another time than the other, and does
    not write over what was written. Taken back, it is as it was; then it comes home.
    """
    half_home(bench)
    there = bench.away()
    if by_hand:
        bench.start_home()
        with pytest.raises(errors.Refused, match=r"R9\.9: the old machine of 'app1' runs at h1"):
            bench.failovers().fail_over("app1", "failback")
        bench.power_off("source")
        found = bench.source()
        with pytest.raises(errors.Refused, match=r"data\.raw: was written on since point 2 was put there"):
            bench.failovers().fail_over("app1", "failback")
        assert bench.source() == found and not bench.runs("source") and not bench.runs("target")
        item = bench.failovers().act("app1", "cancel")
        assert (item.state, item.active) == (State.REPLICATING, "target") and bench.runs("target")
        assert not list(bench.folder.glob("*.before-*"))
        there = bench.away()
    item = bench.failovers().fail_over("app1", "failback")
    assert item.active == "source" and bench.runs("source") and not bench.runs("target")
    assert plainly(bench.source()) == plainly(there)
    assert len(list(bench.folder.glob("*.before-*"))) == 2
