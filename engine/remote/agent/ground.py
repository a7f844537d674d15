"""What a transfer starts from at the replica's end and what becomes of it there: a cycle over the head, or, where the
first content is still on its way on a medium, a delta that is held for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple

from secondsite.engine import attempts, errors
from secondsite.engine.account import Account
from secondsite.engine.batch import Batch
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.progress import Monitor
from secondsite.engine.remote.agent import arrival, spool
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.mend import Mending
from secondsite.engine.replica.point import Point
from secondsite.engine.seeding.waiting import Waiting
from secondsite.engine.work import Options, Work


class Made(NamedTuple):
    """`history` is how the point before is kept; `account` says what the cycle changed, which the point records."""

    kind: str
    point: Point
    history: str
    account: Account


class Ground(ABC):
    """`old` is the newest point (None before the first); `previous` is the block map that the source is compared with,
    of which `seal` is the seal.
    """

    old: Point | None
    previous: BlockMap | None

    @property
    def seal(self) -> str:
        return self.old.seal if self.old is not None else ""

    @abstractmethod
    def newest(self) -> Point | None:
        """The newest point, looked up again."""

    @abstractmethod
    def apply(self, held: spool.Spool, point: Point, stopping: Callable[[], bool]) -> Made:
        """What was spooled, as this point. Raises Damaged where it does not lead there; whatever it raises, it took
        back.
        """


def of(replica: Replica, options: Options, stack: ExitStack) -> Ground:
    """The one of a replica that the caller holds as its writer; what it opens closes with the stack."""
    waits = Waiting.of(replica)
    return OnItsWay(waits, options, stack) if waits else Standing(replica, options, stack)


class Standing(Ground):
    """A replica with its head, or one that is to get its first."""

    def __init__(self, replica: Replica, options: Options, stack: ExitStack) -> None:
        self.replica, self.options, self.old = replica, options, replica.newest()
        attempts.refuse_damage(replica, self.old, options)
        self.mending = stack.enter_context(Mending(replica, self.old, False, options.workers, Monitor(), lazily=True))
        self.previous = self.mending.previous

    def newest(self) -> Point | None:
        return self.replica.newest()

    def apply(self, held: spool.Spool, point: Point, stopping: Callable[[], bool]) -> Made:
        work = Work(self.replica, self.old, point.virtual_bytes, self.options, self.mending)
        return commit(work, held, point, stopping, self.previous)


class OnItsWay(Ground):
    """A replica that waits for its seed."""

    old: Point

    def __init__(self, waits: Waiting, options: Options, stack: ExitStack) -> None:
        self.waits, self.options, self.old = waits, options, waits.newest()
        self.previous = stack.enter_context(waits.open_map(self.old))

    def newest(self) -> Point:
        return self.waits.newest()

    def apply(self, held: spool.Spool, point: Point, stopping: Callable[[], bool]) -> Made:
        seed = self.waits.replica.identity.seed
        account = self.waits.hold(
            lambda: _until(held.batches(seed), stopping), self.old, point, self.options.packing
        )
        return Made("held", point, "held", account)


def commit(
    work: Work, held: spool.Spool, point: Point, stopping: Callable[[], bool], before: BlockMap | None
) -> Made:
    """See Ground.apply; `before` is what the source was compared with."""
    account = Account(held.token.block_size, point.virtual_bytes)
    try:
        if isinstance(held, arrival.Arrival):
            work.cycle = held.settled()
            account.whole(held.map)
        else:
            for batch in _until(held.batches(work.replica.identity.seed), stopping):
                account.put(before, batch)
                work.put(batch, 0)
        made = work.conclude(replace(point, changed_bytes=account.changed_bytes))
        return Made(*made, account)
    except BaseException:
        work.abort()
        raise


def _until(batches: Iterator[Batch], stopping: Callable[[], bool]) -> Iterator[Batch]:
    for batch in batches:
        if stopping():
            raise errors.Unreachable("the agent is being stopped; what came is kept")
        yield batch
