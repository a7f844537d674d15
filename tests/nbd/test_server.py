"""The NBD server and our own client: exports come and go, TLS, what a connection may hold up."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest

from secondsite.engine import errors
from secondsite.engine.images.nbd import NbdImage
from secondsite.engine.nbd.client import Connection
from secondsite.engine.nbd.export import Export

MIB = 1 << 20


def wait(until, seconds=5.0):
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@pytest.mark.parametrize("way", ["url", "tcp"])
def test_our_client_reads_writes_and_zeros(served, way):
    with NbdImage(getattr(served, way), "rw") as image:
        data = os.urandom(3 * MIB + 5)
        image.write(4 * MIB - 3, data)
        assert bytes(image.read(4 * MIB - 3, len(data))) == data
        image.zero(5 * MIB, MIB)
        image.zero(6 * MIB, 4096, punch=False)
        image.flush()
        assert next(iter(image.extents(0, 2 * MIB))).zero
        image.read(0, 0)
    on_disk = served.file.read_bytes()
    assert on_disk[4 * MIB - 3 : 5 * MIB] == data[: MIB + 3] and on_disk[5 * MIB : 6 * MIB] == bytes(MIB)


def test_an_export_that_is_removed_ends_its_connections(served):
    client = Connection.open(served.url)
    served.server.remove("disk")
    with pytest.raises(errors.Unreachable):
        client.read_into(0, bytearray(512))
    with pytest.raises((errors.Refused, errors.Unreachable)):
        Connection.open(served.url)
    wait(lambda: served.server.connections == 0)


def test_names_and_the_default_export(served):
    with pytest.raises(errors.Refused):
        served.server.add(Export("disk", served.disk))
    for name in ("", "a\0b", "x" * 5000):
        with pytest.raises(ValueError):
            served.server.add(Export(name, served.disk))
    served.server.add(Export("ünï/code", served.disk))
    with Connection.open(f"nbd+unix:///?socket={served.socket}") as client:
        assert client.size == served.disk.size
    with Connection.open(f"nbd+unix:///%C3%BCn%C3%AF/code?socket={served.socket}") as client:
        assert client.size == served.disk.size


def test_a_read_only_disk_refuses_writes(served):
    from secondsite.engine._nbd import Disk

    served.server.add(Export("ro", Disk(None, served.disk.size, fd=served.disk.fd, read_only=True)))
    url = served.url.replace("/disk?", "/ro?")
    with pytest.raises(errors.Refused, match="read-only"):
        NbdImage(url, "rw")
    before = served.file.read_bytes()
    with Connection.open(url) as client:
        for change in (lambda: client.write(0, b"x" * 512), lambda: client.zero(0, 512)):
            with pytest.raises(errors.Refused):
                change()
        client.read_into(0, bytearray(512))
    assert served.file.read_bytes() == before


def test_what_cannot_be_written_is_told(served, tmp_path):
    """An image behind functions, which fails: the client hears why, and the connection goes on."""
    from secondsite.engine._nbd import Disk
    from secondsite.engine.images.memory import MemoryImage

    class Failing(MemoryImage):
        def write(self, offset, data):
            raise errors.Full("no room", path="memory")

    image = Failing(MIB)
    disk = Disk(image, MIB)
    served.server.add(Export("full", disk))
    with Connection.open(served.url.replace("/disk?", "/full?")) as client:
        with pytest.raises(errors.Full):
            client.write(0, b"x" * 4096)
        assert "no room" in disk.last_error
        client.read_into(0, bytearray(4096))


@pytest.mark.needs("openssl")
def test_tls_with_certificates(served, certificates):
    from secondsite.engine.nbd.server import Server
    from secondsite.engine.nbd.tls import server_context

    server = Server(tls=server_context(str(certificates)))
    server.add(served.server.find("disk"))
    _, port = server.listen_tcp("127.0.0.1", 0)
    with server:
        url = f"nbds://localhost:{port}/disk?tls-certificates={certificates}"
        with NbdImage(url, "rw") as image:
            data = os.urandom(9 * MIB)
            image.write(5, data)
            assert bytes(image.read(5, len(data))) == data
        assert served.file.read_bytes()[5 : 5 + len(data)] == data
        with pytest.raises(errors.Refused, match="TLS"):
            Connection.open(f"nbd://localhost:{port}/disk")
        with pytest.raises((errors.Refused, errors.Unreachable)):
            Connection.open(f"nbds://localhost:{port}/disk?tls-certificates={certificates}/other").read_into(
                0, bytearray(512)
            )
        with pytest.raises(errors.Refused, match="TLS"):
            Connection.open(served.tcp.replace("nbd://127.0.0.1", "nbds://localhost"))
        held = NbdImage(url)
        held.read(0, 512)
        server.remove("disk")
        with pytest.raises(errors.Unreachable):
            held.read(0, 512)
    assert server.connections == 0


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("whole", [False, True], ids=["before TLS is there", "after"])
def test_a_client_that_stays_in_its_handshake_does_not_hold_up_the_end(served, certificates, whole):
    import ssl

    from secondsite.engine.nbd import protocol as p
    from secondsite.engine.nbd.server import Server
    from secondsite.engine.nbd.tls import server_context

    server = Server(tls=server_context(str(certificates)), time_limit=60)
    server.add(served.server.find("disk"))
    _, port = server.listen_tcp("127.0.0.1", 0)
    with server, socket.create_connection(("127.0.0.1", port), 10) as sock:
        assert len(sock.recv(p.GREETING.size, socket.MSG_WAITALL)) == p.GREETING.size
        sock.sendall(p.CLIENT_FLAGS.pack(3) + p.OPTION.pack(p.IHAVEOPT, p.OPT_STARTTLS, 0))
        assert len(sock.recv(p.OPTION_REPLY.size, socket.MSG_WAITALL)) == p.OPTION_REPLY.size
        if whole:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(certificates / "ca-cert.pem")
            context.load_cert_chain(certificates / "client-cert.pem", certificates / "client-key.pem")
            sock = context.wrap_socket(sock, server_hostname="localhost")
        began = time.monotonic()
        assert server.stop(timeout=30) and time.monotonic() - began < 20  # of 60 that a handshake has
        sock.close()


@pytest.mark.needs("openssl")
def test_certificates_that_are_none(tmp_path, certificates):
    from secondsite.engine.nbd.tls import server_context

    with pytest.raises(errors.Unreachable):
        server_context(str(tmp_path))
    (tmp_path / "server-cert.pem").write_text("nothing")
    (tmp_path / "server-key.pem").write_text("nothing")
    with pytest.raises(errors.Usage):
        server_context(str(tmp_path))


def test_a_client_that_does_not_read_holds_up_nobody(served):
    """It asks for much more than its socket holds; others are served, and the end comes all the same."""
    from secondsite.engine.nbd import protocol as p

    slow = raw_client(served)
    slow.settimeout(0.2)
    with pytest.raises(TimeoutError):
        for cookie in range(2000):
            slow.sendall(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, cookie, 0, MIB))
    with Connection.open(served.url) as client:
        client.read_into(3 * MIB, bytearray(MIB))
    assert served.server.stop(timeout=5)
    slow.close()


def raw_client(served):
    """A socket in the transmission phase, with simple replies."""
    from secondsite.engine.nbd import protocol as p

    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(str(served.socket))
    sock.recv(p.GREETING.size, socket.MSG_WAITALL)
    sock.sendall(p.CLIENT_FLAGS.pack(3) + p.OPTION.pack(p.IHAVEOPT, p.OPT_EXPORT_NAME, 4) + b"disk")
    sock.recv(p.EXPORT.size, socket.MSG_WAITALL)
    return sock


def test_more_connections_than_allowed_are_closed(served):
    clients = [Connection.open(served.url) for _ in range(16)]
    extra = socket.socket(socket.AF_UNIX)
    extra.settimeout(5)
    extra.connect(str(served.socket))
    assert extra.recv(1) == b""
    clients[0].disconnect()
    wait(lambda: served.server.connections < 16)
    with Connection.open(served.url) as client:
        client.read_into(0, bytearray(512))
    for client in clients:
        client.disconnect()
    assert served.server.refused == 1


def test_a_thousand_connections(served):
    """Most are closed at once, all end, and the server goes on."""
    opened = []
    for _ in range(1000):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(5)
        try:
            sock.connect(str(served.socket))
        except BlockingIOError:
            sock.close()
            continue
        opened.append(sock)
        if len(opened) >= 100:
            opened.pop(0).close()
    for sock in opened:
        sock.close()
    wait(lambda: served.server.connections == 0)
    with Connection.open(served.url) as client:
        client.read_into(0, bytearray(512))


def test_handshakes_end_in_time(served):
    silent = socket.socket(socket.AF_UNIX)
    silent.settimeout(10)
    silent.connect(str(served.socket))
    silent.recv(18, socket.MSG_WAITALL)
    began = time.monotonic()
    assert silent.recv(1) == b""
    assert time.monotonic() - began < 6


def test_sockets_of_dead_and_of_living_servers(served, short_dir):
    from secondsite.engine.nbd.server import Server

    with pytest.raises(errors.Busy):
        Server().listen_unix(str(served.socket))
    left = short_dir / "left"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(left))
    dead.close()
    server = Server()
    server.listen_unix(str(left))
    server.stop()
    assert not left.exists()
    left.write_text("mine")
    with pytest.raises(errors.Refused):
        Server().listen_unix(str(left))
    assert left.read_text() == "mine"
    with pytest.raises(errors.Unreachable):
        Server().listen_unix(str(short_dir / ("x" * 200)))


def test_many_clients_write_at_once(served):
    """Each its own part, byte for byte, over several connections."""
    failed = []

    def work(number):
        try:
            with NbdImage(served.url, "rw", connections=2) as image:
                for turn in range(8):
                    offset = number * 4 * MIB + turn * 300_001 % (2 * MIB)
                    data = bytes([number * 16 + turn]) * (1 + (turn * 77_777) % 500_000)
                    image.write(offset, data)
                    assert bytes(image.read(offset, len(data))) == data
                image.flush()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failed
