"""An agent's figures for Prometheus: its text format over HTTP, on an address of their own."""

from __future__ import annotations

import datetime
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import TCPServer

from secondsite.engine import errors
from secondsite.engine.remote import url
from secondsite.engine.remote.agent.confined import ConfinedFiles, Root
from secondsite.engine.remote.agent.meter import Counts, Meter
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.point import parse_time

log = logging.getLogger("secondsite.agent")

# One question at a time is answered, and who asks has so long to do it.
_ASK_SECONDS = 5.0
# Replicas below the root of which the newest point is looked for at each question.
_MAX_REPLICAS = 2000

_GAUGES = {
    "secondsite_last_good_age_seconds": "Seconds since the replica was last brought to what its source held.",
    "secondsite_streams": "Streams that come in now.",
    "secondsite_cycle_seconds": "How long the last attempt took that ended with a point.",
    "secondsite_connections": "Paired hosts' connections.",
}
_COUNTERS = {
    "secondsite_received_bytes_total": "Bytes of frames that came.",
    "secondsite_received_twice_bytes_total": "Of them those that came again, since they had been lost.",
    "secondsite_cycles_total": "Transfers that ended with a point, or found that nothing had changed.",
    "secondsite_errors_total": "Requests that ended with an error, by its kind.",
}


def text(meter: Meter, root: Root, connections: int) -> str:
    """All figures of now."""
    found = meter.all()
    lines: list[str] = []
    for name, about in (_GAUGES | _COUNTERS).items():
        lines.append(f"# HELP {name} {about}")
        lines.append(f"# TYPE {name} {'gauge' if name in _GAUGES else 'counter'}")
        if name == "secondsite_connections":
            lines.append(f"{name} {connections}")
        elif name == "secondsite_last_good_age_seconds":
            lines += [_line(name, replica, _age(seconds, found.get(replica))) for replica, seconds in _ages(root)]
        else:
            lines += [line for replica, one in sorted(found.items()) for line in _counted(name, replica, one)]
    return "\n".join(lines) + "\n"


def _counted(name: str, replica: str, one: Counts) -> Iterator[str]:
    if name == "secondsite_errors_total":
        for kind, count in sorted(one.errors.items()):
            yield f'{name}{{replica="{replica}",kind="{kind}"}} {count}'
    elif replica:
        value = {
            "secondsite_streams": one.running, "secondsite_cycle_seconds": one.cycle_seconds,
            "secondsite_received_bytes_total": one.received, "secondsite_received_twice_bytes_total": one.twice,
            "secondsite_cycles_total": one.cycles,
        }[name]  # fmt: skip
        yield _line(name, replica, value)


def _line(name: str, replica: str, value: float) -> str:
    # Names of replicas have nothing in them that would have to be escaped: url.check_name.
    return f'{name}{{replica="{replica}"}} {value:.3f}' if isinstance(value, float) else (
        f'{name}{{replica="{replica}"}} {value}'
    )


def _age(point: float, counts: Counts | None) -> float:
    """A source that does not change makes no points, and is looked at all the same."""
    last = counts.last_done if counts is not None else None
    return point if last is None else min(point, time.monotonic() - last)


def _ages(root: Root) -> Iterator[tuple[str, float]]:
    """Of every replica below the root, also those that nothing was sent to since the agent began."""
    for name in root.names()[:_MAX_REPLICAS]:
        try:
            folder = root.replica(name)
            newest = Replica.open(folder, ConfinedFiles(folder)).newest()
            if newest is not None:
                moment = parse_time(newest.time)
                yield name, max((datetime.datetime.now(datetime.UTC) - moment).total_seconds(), 0.0)
        except errors.Error:
            continue  # no replica, or one that says nothing: its series ends, which an alert can be on


class Metrics:
    """The HTTP server; `address` is where it listens. Close it after use."""

    def __init__(self, host: str, port: int, figures: Callable[[], str]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = _ASK_SECONDS
            server_version, sys_version = "secondsite", ""

            def do_GET(self) -> None:
                if self.path.partition("?")[0] != "/metrics":
                    self.send_error(404)
                    return
                body = figures().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                log.debug(format, *args)

        class Server(HTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def server_bind(self) -> None:
                TCPServer.server_bind(self)  # HTTPServer's own asks the name service who it is

            def handle_error(self, request: object, client_address: object) -> None:
                log.debug("a question for metrics failed", exc_info=True)

        try:
            self._server = Server((host, port), Handler)
        except OSError as error:
            raise errors.from_os(error, url.address(host, port), "listen") from None
        found = self._server.server_address
        self.address = url.address(str(found[0]), int(found[1]))
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_ASK_SECONDS)
