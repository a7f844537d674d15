"""`secondsite track` over overlays: disks that run from a point, a server that is killed, and what goes back."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.images.nbd import NbdImage

pytest.importorskip("secondsite.engine._nbd", reason="the native kernels are not built")

MIB = 1 << 20
SIZE = 24 * MIB
CODE = "import sys; from secondsite.orchestration.cli import run; sys.exit(run(sys.argv[1:]))"


class Machine:
    """Two disks with a replica each, overlays over point 1 of both, and their one server in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.overlays, self.states = folder, [folder / "a.overlay", folder / "b.overlay"], list[bytes]()
        chance = random.Random(8)
        for name in ("a", "b"):
            disk, data = folder / f"{name}.raw", bytearray(chance.randbytes(8 * MIB) + bytes(SIZE - 8 * MIB))
            for _ in range(2):
                disk.write_bytes(data)
                engine.replicate(disk, folder / f"{name}-replica", history="undo", tracker="scan")
                self.states += [bytes(data)] if len(self.states) < 1 + (name == "b") else []
                data[MIB : 3 * MIB] = chance.randbytes(2 * MIB)
            engine.create_overlay(folder / f"{name}.overlay", folder / f"{name}-replica", "1")
        self.serve()

    def serve(self) -> None:
        command = [sys.executable, "-c", CODE, "track", *self.overlays, "--socket", self.folder / "s", "--json"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        import json

        self.urls: list[str] = json.loads(self.process.stdout.readline())["urls"]

    def end(self, how: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        status = self.process.wait(30)
        self.process.stdout.close()  # type: ignore[union-attr]
        return status

    def replicate(self) -> list[engine.Replicated]:
        disks = [engine.Disk(path, f"{path.with_suffix('')}-back") for path in self.overlays]
        return engine.replicate_together(disks)

    def backs(self) -> list[bytes]:
        return [(self.folder / f"{name}-back/head.raw").read_bytes() for name in ("a", "b")]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.end(signal.SIGKILL)


def test_a_guests_writes_go_back_and_cycles_read_what_was_written(machine: Machine) -> None:
    models = [bytearray(state) for state in machine.states]
    assert [done.kind for done in machine.replicate()] == ["initial", "initial"]
    for turn, (url, model) in enumerate(zip(machine.urls, models, strict=True)):
        with NbdImage(url, "rw") as disk:
            assert bytes(disk.read(0, SIZE)) == model
            disk.write(20 * MIB + turn, b"written" * 1000)
            model[20 * MIB + turn : 20 * MIB + turn + 7000] = b"written" * 1000
            disk.zero(MIB, MIB)
            model[MIB : 2 * MIB] = bytes(MIB)
    found = machine.replicate()
    assert machine.backs() == models
    assert all(done.tracker == "nbd" and not done.scanned and done.read_bytes < 6 * MIB for done in found)
    assert machine.end() == 0
    machine.serve()
    assert [done.read_bytes for done in machine.replicate()] == [0, 0]  # the map was saved
    for path, name in zip(machine.overlays, ("a", "b"), strict=True):
        assert engine.verify(machine.folder / f"{name}-replica").ok
        with pytest.raises(errors.Busy):
            engine.remove_overlay(path)


def test_one_instant_of_all_disks(machine: Machine) -> None:
    """A guest writes the same number into both, one after the other: no pair of points is further apart than one."""
    over = threading.Event()

    def write() -> None:
        with NbdImage(machine.urls[0], "rw") as one, NbdImage(machine.urls[1], "rw") as two:
            number = 0
            while not over.is_set():
                number += 1
                for disk in (one, two):
                    disk.write(5000, number.to_bytes(8, "little"))

    guest = threading.Thread(target=write)
    for url in machine.urls:
        with NbdImage(url, "rw") as disk:
            disk.write(5000, bytes(8))
    machine.replicate()
    guest.start()
    try:
        for _ in range(6):
            machine.replicate()
            first, second = (int.from_bytes(back[5000:5008], "little") for back in machine.backs())
            assert 0 <= first - second <= 1
    finally:
        over.set()
        guest.join()
    assert first > 0


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("seed", range(12))
def test_killed_under_load(machine: Machine, seed: int) -> None:
    """What was flushed is there, the point below is what it was, and the next cycle makes the replica equal to it."""
    chance = random.Random(f"{os.environ.get('SECONDSITE_SEED', '1')} {seed}")
    machine.replicate()
    for _ in range(3):
        flushed = [bytearray(8) for _ in machine.urls]
        guests = [
            threading.Thread(target=_load, args=(url, chance.random(), seen))
            for url, seen in zip(machine.urls, flushed, strict=True)
        ]
        for guest in guests:
            guest.start()
        time.sleep(0.1 + chance.random() * 0.5)
        killer = threading.Timer(chance.random() * 0.1, machine.process.kill)
        killer.start()
        if chance.random() < 0.5:
            try:
                machine.replicate()
            except errors.Error as error:
                assert error.retryable or isinstance(error, errors.Refused), error
        killer.join()
        machine.end(signal.SIGKILL)
        for guest in guests:
            guest.join()
        machine.serve()
        for url, seen in zip(machine.urls, flushed, strict=True):
            with NbdImage(url) as disk:
                assert disk.read(0, 8) >= seen
                assert bytes(disk.read(23 * MIB, 4096)) in (bytes(4096), b"\xff" * 4096)
        assert all(done.tracker == "nbd" for done in machine.replicate())
        for path, back in zip(machine.overlays, machine.backs(), strict=True):
            with NbdImage(machine.urls[machine.overlays.index(path)]) as disk:
                assert back == bytes(disk.read(0, SIZE))
    machine.end()
    for name in ("a", "b"):
        assert engine.verify(machine.folder / f"{name}-back", source=machine.folder / f"{name}.overlay").ok
        assert engine.verify(machine.folder / f"{name}-replica").ok


def _load(url: str, seed: float, flushed: bytearray) -> None:
    """Writes anywhere, and a number that grows, flushed now and then."""
    chance, number = random.Random(seed), 0
    try:
        with NbdImage(url, "rw", connections=1, timeout=10) as disk:
            number = int.from_bytes(disk.read(0, 8), "big")
            while True:
                at, length = chance.randrange(4096, 22 * MIB, 512), chance.choice([512, 4096, 65536, 300_000])
                disk.zero(at, length) if chance.random() < 0.1 else disk.write(at, chance.randbytes(length))
                disk.write(23 * MIB, b"\xff" * 4096)
                if chance.random() < 0.2:
                    number += 1
                    disk.write(0, number.to_bytes(8, "big"))
                    disk.flush()
                    flushed[:] = number.to_bytes(8, "big")
    except errors.Error:
        pass
