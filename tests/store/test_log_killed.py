"""A replica in a store and its writers as processes: killed in the middle, two at once, stopped and overtaken."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from store.httpproxy import proxied
from store.logkit import Lab
from store.storekit import azure_store, numbers
from store.storewriter import SEGMENT_BYTES

from secondsite.engine.store.log.reading import Replica
from secondsite.engine.store.retry import Retrying

pytestmark = pytest.mark.needs("azurite")
WRITER = str(Path(__file__).with_name("storewriter.py"))
DISK_BYTES = 2 << 20


class Site:
    """A disk, and its replica in the emulator; `points` has what each must be, by number."""

    def __init__(self, emulator, folder, seed):
        self.emulator, self.folder, self.chance = emulator, folder, random.Random(seed)
        self.disk, self.prefix = folder / "disk", f"k{next(numbers)}"
        self.lab = Lab(Retrying(azure_store(emulator, self.prefix + "/")))
        self.data = b""
        print(f"seed {seed}")

    @property
    def points(self):
        return self.lab.contents

    def change(self):
        """All of the disk; the next point may be made of it."""
        self.data = self.chance.randbytes(DISK_BYTES)
        self.disk.write_bytes(self.data)
        self.points[max(self.points, default=0) + 1] = self.data

    @contextmanager
    def writer(self, host, port=None, epoch=()):
        """A process on a host."""
        text = self.emulator.connection_string.replace(f":{self.emulator.port}/", f":{port or self.emulator.port}/")
        command = [sys.executable, WRITER, self.disk, f"azure://tests/{self.prefix}", self.folder / host, *epoch]
        env = {**os.environ, "AZURE_STORAGE_CONNECTION_STRING": text}
        with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, env=env) as process:
            try:
                yield process
            finally:
                process.kill()

    def write(self, host, port=None, epoch=()):
        """Its exit status and what it says."""
        with self.writer(host, port, epoch) as process:
            said = process.communicate(timeout=120)[0]
        return process.returncode, said

    def run_out(self):
        """The lease of one who does not renew it any more."""
        self.lab.store.fence("head.json", 15, take=True).release()

    def arrived(self, generation):
        return sum(entry.size for entry in self.lab.store.list(f"segments/{generation:012}/"))


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("seed", range(30))
def test_what_a_killed_writer_brought_is_not_sent_again(azurite, tmp_path, seed, sweep):
    """SIGKILL at the n-th request of a cycle, up to three times in a row, in the sample once; P14: bytes are counted.
    """
    site = Site(azurite, tmp_path, seed)
    site.change()
    assert site.write("one")[0] == 0
    site.change()
    for turn in range(site.chance.randrange(1, 4) if sweep else 1):
        at, host = site.chance.randrange(5, 30), site.chance.choice(["one", f"other{turn}"])
        before = site.arrived(2)
        with proxied(azurite.port, lambda method, path: None) as proxy, site.writer(host, proxy.port) as process:
            proxy.plan = killing(process, at)
            process.communicate(timeout=120)
            proxy.settle()
            print(f"killed at {at}: {process.returncode}; sent {proxy.segments}, {site.arrived(2) - before} arrived")
            assert proxy.segments + before <= DISK_BYTES * 1.06 + SEGMENT_BYTES
        site.lab.check()
        site.run_out()
    before = site.arrived(2)
    with proxied(azurite.port, lambda method, path: None) as proxy:
        status, said = site.write("last", proxy.port)
        assert (status, said.split()[-1]) == (0, "2")
        assert proxy.segments + before <= DISK_BYTES * 1.06 + SEGMENT_BYTES
    assert site.lab.generations() == [1, 2]
    site.lab.check()


def killing(process, at):
    asked = []

    def plan(method, path):
        asked.append(path)
        if len(asked) == at:
            process.kill()

    return plan


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("seed", range(10))
def test_of_two_writers_at_once_one_makes_each_point(azurite, tmp_path, seed):
    site = Site(azurite, tmp_path, seed)
    for turn in (1, 2):
        site.change()
        with site.writer("one") as one, site.writer("two") as two:
            said = [process.communicate(timeout=120)[0] for process in (one, two)]
        print(turn, said)
        assert {one.returncode, two.returncode} <= {0, 3} and 0 in (one.returncode, two.returncode)
        assert site.lab.generations() == list(range(1, turn + 1))
        site.lab.check()


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("where", ["segments", "maps", "points", "head.json"])
def test_who_stood_still_and_was_overtaken_changes_nothing(azurite, tmp_path, where):
    """M14: he is stopped in the middle, his lease runs out, another takes over in a higher epoch; then he goes on."""
    site = Site(azurite, tmp_path, where)
    site.change()
    assert site.write("old")[0] == 0
    site.change()
    stopped, on = threading.Event(), threading.Event()
    with proxied(azurite.port, lambda method, path: None) as proxy, site.writer("old", proxy.port) as old:

        def plan(method, path):
            if method == "PUT" and f"/{where}" in path and "comp=lease" not in path and not stopped.is_set():
                old.send_signal(signal.SIGSTOP)
                stopped.set()
                on.wait(60)

        proxy.plan = plan
        assert stopped.wait(60)
        site.run_out()
        site.points.pop(2)
        site.change()
        assert site.write("new", epoch=("2",)) == (0, "delta 2\n")
        on.set()
        old.send_signal(signal.SIGCONT)
        said = old.communicate(timeout=120)[0]
    assert old.returncode == 3 and said.split()[0] in ("Fenced", "Changed", "Refused"), said
    assert site.lab.generations() == [1, 2] and Replica.open(site.lab.store).head.epoch == 2
    site.lab.check()
