"""A small Linux for software emulation: Debian's kernel, busybox and the guest agent, in an initrd of a few MiB.

It is made once, from packages that are downloaded but not installed, and kept in build/guest/. Its disk is an ext4 in
which init.sh writes numbered records with a checksum, each on the disk before its number appears on the serial line.
"""

from __future__ import annotations

import fcntl
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / "build" / "guest"
# The first one that apt knows. The cloud kernel is the smallest: 27 MiB.
KERNELS = ("linux-image-cloud-amd64", "linux-image-amd64", "linux-image-virtual")
# In the order in which they need each other.
MODULES = (
    "virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk",
    "virtio_console", "failover", "net_failover", "virtio_net", "af_packet", "button", "evdev",
)  # fmt: skip
# The kernel's tests of its own ciphers, and its place by chance, took a fifth of a boot under software emulation: 3.0 s
# of a core with them, 2.45 s without.
LINE = "console=ttyS0 quiet panic=-1 random.trust_cpu=on mitigations=off nokaslr cryptomgr.notests"
MIB = 1 << 20
BOOT_SECONDS = 60


class Unavailable(Exception):
    """The guest cannot be made here."""


def tool(*command: str | Path, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(str(error)) from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Unavailable(f"{command[0]}: {lines[-1] if lines else done.returncode}")
    return done.stdout


def build() -> tuple[Path, Path]:
    """(kernel, initrd), made where they are not there yet, by one process at a time. Raises Unavailable."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _built()


def _built() -> tuple[Path, Path]:
    stamp = hashlib.sha256(Path(__file__).read_bytes() + (HERE / "init.sh").read_bytes()).hexdigest()[:16]
    kernel, initrd = CACHE / "vmlinuz", CACHE / f"initrd-{stamp}"
    if kernel.exists() and initrd.exists():
        return kernel, initrd
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        work = Path(name)
        packages = work / "packages"
        packages.mkdir()
        for package in (_kernel_package(), "qemu-guest-agent"):
            _download(package, work)
        for deb in work.glob("*.deb"):
            tool("dpkg", "-x", deb, packages)
        images = list(packages.glob("boot/vmlinuz-*"))
        if len(images) != 1:
            raise Unavailable(f"the kernel's package has {len(images)} kernels")
        (work / "initrd").write_bytes(_archive(_files(packages)))
        # By renaming, so that a run that is killed leaves no half; the kernel last, which nothing else stands for.
        os.replace(work / "initrd", initrd)
        os.replace(images[0], kernel)
    return kernel, initrd


def _download(package: str, folder: Path) -> None:
    """Lists that are old name packages that the mirror has no more."""
    try:
        tool("apt-get", "download", package, cwd=folder)
    except Unavailable:
        if os.geteuid() != 0:
            raise
        tool("apt-get", "update")
        tool("apt-get", "download", package, cwd=folder)


def _kernel_package() -> str:
    for name in KERNELS:
        found = re.search(r"Depends: (linux-image-\S+)", _quiet("apt-cache", "depends", name))
        if found:
            return found[1]
    raise Unavailable("apt knows no kernel; apt-get update may help")


def _quiet(*command: str) -> str:
    try:
        return tool(*command)
    except Unavailable:
        return ""


def _files(packages: Path) -> Iterator[tuple[str, bytes | None]]:
    """(path, contents) of the initrd; None for a folder."""
    for folder in ("bin", "dev", "proc", "sys", "mnt", "modules", "lib", "lib64", "run", "tmp", "etc"):
        yield folder, None
    yield "init", (HERE / "init.sh").read_bytes()
    yield "bin/busybox", Path(_static_busybox()).read_bytes()
    for number, name in enumerate(MODULES):
        for path in packages.glob(f"lib/modules/*/kernel/**/{name}.ko*"):
            yield f"modules/{number:02}-{name}.ko", _unpacked(path)
    agent = packages / "usr/sbin/qemu-ga"
    if agent.exists():
        yield "bin/qemu-ga", agent.read_bytes()
        yield from _libraries(agent)


def _static_busybox() -> str:
    found = shutil.which("busybox")
    if found is None:
        raise Unavailable("no command busybox")
    if b"ld-linux" in Path(found).read_bytes()[:4096]:
        raise Unavailable("busybox is not static: install busybox-static")
    return found


def _unpacked(path: Path) -> bytes:
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", path], check=True, capture_output=True).stdout
    return path.read_bytes()


def _libraries(program: Path) -> Iterator[tuple[str, bytes]]:
    """What a program is linked with, from this machine. All of it is there where QEMU is."""
    for line in tool("ldd", program).splitlines():
        found = re.search(r"(/\S+) \(0x", line)
        if "not found" in line:
            raise Unavailable(f"for qemu-ga: {line.strip()}")
        if found:
            path = Path(found[1])
            yield (f"lib64/{path.name}" if "ld-linux" in path.name else f"lib/{path.name}"), path.read_bytes()


def _archive(files: Iterator[tuple[str, bytes | None]]) -> bytes:
    """The `newc` format of cpio, which the kernel unpacks."""
    made = bytearray()

    def add(name: str, mode: int, data: bytes) -> None:
        fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        made.extend(b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0")
        made.extend(bytes(-len(made) % 4) + data)
        made.extend(bytes(-len(made) % 4))

    for name, data in files:
        add(name, 0o40755 if data is None else 0o100755, data or b"")
    add("TRAILER!!!", 0, b"")
    return bytes(made)


def make_disk(path: Path, size: int = 64 * MIB) -> Path:
    """An empty ext4 for the guest."""
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", str(path)], check=True, capture_output=True)
    return path


def line(do: str) -> str:
    """The kernel's command line; `do` is what init.sh does."""
    return f"{LINE} secondsite.do={do}"


class Guest:
    """A machine that runs; `devices` are QEMU's options for its disks and cards, `do` what init.sh does. It has a
    monitor and a guest agent, on sockets.
    """

    def __init__(self, folder: Path, devices: Sequence[str], do: str = "records") -> None:
        kernel, initrd = build()
        self.qmp, self.agent, self._serial = folder / "vm.qmp", folder / "vm.agent", folder / "vm.serial"
        command = [
            "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-machine", "q35", "-m", "192", "-nodefaults",
            "-display", "none", "-no-reboot", "-kernel", str(kernel), "-initrd", str(initrd),
            "-append", line(do),
            "-serial", f"file:{self._serial}", "-qmp", f"unix:{self.qmp},server=on,wait=off",
            "-chardev", f"socket,id=agent,path={self.agent},server=on,wait=off", "-device", "virtio-serial-pci",
            "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0", *devices,
        ]  # fmt: skip
        self._log = (folder / "vm.log").open("ab")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)

    def serial(self) -> str:
        """What it has printed."""
        return self._serial.read_text(errors="replace") if self._serial.exists() else ""

    def synced(self) -> int:
        """The number of the last record that it said to have on the disk."""
        return int(([0, *re.findall(r"^SYNCED (\d+)\r?$", self.serial(), re.MULTILINE)])[-1])

    def wait(self, done: Callable[[], bool], seconds: float = BOOT_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert self.process.poll() is None, f"the guest ended: {self.serial()[-2000:]}"
            assert time.monotonic() < deadline, f"the guest: {self.serial()[-2000:]}"
            time.sleep(0.05)

    def write_on(self, records: int) -> int:
        """Let it write so many records more; the number of the last one."""
        wanted = self.synced() + records
        self.wait(lambda: self.synced() >= wanted)
        return self.synced()

    def stop(self) -> None:
        """As a power loss."""
        self.process.kill()
        self.process.wait()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def check_disk(image: Path, copy: Path) -> list[int]:
    """Replay the journal of a copy as a machine would that boots from it, prove the file system, read the records.

    Returns the numbers of the records, all of which have the right checksum.
    """
    return [number for number, _ in check_records(image, copy)]


def check_records(image: Path, copy: Path) -> list[tuple[int, str]]:
    """The same with the word of the boot that wrote each, which it said as GUEST BOOT."""
    shutil.copyfile(image, copy)
    replay = subprocess.run(["e2fsck", "-fy", copy], capture_output=True, text=True)
    # 1: mended, which replaying the journal counts as. What only the journal explains is no damage.
    assert replay.returncode in (0, 1), replay.stdout + replay.stderr
    proof = subprocess.run(["e2fsck", "-fn", copy], capture_output=True, text=True)
    assert proof.returncode == 0, proof.stdout + proof.stderr
    log = subprocess.run(["debugfs", "-R", "cat /log", copy], capture_output=True, check=True).stdout
    found = []
    for line in log.decode().splitlines():
        number, digest, boot = line.split(" ")
        assert digest == hashlib.md5(f"{number}\n".encode()).hexdigest(), line
        found.append((int(number), boot))
    return found
