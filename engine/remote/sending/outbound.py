"""`replicate` where the replica is another host's: connections, and one cycle over them, again where a link was cut."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

from secondsite.engine import errors
from secondsite.engine.admission import Terms
from secondsite.engine.files import LocalFiles
from secondsite.engine.progress import Monitor
from secondsite.engine.remote import dial, talk, url
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.link.connection import IDLE_SECONDS, Connection
from secondsite.engine.remote.link.schedule import Throttle
from secondsite.engine.remote.patience import patiently
from secondsite.engine.remote.sending import chained, retry
from secondsite.engine.remote.sending.asking import Asking, at_rest, result
from secondsite.engine.remote.sending.connections import Joining
from secondsite.engine.remote.sending.mapcache import MapCache
from secondsite.engine.remote.sending.sender import Sender, Sending
from secondsite.engine.remote.sending.tally import Sent
from secondsite.engine.remote.trust import expiry
from secondsite.engine.results.cycle import Replicated
from secondsite.engine.source import Given
from secondsite.engine.trackers import choose
from secondsite.engine.work import Options
from secondsite.engine.workers import looking

_ASK_SECONDS = 0.1
# After a cut the agent may hold our own replica for us until it notices, too.
_OURS_SECONDS = IDLE_SECONDS + 15


@dataclass
class Link:
    """How to get a cycle over. `retries` further attempts in a row that got nowhere; None is the default: after a cut
    `RETRIES`, but none where there was no connection yet, and as many as it takes while the replica's disk is full.
    `delays` in seconds are before each, the last for ever. `pace` limits the bytes a second. `notify` is told in one
    line what went wrong and when it is tried again. `sent` counts what the attempts of one cycle sent, also where each
    is a call of its own. One transfer goes over so many `connections`, 1 to 8; None is one, and up to 4 where that is
    faster.
    """

    retries: int | None = None
    delays: Sequence[float] = retry.DELAYS
    pace: Throttle | None = None
    notify: Callable[[str], None] = lambda line: None
    sent: Sent = field(default_factory=Sent)
    connections: int | None = None

    def __post_init__(self) -> None:
        if self.connections is not None and not 1 <= self.connections <= talk.MAX_CONNECTIONS:
            raise errors.Usage(f"a transfer has 1 to {talk.MAX_CONNECTIONS} connections, not {self.connections}")

    @classmethod
    def of(
        cls, retries: int | None, delays: str | None, *, notify: Callable[[str], None],
        connections: int | None = None, schedule: str | None = None,
    ) -> Link:  # fmt: skip
        """With delays as a user writes them, `60,120`, and a calendar of rates, which all share that go by this Link.
        Raises Usage.
        """
        from secondsite.engine.remote import pace

        told = retry.DELAYS if delays is None else retry.parse_delays(delays)
        return cls(retries, told, pace.throttle(None, schedule), notify, connections=connections)


RETRIES = 5


def replicate(
    given: Given, remote: url.Remote, terms: Terms, wish: choose.Wish, options: Options, monitor: Monitor, *,
    link: Link, state: str | os.PathLike[str] | None,
) -> Replicated:  # fmt: skip
    """One cycle to the agent's replica; `state` is the folder of what this host knows of others. Raises what
    `replication.replicate` and `dial.connect` raise.
    """
    began, home = time.monotonic(), Home.of(state)
    wish.find_list()  # no other attempt brings it
    with ExitStack() as stack:
        origin = chained.opened(given, stack, monitor.check)
        begin = talk.Begin(
            name=remote.name, source=origin.name, source_format=origin.format, size=0, block_size=terms.block_size,
            head=terms.head, epoch=terms.epoch, accept_source=terms.accept_source, keep=options.keep,
            history=options.history, resync=options.resync,
        )  # fmt: skip
        asking = Asking(origin, wish, home, terms)
        stack.callback(asking.close)
        sender = Sender(
            origin, asking.follow, begin, MapCache(str(home.maps), LocalFiles()), codec=options.codec,
            workers=options.workers, monitor=monitor, sent=link.sent, sample=options.distrust,
            trusted=asking.unchanged if options.trust_mtime else lambda state: False, meet=asking.meet,
            clock=options.clock, joining=Joining(partial(connected, remote, home, link), link.connections),
        )  # fmt: skip
        found = _Cycle(remote, home, sender, link, monitor.cancel).run()
        asking.remember(found)
        found.warnings.extend(expiry.at_source_soon(home, remote))
        return result(found, origin.image.size, began, asking, link.sent)


def connected(remote: url.Remote, home: Home, link: Link) -> Connection:
    """Another connection there; one bucket limits all of them together. Raises as `dial.connect`."""
    connection = dial.connect(remote, home)
    connection.limiter = link.pace
    return connection


class _Cycle:
    """Attempts until one ends well."""

    def __init__(
        self, remote: url.Remote, home: Home, sender: Sender, link: Link, cancel: Callable[[], bool] | None
    ) -> None:
        self.remote, self.home, self.sender, self.link, self.cancel = remote, home, sender, link, cancel
        self._first: Connection | None = None

    def run(self) -> Sending:
        retries = RETRIES if self.link.retries is None else self.link.retries
        if self.link.retries is None:
            self._first = self._connect()
        sent = self.link.sent
        return retry.run(
            self._attempt, sleep=time.sleep, cancel=self.cancel or (lambda: False), say=self._say,
            told=self.link.delays, attempts=retries + 1, progressed=lambda: sent.durable,
            waits_for=lambda error: self.link.retries is None and self._full(error),
            at_once=lambda error: isinstance(error, protocol.Garbled) or self.sender.alone,
        )  # fmt: skip

    def _full(self, error: errors.Error) -> bool:
        """Has the replica's disk no room? That mends who looks after that host; here is nothing to give up for."""
        return isinstance(error, errors.Full) and error.path == url.address(self.remote.host, self.remote.port)

    def _say(self, error: errors.Error, seconds: float) -> None:
        waits = "; waiting for room there, nothing is lost" if self._full(error) else ""
        when = f"in {seconds:g} s" if seconds else "at once"
        self.link.notify(f"{error}{waits}; tried again {when}")

    def _connect(self) -> Connection:
        return connected(self.remote, self.home, self.link)

    def _attempt(self) -> Sending:
        connection, self._first = self._first or self._connect(), None
        with connection, cancelling(connection, self.cancel):
            return at_rest(lambda: self._patient(connection))

    def _patient(self, connection: Connection) -> Sending:
        """The agent may not have noticed yet that an attempt of ours has ended."""
        ours = _OURS_SECONDS if self.link.sent.attempts else 0.0
        return patiently(lambda: self.sender.run(connection), seconds=ours, check=self.sender.monitor.check)


@contextmanager
def cancelling(connection: Connection, cancel: Callable[[], bool] | None) -> Iterator[None]:
    """Whoever waits for the other side is ended with Cancelled as soon as the caller asks to stop."""
    if cancel is None:
        yield
        return

    def look() -> bool:
        if cancel():
            connection.close(errors.Cancelled("stopped on request; what was sent stays for the next time"))
            return False
        return True

    with looking(_ASK_SECONDS, look, "cancel"):
        yield
