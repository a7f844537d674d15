"""Test failovers: a machine of the point beside the real one, apart from its networks, while replication goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from secondsite.engine import errors
from secondsite.orchestration.failover import clouds, effects, looking, lost, rehearsals, repeating, room, running
from secondsite.orchestration.failover.effects import LOOKING
from secondsite.orchestration.failover.failovers import Failovers
from secondsite.orchestration.failover.intent import Placed, Test
from secondsite.orchestration.failover.machines import Known
from secondsite.orchestration.failover.record import Work
from secondsite.orchestration.failover.renewing import Lease
from secondsite.orchestration.failover.situation import Situation
from secondsite.orchestration.protection import lookup
from secondsite.orchestration.protection.item import Held

_KILL_SECONDS = 60


class Tests:
    """Test failovers of the machines of a vault, with the clocks and the worker of `failovers`."""

    __test__ = False

    def __init__(self, failovers: Failovers) -> None:
        self._of = failovers

    def test(
        self, machine: str, *, point: str | int | None = None, network: str | None = None, wait: bool = False,
        together: str | None = None, drill: str | None = None,
    ) -> Held:  # fmt: skip
        """Make a machine "NAME - Test" of a point and start it (R9.1); with `wait` it is only prepared. `network` is
        none (where it is not said), isolated, or one of the estate; isolated ones of the same word `together` reach
        each other, where they are on one host (R9.2, R11.1). Raises Refused with the rule's number, also where what is
        under way is of another point or network, Busy, and what keeps it from being done.
        """
        of = self._of
        if not wait and self._phase(machine) == "starting":
            self._check(machine, point, network)
            return self.resume(machine) or lookup.load(of.database, machine)[0]
        known, chosen = of.known(machine), of.chosen(machine, point)
        if self._phase(machine) == "preparing":
            self._check(machine, point, network)
        net = network or "none"

        def change(item: Held, after: Situation) -> Test:
            if item.test is not None:
                return msgspec.structs.replace(item.test, wait=wait)
            if chosen is None:
                raise errors.Refused(f"R5.7: {machine!r} has no recovery point yet")
            made = Test(phase="preparing", point=chosen.number, began=of.clocks.utc(), who=of.who, network=net,
                        group=together, wait=wait, drill=drill)  # fmt: skip
            taken = rehearsals.taken(of.database, item.id, net, together)
            there = known.test(item, chosen, made.number, network=net, group=together, taken=taken)
            return msgspec.structs.replace(made, there=there)

        return self._act(machine, "test", change)

    def _check(self, machine: str, point: str | int | None, network: str | None) -> None:
        test = lookup.load(self._of.database, machine)[0].test
        if test is not None:
            repeating.check_test(machine, test, self._of.chosen(machine, point) if point is not None else None, network)

    def start(self, machine: str) -> Held:
        """Start a test that was prepared. One that is up already stays as it is."""
        if self._phase(machine) == "running":
            return lookup.load(self._of.database, machine)[0]
        return self._act(machine, "test-start", _same)

    def cleanup(
        self, machine: str, *, notes: str | None = None, forced: bool = False, gone: bool = False
    ) -> Held:  # fmt: skip
        """Take away all that the test made, and keep its notes (R9.3). `gone`: where its host does not answer it never
        will, and what the test made there stays.
        """

        def change(item: Held, after: Situation) -> Test:
            test = _same(item, after)
            return msgspec.structs.replace(
                test, notes=notes or test.notes, forced=forced or test.forced, lost=gone or test.lost
            )

        return self._act(machine, "test-cleanup", change)

    def resume(self, machine: str) -> Held | None:
        """Go on with what somebody left behind; None where there is nothing."""
        work = rehearsals.resume(self._of.database, self._of.holder, machine, self._of.now())
        return None if work is None else self._do(self._of.known(machine), work)

    def overdue(self, item: Held) -> bool:
        """R9.3: forced to its end after two weeks."""
        test = item.test
        return test is not None and self._of.clocks.utc() - test.began > rehearsals.LONGEST_SECONDS

    def _phase(self, machine: str) -> str | None:
        found = lookup.load(self._of.database, machine)
        return found[0].test.phase if found and found[0].test is not None else None

    def _act(self, machine: str, action: str, change: Callable[[Held, Situation], Test]) -> Held:
        of, known = self._of, self._of.known(machine)
        work = rehearsals.begin(of.database, of.holder, machine, action, of.now(), known.abilities, change)
        return self._do(known, work)

    def _do(self, known: Known, work: Work) -> Held:
        of, machine = self._of, work.item.machine
        lease = Lease(lambda: rehearsals.renew(of.database, of.holder, machine, of.now()), of.stops)
        try:
            with lease, of.opening(known, plain=work.item.direction == "reverse"):
                while work.effects:
                    for effect in work.effects:
                        lease.check()
                        of.told(machine, effects.named(effect, _side(work.item), azure=known.azure))
                        if effect not in LOOKING:
                            self._touch(work.item)
                            work = Work(lookup.load(of.database, machine)[0], work.effects)
                        _EFFECTS[effect](self, known, work.item, lease.cancelled)
                        work = Work(lookup.load(of.database, machine)[0], work.effects)
                    work = rehearsals.advance(of.database, of.holder, machine, of.now(), known.abilities)
        except errors.Error as error:
            rehearsals.failed(of.database, of.holder, machine, error, of.now(), known.abilities)
            raise
        return work.item

    def _touch(self, item: Held) -> None:
        """From here on something is done, and is to be cleaned up."""
        test = item.test
        if test is not None and not test.touched:
            rehearsals.save(self._of.database, self._of.holder, item, msgspec.structs.replace(test, touched=True))

    def checked(self, known: Known, item: Held, cancel: Callable[[], bool]) -> None:
        test, there = _with_place(item)
        made = lookup.point(self._of.database, item.id, test.point)
        host = known.host(there.host) if there.host is not None else None
        looking.point(host, made, item.disks, cancel, self._of.state)
        if host is not None and there.spec is not None:
            looking.sockets(host, there.spec.name, there.spec.folder)
            room.for_test(item, host, cancel)

    def disks(self, known: Known, item: Held, cancel: Callable[[], bool]) -> None:
        """Overlays, or page blobs, of its point."""
        test, there = _with_place(item)
        if there.spec is None:
            clouds.make(item, lookup.point(self._of.database, item.id, test.point), there, cancel, self._of.state)
            return
        told = known.ask(there, "prepare", cancel=cancel)
        of = self._of
        found = running.where(known, there, told)
        rehearsals.save(of.database, of.holder, item, msgspec.structs.replace(test, there=found))

    def started(self, known: Known, item: Held, cancel: Callable[[], bool]) -> None:
        _, there = _with_place(item)
        if there.spec is not None:
            known.ask(there, "start", cancel=cancel)

    def stopped(self, known: Known, item: Held, cancel: Callable[[], bool]) -> None:
        test, there = _with_place(item)
        try:
            if there.spec is not None:
                known.ask(there, "stop", cancel=cancel, how=("kill",), seconds=_KILL_SECONDS)
            else:
                clouds.check_free(there)
        except errors.Unreachable:
            if not test.lost:
                raise

    def removed(self, known: Known, item: Held, cancel: Callable[[], bool]) -> None:
        test, there = _with_place(item)
        try:
            if there.spec is not None:
                known.ask(there, "remove", cancel=cancel)
            clouds.delete(item, there, cancel)
        except errors.Unreachable:
            if not test.lost:
                raise
            rehearsals.left(self._of.database, item, lost.left(there), self._of.who, self._of.clocks.utc())


_EFFECTS: Mapping[str, Callable[[Tests, Known, Held, Callable[[], bool]], None]] = {
    "check test": Tests.checked, "test disks": Tests.disks, "start test": Tests.started, "stop test": Tests.stopped,
    "remove test": Tests.removed,
}  # fmt: skip


def _side(item: Held) -> str:
    """Where its test is."""
    return "target" if item.direction == "forward" else "source"


def _same(item: Held, after: Situation) -> Test:
    assert item.test is not None, "the table refuses an item without one"
    return item.test


def _with_place(item: Held) -> tuple[Test, Placed]:
    assert item.test is not None
    assert item.test.there is not None
    return item.test, item.test.there
