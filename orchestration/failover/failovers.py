"""Failovers of machines, one call an action: it is written down, done step by step, and gone on with after a kill.

    failovers = Failovers(database, who="me@here")
    failovers.fail_over("app1", "unplanned", point=12)     # begins, prepares and starts
    failovers.act("app1", "commit")

`begin`, `prepare` and `start` are the same in three parts, so that a plan prepares all of its machines beside each
other and starts them in order.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Literal

import msgspec
from sqlalchemy import select

from secondsite import engine
from secondsite.engine import errors
from secondsite.orchestration.failover import again, choosing, effects, looking, record, repeating
from secondsite.orchestration.failover import lost as losing
from secondsite.orchestration.failover.doing import EFFECTS
from secondsite.orchestration.failover.effects import LOOKING
from secondsite.orchestration.failover.intent import Intent, Options
from secondsite.orchestration.failover.job import Job
from secondsite.orchestration.failover.machines import Known
from secondsite.orchestration.failover.record import Work
from secondsite.orchestration.failover.renewing import Lease
from secondsite.orchestration.failover.situation import Situation
from secondsite.orchestration.protection import leases, lookup, noting
from secondsite.orchestration.protection.item import Held, Made
from secondsite.orchestration.protection.turn import Clocks
from secondsite.orchestration.protection.worker import EngineWorker, Worker
from secondsite.orchestration.vault import audit, holders, inventory, schema
from secondsite.orchestration.vault.database import Database

# How long a planned failover waits for a cycle that runs.
_WAIT_SECONDS = 60.0
_LOOK_SECONDS = 0.2
# What an action has become behind its first phase, and the kind of failover that it begins.
_PAST = {
    "preparing": ("complete",), "starting": ("planned", "unplanned", "failback", "complete"), "reversing": ("commit",),
    "changing": ("change-point",),
}  # fmt: skip
_KINDS = {"planned": "planned", "unplanned": "unplanned", "failback": "failback", "complete": "failback"}


@dataclass
class Failovers:
    """`told` hears of each effect before it is done, by its name in effects.py. `stops` says that this process is to
    end: what was begun stays for the next one. `key` opens encrypted replicas (R9.14), in whatever thread it is done.
    """

    database: Database
    who: str = dataclasses.field(default_factory=audit.operator)
    holder: str = dataclasses.field(default_factory=holders.new)
    worker: Worker = dataclasses.field(default_factory=EngineWorker)
    clocks: Clocks = dataclasses.field(default_factory=Clocks)
    state: str | None = None
    told: Callable[[str, str], object] = lambda machine, effect: None
    stops: Callable[[], bool] = lambda: False
    key: engine.Key = dataclasses.field(default_factory=engine.current_key)

    def fail_over(
        self, machine: str, action: str, *, point: str | int | None = None, options: Options | None = None
    ) -> Held:
        """Planned, unplanned or home: all of it, until it waits for its commit (R9.12). Raises Refused with the rule's
        number, Busy, and what keeps it from being done; then the same call goes on, or `cancel` takes it back. One that
        says otherwise is refused once the machine is being started.
        """
        if self._under_way(machine, action):
            chosen = self.chosen(machine, point) if point is not None else None
            home = self.known(machine).machine.host
            repeating.check(self._item(machine), chosen, options or Options(), home)
        else:
            self.begin(machine, action, point=point, options=options)
        return self.prepare(machine)

    def begin(
        self, machine: str, action: str, *, point: str | int | None = None, options: Options | None = None
    ) -> Held:
        """Write down that it is to be done. Nothing was done yet. Raises as `fail_over`."""
        known = self.known(machine)
        said = options or Options()
        chosen = self.chosen(machine, point)
        self._look(known, action, chosen, said)

        def change(item: Held, after: Situation) -> Intent:
            way = item.failover
            if way is not None and way.kind == after.kind and way.phase != "cancelling":
                return repeating.again(item, chosen if point is not None else None, said, known.machine.host)
            return self._intent(known, item, after, chosen, said)

        return self._written(machine, action, known, change).item

    def prepare(self, machine: str) -> Held:
        """Go on with what was begun, until it has only to be started, or further where that was asked for."""
        return self._go_on(machine)

    def start(self, machine: str) -> Held:
        """Start a machine that was prepared, or once more one that was started from here, should it or the server of
        its disks be down. One that is up already stays as it is (R12.8). Raises as `fail_over`, and as again.start.
        """
        item = lookup.load(self.database, machine)
        if item and again.rests(item[0]):
            known = self.known(machine)
            with self.opening(known, plain=item[0].active == "source"), self.opening(known):
                return again.start(self.database, self.holder, known, self.now, self.stops)
        return self.act(machine, "start")

    def act(
        self, machine: str, action: str, *, point: str | int | None = None, lost: bool = False,
        copy: Literal["delta", "full"] | None = None,
    ) -> Held:  # fmt: skip
        """start, complete, change-point, cancel, commit or reverse. A change-point that goes on without a point keeps
        the one that it has. `lost`: what a cancel would start again is gone;
        `copy` is of a reverse (Options). Raises as `fail_over`.
        """
        if point is None and self._under_way(machine, action):
            return self._go_on(machine)
        known = self.known(machine)
        if action == "commit":
            self._lives(known)
        if action == "cancel":
            losing.look(known, self._item(machine))
        self._opens(known, action, point)

        def change(item: Held, after: Situation) -> Intent:
            intent = item.failover
            if intent is None:
                return self._intent(known, item, after, None, Options(copy=copy))
            if action == "change-point":
                return self._other_point(item, intent, point)
            options = msgspec.structs.replace(intent.options, copy=copy or intent.options.copy)
            return msgspec.structs.replace(intent, lost=intent.lost or lost, options=options)

        self._written(machine, action, known, change)
        return self._go_on(machine)

    def resume(self, machine: str) -> Held | None:
        """Go on with what somebody left behind; None where there is nothing. Raises as `fail_over`."""
        work = record.resume(self.database, self.holder, machine, self.now())
        return None if work is None else self._do(self.known(machine), work)

    def opening(self, known: Known, *, plain: bool = False) -> AbstractContextManager[None]:
        """A block in which replicas are opened with the key. Those that its policy encrypts are to be encrypted, the
        others need not be, and what is at the source never is (R12.14).
        """
        return engine.using_key(dataclasses.replace(self.key, plain=plain or not known.pair.policy.encrypt))

    def waiting(self) -> list[str]:
        """Machines whose failover works, and which nobody has."""
        table = schema.item
        with self.database.reading() as connection:
            free = holders.free(connection, self.now())
            wanted = select(table.c.machine).where(table.c.failover.is_not(None), table.c.due <= self.now(), free)
            return list(connection.execute(wanted).scalars())

    def known(self, machine: str) -> Known:
        """What the applied estate says of it. Raises Refused."""
        with self.database.reading() as connection:
            estate = inventory.last_estate(connection)
        if estate is None:
            raise errors.Refused("no estate was applied to this vault yet")
        return Known.of(estate, machine)

    def _written(
        self, machine: str, action: str, known: Known, change: Callable[[Held, Situation], Intent]
    ) -> Work:
        """A planned one waits for a cycle of its machine to end; an unplanned one takes its place (R7.7)."""
        until = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                return record.begin(
                    self.database, self.holder, machine, action, self.now(), known.abilities, change
                )  # fmt: skip
            except errors.Busy:
                if time.monotonic() > until:
                    raise
            if self.stops():
                raise errors.Cancelled("stopped on request; nothing was begun")
            time.sleep(_LOOK_SECONDS)

    def _under_way(self, machine: str, action: str) -> bool:
        """Is it being done already, past the step at which the table takes the action once more?"""
        item = lookup.load(self.database, machine)
        way = item[0].failover if item else None
        if way is None or action not in _PAST.get(way.phase, ()):
            return False
        return way.kind in (None, _KINDS.get(action, way.kind))

    def _go_on(self, machine: str) -> Held:
        """Whatever there is to do; where there is nothing, how it stands."""
        found = self.resume(machine)
        if found is None:
            self._tell(machine)
            return lookup.load(self.database, machine)[0]
        return found

    def _tell(self, machine: str) -> None:
        """The replicas know where their machine runs, for a vault that is lost (D8). A failover is done without."""
        with suppress(errors.Error), engine.using_key(dataclasses.replace(self.key, plain=True)):
            noting.refresh(self.database, self.worker, machine)

    def _do(self, known: Known, work: Work) -> Held:
        """Phase after phase until it rests."""
        machine, item = work.item.machine, work.item.id
        lease = Lease(lambda: bool(leases.renew(self.database, self.holder, [item], self.now())), self.stops)
        job = Job(self.database, self.holder, known, work.item, self.worker, self.clocks, lease, self.state)
        try:
            with lease, self.opening(known, plain=job.intent.to == "source"):
                while work.effects:
                    for effect in work.effects:
                        lease.check()
                        self.told(machine, effects.named(effect, job.intent.to, azure=known.azure))
                        if effect not in LOOKING:
                            job.touch()
                        EFFECTS[effect](job)
                    work = record.advance(self.database, self.holder, machine, self.now(), known.abilities)
                    job.item = work.item
        except errors.Error as error:
            self._failed(job, error)
            raise
        self._tell(machine)
        return lookup.load(self.database, machine)[0]

    def _failed(self, job: Job, error: errors.Error) -> None:
        """What was refused before anything was done was never begun; where this process is to end, the next goes on."""
        if job.item.failover is not None and not job.intent.touched and not isinstance(error, errors.Cancelled):
            record.refused(self.database, self.holder, job.item, error, self.now(), job.known.abilities)
        else:
            record.failed(self.database, self.holder, job.item, error, self.now())

    def now(self) -> float:
        """By the clock that leases count by."""
        return leases.now(self.database, self.clocks.utc())

    def chosen(self, machine: str, at: str | int | None) -> Made | None:
        """The point that is meant (choosing.py); None where there is none. Raises Refused, Usage."""
        item = self._item(machine)
        home = item.failover is not None and item.failover.to == "source"
        points = lookup.points(self.database, item.id, direction="reverse" if home else item.direction)
        return choosing.chosen(points, at)

    def _item(self, machine: str) -> Held:
        items = lookup.load(self.database, machine)
        if not items:
            raise errors.Refused(f"no machine {machine!r} is protected")
        return items[0]

    def _look(self, known: Known, action: str, chosen: Made | None, said: Options) -> None:
        """What forbids it before anything is written: the table, a place at the target, a source that runs (R9.9)."""
        with self.database.reading() as connection:
            item, step = record.asked(connection, known.machine.name, action, known.abilities)
        if said.host is not None and item.direction == "reverse":
            raise errors.Refused(f"R10.5: {item.machine!r} replicates back to where it was; it comes home there")
        if said.host is not None:
            known.home(said.host)
        if step.situation.to == "target" and chosen is not None:
            known.away(item, chosen, "0", record.taken(self.database, item.id))

    def _opens(self, known: Known, action: str, point: str | int | None) -> None:
        """R9.14: what a running machine is given up for, and what a commit needs, is there and opens with the key,
        before anything is begun.
        """
        item = next(iter(lookup.load(self.database, known.machine.name)), None)
        way = item.failover if item is not None else None
        if item is None or way is None or way.to != "target" or way.phase != "running":
            return
        if action == "change-point" or (action == "commit" and known.pair.policy.encrypt):
            made = self.chosen(item.machine, point if action == "change-point" else way.point)
            with self.opening(known):
                looking.at_target(known, item, made, self.stops, self.state)

    def _lives(self, known: Known) -> None:
        """R10.5: what came home elsewhere lives there by the estate too, before it is committed."""
        items = lookup.load(self.database, known.machine.name)
        way = items[0].failover if items else None
        if way is not None and way.options.host not in (None, known.machine.host):
            where = f"{known.machine.name!r} is on {way.options.host!r}"
            raise errors.Refused(f"R10.5: say in the estate that {where}, apply it, then commit")

    def _intent(
        self, known: Known, item: Held, after: Situation, chosen: Made | None, said: Options
    ) -> Intent:
        """Of a failover that begins. Only an unplanned one has a point from the beginning."""
        before = item.failover
        here = known.home() if item.active == "source" else item.away
        old = () if before is None else (*before.old, *([before.there] if before.there is not None else []))
        if after.kind == "unplanned" and chosen is None:
            raise errors.Refused(f"R5.7: {item.machine!r} has no recovery point there")
        options = msgspec.structs.replace(said, copy=said.copy or "delta")
        epoch = item.epoch if before is not None and not before.touched else item.epoch + 1  # one that nobody had yet
        phase = after.phase or "reversing"  # it is done at once where nothing has to be adopted
        return Intent(
            kind=after.kind, phase=phase, to=after.to, before=after.before, epoch=epoch,
            began=self.clocks.utc(), who=self.who, options=options, here=here, ran=before.ran if before else False,
            old=old, touched=before.touched if before else False,
            point=chosen.number if chosen is not None and after.kind == "unplanned" else None,
        )  # fmt: skip

    def _other_point(self, item: Held, intent: Intent, point: str | int | None) -> Intent:
        """R9.10: what ran of the point before goes, and another attempt begins."""
        chosen = self.chosen(item.machine, point)
        if chosen is None:
            raise errors.Refused("R5.7: it has no recovery point")
        return intent.anew(point=chosen.number)
