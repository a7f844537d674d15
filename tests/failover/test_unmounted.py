"""The folder of the target's replicas is not mounted, or goes in the middle: nothing is begun in the empty place, and
once it is there again the failover goes on, or is taken back.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from bench import Bench, plainly
from secondsite.engine import errors
from secondsite.orchestration.health.states import State


def unmount(bench: Bench) -> None:
    (bench.folder / "replicas").rename(bench.folder / "elsewhere")
    (bench.folder / "replicas").mkdir()


def mount(bench: Bench) -> None:
    assert not list((bench.folder / "replicas").iterdir()), "something was begun in the empty place"
    shutil.rmtree(bench.folder / "replicas")
    (bench.folder / "elsewhere").rename(bench.folder / "replicas")


def test_without_it_nothing_is_begun(bench: Bench) -> None:
    """The source runs on, and is replicated once it is there again."""
    bench.cycle()
    bench.start_home()
    unmount(bench)
    acts: tuple[Callable[[], object], ...] = (
        lambda: bench.failovers().fail_over("app1", "planned"), lambda: bench.tests().test("app1"),
        lambda: bench.failovers().fail_over("app1", "unplanned"),
    )  # fmt: skip
    for act in acts:
        with pytest.raises(errors.NoReplica, match=r"replicas/app1/.*: there is no such replica$"):
            act()
        assert (bench.item.state, bench.item.failover, bench.item.test) == (State.REPLICATING, None, None)
    assert bench.runs("source")
    mount(bench)
    assert bench.contents(bench.cycle()) == bench.source()


def goes_in_the_middle(bench: Bench, effect: str, way: str) -> None:
    """No listed point is another one, whatever was sent meanwhile."""
    first = bench.cycle()
    had = bench.contents(first)
    bench.start_home()
    bench.write()
    failovers = bench.failovers()
    failovers.told = lambda machine, named: unmount(bench) if named == effect else None
    with pytest.raises(errors.NoReplica):
        failovers.fail_over("app1", "planned")
    has = bench.source()
    assert not bench.runs("target")
    with pytest.raises(errors.NoReplica):
        bench.failovers().fail_over("app1", "planned")
    mount(bench)
    if way == "goes on":
        item = bench.failovers().fail_over("app1", "planned")
        assert item.active == "target" and bench.runs("target") and not bench.runs("source")
        assert plainly(bench.away()) == plainly(has)
    else:
        item = bench.failovers().act("app1", "cancel")
        assert (item.state, item.failover) == (State.REPLICATING, None)
        assert bench.runs("source") and not bench.runs("target")
        assert bench.contents(bench.cycle()) == bench.source()
    assert bench.contents(first) == had


def test_it_goes_while_the_guest_shuts_down(bench: Bench) -> None:
    goes_in_the_middle(bench, "last delta", "goes on")


@pytest.mark.sweep(sample=0)
@pytest.mark.parametrize("way", ["goes on", "taken back"])
@pytest.mark.parametrize("effect", ["last delta", "prove", "fence", "make disks", "start there"])
def test_it_goes_in_the_middle(bench: Bench, effect: str, way: str) -> None:
    goes_in_the_middle(bench, effect, way)
