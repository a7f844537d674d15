"""Lives of a machine in which every failover is killed, and what must be so at each instant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import dying
from killing import servers

from bench import Bench, plainly, starts
from secondsite.orchestration.failover import going_on
from secondsite.orchestration.failover.intent import Intent, Options
from secondsite.orchestration.health.states import State
from secondsite.orchestration.protection.item import Held, Made

Disks = Mapping[str, bytes]


@dataclass
class Life:
    """Each action is killed at a step that `at` says, of `inner` steps or outer ones (dying.py). Who goes on with it is
    killed too; the next one is not.
    """

    bench: Bench
    at: Callable[[], int]
    again: int
    inner: bool = False
    longest: int = 0
    killed: int = 0
    points: dict[int, dict[str, bytes]] = field(default_factory=dict)
    old: dict[str, bytes] | None = None
    """The disks at home, while what comes home is not committed."""

    def act(self, call: Callable[[], object], done: Callable[[Held], bool]) -> None:
        """Do it. What is killed, somebody else goes on with: who runs cycles, or whoever makes the same call again."""
        takers = [call, self.found_by_an_orchestrator]
        if self.again % 2:
            takers.reverse()
        taken = self.dies(call, self.at())
        self.longest = max(self.longest, taken)
        if not taken and not done(self.bench.item):
            taken = self.dies(takers[0], self.again)
        if not taken and not done(self.bench.item):
            self.dies(takers[1])
        if not done(self.bench.item):
            self.dies(call)
        assert done(self.bench.item), self.bench.item.failover or self.bench.item.test

    def dies(self, call: Callable[[], object], at: int = 0) -> int:
        """The steps that it took; 0: it was killed."""
        taken = dying.call(self.bench, call, at, inner=self.inner)
        self.killed += not taken
        self.check()
        return taken

    def found_by_an_orchestrator(self) -> None:
        failovers = self.bench.failovers()
        for machine in failovers.waiting():
            going_on.failover(failovers, machine)
        going_on.tests(failovers, self._failed)

    @staticmethod
    def _failed(item: Held, error: Exception | None) -> None:
        raise AssertionError(f"{item.machine}: {error}")

    def check(self) -> None:
        """Never is it up twice, nor can anybody write to it at the target while it is up at home; no listed point is
        lost or another one; and its old disks stay until what came home is committed (M12, R10.7).
        """
        bench = self.bench
        assert not (bench.folder / "guests/violation").exists(), (bench.folder / "guests/violation").read_text()
        item, home = bench.item, bench.runs("source")
        assert not (home and bench.runs("target"))
        coming_home = item.failover is not None and item.failover.to == "source"  # its overlays stay for a cancel
        if home and not coming_home and item.test is None:
            assert not servers(bench.folder / "run2"), "somebody could write there"
        for point in bench.points:
            assert bench.contents(point) == self.points.setdefault(point.number, bench.contents(point))
        committed = item.failover.phase == "committing" if item.failover else item.active == "source"
        if self.old is not None and not committed:
            assert self.old == {path: self.lies(path) for path in self.old}

    def lies(self, path: str) -> bytes:
        """The old disk: beside its place where something else is there."""
        kept = list(self.bench.folder.glob(f"{Path(path).name}.before-*"))
        assert len(kept) < 2
        return (kept[0] if kept else Path(path)).read_bytes()

    def cycle(self, *, write: bool = False) -> Made:
        """It is replicated, an hour later."""
        self.bench.clock.now += 4000
        if write:
            self.bench.write()
        dying.call(self.bench, lambda: self.bench.cycle(write=False))
        self.bench.clock.now += 4000
        self.check()
        return self.bench.points[-1]

    def disks(self) -> dict[str, bytes]:
        """Of the machine, where it runs."""
        return self.bench.away() if self.bench.item.active == "target" else self.bench.source()

    def up(self, side: str, before: Disks, *, started: int = 1) -> None:
        """It runs there with all that it had, and was started so often since (R9.6: nothing is lost)."""
        now = self.disks()
        assert self.bench.runs(side)
        assert plainly(dict(now)) == plainly(dict(before))
        for path, found in starts(dict(now)).items():
            had = starts(dict(before))[path]
            assert found[: len(had)] == had and len(found) == len(had) + started, path

    def refused(self) -> None:
        """D9: the side that it left can send no more."""
        bench, epoch = self.bench, self.bench.item.epoch - 1
        known, homes = bench.known(), bench.item.homes

        def sends() -> None:
            bench.failovers().worker.replicate(
                known.machine, dict(homes), known.pair.policy, epoch=epoch, resync=False,
                clock=bench.clock.clocks().datetime, cancel=lambda: False,
            )  # fmt: skip

        try:
            dying.call(bench, sends)
        except AssertionError as error:
            assert "errors.Refused" in str(error) and "epoch" in str(error), error
            return
        raise AssertionError("it was sent")

    def nothing_is_left(self) -> None:
        """Of machines, overlays and their servers at the target, of old disks at home, and of the way back."""
        assert not list(self.bench.folder.glob("run2/*")) and not servers(self.bench.folder / "run2")
        assert not (self.bench.folder / "app1-back").exists()
        assert not list(self.bench.folder.glob("*.before-*"))


def in_phase(phase: str, **more: Any) -> Callable[[Held], bool]:
    def found(item: Held) -> bool:
        way: Intent | None = item.failover
        return way is not None and way.phase == phase and all(getattr(way, key) == one for key, one in more.items())

    return found


def rests(item: Held) -> bool:
    return item.failover is None


def is_tested(item: Held) -> bool:
    return item.test is not None and item.test.phase == "running"


def there(life: Life) -> None:
    """A test and its clean-up; unplanned, from another point, and cancelled."""
    bench = life.bench
    first, second = life.cycle(write=True), life.cycle(write=True)
    states = life.points
    life.act(lambda: bench.tests().test("app1", point=first.number), is_tested)
    placed = bench.item.test.there if bench.item.test else None
    assert placed is not None
    assert plainly(bench.images(placed)) == plainly(states[first.number])
    life.act(lambda: bench.tests().cleanup("app1", notes="fine"), lambda item: item.test is None)
    life.nothing_is_left()
    fail_over = lambda: bench.failovers().fail_over("app1", "unplanned", point=first.number)  # noqa: E731
    life.act(fail_over, in_phase("running"))
    life.up("target", states[first.number])
    life.refused()
    change = lambda: bench.failovers().act("app1", "change-point", point=second.number)  # noqa: E731
    life.act(change, in_phase("running", point=second.number))
    life.up("target", states[second.number])
    life.act(lambda: bench.failovers().act("app1", "cancel"), rests)
    assert not bench.runs("target")
    life.nothing_is_left()
    assert bench.contents(life.cycle(write=True)) == bench.source()


def and_back(life: Life) -> None:
    """Planned, cancelled, planned in two parts and committed; home, cancelled, home in two parts and committed."""
    bench = life.bench
    fail_over = lambda action, **more: bench.failovers().fail_over("app1", action, **more)  # noqa: E731
    life.cycle(write=True)
    bench.start_home()
    for action, side in (("planned", "target"), ("failback", "source")):
        home, has = bench.item.active, life.disks()
        life.old = bench.source() if side == "source" else None
        life.act(partial(fail_over, action), in_phase("running"))
        life.up(side, has)
        life.act(lambda: bench.failovers().act("app1", "cancel"), rests)
        life.up(home, has)
        assert life.old in (None, bench.source())
        has = life.disks()
        life.act(partial(fail_over, action, options=Options(wait=True)), in_phase("prepared"))
        life.act(lambda: bench.failovers().start("app1"), in_phase("running"))
        life.up(side, has)
        if side == "target":
            life.refused()
        has = life.disks()
        life.act(lambda: bench.failovers().act("app1", "commit"), rests)
        life.old = None
        life.up(side, has, started=0)
        made = life.cycle()
        assert bench.contents(made) == life.disks()
    assert bench.item.active == "source"
    life.nothing_is_left()


def lost(life: Life) -> None:
    """Its site is lost: unplanned, committed, reversed; the other one is lost: home from its last point."""
    bench = life.bench
    life.cycle(write=True)
    bench.start_home()
    bench.power_off("source")
    made = life.cycle()
    life.act(lambda: bench.failovers().fail_over("app1", "unplanned"), in_phase("running"))
    life.up("target", life.points[made.number])
    away = life.disks()
    life.act(lambda: bench.failovers().act("app1", "commit"), lambda item: item.state is State.FAILED_OVER)
    life.act(lambda: bench.failovers().act("app1", "reverse"), lambda item: item.direction == "reverse")
    life.up("target", away, started=0)
    made = life.cycle()
    assert life.points[made.number] == away
    bench.power_off("target")
    life.old = bench.source()
    fail_over = lambda: bench.failovers().fail_over("app1", "unplanned", point=made.number)  # noqa: E731
    life.act(fail_over, in_phase("running"))
    life.up("source", life.points[made.number])
    life.act(lambda: bench.failovers().act("app1", "commit"), lambda item: item.state is State.FAILED_OVER)
    life.old = None
    life.act(lambda: bench.failovers().act("app1", "reverse"), lambda item: item.direction == "forward")
    assert bench.contents(life.cycle()) == bench.source()
    life.nothing_is_left()


def home(life: Life, copy: Any, *, before: bool) -> None:
    """R10.3: what nothing replicates back comes home, copied before it stops or after."""
    bench, options = life.bench, Options(copy=copy)
    act = lambda action: bench.failovers().act("app1", action)  # noqa: E731
    life.cycle(write=True)
    life.act(lambda: bench.failovers().fail_over("app1", "unplanned"), in_phase("running"))
    life.act(partial(act, "commit"), rests)
    for last in ("cancel", "commit"):
        has, life.old = life.disks(), bench.source()
        if before:
            copied = lambda: bench.failovers().fail_over("app1", "copy-back", options=options)  # noqa: E731
            life.act(copied, in_phase("copied"))
            life.up("target", has, started=0)
            life.act(partial(act, "complete"), in_phase("running"))
        else:
            back = lambda: bench.failovers().fail_over("app1", "failback", options=options)  # noqa: E731
            life.act(back, in_phase("running"))
        life.up("source", has)
        home, there = life.disks(), has
        life.act(partial(act, last), rests)
        if last == "cancel":
            life.up("target", there)
            assert bench.source() == life.old
    life.old = None
    life.up("source", home, started=0)
    assert bench.contents(life.cycle()) == bench.source()
    life.nothing_is_left()
