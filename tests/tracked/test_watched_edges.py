"""`--watch` where something is wrong or slow: no room for old contents, a kept clone that grows, a terminal."""

from __future__ import annotations

import json
import os
import pty
import random
import select
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from secondsite import engine
from secondsite.engine import between
from secondsite.engine.trackers.clone import CloneTracker

PROGRAM = str(Path(sysconfig.get_path("scripts"), "secondsite"))
BLOCK, MIB = 16384, 1 << 20


def until(what: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def run(*arguments: object, out: Path) -> subprocess.Popen[bytes]:
    with out.open("wb") as file:
        return subprocess.Popen([PROGRAM, *map(str, arguments)], stdout=file, stderr=subprocess.STDOUT)


def end(child: subprocess.Popen[bytes]) -> int:
    if child.poll() is None:
        child.terminate()
    return child.wait(20)


def told(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines() if line.startswith("{") and line.endswith("}")]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "area"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "area", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.needs("root")
def test_a_full_area_costs_one_point_and_no_write(tmp_path: Path, small: Path) -> None:
    disk, root, socket, out = tmp_path / "disk.raw", tmp_path / "r", tmp_path / "s", tmp_path / "out"
    chance = random.Random(5)
    disk.write_bytes(chance.randbytes(16 * MIB))
    engine.replicate(disk, root, block_size=BLOCK, history="undo", tracker="scan")
    server = run("track", disk, "--socket", socket, "--area", small, "--area-limit", "1G", out=tmp_path / "server")
    watcher = None
    try:
        until(socket.exists)
        watch = ("--watch", "1", "--json", "--limit", "12M", "--history", "undo")
        watcher = run("replicate", disk, root, *watch, out=out)
        with engine.open_image(f"nbd+unix:///disk.raw?socket={socket}", "rw") as guest:
            deadline = time.monotonic() + 15
            while not any(line.get("state") == "resync required" for line in told(out)):
                assert time.monotonic() < deadline, out.read_text()
                for _ in range(64):  # each must be taken, room or none
                    guest.write(chance.randrange(16 * 64) * BLOCK, chance.randbytes(BLOCK))
            lost = len(told(out))
            until(lambda: any(line.get("last") for line in told(out)[lost:]))
        assert end(watcher) == 143
        engine.replicate(disk, root)
    finally:
        if watcher is not None:
            end(watcher)
        end(server)
    failed = next(line for line in told(out) if line.get("state") == "resync required")
    assert failed["retry"] == 0 and failed["error"]
    assert (root / "head.raw").read_bytes() == disk.read_bytes()
    assert engine.verify(root).ok


def test_what_waits_for_the_next_cycle_is_told(tmp_path: Path) -> None:
    disk, root, socket = tmp_path / "disk.raw", tmp_path / "r", tmp_path / "s"
    disk.write_bytes(bytes(4 * MIB))
    seen: list[engine.Status] = []
    url = f"nbd+unix:///disk.raw?socket={socket}"
    with engine.track([disk], socket=str(socket)), engine.open_image(url, "rw") as guest:

        def look(now: engine.Status) -> None:
            seen.append(now)
            if now.last is not None and now.cycles == 1:
                guest.write(MIB, b"x" * (3 * 65536))

        with pytest.raises(engine.errors.Cancelled):
            engine.watch(disk, root, every=2.0, observe=look, cancel=lambda: bool(seen) and seen[-1].cycles == 2)
    assert {now.pending for now in seen if now.state == "waiting" and now.cycles == 1} == {0, 3 * 65536}
    assert seen[-1].pending == 0


@pytest.mark.needs("xfs")
def test_a_watched_image_in_use_is_followed_by_clones(xfs_dir: Path, tmp_path: Path) -> None:
    disk, root, out = xfs_dir / f"watched-{tmp_path.name}.raw", tmp_path / "r", tmp_path / "out"
    chance = random.Random(8)
    disk.write_bytes(chance.randbytes(4 * MIB))
    watcher = run("replicate", disk, root, "--watch", "1", "--json", out=out)
    try:
        for count in range(1, 4):
            until(lambda count=count: sum(bool(line.get("last")) for line in told(out)) >= count)  # type: ignore[misc]
            with disk.open("r+b") as file:
                file.seek(chance.randrange(200) * BLOCK)
                file.write(chance.randbytes(BLOCK))
        assert end(watcher) == 143
        engine.replicate(disk, root)
    finally:
        end(watcher)
    assert {line["tracker"] for line in told(out) if line.get("last")} == {"clone"}
    assert (root / "head.raw").read_bytes() == disk.read_bytes()


@pytest.mark.needs("xfs")
def test_a_kept_clone_is_dropped_between_cycles(
    xfs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, root = xfs_dir / f"kept-{tmp_path.name}.raw", tmp_path / "r"
    disk.write_bytes(os.urandom(4 * MIB))
    seen: list[engine.Status] = []

    def look(now: engine.Status) -> None:
        seen.append(now)
        if now.last is not None:
            with disk.open("r+b") as file:
                file.write(os.urandom(MIB))
                os.fsync(file.fileno())

    monkeypatch.setattr(between, "TRIM_SECONDS", 0.0)
    monkeypatch.setattr(CloneTracker, "limit", lambda _: 65536 if seen[-1].last is None else 1 << 40)
    with pytest.raises(engine.errors.Cancelled):
        engine.watch(disk, root, every=3.0, observe=look, cancel=lambda: any(now.warning for now in seen))
    assert [now.tracker for now in seen if now.last] == ["clone"]
    (warning,) = [now.warning for now in seen if now.warning]
    assert "the kept clone held 1048576 bytes, 65536 are allowed" in warning
    assert engine.replicate(disk, root).read_bytes == 4 * MIB, "without it all is read"
    assert (root / "head.raw").read_bytes() == disk.read_bytes()


def test_the_live_view_on_a_terminal(tmp_path: Path) -> None:
    disk, root = tmp_path / "disk.raw", tmp_path / "r"
    disk.write_bytes(os.urandom(MIB))
    main, side = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    child = subprocess.Popen(
        [PROGRAM, "replicate", disk, root, "--watch", "1", "--tracker", "scan"], stdin=side, stdout=side, stderr=side,
        env=environment,
    )  # fmt: skip
    os.close(side)
    shown, deadline, asked = b"", time.monotonic() + 20, False
    try:
        while time.monotonic() < deadline:
            if not select.select([main], [], [], 0.1)[0]:
                continue
            try:
                part = os.read(main, 65536)
            except OSError:  # the other end is closed
                break
            shown += part
            if not asked and b"cycles" in shown and b"2, 0 missed" in shown:
                asked = True
                child.send_signal(signal.SIGINT)
        assert child.wait(10) == 130, shown
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        os.close(main)
    text = shown.decode()
    assert "Traceback" not in text and "state" in text and "waiting" in text and "newest" in text
    assert "stopped on request; point 1 is the newest" in " ".join(text.split())
