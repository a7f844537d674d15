"""The replica's end of one attempt, as the sender sees it: an agent behind a call, or what a store holds."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from secondsite.engine import errors, scan
from secondsite.engine.batch import Batch
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.remote import talk
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.sending import plan
from secondsite.engine.remote.sending.connections import Connections
from secondsite.engine.remote.sending.outlet import Outlet
from secondsite.engine.remote.sending.tally import Sent


class Outflow(Protocol):
    """A scan's sink, which counts the `bytes` of frames that it sends."""

    @property
    def bytes(self) -> int: ...

    def put(self, batch: Batch, worker: int) -> None: ...


class Taken(NamedTuple):
    """When a source was cut: by the caller's clock, and by one that nobody sets."""

    at: datetime.datetime
    since: float

    @classmethod
    def now(cls, clock: Callable[[], datetime.datetime]) -> Taken:
        return cls(clock(), time.monotonic())

    def age(self) -> int:
        """Microseconds."""
        return min(round((time.monotonic() - self.since) * 1e6), talk.MAX_AGE)


class Target(Protocol):
    """`state` is what the replica has at the attempt's beginning, and `peer` how errors call it."""

    @property
    def state(self) -> talk.State: ...

    @property
    def peer(self) -> str: ...

    def hashes(self, ask: talk.Ask) -> Iterator[bytes]:
        """What a map's cache asks for."""

    def overlay(self, held: BlockMap, size: int) -> plan.Spooled:
        """Lay over the newest point's map what an attempt before has brought; those blocks."""

    def outlet(self, held: BlockMap, codec: tuple[int, int] | None, sent: Sent, workers: int) -> Outflow:
        """Where a scan's changes go; `held` becomes the map of what the replica will have."""

    def finish(
        self, sent_bytes: int, seal: str, tracker: str, tally: scan.Tally, moment: str | None, cut: Taken
    ) -> talk.Done:
        """Commit what went out, which has this seal and is of this `moment`. Where that is None it is of the source as
        it was when it was `cut`. Raises Damaged where something else was committed.
        """


class Called:
    """An agent's end, over connections whose call it has answered with what it has."""

    def __init__(self, connections: Connections, state: talk.State) -> None:
        self.connections, self.state = connections, state
        self.call, self.peer = connections.call, connections.call.peer

    def hashes(self, ask: talk.Ask) -> Iterator[bytes]:
        return plan.fetch(self.call, ask)

    def overlay(self, held: BlockMap, size: int) -> plan.Spooled:
        return plan.overlay(held, self.call, self.state, size)

    def outlet(self, held: BlockMap, codec: tuple[int, int] | None, sent: Sent, workers: int) -> Outlet:
        return Outlet(self.connections, self.state, held, codec, sent, workers)

    def finish(
        self, sent_bytes: int, seal: str, tracker: str, tally: scan.Tally, moment: str | None, cut: Taken
    ) -> talk.Done:
        call = self.call
        self.connections.settle()
        version = call.connection.version
        call.send(talk.Finish(
            seal=seal, tracker=tracker, read_bytes=tally.read_bytes, changed_bytes=tally.changed_bytes,
            sent_bytes=sent_bytes, moment=moment if version >= 2 else None,
            age=cut.age() if version >= 4 and moment is None else None,
        ))  # fmt: skip
        while True:
            said = talk.from_replica(call.receive().control, call.peer)
            if isinstance(said, talk.Done):
                if said.seal != seal:
                    raise errors.Damaged("it committed another seal than was sent", path=call.peer)
                return said
            if not isinstance(said, talk.Answered):
                raise protocol.Garbled("an answer to nothing", path=call.peer)
