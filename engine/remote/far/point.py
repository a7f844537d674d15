"""A recovery point of another host's replica as an image that stays as it is, also over a connection that breaks."""

from __future__ import annotations

import threading

from secondsite.engine import errors
from secondsite.engine.images.base import Extent
from secondsite.engine.remote import dial, url
from secondsite.engine.remote import questions as q
from secondsite.engine.remote.far.channel import Channel, FarImage
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.link.connection import Connection


class FarPoint(FarImage):
    """`at` is as `Replica.choose` takes it. The agent keeps the point as it is while this is open, and cycles go on.

    Where the connection breaks, the next read makes another one and asks for the same point by its number: it is
    Damaged where that is not what it was, which its seal tells.
    """

    fd = -1

    def __init__(self, remote: url.Remote, home: Home, at: str = "latest") -> None:
        self._remote, self._home = remote, home
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self.standing: q.Standing | None = None
        self._closed = False
        self.path = f"{remote} at point {at}"
        self._open(at)
        self.path = f"{remote} at point {self._stands().point}"

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
        self.standing, self._connection, self._channel = found, connection, Channel(call)

    def _current(self, broken: Channel | None) -> Channel:
        """The channel, or another one in the place of one that broke."""
        with self._lock:
            if self._closed:
                raise errors.Unreachable("it was closed", path=self.path)
            if self._channel is None or self._channel is broken:
                if self._connection is not None:
                    self._connection.join()
                    self._connection = self._channel = None
                self._open(str(self._stands().generation))
            assert self._channel is not None
            return self._channel

    def _fetch(self, offset: int, length: int) -> bytes:
        channel = self._current(None)
        try:
            return channel.read(offset, length)
        except errors.Error as error:
            if not error.retryable:
                raise
            return self._current(channel).read(offset, length)

    def _find(self, start: int, length: int) -> list[Extent]:
        channel = self._current(None)
        try:
            return channel.extents(start, length)
        except errors.Error as error:
            if not error.retryable:
                raise
            return self._current(channel).extents(start, length)

    def follow(self) -> None:
        """The agent looks at the cycles itself."""
        return None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.join()
                self._connection = self._channel = None
