"""One cycle of a protected machine, and what the vault learns from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from secondsite.engine import errors
from secondsite.orchestration.health.states import State, step
from secondsite.orchestration.health.statistics import Statistics
from secondsite.orchestration.health.tripwire import Seen, Tripwire
from secondsite.orchestration.protection import (
    agents,
    alarms,
    freezing,
    grid,
    leases,
    ledger,
    lookup,
    noting,
    resyncing,
    turns,
)
from secondsite.orchestration.protection.application import Application
from secondsite.orchestration.protection.behind import Behind
from secondsite.orchestration.protection.elsewhere import at_host, unplugged
from secondsite.orchestration.protection.freezing import Freezing
from secondsite.orchestration.protection.initial import Initial, Waits
from secondsite.orchestration.protection.item import Held
from secondsite.orchestration.protection.joining import Joining, added, without
from secondsite.orchestration.protection.leases import NEVER
from secondsite.orchestration.protection.prerequisites import Prerequisites
from secondsite.orchestration.protection.said import Protected
from secondsite.orchestration.protection.sweeping import sweep
from secondsite.orchestration.protection.turn import Clocks, Turn, packed
from secondsite.orchestration.protection.worker import Cut, Worker
from secondsite.orchestration.retention.decision import dropped
from secondsite.orchestration.retention.rules import SECOND
from secondsite.orchestration.retention.timeline import Timeline
from secondsite.orchestration.vault.database import Database


@dataclass
class Cycles:
    """Runs cycles of items that `holder` has the lease of."""

    database: Database
    holder: str
    worker: Worker
    clocks: Clocks = field(default_factory=Clocks)

    def __post_init__(self) -> None:
        self._prerequisites = Prerequisites(self.worker)
        self._behind = Behind(self.database, self.worker)
        self._joining = Joining(self.database, self.worker, self.clocks.utc)

    def through(self, worker: Worker) -> Cycles:
        """The same, but that cuts go through another worker."""
        other = copy(self)
        other.worker = worker
        return other

    def stop(self) -> None:
        """End the first copies of added disks that run beside the cycles."""
        self._joining.stop()

    def joined(self) -> None:
        """Wait for them."""
        self._joining.wait()

    def run(
        self, item: Held, said: Protected, cancel: Callable[[], bool] = lambda: False, *, began: float | None = None
    ) -> errors.Error | None:
        """One cycle. An error is written down with the item and returned; Cancelled is nobody's fault, and raised.
        `began` is by the clock that the vault goes by, which need not be this host's; those of a consistency group have
        it at one time (M13).
        """
        began = self.clocks.utc() if began is None else began
        if item.state is State.WAITING_FOR_START_RESYNCHRONIZE:
            if (at := resyncing.begins(said, began)) > began:
                again = freezing.due(item, at, began)
                ledger.end(self.database, self.holder, item.id, {"due": again}, since=item.state)
                return resyncing.Required(f"R7.2: {item.reason or 'a resync is required'}")
            turns.resync(self.database, self.holder, item.id)
            item = replace(item, state=State.RESYNCHRONIZING, anew=False)
        turn = self._turn(item, said, began)
        whole, late = item, self._added(item, said)
        try:
            item = self._initial().begin(item, said, turn)
            ready = self._initial().before(item, said, turn, cancel)
            if isinstance(ready, Waits):
                return self._waited(item, said, self._meanwhile(item, said, ready, turn, cancel), turn)
            item = without(ready, late)
            self._behind.look(item)
            self._look(item)
            before = self._before(item)
            cut = self._cut(item, said, turn, cancel)
            ids = self._identify(item, cut)
            self._in_order(item, cut, before, ids)
            self._know(item, ids)
        except errors.Cancelled:
            ledger.end(self.database, self.holder, item.id, {})
            raise
        except errors.Error as error:
            self._failed(item, said, error, turn)
            return error
        told = self._joining.begin(whole, said, late) if late else []
        self._leave(item, said)
        return self._done(item, said, replace(cut, warnings=(*cut.warnings, *told)), ids, turn)

    def _initial(self) -> Initial:
        return Initial(self.database, self.holder, self.worker, self._prerequisites)

    def _added(self, item: Held, said: Protected) -> list[str]:
        """P3: the others do not wait for disks that came later."""
        known = lookup.points(self.database, item.id) if None in item.ids.values() and item.last is not None else []
        return added(item, known[-1] if known else None, said)

    def _leave(self, item: Held, said: Protected) -> None:
        """R1.10, for a disk that left its machine: nothing follows it any more, and its replica goes where the policy
        says so, once no point needs it. What is away or busy is asked again after the next cycle.
        """
        kept = lookup.points(self.database, item.id) if item.leaving else []
        for path, (replica, known) in item.leaving.items():
            with suppress(errors.Error):
                if known is not None:
                    self.worker.release(path, known, said.machine.qmp)
                if any(path in point.generations for point in kept):
                    continue
                if known is not None and said.policy.delete_replica:
                    self.worker.delete(replica, known, item.epoch)
                turns.left(self.database, self.holder, item.id, path)

    def _look(self, item: Held) -> None:
        """R7.1b. Raises Required: nothing is sent then."""
        if item.state is State.REPLICATING and (found := self._overfull(item)) is not None:
            raise found

    def _overfull(self, item: Held) -> resyncing.Required | None:
        return resyncing.overfull(self.worker.pending(list(item.sources.values())))

    def _before(self, item: Held) -> Mapping[str, set[int]] | None:
        """What the replicas have before a resync, which may make a generation or mend one; None for other cycles."""
        if item.state is not State.RESYNCHRONIZING:
            return None
        return {path: self._generations(replica) for path, replica in item.disks.items()}

    def _generations(self, replica: str) -> set[int]:
        with suppress(errors.NoReplica):
            return self.worker.generations(replica)
        return set()

    def _in_order(
        self, item: Held, cut: Cut, before: Mapping[str, set[int]] | None, ids: Mapping[str, str | None]
    ) -> None:
        """R7.1f: a replica that was put back to an older state has lost points, and another one has none; none of them
        is chosen any more. Raises Required.
        """
        known = [one for gone in (False, True) for one in lookup.points(self.database, item.id, dropped=gone)]
        made = {path for path, one in cut.generations.items() if before is not None and one not in before[path]}
        others = {path for path, one in item.ids.items() if one is not None and ids[path] != one}
        void = resyncing.void(known, cut.generations, cut.fresh | made, others)
        if void:
            turns.forget(self.database, self.holder, item.id, void)
            if item.state is not State.RESYNCHRONIZING:
                told = f"{len(void)} points are lost"
                raise resyncing.Required(f"R7.1f: a replica was put back to an older state; {told}")

    def _meanwhile(self, item: Held, said: Protected, waits: Waits, turn: Turn, cancel: Callable[[], bool]) -> Waits:
        """R5.4: deltas are sent from the export on, and held. A replica in a folder holds nothing, and copies that are
        to be adopted by somebody have nothing to follow yet.
        """
        told = item.state is State.WAITING_FOR_INITIAL_REPLICATION and said.policy.initial == "media"
        if not told or not all("://" in replica for replica in item.disks.values()):
            return waits
        return Waits(waits.why, self._cut(item, said, turn, cancel))

    def _waited(self, item: Held, said: Protected, waits: Waits, turn: Turn) -> errors.Error:
        """What was cut is a point of the machine once all disks have their first copy; nobody chooses it before."""
        ended, cut = self._ended(turn), waits.cut
        values: dict[str, Any] = {
            "state": int(step(item.state, "await seed") or item.state), "failures": 0, "sending": True,
            "due": grid.following(item.due, said.every, ended).due,
            "reason": " ".join([waits.why, *(cut.warnings if cut else ())]),
        }  # fmt: skip
        if cut is None:
            ledger.end(self.database, self.holder, item.id, values, since=item.state)
            return errors.Refused(waits.why)
        made = turn.made(item, lookup.next_number(self.database, item.id), cut.generations, cut)
        statistics = self._counts(item, said, turn).cycle(cut.changed_bytes, ended - turn.began)
        values |= {"timeline": packed(turn.timeline), "statistics": msgspec.to_builtins(statistics)}
        ledger.finish(self.database, self.holder, item.id, values, made, [made.number], [], since=item.state)
        return errors.Refused(waits.why)

    def _turn(self, item: Held, said: Protected, began: float) -> Turn:
        """When it begins, and whether its machine is to be at rest (R4): never for a first copy or a resync, which may
        be cut hours after they began.
        """
        moment = self.clocks.moment()
        timeline = Timeline.begin(moment) if item.timeline is None else item.timeline.reach(moment)
        may = item.state is State.REPLICATING and item.at_rest is None  # or it stands still already, perhaps
        due = may and item.application.due(item.id, said.policy.application_consistent, timeline.at)
        asked = agents.plan(item, said) if due else None
        return Turn(began, timeline, Freezing(self.database, self.holder, item, asked) if asked else None)

    def _cut(self, item: Held, said: Protected, turn: Turn, cancel: Callable[[], bool]) -> Cut:
        """From where its machine runs: at the target it has none of the sockets that the estate names. That it comes to
        rest on another host is noted before: nobody sees here when that is.
        """
        machine, host, sources, rests = said.machine, said.machine.host, item.sources, turn.freezing
        if item.active == "target" and item.away is not None:
            machine, host = unplugged(machine), item.away.host or ""
        if rests is not None:
            machine = msgspec.structs.replace(machine, guest_agent=rests.plan.agent)
        where = said.hosts.get(host)
        there = rests.on(where) if rests is not None and where is not None and where.reach else nullcontext()
        disks = {sources[path]: replica for path, replica in item.disks.items()}
        with there as noted:
            cut = at_host(self.worker, where).replicate(
                machine, disks, said.policy, epoch=item.epoch, resync=self._compares(item),
                clock=self.clocks.datetime, cancel=cancel, quiesce=turn.quiesce,
                ids={} if _anew(item) else {sources[path]: known for path, known in item.ids.items()},
            )  # fmt: skip
        if noted is not None and cut.thawed:
            noted.ended()
        homes = {source: path for path, source in sources.items()}
        return replace(
            cut, generations={homes[one]: made for one, made in cut.generations.items()},
            begun=frozenset(homes[one] for one in cut.begun),
        )  # fmt: skip

    def _compares(self, item: Held) -> bool:
        """All of both sides by hash? The first cycle of the way back has a replica that was adopted, which is compared
        by itself, and only where it may differ.
        """
        if item.state is not State.RESYNCHRONIZING:
            return False
        return item.direction == "forward" or lookup.newest(self.database, item.id) is not None

    def _identify(self, item: Held, cut: Cut) -> Mapping[str, str | None]:
        """Which replicas they are: only those that are known are deleted one day (R1.10). One that may begin others
        has to know, as a resync that was killed may have. Raises what asking does then.
        """
        anew = _anew(item)
        new = [path for path, known in item.ids.items() if known is None or path in cut.begun or anew]
        try:
            return {**item.ids, **{path: self.worker.identify(item.disks[path]) for path in new}}
        except errors.Error:
            if anew:
                raise
            return item.ids  # the next cycle asks again

    def _know(self, item: Held, ids: Mapping[str, str | None]) -> None:
        """Once no point of another replica is left."""
        found = {path: one for path, one in ids.items() if one is not None and one != item.ids[path]}
        if found:
            ledger.know(self.database, self.holder, item.id, found)

    def _done(
        self, item: Held, said: Protected, cut: Cut, ids: Mapping[str, str | None], turn: Turn
    ) -> errors.Error | None:
        """R2.1: every cycle that was applied yields a point, with the time at its source. What no rule keeps any more
        goes from the vault with that, so that nobody chooses it, and with the next cycle from the replicas. These know
        the point before the vault does, so that a loss of that loses none (D8).
        """
        ended = self._ended(turn)
        held = lookup.points(self.database, item.id)
        made = turn.made(item, lookup.next_number(self.database, item.id), cut.generations, cut)
        first = item.state is State.READY_FOR_INITIAL_REPLICATION
        if first:
            after = grid.first(said.group or item.id, said.every, ended)
        else:
            after = grid.following(item.due, said.every, ended)
        statistics = self._counts(item, said, turn).miss(after.missed)
        action = "resync done" if item.state is State.RESYNCHRONIZING else "first copy done"
        state = step(item.state, action) or item.state
        if item.state is State.RESYNCHRONIZING and (found := self._overfull(item)) is not None:
            self._failed(item, said, found, turn)  # R7.8
            return found
        whole = turn.began if item.state is not State.REPLICATING or cut.begun else None
        statistics = turn.counted(statistics.cycle(cut.changed_bytes, ended - turn.began, whole), cut)
        statistics = msgspec.structs.replace(statistics, virtual_bytes=cut.virtual_bytes or statistics.virtual_bytes)
        tripwire = self._tripwire(item, cut, turn)
        alarm = alarms.alarm(item, tripwire, held, made, self.holder, turn.began)
        held = alarm.pinned(held)
        gone = dropped([*(one.point() for one in held), made.point()], said.keep.rules(), said.every * SECOND)
        waiting = alarms.waiting(tripwire, held, made)
        gone = [one for one in gone if one not in waiting]
        spent = lookup.points(self.database, item.id, dropped=True)
        swept = sweep(self.worker, item.disks, [*held, made], spent)
        kept = [one for one in [*held, made] if one.number not in gone]
        ending = [one for one in [*held, made, *spent] if one not in kept and one.number not in swept]
        frozen = turn.frozen(item, said, cut)
        try:
            leases.look(self.database, self.holder, item.id)
            told = noting.told(
                self.database, item, kept, ending, state=int(state), timeline=turn.timeline, ids=ids,
                application=msgspec.convert(frozen.get("application", item.application), Application),
            )  # fmt: skip
            warnings = [*cut.warnings, *noting.write(self.worker, item, told)]
        except errors.Error as error:
            self._failed(item, said, error, turn)
            return error
        ledger.finish(self.database, self.holder, item.id, {
            "state": int(state), "due": after.due, "last": turn.began, "failures": 0,
            "sending": True, "reason": " ".join(warnings) or None, "timeline": packed(turn.timeline),
            "statistics": msgspec.to_builtins(statistics),
            **({"application_last": turn.began} if cut.application else {}),
            **({"anew": False} if item.state is State.RESYNCHRONIZING else {}),
            "tripwire": msgspec.to_builtins(tripwire),
            **frozen,
        }, made, gone, swept, since=item.state, also=alarm.write)  # fmt: skip
        return None

    def _ended(self, turn: Turn) -> float:
        """The present, by the clock that the turn began by."""
        return turn.began + (turn.timeline.reach(self.clocks.moment()).at - turn.timeline.at) / SECOND

    def _counts(self, item: Held, said: Protected, turn: Turn) -> Statistics:
        """R8.5: those of the monitoring interval, which began at nine o'clock at the source."""
        return item.statistics.of(turn.began, said.zone, last=item.last)

    def _tripwire(self, item: Held, cut: Cut, turn: Turn) -> Tripwire:
        """M15. A cycle that made a replica, or mended it, sent what was not just written."""
        if item.state is not State.REPLICATING or cut.begun:
            return item.tripwire
        return item.tripwire.after(Seen(cut.data_bytes, cut.sealed_bytes), cut.virtual_bytes, turn.began)

    def _failed(self, item: Held, said: Protected, error: errors.Error, turn: Turn) -> None:
        """R6.3, R6.4, R7.1f: what may pass is tried again, what does not waits for its operator."""
        failures, ended = item.failures + 1, self._ended(turn)
        values: dict[str, Any] = {
            "failures": failures, "sending": False, "reason": str(error),
            "statistics": msgspec.to_builtins(turn.counted(self._counts(item, said, turn).error(), None)),
            **turn.frozen(item, said, None),
            "last": None if item.last is None else min(item.last, turn.began),  # by a clock that was not set back since
            "due": grid.after_failure(failures, said.every, ended) if error.retryable else NEVER,
        }  # fmt: skip
        if not error.retryable:
            compared = isinstance(error, errors.Damaged | resyncing.Required)
            state = step(item.state, "resync required" if compared else "fail") or State.ERROR
            values["state"] = int(state)
            values["anew"] = False  # what comes next is not what the operator asked for
            if state is State.WAITING_FOR_START_RESYNCHRONIZE:
                values["due"] = resyncing.begins(said, ended)
        if turn.freezing is not None and turn.freezing.stands:
            values["due"] = min(values["due"], ended + freezing.AGAIN_SECONDS)
        ledger.end(self.database, self.holder, item.id, values, since=item.state)


def _anew(item: Held) -> bool:
    """May this cycle begin other replicas?"""
    return item.anew and item.state is State.RESYNCHRONIZING
