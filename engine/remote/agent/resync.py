"""A resync at the replica's end: the head is compared before anything is sent, and all is looked at after."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import ExitStack

from secondsite.engine import errors
from secondsite.engine.progress import Monitor, Progress
from secondsite.engine.remote import talk
from secondsite.engine.remote.agent import ground, spool
from secondsite.engine.remote.link.calls import Call
from secondsite.engine.replica import comparison, mend
from secondsite.engine.replica.comparison import Comparison
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.mend import Mending
from secondsite.engine.replica.point import Point, format_time
from secondsite.engine.seeding.waiting import Waiting
from secondsite.engine.work import Options, Work


def refuse_pending(replica: Replica) -> None:
    """An ordinary cycle would go on over a head that is not to be trusted. Raises Refused."""
    if (found := comparison.pending(replica)) is not None:
        raise errors.Refused(
            f"{found}: replicate --resync goes on with it, --resync-cancel drops it", path=replica.layout.root
        )


def come_to_rest(replica: Replica) -> None:
    """Take back what a crash left half done. Where that cannot be whole, what was compared says nothing any more."""
    try:
        with replica.writing():
            return
    except errors.Damaged:
        with replica.writing(force=True):
            comparison.drop(replica)


def newest(replica: Replica, options: Options) -> Point | None:
    """The newest point, as the writer: records are mended, and one that is lost is made anew. Raises Refused."""
    if Waiting.of(replica) is not None:
        raise errors.Refused("waits for its seed: there is nothing yet to resync", path=replica.layout.root)
    replica.mend_records()
    return mend.newest(replica, resync=True, time=format_time(options.clock()))


def of(
    replica: Replica, options: Options, call: Call, stopping: Callable[[], bool], stack: ExitStack
) -> ground.Ground:
    """Compare the head, telling how far it is, with the replica held as a reader. A replica without one has nothing to
    compare.
    """
    old = replica.newest()
    made = Compared(replica, old, options, call, stopping, stack) if old else ground.Standing(replica, options, stack)
    call.send(talk.Answered())
    return made


class Compared(ground.Ground):
    """What the head really holds. What is damaged of it is noted, so that it is known also if the resync ends here."""

    def __init__(
        self, replica: Replica, old: Point, options: Options, call: Call, stopping: Callable[[], bool],
        stack: ExitStack,
    ) -> None:  # fmt: skip
        self.replica, self.options, self.old = replica, options, old
        self.found = stack.enter_context(Comparison(replica, old, options.workers))
        self.found.run(_monitor(call, stopping))
        self.previous, doubted = self.found.doubted()
        stack.callback(self.previous.close)
        if doubted:
            told = f"{doubted} blocks of the head are not what its block map says, a resync found"
            replica.note_damage({**replica.known_damage(), old.generation: told})

    @property
    def seal(self) -> str:
        assert self.previous is not None
        return self.previous.seal().hex()

    def newest(self) -> Point | None:
        return self.replica.newest()

    def apply(self, held: spool.Spool, point: Point, stopping: Callable[[], bool]) -> ground.Made:
        replica, options = self.replica, self.options
        if not self.found.stands():
            raise errors.Busy("its head was written meanwhile: it is compared anew", path=replica.layout.root)
        try:
            with Mending(replica, self.old, True, options.workers, Monitor(), compared=self.found.held) as mending:
                work = Work(replica, self.old, point.virtual_bytes, options, mending)
                made = ground.commit(work, held, point, stopping, self.previous)
        except errors.Damaged:
            comparison.drop(replica)
            raise
        _settle(replica, made.point)
        return made


def _settle(replica: Replica, point: Point) -> None:
    """After the commit: the newest point was compared and mended, and nothing is pending."""
    comparison.drop(replica)
    replica.note_damage({key: what for key, what in replica.known_damage().items() if key != point.generation})


def examine(replica: Replica, call: Call, stopping: Callable[[], bool], workers: int) -> None:
    """What could not be mended is known now, and not at the next restore. It ends with the call."""
    from secondsite.engine.verification import examine

    with replica.reading():
        found = examine(replica, workers, _monitor(call, stopping))
    told = [f"point {generation} is damaged: {problem}"[:1000] for generation, problem in sorted(found.items())]
    call.send(talk.Examined(told[: talk.MAX_WARNINGS]))


def _monitor(call: Call, stopping: Callable[[], bool]) -> Monitor:
    def tell(now: Progress) -> None:
        with contextlib.suppress(errors.Error):  # the monitor sees that nobody listens any more
            call.send(talk.Looked(now.stage, now.done, now.total))

    return Monitor(tell, lambda: call.ended or stopping())


def cancel(replica: Replica) -> bool:
    """Drop what was compared and spooled; was a resync pending? Raises Busy while a source sends or it is applied."""
    with spool.alone(replica):
        found = comparison.pending(replica) is not None
        if comparison.drop(replica):
            spool.drop(replica)
        return found
