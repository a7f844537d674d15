"""A recovery point of another host's replica as an image that stays as it is, also over a connection that breaks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from secondsite.engine import errors
from secondsite.engine.images.base import Extent
from secondsite.engine.remote import dial, url
from secondsite.engine.remote import questions as q
from secondsite.engine.remote.far.channel import Channel, FarImage
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.link.connection import Connection

T = TypeVar("T")

# Between tries to connect again, the last one from then on; they begin anew whenever there was a link. It is less than
# the agent's grace (replica/lease.py).
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# A link that stood for so long was a good one: the next try comes at once.
_STOOD_SECONDS = 10.0
# How long a read waits for the link to come back.
PATIENCE_SECONDS = 30.0
_LOOK_SECONDS = 0.5


class FarPoint(FarImage):
    """`at` is as `Replica.choose` takes it. The agent keeps the point as it is while this is open, and cycles go on.

    Where the connection breaks, another one is made at once, read or not, and asks for the same point by its number: it
    is Damaged where that is not what it was, which its seal tells. Reads wait for that. `told` gets a line where the
    link is lost, where it is back, and where the point is gone for good.
    """

    fd = -1

    def __init__(
        self, remote: url.Remote, home: Home, at: str = "latest", told: Callable[[str], object] = lambda line: None
    ) -> None:  # fmt: skip
        self._remote, self._home, self._told = remote, home, told
        self._changed = threading.Condition()
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self.standing: q.Standing | None = None
        self._gone: errors.Error | None = None
        self._closed = threading.Event()
        self.path = f"{remote} at point {at}"
        self._open(at)
        self.path = f"{remote} at point {self._stands().point}"
        self._keeper = threading.Thread(target=self._keep, name=f"keep {self.path}", daemon=True)
        self._keeper.start()

    def _stands(self) -> q.Standing:
        assert self.standing is not None
        return self.standing

    @property
    def name(self) -> str:
        return self._stands().point

    @property
    def over(self) -> dict[str, str | int]:
        """What tells this point from all others."""
        standing = self._stands()
        return {"replica": standing.replica_id, "generation": standing.generation, "seal": standing.seal}

    @property
    def size(self) -> int:
        return self._stands().size

    # -- the link ------------------------------------------------------------------------------------------------

    def _open(self, at: str) -> None:
        connection = dial.connect(self._remote, self._home)
        try:
            call = connection.call("point", q.AtPoint(self._remote.name, at))
            found = protocol.decode(call.receive().control, q.Standing, call.peer)
            if found.size < 0:
                raise protocol.Garbled("a negative size", path=call.peer)
            if self.standing is not None and found != self.standing:
                raise errors.Damaged("is not what it was; another replica took its place", path=self.path)
        except BaseException:
            connection.join()
            raise
        with self._changed:
            over = self._closed.is_set()
            if not over:
                self.standing, self._connection, self._channel = found, connection, Channel(call)
                self._changed.notify_all()
        if over:
            connection.join()

    def _keep(self) -> None:
        """Until it is closed, or the point is gone: see to it that there is a link."""
        tries, stood = 0, time.monotonic()
        while self._gone is None:
            channel, pause = self._channel, _LOOK_SECONDS
            if channel is None or channel.call.ended:
                if channel is not None:
                    self._lost(channel)
                pause = PAUSES[min(tries, len(PAUSES)) - 1] if tries else 0.0
            elif time.monotonic() - stood > _STOOD_SECONDS:
                tries = 0
            if self._closed.wait(pause):
                return
            if self._channel is None:
                tries += 1
                if self._again():
                    tries = 1  # a link that breaks soon again: no longer pause, a read may be waiting
                stood = time.monotonic()

    def _lost(self, channel: Channel) -> None:
        why = channel.call.failed or errors.Unreachable("the other side ended it", path=str(self._remote))
        self._told(f"{self.path}: the link is lost, and is made again: {why}")
        with self._changed:
            connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            connection.join()

    def _again(self) -> bool:
        """One try; is there a link now? What trying again mends is not told of."""
        try:
            self._open(str(self._stands().generation))
        except errors.Error as error:
            if error.retryable or self._closed.is_set():
                return False
            with self._changed:
                self._gone = error
                self._changed.notify_all()
            self._told(f"{self.path}: it is gone, and each read fails from now on: {error}")
            return False
        self._told(f"{self.path}: the link is back")
        return True

    # -- reads ---------------------------------------------------------------------------------------------------

    def _current(self, broken: Channel | None, deadline: float) -> Channel:
        """The channel, when there is one that is not `broken`. Raises what it was that took it away for good."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._gone or self._closed.is_set() or self._channel not in (None, broken),
                max(deadline - time.monotonic(), 0),
            )
            if self._gone is not None:
                raise self._gone
            if self._closed.is_set():
                raise errors.Unreachable("it was closed", path=self.path)
            if self._channel is None or self._channel is broken:
                raise errors.Unreachable("the link did not come back in time", path=self.path)
            return self._channel

    def _ask(self, question: Callable[[Channel], T]) -> T:
        """The answer, over another link where one breaks; a cut that nobody told of is known after 45 seconds, and the
        time to wait for another link begins then.
        """
        channel, deadline = self._current(None, time.monotonic() + PATIENCE_SECONDS), 0.0
        while True:
            try:
                return question(channel)
            except errors.Error as error:
                if not error.retryable and not isinstance(channel.call.failed, errors.Refused):
                    raise
                if not channel.call.ended:  # it is the disk there that cannot be read, not the link that broke
                    raise
                now = time.monotonic()
                deadline = deadline or now + PATIENCE_SECONDS
                if now > deadline:
                    raise
            channel = self._current(channel, deadline)

    def _fetch(self, offset: int, length: int) -> bytes:
        return self._ask(lambda channel: channel.read(offset, length))

    def _find(self, start: int, length: int) -> list[Extent]:
        return self._ask(lambda channel: channel.extents(start, length))

    def follow(self) -> None:
        """The agent looks at the cycles itself."""
        return None

    def give_up(self) -> None:
        """Reads that wait for a link fail."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """With a goodbye, so that the agent need not keep the point for who comes again."""
        self._closed.set()
        self._keeper.join(1)  # longer where it waits for a host that does not answer; what it gets then is closed
        with self._changed:
            connection, channel, self._connection, self._channel = self._connection, self._channel, None, None
            self._changed.notify_all()
        if channel is not None:
            channel.close()
        if connection is not None:
            connection.drain(1)
            connection.join()
