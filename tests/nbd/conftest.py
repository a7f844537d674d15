"""An NBD server of ours over a raw file, for clients of ours and of others."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from secondsite.engine.images.raw import RawImage
from secondsite.engine.nbd import protocol as p
from secondsite.engine.nbd.export import Export, allocation

MIB = 1 << 20
SIZE = 16 * MIB

pytest.importorskip("secondsite.engine._nbd", reason="the native kernels are not built")


@pytest.fixture
def disk_file(tmp_path) -> Path:
    """Holes at both ends and random bytes between."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(SIZE)
        file.seek(3 * MIB)
        file.write(os.urandom(5 * MIB))
    return path


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder whose name leaves room for a socket's: those have 108 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="nbd"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def served(disk_file, short_dir) -> Iterator[SimpleNamespace]:
    """A server with the export `disk`, on a Unix socket and on a port of loopback."""
    from secondsite.engine._nbd import Disk
    from secondsite.engine.nbd.server import Server

    with RawImage(str(disk_file), "rw") as image:
        server = Server(max_connections=16, time_limit=2)
        disk = Disk(image, image.size, fd=image.fd)
        server.add(Export("disk", disk, "a test", {p.CONTEXT_ALLOCATION: allocation(image)}))
        path = short_dir / "socket"
        server.listen_unix(str(path))
        host, port = server.listen_tcp("127.0.0.1", 0)
        with server:
            yield SimpleNamespace(
                server=server, disk=disk, file=disk_file, socket=path, host=host, port=port,
                url=f"nbd+unix:///disk?socket={path}", tcp=f"nbd://{host}:{port}/disk",
            )  # fmt: skip
        assert server.connections == 0


@pytest.fixture(scope="session")
def certificates(tmp_path_factory) -> Path:
    """ca-cert.pem, server-cert.pem and client-cert.pem with their keys; `other/` has a client of another authority."""
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    (folder / "other").mkdir()
    make_certificates(folder / "other")
    shutil.copy(folder / "ca-cert.pem", folder / "other" / "ca-cert.pem")
    return folder


def make_certificates(folder: Path) -> None:
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    made = [*new, "-subj", "/CN=authority", "-keyout", folder / "ca-key.pem", "-out", folder / "ca-cert.pem"]
    subprocess.run(made, check=True, capture_output=True)
    signed = ["-CA", folder / "ca-cert.pem", "-CAkey", folder / "ca-key.pem"]
    for who in ("server", "client"):
        files = ["-keyout", folder / f"{who}-key.pem", "-out", folder / f"{who}-cert.pem"]
        extensions = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"]
        subprocess.run([*new, *signed, "-subj", f"/CN={who}", *extensions, *files], check=True, capture_output=True)
