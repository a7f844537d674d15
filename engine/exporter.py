"""Figures for Prometheus: its text format, and a small HTTP server that tells them on an address of their own.

The client's own server takes a thread for each question and has no bound on either; this one answers one at a time.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import TCPServer

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from secondsite.engine import errors, units
from secondsite.engine.figures import Family

log = logging.getLogger("secondsite.metrics")

# One question at a time is answered, and who asks has so long to do it.
_ASK_SECONDS = 5.0


class _Told(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family.name.removesuffix("_total"), family.about, family.kind)
            for labels, value in family.samples:
                metric.add_sample(family.name, {name: units.printable(text) for name, text in labels.items()}, value)
            yield metric


def text(families: Iterable[Family]) -> str:
    """All of them, in the text format 0.0.4."""
    registry = CollectorRegistry()
    registry.register(_Told(families))
    return generate_latest(registry).decode()


class Server:
    """Answers `GET /metrics` with what `figures` returns; `address` is where it listens. Close it after use. Raises
    Unreachable.
    """

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

        class Listener(HTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def server_bind(self) -> None:
                TCPServer.server_bind(self)  # HTTPServer's own asks the name service who it is

            def handle_error(self, request: object, client_address: object) -> None:
                log.debug("a question for metrics failed", exc_info=True)

        try:
            self._server = Listener((host, port), Handler)
        except OSError as error:
            raise errors.from_os(error, _address(host, port), "listen") from None
        found = self._server.server_address
        self.address = _address(str(found[0]), int(found[1]))
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_ASK_SECONDS)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def serve_figures(where: tuple[str, int], families: Callable[[], Iterable[Family]]) -> Server:
    """Tell Prometheus what `families` returns, asked anew each time. Close it after use. Raises Unreachable."""
    return Server(*where, lambda: text(families()))
