"""From end to end on the emulator: an image of each kind, cycles under writes, every kept point by its
hash, the disk in a page blob after each cycle by qemu-img.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import shutil
import subprocess

import pytest
from store.storekit import azure_store, numbers

from secondsite import engine

pytestmark = pytest.mark.needs("azurite", "qemu-img", "qemu-io")
KIB, MIB = 1 << 10, 1 << 20
SAMPLE = "discutils/btrfs.vhdx.gz"


class Way:
    """An image in a file, `size` bytes of disk; its replica and its disk in Azure. `points` are digests."""

    def __init__(self, emulator, folder, monkeypatch, seed):
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", emulator.connection_string)
        monkeypatch.setenv("SECONDSITE_STATE", str(folder / "state"))
        name, self.chance, self.folder = f"w{next(numbers)}", random.Random(seed), folder
        self.container = azure_store(emulator).client
        self.url, self.blob = f"azure://tests/{name}/vm", f"{name}/vm.vhd"
        self.points: dict[str, str] = {}
        print(f"seed {seed}")

    def of(self, image, format):
        """Take this image."""
        self.image, self.format = image, format
        with engine.open_image(image, format=format) as opened:
            self.size = opened.size

    def write(self, count):
        """Some writes at random, of zeros too, through QEMU, as a machine would."""
        commands = []
        for _ in range(count):
            length = self.chance.choice([4, 64, 256]) * KIB
            at = self.chance.randrange((self.size - length) // (4 * KIB)) * 4 * KIB
            what = "-z" if self.chance.random() < 0.2 else f"-P {self.chance.randrange(1, 256)}"
            commands += ["-c", f"write {what} {at} {length}"]
        self.run("qemu-io", "-f", self.format, *commands, self.image)

    def run(self, *command):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, (command[0], done.stdout, done.stderr)
        return done.stdout

    def cycle(self):
        """One more point; what it is QEMU says."""
        done = engine.replicate(self.image, self.url, source_format=self.format)
        raw = self.folder / "raw"
        self.run("qemu-img", "convert", "-f", self.format, "-O", "raw", self.image, raw)
        self.points[done.point] = digest(raw)

    def comes_back(self, point):
        output = self.folder / f"point{point}"
        engine.restore(self.url, output, at=point)
        found = digest(output)
        output.unlink()
        return found == self.points[point]

    def disk_is_equal(self):
        path = self.folder / "downloaded.vhd"
        with path.open("wb") as file:
            self.container.download_blob(self.blob).readinto(file)
        told = self.run("qemu-img", "compare", "-f", self.format, "-F", "vpc", self.image, path)
        path.unlink()
        return "identical" in told

    def go(self, cycles, keep):
        """All of it."""
        for number in range(cycles):
            self.write(6)
            self.cycle()
            engine.standby(self.url, f"azure://tests/{self.blob}")
            assert self.disk_is_equal(), number
        assert [point.point for point in engine.points(self.url)] == list(self.points)
        engine.prune(self.url, keep=keep)
        assert engine.prune_report(self.url, grace=0).freed_bytes > 0
        kept = [point.point for point in engine.points(self.url)]
        assert kept == list(self.points)[-keep:]
        assert engine.verify(self.url).ok
        assert all([self.comes_back(point) for point in kept])
        self.blob = self.blob.replace("vm.vhd", "again.vhd")
        engine.materialize(self.url, f"azure://tests/{self.blob}")
        assert self.disk_is_equal()


def digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture
def way(azurite, tmp_path, monkeypatch):
    return Way(azurite, tmp_path, monkeypatch, 26)


def test_a_raw_image_goes_the_whole_way(way, tmp_path, sweep):
    """1 GiB, of which 64 MiB hold data at first, and 20 cycles, with --sweep."""
    size, data, cycles, keep = (1024, 64, 20, 7) if sweep else (16, 2, 3, 2)
    image = tmp_path / "disk.raw"
    with image.open("wb") as file:
        file.truncate(size * MIB)
        for _ in range(data):
            os.pwrite(file.fileno(), way.chance.randbytes(MIB), way.chance.randrange(size) * MIB)
    way.of(image, "raw")
    way.go(cycles, keep)


def test_a_vhdx_of_qemu_goes_the_whole_way(way, tmp_path, sweep):
    size, cycles, keep = (256, 20, 7) if sweep else (9, 2, 1)
    image = tmp_path / "disk.vhdx"
    way.run("qemu-img", "create", "-q", "-f", "vhdx", "-o", "block_size=1M", image, f"{size}M")
    way.of(image, "vhdx")
    way.go(cycles, keep)


@pytest.mark.sweep(sample=0)
@pytest.mark.parametrize("cycles", [20])
def test_a_vhdx_of_windows_goes_the_whole_way(way, tmp_path, samples, cycles):
    """Three minutes: the whole sweep has it, the sample has the VHDX of QEMU."""
    image = tmp_path / "disk.vhdx"
    with gzip.open(samples / SAMPLE) as packed, image.open("wb") as file:
        shutil.copyfileobj(packed, file)
    way.of(image, "vhdx")
    way.go(cycles, 7)
