"""The source's end of a transfer: what the replica holds and has spooled, the scan against both, and the frames.

Each attempt plans again from the real state of both sides (DESIGN D12): nothing here is remembered about progress, so
nothing can lie. What is counted of an earlier attempt is only for the figure of bytes that were sent twice.
"""

from __future__ import annotations

import datetime
import random
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from secondsite.engine import distrust, errors, scan
from secondsite.engine.batch import SMALL_BATCH_BYTES
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.images import Stamp
from secondsite.engine.progress import Monitor
from secondsite.engine.remote import talk
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.link.connection import Connection
from secondsite.engine.remote.sending import plan
from secondsite.engine.remote.sending.connections import Connections, Joining
from secondsite.engine.remote.sending.mapcache import MapCache
from secondsite.engine.remote.sending.tally import Sent
from secondsite.engine.remote.sending.target import Called, Outflow, Taken, Target
from secondsite.engine.source import Source
from secondsite.engine.trackers.base import Cut, Have, Tracker
from secondsite.engine.tracking import Marked


@dataclass(frozen=True)
class Sending:
    """How one cycle came out. `marked` is None where all was read, else `sampled` other blocks were looked at. What was
    read is as old as `stamp`, which the source's files had at `moment_ns`. It went over so many `connections`.
    """

    state: talk.State
    done: talk.Done
    tally: scan.Tally
    tracker: str
    seconds: float
    marked: Marked | None = None
    sampled: int = 0
    stall_seconds: float | None = None
    application: bool = False
    kept_bytes: int = 0
    warnings: list[str] = field(default_factory=list)
    stamp: tuple[Stamp, ...] | None = None
    moment_ns: int = 0
    connections: int = 1
    cut_at: datetime.datetime | None = None

    def caught(self) -> float | None:
        """As attempts.Outcome has it."""
        if self.marked is None or not self.tally.changed_bytes:
            return None
        changed = -(-self.tally.changed_bytes // self.marked.block_size)
        return distrust.caught(changed, self.marked.total - self.marked.blocks, self.sampled)


class _Unmasked(Exception):
    """A block changed that the tracker did not name."""


@dataclass(frozen=True)
class _Plan:
    """What an attempt goes by: the replica's end, its map with what is spooled laid over, and those blocks."""

    target: Target
    held: BlockMap
    spooled: plan.Spooled
    size: int
    began: float

    @property
    def state(self) -> talk.State:
        return self.target.state


class Transfer:
    """Brings one source to one far replica. Without a `codec` it is chosen as the transfer goes. `follow` gives the
    tracker for a replica, and is asked once an attempt; it stays the caller's. `sample` blocks that the tracker did not
    name are looked at. Where `trusted` says so of the replica's newest point, nothing is; a `resync` reads all.
    """

    def __init__(
        self, origin: Source, follow: Callable[[talk.State], Tracker], cache: MapCache, *,
        codec: tuple[int, int] | None, workers: int = 1, monitor: Monitor | None = None, sent: Sent | None = None,
        sample: int = 0, trusted: Callable[[talk.State], bool] = lambda state: False, resync: bool = False,
        meet: Callable[[talk.State, str], None] = lambda state, peer: None,
        clock: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:  # fmt: skip
        self.origin, self.follow, self.cache, self.resync = origin, follow, cache, resync
        self.codec, self.workers, self.monitor = codec, workers, monitor or Monitor()
        self.sent, self.sample, self.trusted, self.meet = sent or Sent(), sample, trusted, meet
        self.clock = clock

    def attempt(self, target: Target, size: int, began: float) -> Sending:
        """One attempt, with a source of `size` bytes. Raises what ended it; the cut is given back then, and what was
        spooled stays.
        """
        state = target.state
        self.meet(state, target.peer)
        self.sent.resumed(state.spool_bytes, state.generation)
        now = Taken.now(self.clock)
        if not self.resync and not state.spool_frames and size == state.virtual_bytes and self.trusted(state):
            done = target.finish(0, state.seal, "mtime", scan.Tally(), self.origin.moment, now)
            told = done.warnings[: talk.MAX_WARNINGS]
            seconds = time.monotonic() - began
            return Sending(state, done, scan.Tally(), "mtime", seconds, warnings=told, cut_at=now.at)
        with self.cache.working(state, target.hashes, target.peer) as held:
            if size > held.image_size:
                held.resize(size)
            spooled = target.overlay(held, size)
            return self._cycle(_Plan(target, held, spooled, size, began))

    def _cycle(self, made: _Plan) -> Sending:
        state = made.state
        tracker = self.follow(state)
        all_of_it = self.resync or not state.generation
        known = None if all_of_it else Have(state.replica_id.hex(), state.generation, state.seal)
        try:
            return self._over(made, tracker, known)
        except _Unmasked as error:
            # Of the cut before only what was named and drawn had to be kept: all of it takes a cut of its own.
            found = self._over(made, tracker, None)
            found.warnings.append(str(error))
            return found

    def _over(self, made: _Plan, tracker: Tracker, known: Have | None) -> Sending:
        state, origin = made.state, self.origin
        drawn = self._draw(state) if known else array("Q")
        moment, before = time.time_ns(), origin.rested()
        with tracker.begin(known, _ranges(drawn, state)) as cut:
            if cut.image.size != made.size:
                raise errors.SourceChanged("it changed its size while it was looked at", path=origin.path)
            if not cut.frozen:
                before = cut.settled(origin)
            taken = Taken.now(self.clock) if cut.frozen or before is not None else None
            cut.read_once()
            with origin.standing(before, frozen=cut.frozen):
                marked, sampled = self._marked(cut, made, drawn)
                outlet = made.target.outlet(made.held, self.codec, self.sent, self.workers)
                tally = self._scan(cut, made, outlet, marked)
            if not cut.frozen and origin.stamp() != before:
                raise errors.SourceChanged("it was written while it was read", path=origin.path)
            taken = taken or Taken.now(self.clock)  # as in attempts
            made.held.resize(made.size)
            seal = made.held.seal().hex()
            done = made.target.finish(outlet.bytes, seal, cut.tracker, tally, origin.moment, taken)
            warnings = [*cut.warnings, *done.warnings[: talk.MAX_WARNINGS]]
            self._keep(made.held, warnings)
            _acknowledge(cut, Have(state.replica_id.hex(), done.generation, done.seal), warnings)
            return Sending(
                state, done, tally, cut.tracker, time.monotonic() - made.began, marked, sampled, cut.stall_seconds,
                cut.application, cut.kept_bytes, warnings, before, moment, cut_at=taken.at,
            )  # fmt: skip

    def _keep(self, held: BlockMap, warnings: list[str]) -> None:
        """The point is there, whatever becomes of this."""
        try:
            self.cache.keep(held)
        except errors.Error as error:
            warnings.append(f"the replica's block map could not be kept here ({error}); the next cycle asks for it")

    def _draw(self, state: talk.State) -> array[int]:
        return distrust.draw(-(-state.virtual_bytes // state.block_size), self.sample, random.SystemRandom())

    def _marked(self, cut: Cut, made: _Plan, drawn: array[int]) -> tuple[Marked | None, int]:
        """The blocks to look at: those that the tracker names, and those that are spooled, which may be newer than what
        it goes by and have changed back. None for all of them. Raises _Unmasked.
        """
        state = made.state
        named = cut.changed_from(made.held, state.seed) if state.generation else None
        if named is None:
            return None, 0
        try:
            ranges = made.spooled.joined(named, state.block_size, made.size)
            marked = Marked(ranges, made.size, state.block_size, state.virtual_bytes)
        except ValueError as error:
            raise _Unmasked(f"{self.origin.path}: tracker {cut.tracker!r} named {error}; all is scanned") from None
        looked = marked.look(cut.image, made.held, state.seed, drawn, self.sample)
        if looked.wrong is not None:
            told = f"the bytes at {looked.wrong} changed, which tracker {cut.tracker!r} did not name"
            raise _Unmasked(f"{self.origin.path}: {told}; all is scanned")
        return marked, looked.blocks

    def _scan(self, cut: Cut, made: _Plan, outlet: Outflow, marked: Marked | None) -> scan.Tally:
        self.monitor.begin("send", made.size)
        return scan.Scan(
            cut.image, made.held, outlet, size=made.size, block_size=made.state.block_size, seed=made.state.seed,
            workers=self.workers, batch_bytes=SMALL_BATCH_BYTES, monitor=self.monitor,
            runs=marked.runs() if marked is not None else None,
        ).run()  # fmt: skip


class Sender(Transfer):
    """To an agent's replica, over a connection that the caller makes, and further ones by `joining`. `begin.size` is
    set by each attempt.
    """

    def __init__(
        self, origin: Source, follow: Callable[[talk.State], Tracker], begin: talk.Begin, cache: MapCache, *,
        joining: Joining | None = None, **more: Any,
    ) -> None:  # fmt: skip
        super().__init__(origin, follow, cache, resync=begin.resync, **more)
        self.begin, self.joining = begin, joining
        self.alone = False  # the attempt before was at its end, and waited for one of several connections

    def run(self, connection: Connection) -> Sending:
        """One attempt."""
        began, size = time.monotonic(), self.origin.image.size
        talk.check_version(connection.version, self.begin, connection.peer)
        with connection.call(talk.OPERATION, msgspec.structs.replace(self.begin, size=size)) as call:
            if self.resync:
                plan.looked(call, self.monitor, talk.Answered)
            state = protocol.decode(call.receive().control, talk.State, call.peer)
            plan.check(state, call.peer)
            joining = None if self.alone else self.joining
            with Connections(call, state.ticket, self.begin.name, joining, self.sent.add) as connections:
                try:
                    found = self.attempt(Called(connections, state), size, began)
                except errors.Unreachable:
                    self.alone = connections.lagged
                    raise
            if self.resync:
                found.warnings.extend(plan.examined(call, self.monitor))
            found.warnings.extend(connections.warnings)
            return replace(found, connections=connections.used)


def _ranges(drawn: array[int], state: talk.State) -> list[tuple[int, int]]:
    block, size = state.block_size, state.virtual_bytes
    return [(number * block, min(block, size - number * block)) for number in drawn]


def _acknowledge(cut: Cut, have: Have, warnings: list[str]) -> None:
    """The point is there, whatever becomes of this: a tracker that was not told names too much the next time."""
    try:
        cut.acknowledge(have)
    except (errors.Error, OSError, ValueError) as error:
        warnings.append(f"tracker {cut.tracker!r} was not told that point {have.generation} is there ({error}); "
                        "the next cycle may read more")  # fmt: skip
