"""Continuous protection: a guest writes into a served image, a cycle a second follows it, and both may be killed."""

from __future__ import annotations

import json
import subprocess
import sysconfig
import time
from pathlib import Path

from secondsite import engine
from secondsite.orchestration.bench.process import listening

PROGRAM = str(Path(sysconfig.get_path("scripts"), "secondsite"))
BLOCK = 16384


def start(*arguments: str | Path, out: Path) -> subprocess.Popen[bytes]:
    with out.open("wb") as file:
        return subprocess.Popen([PROGRAM, *map(str, arguments)], stdout=file, stderr=subprocess.STDOUT)


def test_every_point_is_one_instant_and_a_killed_watcher_loses_none(tmp_path: Path) -> None:
    """Block n of each round is written before block n + 1: in no point is a later block of an older round."""
    disk, root, socket, out = tmp_path / "disk.raw", tmp_path / "r", tmp_path / "s", tmp_path / "out"
    blocks = 64
    disk.write_bytes(bytes(blocks * BLOCK))
    server = start("track", disk, "--socket", socket, out=tmp_path / "server")
    watch = ("replicate", disk, root, "--watch", "1", "--block-size", "16K", "--history", "undo", "--json")
    try:
        listening(server, socket)
        watcher = start(*watch, out=out)
        number = 0
        with engine.open_image(f"nbd+unix:///disk.raw?socket={socket}", "rw") as guest:
            for turn in range(2):
                until = time.monotonic() + 4
                while time.monotonic() < until:
                    number += 1
                    guest.write((number % blocks) * BLOCK, number.to_bytes(8, "little") * (BLOCK // 8))
                watcher.kill() if turn == 0 else watcher.terminate()
                assert watcher.wait(20) == (-9 if turn == 0 else 143)
                if turn == 0:
                    watcher = start(*watch, out=tmp_path / "again")
        engine.replicate(disk, root)
    finally:
        server.terminate()
        server.wait(20)
    cycles = [json.loads(line) for line in out.read_text().splitlines()]
    assert {cycle["tracker"] for cycle in cycles if cycle["last"]} == {"nbd"}
    points = engine.points(root)
    assert len(points) >= 5 and not any(point.damaged for point in points)
    for point in points:
        with engine.open_point(root, at=point.point) as image:
            found = [int.from_bytes(image.read(at * BLOCK, 8), "little") for at in range(blocks)]
        # One instant: the last `blocks` writes before it, each in its place.
        last = max(found)
        expected = {at: max((n for n in range(last, max(last - blocks, 0), -1) if n % blocks == at), default=0)
                    for at in range(blocks)}  # fmt: skip
        assert found == [expected[at] for at in range(blocks)], point
    assert (root / "head.raw").read_bytes() == disk.read_bytes()
    assert engine.verify(root).ok
