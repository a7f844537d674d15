"""What all tests share: `--sweep`, the marker `needs`, and the folders that some of them need.

A test names what a machine may lack with `@pytest.mark.needs("root", "qemu-img")`. Each name is probed by
doing the thing once, not by looking at a version; without it the test is skipped and the reason names it.
Under CI=true that skip is a failure, unless SECONDSITE_ALLOW_SKIP lists the name: CI must not go green by
testing nothing.
"""

from __future__ import annotations

import functools
import gc
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
_NUMBER = itertools.count()

# pytest's importlib mode imports each file alone: what tests of several folders share is found by this.
sys.path.insert(0, str(Path(__file__).parent))

gc.disable()  # until `pytest_collection_finish`

# Debian leaves the folders of mkfs.* out of a user's PATH.
os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


class Lacking(Exception):
    """The machine lacks a thing; the message says what is wrong with it."""


def run(*command: str | Path) -> str:
    """The output of a probe's command; raises Lacking with its last line where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Lacking(str(error)) from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Lacking(f"{command[0]}: {lines[-1] if lines else f'exit status {done.returncode}'}")
    return done.stdout.strip()


@contextmanager
def mounted(image: Path, size: int, *mkfs: str) -> Iterator[Path]:
    """A new file system in a sparse file of `size` bytes, mounted beside it; nothing of it stays."""
    with image.open("wb") as file:
        file.truncate(size)
    where = image.with_suffix(".mounted")
    where.mkdir()
    try:
        run(*mkfs, image)
        # At the unmount the kernel detaches a loop device that mount made: also after a killed test run.
        run("mount", "-o", "loop", image, where)
        try:
            yield where
        finally:
            unmount(where)
    finally:
        where.rmdir()
        image.unlink()


def unmount(where: Path) -> None:
    """Unmount; where a left-over process still holds it, after two seconds, as soon as that process ends."""
    for _ in range(20):
        try:
            run("umount", where)
            return
        except Lacking:
            time.sleep(0.1)
    run("umount", "--lazy", where)


def command(*names: str) -> None:
    for name in names:
        if shutil.which(name) is None:
            raise Lacking(f"no command {name}")


def root() -> None:
    if os.geteuid() != 0:
        raise Lacking("not root")


def loop() -> None:
    root()
    command("losetup")
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(MIB)
        run("losetup", "--detach", run("losetup", "--find", "--show", file.name))


def file_system(*mkfs: str) -> None:
    root()
    command(mkfs[0], "mount", "umount")
    with tempfile.TemporaryDirectory() as folder, mounted(Path(folder, "probe"), 512 * MIB, *mkfs):
        pass


def headers() -> None:
    command("pkg-config", "gcc")
    run("pkg-config", "--exists", "--print-errors", "libxxhash", "libzstd", "liblz4")


def packages() -> None:
    """Can pip bring a package here? Asked with a small one that the project depends on anyway."""
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps")
    run(*pip, "click")


def guest() -> None:
    """The small Linux of tests/guests, made once of packages that apt brings from a mirror."""
    command("qemu-system-x86_64", "busybox", "apt-get", "dpkg", "ldd", "mke2fs", "debugfs", "e2fsck")
    sys.path.insert(0, str(ROOT / "tests" / "guests"))
    import guestkit

    try:
        guestkit.build()
    except guestkit.Unavailable as error:
        raise Lacking(str(error)) from None


def libvhdi() -> None:
    """Its Python module, in a Python of this machine; tests import `libvhdi` (tests/libvhdi.py)."""
    import libvhdi as reader

    try:
        reader.python()
    except LookupError as error:
        raise Lacking(str(error)) from None


def namespaces() -> None:
    """Network namespaces, joined by virtual Ethernet (tests/remote/namespaces.py)."""
    root()
    command("ip")
    name = f"secondsite-{os.getpid()}-probe"
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "add", "one", "type", "veth", "peer", "name", "two")
        run("ip", "netns", "exec", name, "true")
    finally:
        run("ip", "netns", "del", name)


def azurite() -> None:
    """The emulator of Azure's storage, of tests/azurite, which npm brings from a registry."""
    from azurite import emulator

    try:
        emulator.install()
    except (emulator.Unavailable, subprocess.TimeoutExpired) as error:
        raise Lacking(str(error)) from None


def postgresql() -> None:
    """A server to be started by the tests (tests/postgresql.py)."""
    sys.path.insert(0, str(ROOT / "tests"))
    import postgresql as kit

    try:
        with kit.server():
            pass
    except (kit.Unavailable, subprocess.TimeoutExpired) as error:
        raise Lacking(str(error)) from None


# Sparse files: mkfs.xfs refuses less than 300 MiB, and writes a few of them.
MKFS_XFS = ("mkfs.xfs", "-q", "-m", "reflink=1")
PROBES: dict[str, Callable[[], None]] = {
    "root": root,
    "loop": loop,
    "xfs": functools.partial(file_system, *MKFS_XFS),
    "btrfs": functools.partial(file_system, "mkfs.btrfs", "-q"),
    "e2fsprogs": functools.partial(command, "mke2fs", "debugfs", "e2fsck"),
    "headers": headers,
    "namespaces": namespaces,
    "pip": packages,
    "guest": guest,
    "libvhdi": libvhdi,
    "azurite": azurite,
    "postgresql": postgresql,
}


@functools.cache
def lacking(what: str) -> str | None:
    """Why this machine cannot give `what` (a probe's name, or a command's), or None where it can."""
    try:
        PROBES.get(what, functools.partial(command, what))()
    except (Lacking, OSError) as error:
        return f"needs {what}: {error}"
    return None


def require(*things: str) -> None:
    """Skip the test that is running, by name, unless everything is there; fail it instead under CI=true."""
    allowed = os.environ.get("SECONDSITE_ALLOW_SKIP", "").replace(" ", "").split(",")
    for what in things:
        reason = lacking(what)
        if reason is None:
            continue
        if os.environ.get("CI") == "true" and what not in allowed:
            pytest.fail(f"{reason} (CI skips only what SECONDSITE_ALLOW_SKIP lists)", pytrace=False)
        pytest.skip(reason)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sweep", action="store_true", help="run every long sweep in full, not a sample of it")


def pytest_report_header() -> str:
    return f"seed of the samples of long sweeps: {sample_seed()} (SECONDSITE_SEED)"


def sample_seed() -> int:
    """Constant, so that two runs test the same; SECONDSITE_SEED takes another sample."""
    return int(os.environ.get("SECONDSITE_SEED", "1"))


def pytest_collection_finish() -> None:
    """Until the tests are there nothing of it is garbage; looking for some was a fifth of the time. Nor is it later."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture: one that mounts must not run where the test is going to be skipped."""
    for mark in item.iter_markers("needs"):
        require(*mark.args)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a parametrized test marked `sweep(sample=12)`, keep a seeded sample of that many cases."""
    if config.getoption("--sweep"):
        return
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sweep"):
            cases[item.nodeid.split("[")[0]].append(item)
    dropped: set[str] = set()
    for test, group in cases.items():
        size = group[0].get_closest_marker("sweep").kwargs.get("sample", 12)  # type: ignore[union-attr]
        kept = random.Random(f"{sample_seed()} {test}").sample(group, min(size, len(group)))
        dropped.update({item.nodeid for item in group} - {item.nodeid for item in kept})
    if dropped:
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in dropped])
        items[:] = [item for item in items if item.nodeid not in dropped]


@pytest.fixture(scope="session")
def sweep(request: pytest.FixtureRequest) -> bool:
    """Whether a test that loops by itself should go the whole way."""
    return bool(request.config.getoption("--sweep"))


@pytest.fixture(scope="session")
def xfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An XFS of 2 GiB with reflinks, shared by all tests of a run."""
    require("xfs")
    with mounted(tmp_path_factory.mktemp("xfs") / "disk", 2048 * MIB, *MKFS_XFS) as where:
        yield where


@pytest.fixture(scope="session")
def btrfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same with a Btrfs."""
    require("btrfs")
    with mounted(tmp_path_factory.mktemp("btrfs") / "disk", 2048 * MIB, "mkfs.btrfs", "-q") as where:
        yield where


@contextmanager
def folder_of(where: Path) -> Iterator[Path]:
    """A new folder of a name that no test had before; with it goes what it holds."""
    made = where / f"t{next(_NUMBER)}"
    made.mkdir()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def xfs_dir(xfs: Path) -> Iterator[Path]:
    """An empty folder on XFS with reflinks."""
    with folder_of(xfs) as made:
        yield made


@pytest.fixture
def btrfs_dir(btrfs: Path) -> Iterator[Path]:
    """The same on Btrfs."""
    with folder_of(btrfs) as made:
        yield made


@pytest.fixture
def short_path(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder of a short path, as sockets need. At its end it moves to tmp_path: kept or gone with it."""
    made = tmp_path_factory.mktemp(f"s{next(_NUMBER)}", numbered=False)
    yield made
    made.rename(tmp_path / made.name)


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of sample images of other tools. It lies beside the repository, and not everybody has it."""
    folder = ROOT.parent / "shared" / "samples"
    if not folder.is_dir():
        pytest.skip("no folder ../shared/samples beside the repository")
    return folder
