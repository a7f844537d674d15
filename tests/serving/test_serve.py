"""`secondsite serve`, as other programs see it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.images.nbd import NbdImage

MIB = 1 << 20
COMMAND = [sys.executable, "-c", "from secondsite.orchestration.cli import main; main()"]

pytest.importorskip("secondsite.engine._nbd", reason="the native kernels are not built")


@pytest.fixture
def replica(tmp_path):
    """Three points of a disk; `states` are their bytes."""
    disk, states = tmp_path / "disk.raw", []
    data = bytearray(os.urandom(4 * MIB) + bytes(4 * MIB))
    for turn in range(3):
        data[turn * MIB : turn * MIB + 3000] = bytes([turn + 1]) * 3000
        disk.write_bytes(data)
        engine.replicate(disk, tmp_path / "replica", history="undo", tracker="scan")
        states.append(bytes(data))
    return tmp_path / "replica", states, disk


@pytest.fixture
def serve(tmp_path):
    """Start the command; the process and what it printed."""
    started = []

    def start(*arguments, status=None):
        command = [*COMMAND, "serve", *map(str, arguments), "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        if status is not None:
            output, error = process.communicate(timeout=30)
            assert process.returncode == status, (output, error)
            return error
        return process, json.loads(process.stdout.readline())

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()


def whole(url):
    with NbdImage(url) as image:
        return bytes(image.read(0, image.size))


def test_a_point_while_cycles_go_on(replica, serve, tmp_path):
    root, states, disk = replica
    process, told = serve(root, "--at", "2", "--socket", tmp_path / "s", "--listen", "127.0.0.1:0")
    assert told["point"] == "2" and not told["writable"] and len(told["urls"]) == 2
    for turn in range(3):
        disk.write_bytes(os.urandom(8 * MIB))
        engine.replicate(disk, root, history="undo", tracker="scan", keep=2)
        assert whole(told["urls"][turn % 2]) == states[1]
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert not (tmp_path / "s").exists()


@pytest.mark.needs("qemu-io", "qemu-img")
def test_an_overlay_takes_writes_and_is_used_again(replica, serve, tmp_path):
    root, states, _ = replica
    for turn in range(2):
        process, told = serve(root, "--at", "1", "--socket", tmp_path / "s", "--overlay", tmp_path / "overlay")
        url = told["urls"][0]
        run = ["qemu-io", "-f", "raw", "-c", f"write -P {turn + 9} {turn}M 64k", "-c", "flush", url]
        subprocess.run(run, check=True, capture_output=True, timeout=30)
        expected = bytearray(states[0])
        for done in range(turn + 1):
            expected[done * MIB : done * MIB + 65536] = bytes([done + 9]) * 65536
        assert whole(url) == bytes(expected)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    engine.restore(root, tmp_path / "restored.raw", at="1")
    assert (tmp_path / "restored.raw").read_bytes() == states[0]
    assert engine.verify(root).ok
    error = serve(root, "--at", "2", "--socket", tmp_path / "s", "--overlay", tmp_path / "overlay", status=3)
    assert "is an overlay of" in error and "generation 1, " in error and "{" not in error


def test_killed_it_leaves_nothing_that_is_in_the_way(replica, serve, tmp_path):
    root, _, disk = replica
    process, told = serve(root, "--socket", tmp_path / "s")
    process.kill()
    process.wait()
    disk.write_bytes(os.urandom(8 * MIB))
    done = engine.replicate(disk, root, history="undo", tracker="scan", keep=1)
    assert done.pruned == 3 and not list(root.glob("lease-*"))
    process, told = serve(root, "--socket", tmp_path / "s")
    assert whole(told["urls"][0]) == disk.read_bytes()


def test_bad_requests_are_one_line(replica, serve, tmp_path):
    root, _, _ = replica
    assert "where to listen" in serve(root, status=2)
    assert "no such replica" in serve(tmp_path / "nothing", "--socket", tmp_path / "s", status=5)
    serve(root, "--at", "77", "--socket", tmp_path / "s", status=3)
    serve(root, "--listen", "nowhere", status=2)
    serve(root, "--listen", "127.0.0.1:70000", status=2)
    (tmp_path / "file").write_text("mine")
    assert "lies where" in serve(root, "--socket", tmp_path / "file", status=3)
    serve(root, "--socket", tmp_path / "s", "--tls", tmp_path, status=5)


def test_a_hundred_deltas_back(tmp_path):
    """Each delta is looked through; the first byte comes soon (the figure itself is measured by the benchmark)."""
    disk, root = tmp_path / "disk.raw", tmp_path / "replica"
    data = bytearray(os.urandom(2 * MIB))
    first = b""
    for turn in range(101):
        data[turn * 20_000 : turn * 20_000 + 100] = os.urandom(100)
        disk.write_bytes(data)
        first = first or bytes(data)
        engine.replicate(disk, root, history="undo", tracker="scan", block_size=4096)
    began = time.monotonic()
    with engine.serve(root, "1", socket=str(tmp_path / "s")) as serving, NbdImage(serving.urls[0]) as image:
        image.read(0, 1)
        assert time.monotonic() - began < 5
        assert bytes(image.read(0, image.size)) == first


def test_serve_needs_a_replica_with_points(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.Refused), engine.serve(tmp_path / "empty", socket=str(tmp_path / "s")):
        pass
