"""One paired host's connection at the agent: its requests, each allowed anew, side by side."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from secondsite.engine import errors
from secondsite.engine.remote import access, operations
from secondsite.engine.remote.calls import Call
from secondsite.engine.remote.confined import Root
from secondsite.engine.remote.connection import Connection
from secondsite.engine.remote.request import Request

log = logging.getLogger("secondsite.agent")

# A request more is answered with Busy.
MAX_REQUESTS = 32


@dataclass(frozen=True)
class Running:
    """A request that is worked on."""

    call: Call
    action: access.Action
    replica: str


class Session:
    """Of the peer whose key has the pin `pin`, called `name`."""

    def __init__(
        self, connection: Connection, pin: str, name: str, book: Callable[[], access.Book], root: Root
    ) -> None:
        self.connection, self.pin, self.name = connection, pin, name
        self._book, self._root = book, root
        self._running: dict[int, Running] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def run(self) -> None:
        """Until the connection ends, and everything that was asked over it."""
        threads: list[threading.Thread] = []
        try:
            while True:
                call = self.connection.accept()
                assert call is not None
                threads = [thread for thread in threads if thread.is_alive()]
                if len(threads) >= MAX_REQUESTS:
                    call.fail(errors.Busy(f"{MAX_REQUESTS} requests of this connection are worked on"))
                    continue
                thread = threading.Thread(target=self._serve, args=(call,), name=f"request {self.name}", daemon=True)
                threads.append(thread)
                thread.start()
        except errors.Error as error:
            log.info("connection ended: %s", error, extra={"peer": self.name})
        finally:
            self._stopping.set()
            self.connection.join()
            for thread in threads:
                thread.join()

    def _serve(self, call: Call) -> None:
        about = {"peer": self.name, "operation": call.operation[:40]}
        began = time.monotonic()
        try:
            with call:
                self._work(call, about)
            log.info("done", extra={**about, "seconds": round(time.monotonic() - began, 3)})
        except errors.Error as error:
            log.warning("%s", error, extra={**about, "error": type(error).__name__})
        except Exception:  # the other side was told that it failed inside; what and where is for the log
            log.exception("failed inside", extra=about)

    def _work(self, call: Call, about: dict[str, str]) -> None:
        operation, args = operations.find(call)
        about["replica"] = args.name[:200]
        access.require(self._book(), self.pin, operation.action, args.name)
        work = Request(args.name, self._root.replica(args.name), self._stopping.is_set)
        with self._lock:
            self._running[call.number] = Running(call, operation.action, args.name)
        try:
            operation.run(work, call, args)
        finally:
            with self._lock:
                del self._running[call.number]

    def still_allowed(self) -> None:
        """Raises Refused where the peer was revoked, or may not go on with what it does."""
        book = self._book()
        if self.pin not in book.peers:
            raise errors.Refused("this host is not paired with you any more")
        with self._lock:
            running = list(self._running.values())
        for one in running:
            access.require(book, self.pin, one.action, one.replica)

    def refuse(self, why: errors.Error) -> None:
        """Let what runs end, here and there, with a reason; the caller closes the connection a little later."""
        self._stopping.set()
        with self._lock:
            running = list(self._running.values())
        for one in running:
            one.call.abort(why)
