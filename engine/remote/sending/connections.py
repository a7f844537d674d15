"""The connections of one transfer: frames go over whichever is free, and are taken there as they come.

Where one connection does not fill the link, further ones join the transfer by its ticket. Until the first has joined,
who sends does so over the control connection itself; from then on each connection has a thread that takes the next
message. What is under way over all of them together is bounded by who hands it over (outlet.py). A connection that is
lost ends the attempt, as a cut of a single one does.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from secondsite.engine import errors
from secondsite.engine.remote import talk
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.link.calls import Call
from secondsite.engine.remote.link.connection import Connection
from secondsite.engine.remote.link.lateness import Lateness
from secondsite.engine.remote.sending.growth import Growth

# That `auto` goes up to.
MOST_FOUND = 4
# A handshake takes two ways there and back, and some milliseconds of both processors. Hosts that are nearer than this
# fill their link with one connection.
FAR_SECONDS = 0.02
_ANSWER_SECONDS = 30.0
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Joining:
    """How further connections are made, and how many there are with the first; None: as many as make it faster."""

    connect: Callable[[], Connection]
    count: int | None = None


class Connections:
    """Of one attempt, whose `call` the agent has answered with this ticket for the replica `name`; a context, left when
    the attempt is over. `went` is told of bytes of frames that the link was given. `used` is how many carried frames at
    once; `warnings` say why they were fewer than asked for.
    """

    def __init__(
        self, call: Call, ticket: bytes, name: str, joining: Joining | None, went: Callable[[int], None]
    ) -> None:
        self._went = went
        self.call, self.used, self.warnings = call, 1, list[str]()
        self._told, self._joining = talk.Join(name, ticket), joining if ticket else None
        if joining is not None and joining.count not in (None, 1) and not ticket:
            self.warnings.append("no further connection: the agent is too old for them; it must be updated")
        self._growth = Growth(MOST_FOUND) if self._finds_out() else None
        self._changed = threading.Condition()
        self._control = threading.Lock()  # one message after another, whoever sends it
        self._queue: deque[bytes] = deque()
        self._carrying = self._busy = self._numbers = 0
        self._leaving = -1
        self._begun = self._settled = self._over = False
        self._late = Lateness()
        self._failed: errors.Error | None = None
        self._open: dict[Connection, threading.Thread] = {}
        self._first: threading.Thread | None = None

    def _finds_out(self) -> bool:
        far = self.call.connection.handshake_seconds >= FAR_SECONDS
        return self._joining is not None and self._joining.count is None and far

    @property
    def lagged(self) -> bool:
        """All had been handed over, to several of them: what is missing then is little."""
        return self._settled and self.used > 1

    # -- who sends: one thread at a time -------------------------------------------------------------------------

    def send(self, frames: memoryview) -> None:
        """Hand a message over, as soon as a connection has room for it. Raises what ended the attempt."""
        self._begin()
        if not self._carrying:
            self._over_control(frames)
            return
        with self._changed:
            self._changed.wait_for(lambda: self._failed or len(self._queue) < self._carrying)
            self._check()
            self._queue.append(bytes(frames))
            self._changed.notify_all()

    def settle(self) -> None:
        """Until all that was handed over has gone out; nothing more comes. Raises as `send`, and Unreachable where one
        connection is far behind the others, unless a limit may be what holds it.
        """
        with self._changed:
            self._settled = True
            while self._queue or self._busy:
                self._check()
                limiter = self.call.connection.limiter
                free = limiter is None or limiter.rate is None
                if self._late.over(free and not self._queue and self._busy < self._carrying):
                    raise errors.Unreachable("one of several connections is far behind the others", path=self.call.peer)
                self._changed.wait(_LOOK_SECONDS)
            self._check()

    def waited(self, seconds: float) -> None:
        """Who sends has waited for the link."""
        if self._growth is not None:
            self._growth.waited += seconds

    def durable(self, count: int) -> None:
        """So many bytes are durable there: is it worth another connection, or was the last one?"""
        limiter = self.call.connection.limiter
        if self._growth is None or (limiter is not None and limiter.rate is not None):
            return
        change = self._growth.durable(time.monotonic(), count, max(self._carrying, 1))
        if change > 0:
            self._add()
        elif change < 0:
            with self._changed:
                self._leaving = self._numbers
                self._changed.notify_all()

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            for _ in range((self._joining.count or 1) - 1 if self._joining else 0):
                self._add()

    def _add(self) -> None:
        self._numbers += 1
        work, name = (self._joined, self._numbers), f"data {self._numbers} {self.call.peer}"
        threading.Thread(target=self._guarded, args=work, name=name, daemon=True).start()

    def _over_control(self, frames: bytes | memoryview) -> None:
        with self._control:
            self._put(self.call, frames)

    def _put(self, call: Call, frames: bytes | memoryview) -> None:
        """Counted is what went, also where that was a part of it."""
        before = call.went
        try:
            call.send(talk.Frames(), frames, checked=True)
        finally:
            self._went(call.went - before)

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed

    # -- a connection's thread -----------------------------------------------------------------------------------

    def _guarded(self, work: Callable[[int], None], number: int) -> None:
        try:
            work(number)
        except errors.Error as error:
            self._lost(error)
        except BaseException as error:
            self._lost(errors.Error(f"failed inside: {type(error).__name__}: {error}", path=self.call.peer))
            raise

    def _joined(self, number: int) -> None:
        assert self._joining is not None
        with ExitStack() as stack:
            try:
                call = self._call(stack)
            except errors.Error as error:
                self._refused(error)
                return
            if call is not None:
                self._take_part()
                self._carry(number, partial(self._put, call))
                if not self._over:
                    self._leave(call)

    def _call(self, stack: ExitStack) -> Call | None:
        """Join the transfer; None where nothing is left to carry. Raises what forbids it."""
        assert self._joining is not None
        connection = stack.enter_context(self._joining.connect())
        with self._changed:
            if self._settled or self._over:
                return None
            self._open[connection] = threading.current_thread()
        stack.callback(self._open.pop, connection, None)
        self.call.connection.tie(connection)
        call = stack.enter_context(connection.call(talk.JOIN, self._told))
        protocol.decode(call.receive(_ANSWER_SECONDS).control, talk.Joined, call.peer)
        return call

    def _take_part(self) -> None:
        with self._changed:
            first, self._carrying = not self._carrying, max(self._carrying, 1) + 1
            self.used = max(self.used, self._carrying)
            if self._growth is not None:
                self._growth.joined()
            self._changed.notify_all()
        if first:
            carry = (lambda number: self._carry(number, self._over_control), 0)
            self._first = threading.Thread(
                target=self._guarded, args=carry, name=f"data 0 {self.call.peer}", daemon=True
            )
            self._first.start()

    def _carry(self, number: int, send: Callable[[bytes], None]) -> None:
        while (frames := self._next(number)) is not None:
            send(frames)
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def _next(self, number: int) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._over or self._leaving == number)
            if self._over or self._leaving == number:
                return None
            self._busy += 1
            frames = self._queue.popleft()
            self._changed.notify_all()
            return frames

    def _leave(self, call: Call) -> None:
        """It brought nothing. What it carried is there before the other side lets it go."""
        with self._changed:
            self._carrying -= 1
        call.send(talk.Leave())
        protocol.decode(call.receive(_ANSWER_SECONDS).control, talk.Joined, call.peer)

    def _refused(self, error: errors.Error) -> None:
        """The transfer goes on over those that there are."""
        with self._changed:
            if self._growth is not None:
                self._growth.refused()
            elif not (self._settled or self._over):
                self.warnings.append(f"no further connection: {error}")

    def _lost(self, error: errors.Error) -> None:
        with self._changed:
            if self._over or self._failed is not None:
                return
            self._failed = error
            self._changed.notify_all()
        self.call.abort(error)

    # -- the end -------------------------------------------------------------------------------------------------

    def __enter__(self) -> Connections:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """All was taken there, or nothing counts any more. Those that are being made close by themselves."""
        with self._changed:
            self._over = True
            self._queue.clear()
            opened = dict(self._open)
            self._changed.notify_all()
            first = self._first
        for connection, thread in opened.items():
            connection.close()
            thread.join()
        if first is not None:  # what it sends yet is of this attempt
            if isinstance(error, errors.Unreachable):
                self.call.connection.discard(error)
            elif error is not None:
                self.call.abort(error if isinstance(error, errors.Error) else errors.Cancelled("it was left"))
            first.join(_ANSWER_SECONDS)
