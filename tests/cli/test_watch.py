"""`replicate --watch`, as the program that a user starts: cycles, signals, what is told, and what ends it."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clikit import KIB, MIB, Shell, change, make_disk, program, start

from secondsite import engine


def until(what: Callable[[], Any], child: subprocess.Popen[str], seconds: float = 20) -> Any:
    """Wait until it is so, while the program runs."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def points(root: Path) -> int:
    return len(list((root / "points").glob("*.json")))


def newest(root: Path) -> int:
    return max((int(name.stem) for name in (root / "points").glob("*.json")), default=0)


def newer(root: Path, than: int) -> int:
    """The newest generation, or 0 where it is not newer."""
    return newest(root) if newest(root) > than else 0


def end(child: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[int, str, str]:
    child.send_signal(number)
    out, err = child.communicate(timeout=20)
    return child.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_point_for_each_change_and_a_clean_end(disk: Path, tmp_path: Path, number: signal.Signals) -> None:
    root = tmp_path / "replica"
    child = start("replicate", disk, root, "--watch", "1", "--json", "--tracker", "scan")
    until(lambda: points(root) == 1, child)
    change(disk, 4000)
    until(lambda: points(root) == 2, child)
    status, out, err = end(child, number)
    assert status == 128 + number
    assert "stopped on request; point 2 is the newest" in err and err.count("\n") == 1
    cycles = [json.loads(line) for line in out.splitlines()]
    assert cycles.pop() == {"error": "stopped on request; point 2 is the newest", "exit": 128 + number,
                            "retryable": False}  # fmt: skip
    assert cycles[0]["last"]["kind"] == "initial" and {cycle["tracker"] for cycle in cycles} == {"scan"}
    assert [cycle["cycles"] + cycle["failed"] for cycle in cycles] == list(range(1, len(cycles) + 1))
    assert (root / "head.raw").read_bytes() == disk.read_bytes()
    assert engine.verify(root).ok


def test_a_signal_in_the_middle_of_a_cycle(disk: Path, tmp_path: Path) -> None:
    root = tmp_path / "replica"
    engine.replicate(disk, root)
    before = disk.read_bytes()
    disk.write_bytes(os.urandom(8 * MIB))
    child = start("replicate", disk, root, "--watch", "1", "--limit", "1M", "--history", "undo")
    until(lambda: list((root / "points").glob("*1.undo")), child)
    status, out, err = end(child)
    assert (status, out) == (143, "") and "stopped on request" in err
    assert (root / "head.raw").read_bytes() == before
    assert [point.point for point in engine.points(root)] == ["1"]
    assert engine.verify(root).ok


def test_in_a_pipe_a_line_for_what_is_new(disk: Path, tmp_path: Path) -> None:
    root = tmp_path / "replica"
    child = start("replicate", disk, root, "--watch", "1", "--tracker", "scan")
    until(lambda: points(root) == 1, child)
    time.sleep(2.2)
    _, out, _ = end(child)
    assert [line.partition(":")[0] for line in out.splitlines()] == ["initial", "tracker scan"], "nothing else was new"


def test_a_replica_that_goes_away_and_comes_back(disk: Path, tmp_path: Path) -> None:
    root, away = tmp_path / "mount/replica", tmp_path / "away"
    root.parent.mkdir()
    child = start("replicate", disk, root, "--watch", "1", "--json")
    until(lambda: points(root) == 1, child)
    disk.rename(tmp_path / "elsewhere")
    time.sleep(2.5)
    (tmp_path / "elsewhere").rename(disk)
    root.rename(away)
    root.write_text("something else is in its place")
    change(disk, 70 * KIB)
    time.sleep(1.2)
    root.unlink()
    away.rename(root)
    until(lambda: points(root) == 2, child, 30)
    status, out, err = end(child)
    assert status == 143, (out, err)
    cycles = [json.loads(line) for line in out.splitlines()]
    failed = [cycle for cycle in cycles if cycle.get("state") == "retrying"]
    assert failed and all(cycle["error"] and cycle["retry"] >= 1 for cycle in failed)
    assert (root / "head.raw").read_bytes() == disk.read_bytes()


def test_no_second_first_copy_into_an_empty_mount_point(disk: Path, tmp_path: Path) -> None:
    """The replica's file system was unmounted: a copy of the disk does not belong below it."""
    root, away = tmp_path / "replica", tmp_path / "away"
    child = start("replicate", disk, root, "--watch", "1", "--json")
    until(lambda: points(root) == 1, child)
    time.sleep(0.5)
    root.rename(away)
    root.mkdir()
    change(disk, 70 * KIB)
    time.sleep(2.5)
    assert not list(root.iterdir())
    root.rmdir()
    away.rename(root)
    until(lambda: points(root) == 2, child, 30)
    status, out, err = end(child)
    assert status == 143, (out, err)
    told = [cycle["error"] for cycle in map(json.loads, out.splitlines()) if cycle.get("state") == "retrying"]
    assert told and all("not there any more" in error for error in told)


def test_what_no_retry_mends_has_its_exit_status(disk: Path, tmp_path: Path) -> None:
    root = tmp_path / "replica"
    engine.replicate(make_disk(tmp_path / "other.raw", seed=9), root)
    done = program("replicate", disk, root, "--watch", "1")
    assert done.status == 3 and "follows another image" in done.complaint


@pytest.mark.parametrize("wrong", ["0", "0.5", "nan", "86401"])
def test_an_interval_that_cannot_be(disk: Path, tmp_path: Path, shell: Shell, wrong: str) -> None:
    done = shell("replicate", disk, tmp_path / "replica", "--watch", wrong)
    assert done.status == 2 and "from 1 s to a day" in done.complaint


def test_killed_again_and_again_every_listed_point_restores(disk: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "replica", tmp_path / "out.raw"
    contents = {}
    for turn in range(3):
        begun = newest(root)
        child = start("replicate", disk, root, "--watch", "1", "--keep", "4", "--history", "undo", "--tracker", "scan")
        for _ in range(2):
            for offset in range(0, 500 * KIB, 50 * KIB):
                change(disk, offset, seed=100 * turn + begun)
            begun = until(functools.partial(newer, root, begun), child)
            contents[str(begun)] = disk.read_bytes()
        change(disk, 0, seed=1000 + turn)
        time.sleep(0.9 + 0.06 * turn)
        child.kill()
        child.communicate()
    engine.replicate(disk, root)
    listed = engine.points(root)
    assert len(listed) >= 4 and not any(point.damaged for point in listed)
    assert contents.keys() & {point.point for point in listed}
    for point in listed:
        engine.restore(root, out, at=point.point)
        assert out.read_bytes() == contents.get(point.point, out.read_bytes()), point
        out.unlink()
    assert engine.verify(root).ok
    assert (root / "head.raw").read_bytes() == disk.read_bytes()
