"""One paired host's connection at the agent: its requests, each allowed anew, side by side."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from secondsite.engine import errors
from secondsite.engine.remote.agent import operations
from secondsite.engine.remote.agent.confined import Root
from secondsite.engine.remote.agent.meter import Meter
from secondsite.engine.remote.agent.request import Request
from secondsite.engine.remote.agent.stream import Streams
from secondsite.engine.remote.link.calls import Call
from secondsite.engine.remote.link.connection import Connection
from secondsite.engine.remote.trust import access
from secondsite.engine.store.place import is_log

log = logging.getLogger("secondsite.agent")

# A request more is answered with Busy.
MAX_REQUESTS = 32
# What ended well is told of these; reading asks for many things.
_TOLD = {"replicate", "expect-seed", "verify", "prune", "raise-epoch", "delete", "cancel-resync", "point"}


@dataclass(frozen=True)
class Running:
    """A request that is worked on."""

    call: Call
    action: access.Action | None
    replica: str


class Session:
    """Of the peer whose key has the pin `pin`, called `name`."""

    def __init__(
        self, connection: Connection, pin: str, name: str, book: Callable[[], access.Book], root: Root, meter: Meter,
        keep: int | None = None, streams: Streams | None = None,
    ) -> None:  # fmt: skip
        self.connection, self.pin, self.name = connection, pin, name
        self._book, self._root, self._meter, self._keep = book, root, meter, keep
        self._streams = streams or Streams()
        connection.veiled = f"{root.path}/"
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
            # What is being applied goes on: its source finds the point when it comes again.
            self.connection.join()
            for thread in threads:
                thread.join()

    def _serve(self, call: Call) -> None:
        about = {"peer": self.name, "operation": call.operation[:40]}
        began = time.monotonic()
        try:
            with call:
                self._work(call, about)
            level = logging.INFO if call.operation in _TOLD else logging.DEBUG
            log.log(level, "done", extra={**about, "seconds": round(time.monotonic() - began, 3)})
        except errors.IsLog as error:
            log.debug("%s", error, extra=about)  # who asked comes again for the log
        except errors.Error as error:
            self._meter.of(about.get("replica", "")).failed(type(error).__name__)
            gone = self.connection.failed is not None  # that is said once, and not for each request
            level = logging.DEBUG if gone else logging.WARNING
            log.log(level, "%s", error, extra={**about, "error": type(error).__name__})
        except Exception:  # the other side was told that it failed inside; what and where is for the log
            self._meter.of(about.get("replica", "")).failed("Error")
            log.exception("failed inside", extra=about)

    def _work(self, call: Call, about: dict[str, str]) -> None:
        operation, args = operations.find(call)
        access.require(self._book(), self.pin, operation.action, args.name)
        about["replica"] = args.name
        counts = self._meter.of(args.name)
        work = Request(
            args.name, self._root.replica(args.name), self._stopping.is_set, counts,
            lambda action: access.require(self._book(), self.pin, action, args.name), self._keep,
            self.pin, self._streams,
        )  # fmt: skip
        if is_log(work.folder) and not operation.logs:
            raise errors.IsLog("is the log of a store, which this is not for", path=args.name)
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
