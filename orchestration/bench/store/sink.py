"""A server that answers as Azure's blobs do and throws large bodies away: `python -I sink.py`.

It says its port and then nothing more. What is small (heads, leases, manifests) it keeps, so that a first copy goes
through; what is large the kernel drops without a copy, so that little of the processor is its own.
"""

from __future__ import annotations

import itertools
import re
import socket
import socketserver
import urllib.parse
from typing import NamedTuple

KEPT_BYTES = 64 << 10
_DATE = "Thu, 26 Nov 2026 00:00:00 GMT"
_numbers = itertools.count(1)


class Blob(NamedTuple):
    """`data` is empty where it was thrown away."""

    data: bytes
    size: int
    etag: str
    metadata: dict[str, str]


blobs: dict[str, Blob] = {}


class Answer(Exception):
    """A status, with headers and a body."""

    def __init__(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        super().__init__(status)
        self.status, self.headers, self.body = status, headers or {}, body


def answered(method: str, target: str, headers: dict[str, str], body: bytes, length: int) -> Answer:
    """What is said to a request whose body had `length` bytes, of which `body` was kept."""
    path, _, text = target.partition("?")
    query = dict(urllib.parse.parse_qsl(text))
    what = query.get("comp", "")
    if method == "PUT":
        return {"": _put, "block": _staged, "blocklist": _put, "lease": _leased}[what](path, headers, body, length)
    return _list(query) if what == "list" else _read(method, path, headers)


def _put(path: str, headers: dict[str, str], body: bytes, length: int) -> Answer:
    held = blobs.get(path)
    if headers.get("if-none-match") == "*" and held:
        return Answer(409, {"x-ms-error-code": "BlobAlreadyExists"})
    if "if-match" in headers and (held is None or held.etag != headers["if-match"]):
        return Answer(412, {"x-ms-error-code": "ConditionNotMet"})
    meta = {key: value for key, value in headers.items() if key.startswith("x-ms-meta-")}
    blobs[path] = Blob(body, length, f'"0x{next(_numbers):X}"', meta)
    return Answer(201, {"ETag": blobs[path].etag, "Last-Modified": _DATE})


def _staged(path: str, headers: dict[str, str], body: bytes, length: int) -> Answer:
    return Answer(201)


def _leased(path: str, headers: dict[str, str], body: bytes, length: int) -> Answer:
    if path not in blobs:
        return Answer(404, {"x-ms-error-code": "BlobNotFound"})
    lease = headers.get("x-ms-proposed-lease-id") or headers.get("x-ms-lease-id", "")
    status = 201 if headers["x-ms-lease-action"] == "acquire" else 200
    return Answer(status, {"x-ms-lease-id": lease, "ETag": blobs[path].etag, "Last-Modified": _DATE})


def _read(method: str, path: str, headers: dict[str, str]) -> Answer:
    held = blobs.get(path)
    if held is None:
        return Answer(404, {"x-ms-error-code": "BlobNotFound"})
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("x-ms-range", "bytes=0-"))
    start, end = (int(found[1]), int(found[2] or held.size) + 1) if found else (0, held.size)
    body = held.data[start:end] if method == "GET" else b""
    said = {"ETag": held.etag, "Last-Modified": _DATE, "x-ms-blob-type": "BlockBlob", **held.metadata}
    if method == "GET":
        said["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{held.size}"
    return Answer(206 if method == "GET" else 200, said, body)


def _list(query: dict[str, str]) -> Answer:
    """Nothing: a first copy finds nothing that would be there already."""
    body = b'<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs/><NextMarker/></EnumerationResults>'
    return Answer(200, {"Content-Type": "application/xml"}, body)


class Handler(socketserver.BaseRequestHandler):
    """A connection."""

    request: socket.socket

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        rest = b""
        while True:
            while b"\r\n\r\n" not in rest:
                got = self.request.recv(65536)
                if not got:
                    return
                rest += got
            head, _, rest = rest.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            method, target, _ = first.split(" ")
            headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
            length = int(headers.get("content-length", 0))
            body, rest = self._body(rest, length)
            self._say(answered(method, target, headers, body, length), method)

    def _body(self, rest: bytes, length: int) -> tuple[bytes, bytes]:
        if length <= KEPT_BYTES:
            while len(rest) < length:
                rest += self.request.recv(length - len(rest))
            return rest[:length], rest[length:]
        left, room = length - len(rest), bytearray(1 << 20)
        while left > 0:  # the kernel drops it: nothing is copied into the room
            left -= self.request.recv_into(room, min(left, len(room)), socket.MSG_TRUNC)
        return b"", b""

    def _say(self, answer: Answer, method: str) -> None:
        said = {"x-ms-request-id": "0", "x-ms-version": "2026-06-06", "Date": _DATE, **answer.headers}
        if method != "HEAD":
            said["Content-Length"] = str(len(answer.body))
        lines = [f"HTTP/1.1 {answer.status} OK", *(f"{key}: {value}" for key, value in said.items())]
        self.request.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + answer.body)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64


if __name__ == "__main__":
    with _Server(("127.0.0.1", 0), Handler) as serving:
        print(f"the sink listens on {serving.server_address[1]}", flush=True)
        serving.serve_forever(60)
