"""Figures for Prometheus: its text format, and a small HTTP server that tells them on an address of their own."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import TCPServer
from typing import Literal, NamedTuple

from secondsite.engine import errors

log = logging.getLogger("secondsite.metrics")

# One question at a time is answered, and who asks has so long to do it.
_ASK_SECONDS = 5.0


class Family(NamedTuple):
    """One metric: `samples` are labels and values. A counter's name ends in `_total`."""

    name: str
    kind: Literal["gauge", "counter"]
    about: str
    samples: Iterable[tuple[Mapping[str, str], float]]


def text(families: Iterable[Family]) -> str:
    """All of them, in the text format 0.0.4."""
    return "".join(f"{line}\n" for family in families for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    yield f"# HELP {family.name} {family.about}"
    yield f"# TYPE {family.name} {family.kind}"
    for labels, value in family.samples:
        told = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
        number = f"{value:.3f}" if isinstance(value, float) else str(value)
        yield f"{family.name}{{{told}}} {number}" if told else f"{family.name} {number}"


def _escaped(value: str) -> str:
    """A path may hold anything, also bytes that are no text."""
    whole = value.encode("utf-8", "backslashreplace").decode()
    return whole.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


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
