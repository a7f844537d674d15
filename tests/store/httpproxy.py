"""HTTP with faults, between a client and a server: each request meets the next of a list of troubles, or none.

busy      answers 503 and passes nothing on; with `seconds` it says Retry-After
refused   resets the connection, and passes nothing on
lost      passes the request on, and resets the connection instead of answering
stalled   passes nothing on and says nothing for `seconds`
half      passes it on, and breaks off in the middle of the answer's body
late      resets the connection at once, and passes the request on after `seconds`
flipped   passes it on with a bit of its body flipped
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KINDS = ("busy", "refused", "lost", "stalled", "half", "late", "flipped")
_HOPS = {"connection", "keep-alive", "transfer-encoding"}


@dataclass
class Trouble:
    """`kind` as above, for requests of these `methods`; others leave it for a later one."""

    kind: str
    seconds: float = 0.0
    methods: tuple[str, ...] = ("GET", "PUT", "HEAD", "DELETE", "POST")


class HttpProxy:
    """`plan` is asked for the trouble of each request (method, path). `bodies` counts the bytes that clients sent, and
    `segments` those of them that were for a segment of a log.
    """

    def __init__(self, port: int, plan: Callable[[str, str], Trouble | None]) -> None:
        self.target, self.plan = port, plan
        self.met: list[str] = []
        self.passing = 0
        self.bodies = self.segments = self.requests = 0
        self.lock = threading.Lock()
        self._late: list[threading.Thread] = []
        self._over = threading.Event()
        proxy = self

        class Handler(_Handler):
            def setup(self) -> None:
                self.proxy = proxy
                super().setup()

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def ask(self, method: str, path: str, body: int, *, whole: bool = True) -> Trouble | None:
        """What a request meets, with so many bytes of body; one that is not `whole` is passed on by nobody."""
        with self.lock:
            self.requests += 1
            self.bodies += body
            self.segments += body if "/segments/" in path else 0
            if not whole:
                return None
            found = self.plan(method, path)
            if found is not None:
                self.met.append(found.kind)
            return found

    def pass_on(self, method: str, path: str, headers: dict[str, str], body: bytes) -> http.client.HTTPResponse:
        with self.lock:
            self.passing += 1
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.target, timeout=30)
            connection.request(method, path, body=body, headers=headers)
            return connection.getresponse()
        finally:
            with self.lock:
                self.passing -= 1

    def pass_on_late(self, seconds: float, *request: object) -> None:
        def run() -> None:
            self._over.wait(seconds)
            self.pass_on(*request).read()  # type: ignore[arg-type]

        self._late.append(threading.Thread(target=run, daemon=True))
        self._late[-1].start()

    def settle(self) -> None:
        """Wait until all that is late, or was on its way when its client was killed, has arrived."""
        for thread in self._late:
            thread.join(30)
        while self.passing:
            time.sleep(0.01)

    def wait(self, seconds: float) -> None:
        self._over.wait(seconds)

    def close(self) -> None:
        self._over.set()
        self.server.shutdown()
        self.server.server_close()
        self.settle()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, address: object) -> None:
        """Of a client that is gone nothing is said."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: HttpProxy

    def log_message(self, format: str, *args: object) -> None:
        return None

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:  # the client is gone
            self.proxy.ask(self.command, self.path, len(body), whole=False)
            self.close_connection = True
            return
        headers = {key: value for key, value in self.headers.items() if key.lower() not in _HOPS}
        request = (self.command, self.path, headers, body)
        trouble = self.proxy.ask(self.command, self.path, len(body))
        kind = trouble.kind if trouble else ""
        if trouble and kind == "busy":
            self._busy(trouble.seconds)
        elif trouble and kind in ("refused", "stalled", "late"):
            if kind == "late":
                self.proxy.pass_on_late(trouble.seconds, *request)
            if kind == "stalled":
                self.proxy.wait(trouble.seconds)
            self._reset()
        else:
            if kind == "flipped" and body:
                request = (*request[:3], bytes([body[0] ^ 1]) + body[1:])
            self._answer(self.proxy.pass_on(*request), kind)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _handle

    def _answer(self, answer: http.client.HTTPResponse, kind: str) -> None:
        data = answer.read()
        if kind == "lost":
            self._reset()
            return
        self.send_response_only(answer.status, answer.reason)
        for key, value in answer.getheaders():
            if key.lower() not in _HOPS | {"content-length"}:
                self.send_header(key, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        if length is not None:
            self.send_header("Content-Length", length)
        self.end_headers()
        if kind == "half" and data:
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self._reset()
            return
        self.wfile.write(data)

    def _busy(self, seconds: float) -> None:
        self.send_response(503, "Server Busy")
        self.send_header("x-ms-error-code", "ServerBusy")
        if seconds:
            self.send_header("Retry-After", f"{seconds:.0f}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _reset(self) -> None:
        """Not closed but cut: what waits to be sent is thrown away."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RD)


def listed(*troubles: Trouble | None) -> Callable[[str, str], Trouble | None]:
    """A plan: these in turn, each for the first request of its methods; after them none."""
    left = list(troubles)

    def plan(method: str, path: str) -> Trouble | None:
        if left and (left[0] is None or method in left[0].methods):
            return left.pop(0)
        return None

    return plan


def seeded(
    seed: int, share: float, kinds: tuple[str, ...] = KINDS, stall: float = 1.0
) -> Callable[[str, str], Trouble | None]:
    """A plan: of all requests this share meets a trouble of some kind."""
    chance = random.Random(seed)

    def plan(method: str, path: str) -> Trouble | None:
        if chance.random() >= share:
            return None
        # A stall costs a client its whole time-out, which must be long where the machine is busy.
        kind = chance.choices(kinds, [1 if each == "stalled" else 10 for each in kinds])[0]
        return Trouble(kind, {"stalled": stall, "late": chance.random() / 2, "busy": 0}.get(kind, 0))

    return plan


@contextmanager
def proxied(port: int, plan: Callable[[str, str], Trouble | None]) -> Iterator[HttpProxy]:
    """A proxy before a port of loopback, for a block."""
    made = HttpProxy(port, plan)
    try:
        yield made
    finally:
        made.close()
