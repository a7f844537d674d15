"""The replica's end of a transfer: frames into the spool, and the whole of it applied as one ordinary cycle."""

from __future__ import annotations

import contextlib
import datetime
import posixpath
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from secondsite.engine import admission, errors, replication, units
from secondsite.engine.account import Account
from secondsite.engine.delta import format as fmt
from secondsite.engine.files import Files
from secondsite.engine.progress import Monitor
from secondsite.engine.remote import maps, talk
from secondsite.engine.remote.agent import arrival, ground, resync, spool
from secondsite.engine.remote.agent.meter import Counts
from secondsite.engine.remote.agent.stream import Stream, Streams
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.link.calls import Call
from secondsite.engine.remote.patience import patiently
from secondsite.engine.replica import prune
from secondsite.engine.replica.container import check_size
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.point import Point, data_time, format_time
from secondsite.engine.seeding.settle import settle
from secondsite.engine.work import Options

MAX_NAME = 4096

# A copy to a third site, a check or a restore holds the replica as a reader; a cycle need not fail for a short one.
_READERS_SECONDS = 5.0
# How soon a transfer sees that its replica's epoch was raised.
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class _Origin:
    """The far source, as the rules for admission want it."""

    name: str
    format: str

    def follows(self, name: str) -> bool:
        return name == self.name


class Receiver:
    """One replica in a folder that the caller has chosen and allowed; `run` serves one call. A cycle leaves the newest
    `keep` points, and fewer where the source asks for that and `administering` does not raise Refused; a higher epoch
    takes that too. Further connections of `peer` may join by `streams`.
    """

    def __init__(
        self, root: str, files: Files, *, history: str = "auto", codec: str = "auto", workers: int = 1,
        clock: Callable[[], datetime.datetime] = replication.utc_now, stopping: Callable[[], bool] = lambda: False,
        counts: Counts | None = None, keep: int | None = None, administering: Callable[[], None] = lambda: None,
        peer: str = "", streams: Streams | None = None,
    ) -> None:  # fmt: skip
        self.root, self.files, self.stopping, self.counts = root, files, stopping, counts or Counts()
        self.options = Options(fmt.parse_codec(codec), history, False, False, workers, clock)
        self.keep, self.administering, self._drops = keep, administering, False
        self.peer, self.streams = peer, streams or Streams()

    def run(self, call: Call, begin: talk.Begin) -> Point | None:
        """Until the point is there (None where nothing had changed), or an error, which the caller passes on. Raises
        Busy for a second sender. What was spooled stays for the next attempt.
        """
        self._take_options(begin)
        terms = admission.Terms(begin.block_size, begin.head, begin.epoch, begin.accept_source)
        replica = self._replica(begin, call.peer)
        with ExitStack() as stack:
            stack.enter_context(spool.alone(replica))
            below = self._admit(begin, terms, replica, stack)
            with replica.reading():  # who reads is not kept waiting by a slow link
                if below is None:
                    below = resync.of(replica, self.options, call, self.stopping, stack)
                session = self._open(call, begin, replica, below, stack)
                said = session.receive()
            point = session.conclude(said)
            if begin.resync:
                resync.examine(replica, call, self.stopping, self.options.workers)
            return point

    def _admit(
        self, begin: talk.Begin, terms: admission.Terms, replica: Replica, stack: ExitStack
    ) -> ground.Ground | None:
        """What it starts from; None for a resync, which has yet to find out. Raises what forbids the cycle."""
        origin: Any = _Origin(begin.source, begin.source_format)
        if begin.resync:
            resync.come_to_rest(replica)
        with ExitStack() as alone:
            patiently(lambda: alone.enter_context(replica.writing()), seconds=_READERS_SECONDS)
            if begin.resync:
                self._fence(replica, terms.epoch)
                admission.admit(replica, origin, terms)
                self._check(begin, replica, resync.newest(replica, self.options))
                return None
            settle(replica, self.options, Monitor())
            self._fence(replica, terms.epoch)
            admission.admit(replica, origin, terms)
            resync.refuse_pending(replica)
            below = ground.of(replica, self.options, stack)
            self._check(begin, replica, below.old)
            return below

    def _fence(self, replica: Replica, epoch: int | None) -> None:
        """Raises Refused where a replica that holds something would get a higher epoch of who may not administer it."""
        if epoch is not None and epoch > replica.look_again().epoch and not admission.is_empty(replica):
            self.administering()

    def _take_options(self, begin: talk.Begin) -> None:
        history = self.options.history if begin.history == "auto" else begin.history
        self.options = replace(self.options, history=history, keep=begin.keep, resync=begin.resync)
        if begin.keep is not None:
            self.administering()
            self._drops = self.keep is None or begin.keep < self.keep
            self.keep = begin.keep if self._drops else self.keep

    def prune(self, replica: Replica) -> int:
        """After a cycle, as the replica's writer; how many points went. Failing is a warning and no more: the new
        point is there.
        """
        try:
            if self._drops:
                self.administering()  # it may have been revoked meanwhile
            return prune.keep_newest(replica, self.keep) if self.keep is not None else 0
        except errors.Error as error:
            replica.warn(f"older points were not dropped ({error})")
            return 0

    def _replica(self, begin: talk.Begin, peer: str) -> Replica:
        if max(len(begin.source), len(begin.source_format)) > MAX_NAME:
            raise protocol.Garbled("a name that is too long", path=peer)
        if self.files.exists(self.root) and self.files.size(f"{self.root}/replica.json") >= 0:
            return Replica.open(self.root, self.files)
        check_size(begin.head or "raw", begin.size, peer)
        made = Identity.new(
            begin.block_size or units.DEFAULT_BLOCK_SIZE, format_time(self.options.clock()), begin.source,
            "undo", begin.source_format, begin.head or "raw",
        )  # fmt: skip
        return Replica.create(self.root, self.files, made, probe=self.options.history != "undo")

    def _check(self, begin: talk.Begin, replica: Replica, old: Point | None) -> None:
        identity = replica.identity
        if self.options.history == "clone" and not replica.can_clone():
            raise errors.Refused("this file system cannot clone files", path=replica.layout.root)
        if begin.size > units.MAX_BLOCKS * identity.block_size:
            told = f"{begin.size} bytes are too many blocks of {identity.block_size}"
            raise errors.Usage(told, path=replica.layout.root)
        if old is not None and old.virtual_bytes != begin.size and identity.head_format != "raw":
            raise errors.Refused(
                f"its head is of format {identity.head_format} and has {old.virtual_bytes} bytes, the source "
                f"{begin.size}: only a raw head changes its size over the network",
                path=replica.layout.root,
            )

    def _open(
        self, call: Call, begin: talk.Begin, replica: Replica, below: ground.Ground, stack: ExitStack
    ) -> _Session:
        old, identity = below.old, replica.identity
        token = spool.Token(
            old.generation if old else 0, below.seal, identity.block_size, identity.epoch, begin.size, begin.source
        )
        held = arrival.of(
            replica, token, old.virtual_bytes if old else 0, lambda taken: call.send(talk.Answered(taken)),
            first=old is None,
        )  # fmt: skip
        stack.callback(held.close)
        return _Session(self, call, begin.name, replica, below, held)


class _Session:
    """After admission: answers, frames, and the end."""

    def __init__(
        self, receiver: Receiver, call: Call, name: str, replica: Replica, below: ground.Ground, held: spool.Spool
    ) -> None:
        self.options, self.prune, self.call, self.replica = receiver.options, receiver.prune, call, replica
        self.ground, self.held = below, held
        self._streams, self._peer, self._name = receiver.streams, receiver.peer, name
        self.stopping, self.counts, self._began = receiver.stopping, receiver.counts, time.monotonic()
        self._taken_up, self._looked = len(held.offsets), time.monotonic()
        self._told = self.options.clock(), self._looked

    def receive(self) -> talk.Finish:
        """Until the source says that all is there, and it is."""
        self._began = time.monotonic()
        self.counts.begun(self.held.taken)
        try:
            with self._streams.open(self.call, self._peer, self._name, self._take) as stream:
                self._describe(stream)
                said = self._frames(stream)
            self.held.flush()
            return said
        except BaseException:
            self._park()
            raise
        finally:
            self.counts.ended()

    def _describe(self, stream: Stream) -> None:
        old, identity, call = self.ground.old, self.replica.identity, self.call
        call.send(talk.State(
            replica_id=identity.replica_id, block_size=identity.block_size, seed=identity.seed,
            epoch=identity.epoch, generation=old.generation if old else 0,
            virtual_bytes=old.virtual_bytes if old else 0, seal=self.ground.seal,
            spool_bytes=self.held.taken, spool_frames=len(self.held.offsets),
            ticket=stream.ticket if call.connection.version >= 3 else b"",
        ))  # fmt: skip

    def _frames(self, stream: Stream) -> talk.Finish:
        while True:
            message = self._heard()
            said = talk.from_source(message.control, self.call.peer)
            if isinstance(said, talk.Finish):
                self._told = self.options.clock(), time.monotonic()
                stream.complete(said.sent_bytes, self._look)
                return said
            if isinstance(said, talk.Ask):
                self._answer(said)
            else:
                stream.put(message.body, self.call.peer)

    def _take(self, frames: bytes | bytearray | memoryview, peer: str) -> None:
        self.counts.add(len(frames))
        self.held.append(frames, peer)

    def _heard(self) -> protocol.Message:
        """The next message, unless a failover comes in between."""
        while True:
            there = self.call.wait(_LOOK_SECONDS)
            self._look()
            if there:
                return self.call.receive()

    def _look(self) -> None:
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._looked = time.monotonic()
            self._not_fenced()

    def _not_fenced(self) -> None:
        """Raises Busy where the epoch was raised since: whether its sender may go on, its next attempt is told."""
        if self.replica.look_again().epoch != self.held.token.epoch:
            raise errors.Busy("a failover raised its epoch meanwhile", path=self.replica.layout.root)

    def _park(self) -> None:
        """What came goes on from here, whoever ended this; telling so may fail."""
        self.held.told = lambda taken: None
        with contextlib.suppress(errors.Error):
            self.held.flush()

    def _answer(self, asked: talk.Ask) -> None:
        call, held = self.call, self.ground.previous
        if asked.what == "spool":
            for frame in self.held.frames():
                body = frame.runs.tobytes() if frame.runs else frame.blocks.tobytes() + bytes(frame.hashes)
                count = len(frame.runs) // 2 if frame.runs else len(frame.blocks)
                call.send(talk.Spooled(frame.head.kind, count), body)
        elif held is not None:
            maps.answer(call, held, asked)
        else:
            raise protocol.Garbled(f"asks for {asked.what!r}, which is not there", path=call.peer)
        call.send(talk.Answered())

    def conclude(self, said: talk.Finish) -> Point | None:
        """Apply what came, as the replica's writer. Raises Busy where readers do not let go of it in a minute."""
        with ExitStack() as stack:
            patiently(lambda: stack.enter_context(self.replica.writing()))
            self._not_fenced()
            newest, old = self.ground.newest(), self.ground.old
            if (newest.generation, newest.seal) != (old.generation, old.seal) if newest and old else newest is not old:
                raise errors.Busy("another cycle came in between", path=self.replica.layout.root)
            point = self._finish(said)
            self.counts.done(time.monotonic() - self._began, looked=self._looked_at(said))
            return point

    def _finish(self, said: talk.Finish) -> Point | None:
        old, size = self.ground.old, self.held.token.size
        if not self.held.offsets and old is not None and old.virtual_bytes == size and not self.options.resync:
            if said.seal != old.seal:
                raise errors.Damaged("nothing was sent, and yet it ends with another seal", path=self.call.peer)
            self._applied()
            self._done("unchanged", old, self.replica.identity.history)
            return None
        made = self._apply(said, old, size)
        self._applied()
        self._done(made.kind, made.point, made.history, made.account)
        return made.point

    def _applied(self) -> None:
        spool.drop(self.replica)
        self.counts.applied()

    def _cut(self, said: talk.Finish) -> datetime.datetime:
        """When the source was cut, by the clock here: that of its host may be another. An older one does not say."""
        return self.options.clock() if said.age is None else self._told[0] - datetime.timedelta(microseconds=said.age)

    def _looked_at(self, said: talk.Finish) -> float | None:
        """The same by the monotonic clock, for what is counted; None of a point that goes on."""
        if said.moment is not None:
            return None
        return time.monotonic() if said.age is None else self._told[1] - said.age / 1e6

    def _apply(self, said: talk.Finish, old: Point | None, size: int) -> ground.Made:
        kind = "initial" if old is None else "resync" if self.options.resync else "delta"
        moment = data_time(said.moment, self._cut(said), self.call.peer)
        point = Point(
            (old.generation if old else 0) + 1, moment, size, said.seal, kind,
            said.tracker[:64], said.read_bytes, said.changed_bytes, self.held.taken - fmt.HEADER_BYTES,
            self.replica.identity.epoch, self.replica.identity.replica_id.hex(),
        )  # fmt: skip
        try:
            return self.ground.apply(self.held, point, self.stopping)
        except errors.Damaged as error:
            # Frames that do not come to what the source says: they are worth nothing, and the next plan is a fresh one.
            spool.drop(self.replica)
            if self._taken_up:  # it need not be this attempt's, and trying again tells (P13)
                told = f"what was spooled before led to nothing and was dropped: {error}"
                raise protocol.Garbled(told, path=self.replica.layout.root) from None
            raise

    def _done(self, kind: str, point: Point, history: str, account: Account | None = None) -> None:
        pruned = self.prune(self.replica)
        done = talk.Done(kind=kind, generation=point.generation, seal=point.seal, time=point.time, history=history)
        if self.call.connection.version >= 2:
            folder = f"{posixpath.dirname(self.replica.layout.root)}/"
            told = [line.replace(folder, "")[:1000] for line in self.replica.warnings[: talk.MAX_WARNINGS]]
            done = msgspec.structs.replace(done, pruned=pruned, warnings=told)
            if account is not None:
                done = msgspec.structs.replace(
                    done, changed_bytes=account.changed_bytes, data_bytes=account.data_bytes
                )
        self.call.send(done)

