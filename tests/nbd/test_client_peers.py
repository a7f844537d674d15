"""Our NBD client and other people's servers: qemu-nbd and nbdkit, with and without TLS, and when they are killed."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from secondsite.engine import errors
from secondsite.engine.images.nbd import NbdImage
from secondsite.engine.nbd.client import Connection

MIB = 1 << 20
SIZE = 16 * MIB


def listens(socket):
    """Between a socket that is there and one that takes connections a busy machine may stop for a while."""
    rows = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
    return any(row[3] == "00010000" and row[-1] == str(socket) for row in rows)


@contextmanager
def serving(socket, *command):
    """A server's process, once its socket takes connections."""
    with subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE) as server:
        try:
            end = time.monotonic() + 20
            while not listens(socket):
                assert server.poll() is None, server.stderr.read()
                assert time.monotonic() < end
                time.sleep(0.01)
            yield server
        finally:
            server.kill()


def qemu_nbd(socket, file, *options):
    return serving(socket, "qemu-nbd", "-t", "-f", "raw", "-e", "8", "-x", "disk", "-k", socket, *options, file)


def nbdkit(socket, *options):
    return serving(socket, "nbdkit", "-f", "-U", socket, *options)


SERVERS = {
    "qemu-nbd": lambda socket, file: qemu_nbd(socket, file),
    "nbdkit": lambda socket, file: nbdkit(socket, "file", file),
    "nbdkit, simple replies": lambda socket, file: nbdkit(socket, "--no-sr", "file", file),
    "nbdkit, one connection": lambda socket, file: nbdkit(
        socket, "--filter=multi-conn", "file", file, "multi-conn-mode=disable"
    ),
    "nbdkit, no zeroes, no trim": lambda socket, file: nbdkit(
        socket, "--filter=nozero", "file", file, "zeromode=none"
    ),
    "nbdkit, blocks of 4 KiB": lambda socket, file: nbdkit(
        socket, "--filter=blocksize-policy", "file", file, "blocksize-minimum=4K", "blocksize-preferred=64K",
        "blocksize-maximum=1M", "blocksize-error-policy=error",
    ),
}  # fmt: skip


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.needs(name.split(",")[0])) for name in SERVERS])
def other(request, disk_file, short_dir):
    """The URL of the file at another server."""
    socket = short_dir / "other"
    with SERVERS[request.param](socket, disk_file):
        yield f"nbd+unix:///disk?socket={socket}"


def test_what_is_written_is_read_and_lies_in_the_file(other, disk_file):
    expected, chance = bytearray(disk_file.read_bytes()), random.Random(3)
    with NbdImage(other, "rw") as image:
        assert image.size == SIZE
        for _ in range(60):
            offset, length = chance.randrange(SIZE - MIB), chance.choice((1, 511, 512, 4096, 70_001, MIB))
            data = chance.randbytes(length)
            what = chance.choice(("write", "write", "zero", "read"))
            if what == "read":
                assert image.read(offset, length) == expected[offset : offset + length]
                continue
            expected[offset : offset + length] = data if what == "write" else bytes(length)
            if what == "write":
                image.write(offset, data)
            else:
                image.zero(offset, length, punch=chance.random() < 0.5)
        image.flush()
        assert image.read(0, SIZE) == expected
    assert disk_file.read_bytes() == expected


def test_extents_cover_the_disk_and_zeros_are_zeros(other, disk_file):
    data = disk_file.read_bytes()
    with NbdImage(other) as image:
        for start, length in ((0, SIZE), (1, SIZE - 2), (3 * MIB + 5, 100), (SIZE, 0)):
            at = start
            for extent in image.extents(start, length):
                assert extent.start == at and extent.length > 0
                assert not extent.zero or not any(data[at : at + extent.length])
                at += extent.length
            assert at == start + length


def test_from_several_threads(other, disk_file):
    data, wrong = disk_file.read_bytes(), []
    with NbdImage(other) as image:

        def read(seed):
            chance = random.Random(seed)
            for _ in range(25):
                offset, length = chance.randrange(SIZE - MIB), chance.randrange(1, MIB)
                if image.read(offset, length) != data[offset : offset + length]:
                    wrong.append((offset, length))

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not wrong


def test_ranges_outside_of_the_disk(other):
    with NbdImage(other, "rw") as image:
        with pytest.raises(errors.Damaged):
            image.read(SIZE - 1, 2)
        with pytest.raises(errors.Full):
            image.write(SIZE - 1, b"xy")
        with pytest.raises(ValueError):
            image.zero(SIZE - 1, 2)
        with pytest.raises(errors.Refused):
            image.resize(SIZE + 1)
        assert len(image.read(SIZE - 1, 1)) == 1


@pytest.mark.needs("nbdkit", "qemu-nbd")
def test_read_only_exports_are_not_opened_to_be_written(disk_file, short_dir):
    for start in (qemu_nbd(short_dir / "q", disk_file, "-r"), nbdkit(short_dir / "k", "-r", "file", disk_file)):
        with start as server:
            url = f"nbd+unix:///disk?socket={short_dir / ('q' if 'qemu-nbd' in server.args else 'k')}"
            with pytest.raises(errors.Refused, match="read-only"):
                NbdImage(url, "rw")
            with NbdImage(url) as image:
                assert len(image.read(0, 4096)) == 4096


@pytest.mark.needs("qemu-nbd")
def test_an_export_of_another_name(disk_file, short_dir):
    with qemu_nbd(short_dir / "q", disk_file), pytest.raises(errors.Refused, match="no such export"):
        Connection.open(f"nbd+unix:///other?socket={short_dir / 'q'}")


@pytest.mark.needs("nbdkit")
@pytest.mark.parametrize(("number", "kind"), [("EIO", errors.Unreachable), ("ENOSPC", errors.Full)])
def test_errors_of_the_disk_behind(disk_file, short_dir, number, kind):
    socket, switch = short_dir / "k", short_dir / "switch"
    failing = ("--filter=error", "file", disk_file, f"error={number}", "error-rate=100%", f"error-file={switch}")
    with nbdkit(socket, *failing), NbdImage(f"nbd+unix:///?socket={socket}", "rw") as image:
        image.write(0, b"before")
        switch.touch()
        with pytest.raises(kind, match="cannot write"):
            image.write(0, b"x" * 4096)
        with pytest.raises((kind, errors.Unreachable), match="cannot read"):
            image.read(0, 4096)
        switch.unlink()
        assert image.read(0, 6) == b"before"


@pytest.mark.needs("qemu-nbd", "nbdkit")
@pytest.mark.parametrize("name", ["qemu-nbd", "nbdkit"])
def test_a_server_that_is_killed_ends_the_image(name, disk_file, short_dir):
    """And one that comes back in its place is not gone on with: it may have lost what was not flushed."""
    socket = short_dir / "socket"
    with SERVERS[name](socket, disk_file) as server:
        image = NbdImage(f"nbd+unix:///disk?socket={socket}", "rw", timeout=5)
        image.write(0, b"x" * 4096)
        server.kill()
        server.wait()
    socket.unlink(missing_ok=True)
    with SERVERS[name](socket, disk_file):
        for _ in range(2):
            with pytest.raises(errors.Unreachable) as caught:
                image.flush()
            assert str(socket) in str(caught.value) and "\n" not in str(caught.value)
        image.close()


@pytest.mark.needs("nbdkit")
def test_a_server_that_stops_is_given_up(disk_file, short_dir):
    socket = short_dir / "socket"
    slow = ("--filter=delay", "file", disk_file, "delay-read=30")
    with nbdkit(socket, *slow):
        image = NbdImage(f"nbd+unix:///?socket={socket}", timeout=0.5)
        began = time.monotonic()
        with pytest.raises(errors.Unreachable, match="no answer within"):
            image.read(0, 4096)
        assert time.monotonic() - began < 5
        image.close()


@pytest.mark.needs("qemu-nbd", "nbdkit", "openssl")
@pytest.mark.parametrize("name", ["qemu-nbd", "nbdkit"])
def test_tls(name, disk_file, short_dir, certificates):
    socket = short_dir / "socket"
    if name == "qemu-nbd":
        credentials = f"tls-creds-x509,id=tls0,endpoint=server,dir={certificates},verify-peer=yes"
        start = qemu_nbd(socket, disk_file, "--object", credentials, "--tls-creds", "tls0")
    else:
        tls = ("--tls=require", f"--tls-certificates={certificates}", "--tls-verify-peer")
        start = nbdkit(socket, *tls, "file", disk_file)
    with start:
        url = f"nbds+unix:///disk?socket={socket}&tls-certificates={certificates}"
        data = os.urandom(3 * MIB + 17)
        with NbdImage(url, "rw") as image:
            image.write(5, data)
            image.flush()
            assert image.read(5, len(data)) == data
        assert disk_file.read_bytes()[5 : 5 + len(data)] == data
        with pytest.raises(errors.Refused, match="TLS"):
            Connection.open(f"nbd+unix:///disk?socket={socket}")
        with pytest.raises(errors.Refused, match="certificate is not accepted"):
            Connection.open(f"{url}&tls-hostname=example.org")
        with pytest.raises((errors.Refused, errors.Unreachable)):
            Connection.open(f"nbds+unix:///disk?socket={socket}&tls-certificates={certificates}/other").read_into(
                0, bytearray(512)
            )
