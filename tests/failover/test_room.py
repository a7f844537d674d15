"""A target without room: told before anything is stopped; and one that fills up in the middle loses nothing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import SIZE, Bench, plainly
from secondsite.engine import errors
from secondsite.orchestration.failover.failovers import Failovers
from secondsite.orchestration.health.states import State

pytestmark = pytest.mark.needs("root", "mount")


@pytest.fixture
def small(folder: Path) -> Iterator[Path]:
    """A file system of 24 MiB, which holds the disks at home and the replicas of the way back, and runs the target."""
    where = folder / "small"
    where.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=24m", "secondsite-test", where), check=True)
    yield where
    subprocess.run(("umount", "--lazy", where), check=True)


@pytest.fixture
def tight(small: Path, bench: Bench) -> Bench:
    """The machine's disks lie there, and h2 runs there what fails over."""
    for name in ("system.raw", "data.raw"):
        shutil.move(bench.folder / name, small / name)
    (small / "run2").mkdir()
    wanted = {"{folder}/system.raw": "{folder}/small/system.raw", "{folder}/data.raw": "{folder}/small/data.raw",
              "{folder}/run2": "{folder}/small/run2"}  # fmt: skip

    def text(estate: str) -> str:
        for old, new in wanted.items():
            estate = estate.replace(old, new)
        return estate

    bench.text = text
    bench.apply()
    bench.cycle(write=False)
    return bench


def fill(folder: Path, left: int = 0) -> None:
    with (folder / "ballast").open("wb") as file:
        while (free := shutil.disk_usage(folder).free - left) > 0:
            file.write(bytes(min(free, SIZE)))
            file.flush()


def empty(folder: Path) -> None:
    (folder / "ballast").unlink()


def filling(bench: Bench, folder: Path, effect: str) -> Failovers:
    """Somebody else writes the file system full as this step begins."""
    made = bench.failovers()
    made.told = lambda machine, named: fill(folder) if named == effect else None
    return made


def test_without_room_for_its_overlays_nothing_is_stopped(tight: Bench, small: Path) -> None:
    """R5.8: a planned one, an unplanned one and a test; each needs as much as its disks have, and no more than that."""
    tight.start_home()
    fill(small, left=SIZE)
    for act in (lambda: tight.failovers().fail_over("app1", "planned"), lambda: tight.tests().test("app1"),
                lambda: tight.failovers().fail_over("app1", "unplanned")):  # fmt: skip
        with pytest.raises(errors.Full, match=r"^h2: R5\.8: .* has 1\.0 MiB free, and 'app1' needs 4\.0 MiB there"):
            act()
        assert (tight.item.state, tight.item.failover, tight.item.test) == (State.REPLICATING, None, None)
        assert tight.runs("source") and not list(small.glob("run2/**/*.overlay"))
    empty(small)
    assert tight.failovers().fail_over("app1", "planned").active == "target"


def away(bench: Bench) -> dict[str, bytes]:
    """It runs at the target, and nothing replicates back yet. What it has there."""
    bench.failovers().fail_over("app1", "unplanned")
    bench.failovers().act("app1", "commit")
    return plainly(bench.away())


def test_without_room_at_home_the_machine_goes_on_at_the_target(tight: Bench, small: Path) -> None:
    """R5.8, M12: the old disks are copied where they cannot be cloned, and the point is made beside them."""
    away(tight)
    fill(small, left=3 * SIZE)
    with pytest.raises(errors.Full, match=r"^h1: R5\.8: .*small has 3\.0 MiB free"):
        tight.failovers().fail_over("app1", "failback")
    item = tight.item
    assert (item.state, item.active, item.failover) == (State.FAILED_OVER, "target", None) and tight.runs("target")
    assert {one.name for one in small.iterdir()} == {"system.raw", "data.raw", "run2", "ballast"}


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("way", ["goes on", "taken back"])
@pytest.mark.parametrize("effect", ["adopt", "last delta", "make disks", "start there"])
def test_home_fills_up_in_the_middle(tight: Bench, small: Path, effect: str, way: str) -> None:
    """M12, R9.7: it goes on once there is room, or is taken back without any; the bytes are right both ways."""
    has = away(tight)
    old = tight.source()
    failovers = filling(tight, small, effect)
    try:
        failovers.fail_over("app1", "failback")
    except errors.Full:
        pass
    else:
        assert effect == "start there", "the others need room"
    assert not (tight.runs("source") and tight.runs("target"))
    if way == "goes on":
        empty(small)
        if tight.item.active == "target":
            tight.failovers().fail_over("app1", "failback")
        assert tight.runs("source") and plainly(tight.source()) == has
        return
    item = tight.failovers().act("app1", "cancel")
    assert (item.state, item.active, item.failover) == (State.FAILED_OVER, "target", None)
    assert tight.runs("target") and plainly(tight.away()) == has and tight.source() == old


def test_the_target_fills_up_in_the_middle(tight: Bench, small: Path) -> None:
    """R9.7: the source is off by then; a cancel starts it again, without any room."""
    tight.start_home()
    with pytest.raises(errors.Full):
        filling(tight, small, "make disks").fail_over("app1", "planned")
    assert not tight.runs("source") and not tight.runs("target")
    item = tight.failovers().act("app1", "cancel")
    assert (item.state, item.failover) == (State.REPLICATING, None) and tight.runs("source")
    empty(small)
    assert tight.failovers().fail_over("app1", "planned").active == "target"
