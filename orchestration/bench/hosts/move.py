"""Bytes from one process to another and nothing else, over TLS or plain TCP: what `ssl` and a link can do alone.

    python -I move.py receive ADDRESS [CERTIFICATE KEY]      prints its port, then takes one sender after another
    python -I move.py send ADDRESS PORT FILE BYTES [tls]     prints seconds, the processor time of both and the cipher

The sender's bytes are in memory before the clock starts. It stops when the receiver has said that it has all of them.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import time

BUFFER = 1 << 20
# This much of the file is read and sent again and again: more than a cache holds, less than would be missed elsewhere.
HELD = 64 << 20


def receive(address: str, certificate: str = "", key: str = "") -> None:
    """Take connections for ever."""
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    buffer = memoryview(bytearray(BUFFER))
    with socket.create_server((address, 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        while True:
            taken, _ = listening.accept()
            with context.wrap_socket(taken, server_side=True) if context else taken as sock:
                left, began = int.from_bytes(sock.recv(8), "little"), time.process_time()
                while left > 0 and (count := sock.recv_into(buffer)):
                    left -= count
                sock.sendall(json.dumps(time.process_time() - began).encode())


def send(address: str, port: str, path: str, size: str, tls: str = "") -> None:
    """Move `size` bytes, those of the file or of its beginning over and over."""
    with open(path, "rb") as file:
        data = memoryview(file.read(min(HELD, int(size))))
    began, used = time.perf_counter(), time.process_time()
    cipher, left = "none", int(size)
    with _connect(address, int(port), tls) as sock:
        if isinstance(sock, ssl.SSLSocket):
            cipher = (sock.cipher() or ("none",))[0]
        sock.sendall(left.to_bytes(8, "little"))
        while left > 0:
            for at in range(0, min(len(data), left), BUFFER):
                sock.sendall(data[at : min(at + BUFFER, left)])
            left -= min(len(data), left)
        theirs = json.loads(sock.recv(BUFFER))
    ours = time.process_time() - used
    print(json.dumps({"seconds": time.perf_counter() - began, "cpu": ours + theirs, "cipher": cipher}))


def _connect(address: str, port: int, tls: str) -> socket.socket:
    sock = socket.create_connection((address, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not tls:
        return sock
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(sock)


if __name__ == "__main__":
    (receive if sys.argv[1] == "receive" else send)(*sys.argv[2:])
