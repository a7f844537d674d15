"""One of each kind of image and file system, made the same way, for tests that all of them must pass."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store.conftest import azurite, opens_azure

from secondsite import engine
from secondsite.engine.files import Files, LocalFiles
from secondsite.engine.files.failing import FailingFiles
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images import Image, RawImage
from secondsite.engine.images.failing import FailingImage, Faults
from secondsite.engine.images.memory import MemoryImage

sys.path.insert(0, str(Path(__file__).parent))  # for trackerkit

__all__ = ["azurite", "opens_azure"]
Make = Callable[[bytes], Image]


@pytest.fixture
def make_file(tmp_path: Path) -> Make:
    def make(data: bytes) -> Image:
        path = tmp_path / "disk.raw"
        path.write_bytes(data)
        return RawImage(path, "rw")

    return make


@pytest.fixture
def make_device(tmp_path: Path) -> Iterator[Make]:
    """A loop device over a file; a device has whole sectors, so the caller's data must."""
    with contextlib.ExitStack() as stack:

        def make(data: bytes) -> Image:
            path = tmp_path / "backing.raw"
            path.write_bytes(data)
            losetup = shutil.which("losetup") or "losetup"
            command = [losetup, "--find", "--show", str(path)]
            device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
            stack.callback(subprocess.run, [losetup, "--detach", device], check=True)
            image = RawImage(device, "rw")
            stack.callback(image.close)
            return image

        yield make


@pytest.fixture
def make_memory() -> Make:
    return MemoryImage


@pytest.fixture
def make_failing() -> Make:
    """A plan of faults that only counts is no fault at all."""
    return lambda data: FailingImage(MemoryImage(data), Faults())


@pytest.fixture
def make_point() -> Iterator[Make]:
    """An older point, seen through the undo delta that a changed source left."""
    with contextlib.ExitStack() as stack:

        def make(data: bytes) -> Image:
            files, later = MemoryFiles(), bytearray(data)
            for at in range(0, len(later), 8192):
                later[at : at + 3] = b"new"
            for content in (data, bytes(later) + b"grown", later[: len(later) // 2]):
                source = MemoryImage(bytes(content), path="disk")
                engine.replicate(source, "/r", block_size=4096, files=files, history="undo")
            return stack.enter_context(engine.open_point("/r", at="1", files=files))

        yield make


@pytest.fixture
def make_steady(tmp_path: Path) -> Iterator[Make]:
    """A point that stays as it is behind two deltas, while its replica goes on to a fourth."""
    with steady(tmp_path, 3) as make:
        yield make


@pytest.fixture
def make_steady_head(tmp_path: Path) -> Iterator[Make]:
    """The head as it was, while its replica went on to three more points."""
    with steady(tmp_path, 1) as make:
        yield make


@contextlib.contextmanager
def steady(tmp_path: Path, first: int) -> Iterator[Make]:
    """The replica's first point, opened when it has `first` of them."""
    with contextlib.ExitStack() as stack:

        def make(data: bytes) -> Image:
            from secondsite.engine.replica.directory import Replica
            from secondsite.engine.replica.steady import SteadyPoint

            root, later = str(tmp_path / "replica"), bytearray(data)
            for at in range(0, len(later), 8192):
                later[at : at + 3] = b"new"
            states = [data, bytes(later) + b"grown", bytes(later[: len(later) // 2]), bytes(later) * 2]
            point: Image | None = None
            for number, content in enumerate(states, 1):
                engine.replicate(MemoryImage(content, path="disk"), root, block_size=4096, history="undo")
                if number == first:
                    point = stack.enter_context(SteadyPoint(Replica.open(root), "1"))
            assert point is not None
            return point

        yield make


@pytest.fixture
def make_log_point(tmp_path: Path) -> Iterator[Make]:
    """An older point of a log, while its replica goes on."""
    with contextlib.ExitStack() as stack:

        def make(data: bytes) -> Image:
            root, later = str(tmp_path / "log"), bytearray(data)
            for at in range(0, len(later), 8192):
                later[at : at + 3] = b"new"
            for content in (data, bytes(later) + b"grown", bytes(later[: len(later) // 2])):
                disk = MemoryImage(content, path="disk")
                engine.replicate(disk, root, block_size=4096, history="log", state=tmp_path)
            return stack.enter_context(engine.open_point(root, at="1"))

        yield make


@pytest.fixture
def make_overlay(tmp_path: Path) -> Iterator[Make]:
    """Half of it written over something else."""
    with contextlib.ExitStack() as stack:

        def make(data: bytes) -> Image:
            from secondsite.engine.images.overlay import OverlayImage

            base = MemoryImage(data[: len(data) // 2] + bytes(b ^ 255 for b in data[len(data) // 2 :]))
            image = stack.enter_context(OverlayImage(base, tmp_path / "overlay", {"disk": "a test"}))
            image.write(len(data) // 2, data[len(data) // 2 :])
            return image

        yield make


@pytest.fixture
def make_nbd(tmp_path: Path) -> Iterator[Make]:
    """An export of our own server, through our own client."""
    pytest.importorskip("secondsite.engine._nbd", reason="the native kernels are not built")
    with contextlib.ExitStack() as stack:

        def make(data: bytes) -> Image:
            from secondsite.engine._nbd import Disk
            from secondsite.engine.images.nbd import NbdImage
            from secondsite.engine.nbd import protocol
            from secondsite.engine.nbd.export import Export, allocation
            from secondsite.engine.nbd.server import Server

            path = tmp_path / "exported.raw"
            path.write_bytes(data)
            disk = stack.enter_context(RawImage(path, "rw"))
            server, contexts = Server(), {protocol.CONTEXT_ALLOCATION: allocation(disk)}
            server.add(Export("disk", Disk(disk, disk.size, fd=disk.fd), contexts=contexts))
            host, port = server.listen_tcp("127.0.0.1", 0)
            stack.enter_context(server)
            return stack.enter_context(NbdImage(f"nbd://{host}:{port}/disk", "rw"))

        yield make


WRITABLE = ["file", "memory", "failing", pytest.param("device", marks=pytest.mark.needs("loop"))]


@pytest.fixture(params=WRITABLE)
def make_writable(request: pytest.FixtureRequest) -> Make:
    """Images that can be written."""
    return request.getfixturevalue(f"make_{request.param}")  # type: ignore[no-any-return]


@pytest.fixture(params=[*WRITABLE, "point", "log_point", "steady", "steady_head", "overlay", "nbd"])
def make_any(request: pytest.FixtureRequest) -> Make:
    """Every image."""
    return request.getfixturevalue(f"make_{request.param}")  # type: ignore[no-any-return]


@pytest.fixture
def content() -> bytes:
    """Data, a long stretch of zeros, data; whole sectors, but no whole number of blocks."""
    chance = random.Random(5)
    return chance.randbytes(20_000) + bytes(700_000) + chance.randbytes(1447 * 512 - 720_000)


ON_XFS = pytest.param("xfs", marks=pytest.mark.needs("xfs"))


@pytest.fixture(params=["local", "memory", "memory-clones", "failing", ON_XFS])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Files, str]:
    """A file system and an empty folder in it."""
    if request.param == "local":
        return LocalFiles(), str(tmp_path)
    if request.param == "xfs":
        folder = request.getfixturevalue("xfs_dir") / tmp_path.name
        folder.mkdir(exist_ok=True)
        return LocalFiles(), str(folder)
    files: Files = MemoryFiles(clones=request.param == "memory-clones")
    if request.param == "failing":
        files = FailingFiles(files, Faults())
    files.mkdir("/folder")
    return files, "/folder"
