"""Rigs: a disk in use with a tracker that follows it, one kind each, for the conformance suite of trackers.

A new kind is a file in `trackers/` with a list RIGS of (id, class, needed things); test_tracker.py finds it.
"""

from __future__ import annotations

import importlib.util
import os
import random
import struct
import threading
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from secondsite.engine import kernel
from secondsite.engine.trackers.base import Tracker

RECORD = 4096
SIZE = 4 << 20
REPLICA = "0123456789abcdef0123456789abcdef"


class Rig(ABC):
    """A disk of `SIZE` bytes of zeros in `folder`, at rest until somebody writes it through the rig.

    `write`, `zero`, `trim` and `flush` come from several threads at once. `fixture` gives what the class asks for in
    `wants` (a fixture's name, such as xfs_dir): the folder in which to make one's own.
    """

    frozen = True  # a cut is one instant, whoever writes meanwhile
    knows = True  # after an acknowledged cut the next one names ranges
    survives = True  # another Tracker, made anew, goes on where the last one was acknowledged
    resizes = False  # `resize` works
    several = True  # several replicas may follow it at once
    grain = 64 << 10  # a write of a byte marks at most so many
    wants: str | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    source: Any
    """What `engine.replicate` is called with."""

    @abstractmethod
    def tracker(self, replica_id: str = REPLICA) -> Tracker: ...

    @abstractmethod
    def write(self, offset: int, data: bytes) -> None:
        """Acknowledged when it returns."""

    @abstractmethod
    def zero(self, offset: int, length: int) -> None: ...

    def trim(self, offset: int, length: int) -> None:
        """As a guest's discard; afterwards the range reads as zeros."""
        self.zero(offset, length)

    @abstractmethod
    def flush(self) -> None: ...

    def resize(self, size: int) -> None:
        raise NotImplementedError

    @abstractmethod
    def content(self) -> bytes:
        """The disk as its guest sees it now."""

    def close(self) -> None:
        return None


class FileRig(Rig):
    """A file written through the page cache."""

    resizes = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.source = folder / "disk.raw"
        self.fd = os.open(self.source, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.ftruncate(self.fd, SIZE)

    def write(self, offset: int, data: bytes) -> None:
        assert os.pwrite(self.fd, data, offset) == len(data)

    def zero(self, offset: int, length: int) -> None:
        kernel.files.zero_range(self.fd, offset, length, False)

    def trim(self, offset: int, length: int) -> None:
        kernel.files.zero_range(self.fd, offset, length, True)

    def flush(self) -> None:
        os.fdatasync(self.fd)

    def resize(self, size: int) -> None:
        os.ftruncate(self.fd, size)

    def content(self) -> bytes:
        return self.source.read_bytes()

    def close(self) -> None:
        os.close(self.fd)


def find_rigs() -> list[Any]:
    """The rigs of every file in `trackers/`, as parameters of tests."""
    found = []
    for path in sorted(Path(__file__).with_name("trackers").glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"tracker_rigs_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, rig, needs in module.RIGS:
            found.append(pytest.param(rig, id=name, marks=[pytest.mark.needs(*needs)] if needs else []))
    return found


# -- writers whose every write can be told -----------------------------------------------------------------------

_HEAD = struct.Struct("<8sIIQ")
_MARK = b"record!\n"


def record(writer: int, slot: int, sequence: int) -> bytes:
    """4 KiB that say who wrote them, where and when, with a checksum behind."""
    body = _HEAD.pack(_MARK, writer, slot, sequence).ljust(RECORD - 4, bytes([sequence % 251]))
    return body + struct.pack("<I", zlib.crc32(body))


def parse(data: bytes, slot: int) -> tuple[int, int]:
    """(writer, sequence) of a slot; (-1, 0) for zeros. Fails for what nobody wrote."""
    if not any(data):
        return -1, 0
    mark, writer, place, sequence = _HEAD.unpack_from(data)
    whole = mark == _MARK and struct.unpack("<I", data[-4:])[0] == zlib.crc32(data[:-4])
    assert whole and place == slot, f"slot {slot} holds what was never written there at once"
    return writer, sequence


class Op(NamedTuple):
    """A write of a record, or of zeros, with the moments between which it happened."""

    slot: int
    zero: bool
    began: int
    ended: int


class Writers:
    """Threads that write a rig's slots, each its own, one write after the other, and note when."""

    def __init__(self, rig: Rig, size: int = SIZE, count: int = 3, seed: int = 1, pause: float = 0.0) -> None:
        self.rig, self.slots, self.count, self.pause = rig, size // RECORD, count, pause
        self.logs: list[list[Op]] = [[] for _ in range(count)]
        self.failed: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n, seed), daemon=True) for n in range(count)]

    @contextmanager
    def running(self) -> Iterator[Writers]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(30)
        assert not self.failed, self.failed

    def _run(self, number: int, seed: int) -> None:
        chance = random.Random(f"{seed} {number}")
        log = self.logs[number]
        try:
            while not self._stop.is_set():
                slot = chance.randrange(self.slots // self.count) * self.count + number
                kind = chance.random()
                began = time.monotonic_ns()
                if kind < 0.8:
                    self.rig.write(slot * RECORD, record(number, slot, len(log) + 1))
                elif kind < 0.9:
                    self.rig.zero(slot * RECORD, RECORD)
                else:
                    self.rig.trim(slot * RECORD, RECORD)
                log.append(Op(slot, kind >= 0.8, began, time.monotonic_ns()))
                if chance.random() < 0.02:
                    self.rig.flush()
                if self.pause:
                    time.sleep(self.pause)
        except BaseException as error:
            self.failed.append(error)

    def check(self, disk: bytes, begun: int) -> None:
        """Is `disk` what all of them had written at one instant, not before `begun` (time.monotonic_ns)?

        A writer had made between lo and hi of its writes, so the instant lies between the beginning of write lo and
        the end of write hi + 1. Call it while the writers rest: a write may be on disk before it is in the log.
        """
        state = [parse(disk[slot * RECORD : (slot + 1) * RECORD], slot) for slot in range(self.slots)]
        earliest, latest = begun, 1 << 63
        for number, log in enumerate(self.logs):
            lo, hi = self._prefix(number, log, state)
            earliest = max(earliest, log[lo - 1].began if lo else 0)
            latest = min(latest, log[hi].ended if hi < len(log) else 1 << 63)
        assert earliest <= latest, "the writers' states are of no single instant, or a write that had ended is missing"

    def _prefix(self, number: int, log: list[Op], state: list[tuple[int, int]]) -> tuple[int, int]:
        """After how many of its writes this writer's slots look like this: the fewest and the most.

        The newest record that is there does not bound it: the one behind it may have been zeroed again.
        """
        mine = {slot: state[slot] for slot in range(number, self.slots // self.count * self.count, self.count)}
        assert all(writer in (-1, number) for writer, _ in mine.values())
        now = dict.fromkeys(mine, (-1, 0))
        wrong = sum(now[slot] != mine[slot] for slot in mine)
        fits = [] if wrong else [0]
        for done, op in enumerate(log, 1):
            wrong -= now[op.slot] != mine[op.slot]
            now[op.slot] = (-1, 0) if op.zero else (number, done)
            wrong += now[op.slot] != mine[op.slot]
            if not wrong:
                fits.append(done)
        assert fits, f"writer {number}: its slots were never like this (write {max(mine.values())[1]} is there)"
        return fits[0], fits[-1]
