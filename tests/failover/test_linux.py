"""A Linux that writes synced records goes there and comes home, three rounds: a planned failover loses none, an
unplanned one what came after its point and nothing else, and what either side wrote since is never mixed.

Without --sweep it is the round of the unplanned one, from one disk.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from linuxkit import Linux, Make

from secondsite.orchestration.failover.intent import Options
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection.item import Made

pytestmark = [pytest.mark.needs("guest"), pytest.mark.timeout(900)]
# From where to where.
WAYS = {"planned": ("source", "target"), "failback": ("target", "source")}


def moved(linux: Linux, action: str) -> list[str]:
    """R9.6, there or home: its last record is on the disks of both sides, and the guest that boots finds it. Which boot
    wrote each record.
    """
    before, (here, side) = linux.where(), WAYS[action]
    linux.write_on(3)
    linux.failovers().fail_over("app1", action, options=Options(wait=True))
    last, there = linux.said("GUEST DOWN", before), linux.placed(side)
    assert last is not None and there is not None
    disks = linux.images(there)
    assert linux.images(before) == disks
    records = linux.records(disks)
    linux.failovers().start("app1")
    assert linux.ready() == int(last) == len(records)
    assert linux.sides() == {side: "running", here: "stopped"}
    linux.failovers().act("app1", "commit")
    return records


def followed(linux: Linux) -> None:
    """R10.1: what it writes where it is now goes the other way, at first what differs and then what is new."""
    linux.cycle(write=False)
    assert linux.item.state is State.REPLICATING
    linux.write_on(3)
    cut(linux)


def cut(linux: Linux) -> Made:
    """A point of disks that stand still, so that all of what they have is known: it has that, byte for byte."""
    with linux.at_rest():
        made = linux.cycle(write=False)
        assert linux.contents(made) == linux.images(linux.where())
    return made


def planned_round(linux: Linux) -> None:
    """What it wrote there is behind what it wrote here, and what it wrote at home behind that."""
    first = linux.said("GUEST BOOT")
    there = moved(linux, "planned")
    second = linux.said("GUEST BOOT")
    followed(linux)
    home = moved(linux, "failback")
    assert there[-1] == first and home[: len(there)] == there and set(home[len(there) :]) == {second}
    followed(linux)


def unplanned_round(linux: Linux, *, whole_host: bool) -> None:
    """R9.8 to R9.10, M12: killed, from a point, then from an older one; what only the dead side had is gone at last."""
    first = cut(linux)
    synced = linux.write_on(4)
    second = linux.cycle(write=False)
    old, new = (linux.records(linux.contents(point)) for point in (first, second))
    assert len(old) < synced <= len(new) <= linux.number("SYNCED") + 1
    lost = linux.write_on(10)
    linux.kill("source", whole_host=whole_host)
    linux.failovers().fail_over("app1", "unplanned", point=second.number)
    assert linux.ready() == len(new)
    linux.failovers().act("app1", "change-point", point=first.number)
    assert linux.ready() == len(old) and linux.sides() == {"source": "stopped", "target": "running"}
    linux.failovers().act("app1", "commit")
    assert [one.number for one in linux.points] == [first.number]
    left, boot = linux.home(), linux.said("GUEST BOOT")
    assert len(linux.records(left)) >= lost
    linux.failovers().act("app1", "reverse")
    followed(linux)
    assert linux.home() == left, "the old disks are as they were"
    home = moved(linux, "failback")
    assert home[: len(old)] == old and set(home[len(old) :]) == {boot}
    followed(linux)


def test_killed_it_comes_up_from_an_older_point_and_home_again(linux: Make) -> None:
    """Four boots."""
    unplanned_round(linux("raw"), whole_host=True)


@pytest.mark.sweep(sample=0)
@pytest.mark.parametrize("disks", [("raw",), ("vhdx",), ("raw", "vhdx")], ids="-".join)
def test_three_rounds(linux: Make, disks: Sequence[str]) -> None:
    """R12.11: its disks come home in the formats that they had."""
    one = linux(*disks)
    planned_round(one)
    unplanned_round(one, whole_host=False)
    planned_round(one)
    assert [one.format(path) for path in one.paths] == list(disks)
    assert not list(one.folder.glob("*.before-*")) and not list(one.folder.glob("run2/**/*.overlay"))
