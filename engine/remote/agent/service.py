"""The agent: owns the replicas below one folder, and takes connections of hosts that are paired with it.

Who connects is a stranger until the handshake has shown a paired key. Strangers are few and have little time: of too
many the oldest goes, so that who has a key comes in while others only hold on.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from secondsite.engine import errors, exporter
from secondsite.engine.remote import url
from secondsite.engine.remote.agent import metrics
from secondsite.engine.remote.agent.confined import Root
from secondsite.engine.remote.agent.lobby import Lobby
from secondsite.engine.remote.agent.meter import Meter
from secondsite.engine.remote.agent.session import Session
from secondsite.engine.remote.agent.stream import Streams
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.link import tls
from secondsite.engine.remote.link.connection import WINDOW, Connection
from secondsite.engine.remote.link.secure import Secure
from secondsite.engine.remote.trust import access, expiry, identity, pairing

log = logging.getLogger("secondsite.agent")

MAX_CONNECTIONS = 512
MAX_OF_ONE = 256  # so that one peer leaves room for others
# What may wait in memory for the requests of one connection, whatever windows they have.
MOST_WAITING = 4 * WINDOW
# Certificates that end soon are told of when the agent begins, and then every so often.
_REMIND_SECONDS = 86400.0
# How soon who was revoked is gone.
LOOK_SECONDS = 0.5
# What is begun is parked in less; what takes longer is taken back by who opens the replica next.
STOP_SECONDS = 10.0


class Agent:
    """Made with its identity and folder; `listen`, then `close`, or use it as a context. After each cycle the newest
    `keep` points of a replica stay, or all of them.
    """

    def __init__(self, root: str, home: Home, *, keep: int | None = None) -> None:
        self.home, self.keep = home, keep
        self.identity = identity.load(home.identity)
        self.root = Root(root)
        self.book = access.Reader(home.peers)
        self.book.now()  # one that cannot be read is told now, not to the first peer
        self.lobby, self.meter, self.streams = Lobby(), Meter(), Streams(self._has_room)
        self._sessions: set[Session] = set()
        self._places: list[str] = []  # the pins of who has shown a key, from then to its end
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._listeners: list[tuple[socket.socket, threading.Thread]] = []
        self._visitors: set[threading.Thread] = set()
        self._looking = threading.Thread(target=self._look, name="look", daemon=True)
        self._looking.start()

    def listen(self, host: str, port: int) -> tuple[str, int]:
        """Take connections at an address (port 0: any); where that is. Raises Unreachable."""
        where = url.address(host, port)
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            both = host == "::" and socket.has_dualstack_ipv6()
            place = (str(family[4][0]), int(family[4][1]))
            sock = socket.create_server(place, family=family[0], backlog=128, dualstack_ipv6=both)
        except OSError as error:
            raise errors.from_os(error, where, "listen") from None
        except UnicodeError:
            raise errors.Usage(f"{host[:80]!r} is no host") from None
        thread = threading.Thread(target=self._accept, args=(sock,), name=f"accept {where}", daemon=True)
        self._listeners.append((sock, thread))
        thread.start()
        found = sock.getsockname()
        return found[0], found[1]

    def figures(self) -> str:
        """What is measured, in Prometheus' text format."""
        with self._lock:
            connections = len(self._sessions)
        try:
            ends = expiry.at_agent(self.home)
        except errors.Error:
            ends = []  # the agent's log says why
        return exporter.text(metrics.families(self.meter, self.root, connections, ends))

    # -- strangers -----------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while not self._done.is_set():
            if self._strangers() > 4 * self.lobby.places:
                self._done.wait(0.01)  # those that were cut are on their way out; the others wait in the backlog
                continue
            try:
                sock, where = listener.accept()
            except OSError as error:
                if self._done.is_set():
                    return
                log.error("cannot take a connection: %s", error)  # too many files are open, mostly
                self._done.wait(0.2)
                continue
            peer = url.address(*where[:2])
            thread = threading.Thread(target=self._visit, args=(sock, peer), name=f"visitor {peer}", daemon=True)
            with self._lock:
                self._visitors.add(thread)
            thread.start()

    def _strangers(self) -> int:
        with self._lock:
            return len(self._visitors) - len(self._places)

    def _visit(self, sock: socket.socket, peer: str) -> None:
        try:
            self._welcome(sock, peer)
        except errors.Error as error:
            self.meter.of("").failed(type(error).__name__)
            log.warning("refused: %s", error, extra={"peer": peer, "error": type(error).__name__})
        except Exception:
            log.exception("failed inside", extra={"peer": peer})
        finally:
            sock.close()
            with self._lock:
                self._visitors.discard(threading.current_thread())

    def _welcome(self, sock: socket.socket, peer: str) -> None:
        with ExitStack() as stack:
            connection, pin, name = self._meet(sock, peer, stack)
            if pin:
                made = Session(connection, pin, name, self.book.now, self.root, self.meter, self.keep, self.streams)
                self._serve(made)

    def _meet(self, sock: socket.socket, peer: str, stack: ExitStack) -> tuple[Connection, str, str]:
        """Until it is known who is there, whose place then is on `stack`; a stranger's only request is answered."""
        with self.lobby.guest(sock) as trust:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            book = self.book.now()
            known = {pin: one.certificate for pin, one in book.peers.items()}
            pairs = any(key.ends > time.time() for key in book.keys)
            secure, pin = tls.shake(sock, self.identity, known, peer, server=True, strangers=pairs)
            name = book.peers[pin].name if pin else "somebody"
            if pin:
                self._note(secure, pin, book.peers[pin])
            room = bool(pin) and stack.enter_context(self._place(pin))
            if room:
                trust()
            connection = Connection(secure, f"{name} ({peer})", client=False, most=MOST_WAITING)
            if not pin:
                self._pair(connection)
            elif not room:
                _turn_away(connection)
        return connection, pin, name

    def _note(self, secure: Secure, pin: str, peer: access.Peer) -> None:
        """A certificate that a host made anew, so that it is known until when it holds."""
        try:
            if (other := tls.renewed(secure, peer.certificate)) is not None:
                access.renewed(self.home.peers, pin, other)
        except errors.Error as error:
            log.warning("a renewed certificate is not kept: %s", error, extra={"peer": peer.name})

    def _pair(self, connection: Connection) -> None:
        """A stranger's one request, in the time that strangers have."""
        with connection:
            call = connection.accept(pairing.ANSWER_SECONDS)
            if call is None:
                raise errors.Unreachable("came without a key and said nothing", path=connection.peer)
            with call:
                if call.operation != pairing.OPERATION:
                    raise errors.Refused("this host is not paired with you")
                made = pairing.take(call, self.home)
            log.info("paired", extra={"peer": made.name})

    # -- who is paired -------------------------------------------------------------------------------------------

    @contextmanager
    def _place(self, pin: str) -> Iterator[bool]:
        """Is there one for this peer? Then it has it, while the context is open."""
        with self._lock:
            room = len(self._places) < MAX_CONNECTIONS and self._places.count(pin) < MAX_OF_ONE
            if room:
                self._places.append(pin)
        try:
            yield room
        finally:
            if room:
                with self._lock:
                    self._places.remove(pin)

    def _has_room(self, pin: str) -> bool:
        """For a connection that only makes a transfer faster: the other half is for who would not come in otherwise."""
        with self._lock:
            return len(self._places) <= MAX_CONNECTIONS // 2 and self._places.count(pin) <= MAX_OF_ONE // 2

    def _serve(self, session: Session) -> None:
        with self._lock:
            over = self._done.is_set()
            if not over:
                self._sessions.add(session)
        if over:
            session.connection.join()
            raise errors.Unreachable("came while the agent was being stopped", path=session.connection.peer)
        log.info("connected", extra={"peer": session.name})
        try:
            session.run()
        finally:
            with self._lock:
                self._sessions.discard(session)

    def _look(self) -> None:
        """Now and then: strangers whose time is over, and peers that were revoked."""
        reminded = -_REMIND_SECONDS
        while not self._done.wait(LOOK_SECONDS):
            if time.monotonic() - reminded >= _REMIND_SECONDS:
                reminded = time.monotonic()
                self._remind()
            self.lobby.sweep()
            dropped = []
            for session in self._all():
                try:
                    session.still_allowed()
                except errors.Error as error:
                    log.warning("dropped: %s", error, extra={"peer": session.name})
                    dropped.append((session, error))
            self._end(dropped)

    def _remind(self) -> None:
        try:
            for line in expiry.warnings(expiry.at_agent(self.home)):
                log.warning("%s", line)
        except errors.Error as error:
            log.warning("how long certificates hold is not known: %s", error)

    def _end(self, sessions: list[tuple[Session, errors.Error]]) -> None:
        """Each with its reason, which has half a second to arrive."""
        for session, why in sessions:
            session.refuse(why)
        deadline = time.monotonic() + 0.5
        for session, why in sessions:
            session.connection.drain(deadline - time.monotonic())
            session.connection.close(why)

    def _all(self) -> list[Session]:
        with self._lock:
            return list(self._sessions)

    # -- its end -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take nobody any more, park what runs, and be gone in seconds. May be called twice."""
        if self._done.is_set():
            return
        self._done.set()
        for sock, thread in self._listeners:
            try:
                sock.shutdown(socket.SHUT_RDWR)  # wakes accept
            except OSError:
                pass
            sock.close()
            thread.join()
        self.lobby.close()
        self._end([(session, errors.Unreachable("the agent is being stopped")) for session in self._all()])
        deadline = time.monotonic() + STOP_SECONDS
        with self._lock:
            waiting = list(self._visitors)
        for visitor in waiting:
            visitor.join(max(deadline - time.monotonic(), 0))
        self._looking.join()
        self.root.close()

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _turn_away(connection: Connection) -> None:
    """Who may come in finds no place: its first request is answered with that. Raises Busy."""
    with connection:
        call = connection.accept(pairing.ANSWER_SECONDS)
        why = errors.Busy("the agent has as many connections open as it takes; try again later")
        if call is not None:
            call.fail(why)
        raise why
