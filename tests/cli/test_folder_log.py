"""A log in a folder from the command line: every command that takes a folder knows it, and leaves others alone."""

from __future__ import annotations

import os
import subprocess

import pytest

from secondsite import engine

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    made = tmp_path / "vm.raw"
    with made.open("wb") as file:
        file.truncate(20 * MIB)
        file.seek(4 * MIB)
        file.write(os.urandom(2 * MIB))
    return made


@pytest.fixture
def log(shell, disk, tmp_path):
    """Two points."""
    made = tmp_path / "log"
    assert shell.ok("replicate", "--history", "log", disk, made).startswith("initial: point 1, 20.0 MiB; 2.0 MiB")
    with disk.open("r+b") as file:
        file.seek(10 * MIB)
        file.write(b"changed")
    return made


def test_the_whole_story(shell, disk, log, tmp_path):
    done = shell.json("replicate", disk, log, "--json")
    assert (done["kind"], done["point"], done["changed_bytes"], done["history"]) == ("delta", "2", 65536, "log")
    listed = shell.json("points", log, "--json")["points"]
    assert [(point["point"], point["history"], point["damaged"]) for point in listed] == [
        ("1", "log", False), ("2", "log", False),
    ]  # fmt: skip
    told = shell.ok("info", log)
    assert f"replica of: {disk}" in told and "is a log" in told and "2, of 20" in told
    assert shell.ok("verify", log).startswith("ok: point 2, 320 blocks")
    assert shell.ok("verify", log, "--source", disk).startswith("ok: ")
    shell.ok("restore", log, tmp_path / "new.raw")
    shell.ok("restore", log, tmp_path / "new.raw", "--in-place")
    assert (tmp_path / "new.raw").read_bytes() == disk.read_bytes()
    extents = shell.json("map", log, "--json")["extents"]
    assert sum(extent["length"] for extent in extents if not extent["zero"]) == 2 * MIB + 65536
    with engine.open_point(log, at="latest") as point:
        assert point.read(10 * MIB, 7) == b"changed"
    assert not list(log.glob("head.raw")) and (log / "head.json").exists()


def test_a_log_goes_on_to_a_third_site(shell, disk, log, tmp_path):
    third = tmp_path / "third"
    assert shell.ok("replicate", "--history", "log", log, third).startswith("initial: point 1")
    shell.ok("replicate", disk, log)
    done = shell.json("replicate", log, third, "--json")
    assert (done["kind"], done["changed_bytes"]) == ("delta", 65536)
    shell.ok("restore", third, tmp_path / "out.raw")
    assert (tmp_path / "out.raw").read_bytes() == disk.read_bytes()
    times = [shell.json("points", one, "--json")["points"][-1]["time"] for one in (log, third)]
    assert times[0] == times[1]


def test_what_rots_is_found(shell, log):
    segment = max(log.glob("segments/*/*"), key=lambda path: path.stat().st_size)
    raw = bytearray(segment.read_bytes())
    raw[len(raw) // 2] ^= 1
    segment.write_bytes(raw)
    done = shell("verify", log)
    assert done.status == 1 and str(segment) in done.out
    (log / "head.json").write_bytes(b"")
    done = shell("points", log)
    assert done.status == 4 and "head.json" in done.complaint


def test_an_ordinary_replica_stays_what_it_is(shell, disk, tmp_path):
    shell.ok("replicate", disk, tmp_path / "plain")
    before = sorted((tmp_path / "plain").rglob("*"))
    done = shell("replicate", "--history", "log", disk, tmp_path / "plain")
    assert done.status == 3 and "folder of its own" in done.complaint
    assert sorted((tmp_path / "plain").rglob("*")) == before
    assert shell.json("info", tmp_path / "plain", "--json")["history"] != "log"


@pytest.mark.parametrize("options", [["--history", "undo"], ["--head", "vhdx"]])
def test_what_a_log_is_not_is_refused(shell, disk, log, options):
    done = shell("replicate", disk, log, *options)
    assert done.status == 2 and "replica in a store" in done.complaint
    assert len(shell.json("points", log, "--json")["points"]) == 1


def test_a_resync_mends_a_log(shell, disk, log):
    first = sorted((log / "segments").rglob("*/*"))[0]
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    assert shell("verify", log, "--at", "latest").status == 1
    done = shell("replicate", disk, log, "--resync")
    assert done.status == 0 and done.out.startswith("resync: point 2") and "point 1 is damaged" in done.err
    shell.ok("verify", log, "--at", "latest")
    assert shell("verify", log, "--at", "1").status == 1
    assert shell.ok("replicate", disk, log, "--resync").startswith("resync: point 2")  # nothing is left to mend


def test_nothing_is_written_into_a_log_but_by_cycles(shell, disk, log, tmp_path):
    held = {path: path.read_bytes() for path in log.rglob("*") if path.is_file()}
    for command in (
        ("restore", log, log / "out.raw"), ("export-hrl", log, tmp_path / "out.hrl"),
        ("replicate", log / "head.json", log), ("import-seed", tmp_path, log),
    ):  # fmt: skip
        done = shell(*command)
        assert done.status in (2, 3), command
    assert {path: path.read_bytes() for path in log.rglob("*") if path.is_file()} == held


def test_a_copy_of_a_log_is_one(shell, disk, log, tmp_path):
    (tmp_path / "copy").mkdir()
    for name in ("replica.json", "head.json", "segments", "maps", "points"):
        os.system(f"cp -a '{log}/{name}' '{tmp_path}/copy/'")
    shell.ok("verify", tmp_path / "copy")
    shell.ok("replicate", disk, tmp_path / "copy")
    assert len(shell.json("points", tmp_path / "copy", "--json")["points"]) == 2


def test_a_point_of_a_log_is_served(disk, log, tmp_path):
    pytest.importorskip("secondsite.engine._nbd", reason="the native kernels are not built")
    with engine.serve(log, socket=str(tmp_path / "s")) as served, engine.open_image(served.urls[0]) as image:
        assert image.read(4 * MIB, 2 * MIB) == disk.read_bytes()[4 * MIB : 6 * MIB]
        engine.replicate(disk, log)
        assert image.read(10 * MIB, 7) == bytes(7)


@pytest.mark.needs("root", "mount")
def test_a_medium_that_cannot_be_written_is_read(shell, disk, tmp_path):
    (tmp_path / "stick").mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=64m", "secondsite-test", str(tmp_path / "stick"))
    subprocess.run(mount, check=True)
    try:
        log = tmp_path / "stick" / "log"
        shell.ok("replicate", "--history", "log", disk, log)
        subprocess.run(("mount", "-o", "remount,ro", str(tmp_path / "stick")), check=True)
        for command in (("verify", log), ("points", log), ("info", log), ("restore", log, tmp_path / "out.raw")):
            assert shell(*command).status == 0, command
        assert (tmp_path / "out.raw").read_bytes() == disk.read_bytes()
        done = shell("replicate", disk, log)
        assert done.status == 3 and "cannot be written" in done.complaint
    finally:
        subprocess.run(("umount", "--lazy", str(tmp_path / "stick")), check=True)


def test_points_are_dropped_and_what_they_named_goes_later(shell, disk, log):
    for _ in range(3):
        with disk.open("r+b") as file:
            file.seek(12 * MIB)
            file.write(os.urandom(65536))
        shell.ok("replicate", disk, log)
    before = size(log)
    told = shell.ok("prune", log, "--drop", "2", "--drop", "3")
    assert told.startswith("2 points dropped; ") and told.rstrip().endswith(" KiB go when the grace is over")
    assert size(log) >= before and "0 points dropped" in shell.ok("prune", log)
    done = shell.json("prune", log, "--keep", "1", "--grace", "0", "--json")
    assert done["dropped"] == 1 and 65536 < done["freed_bytes"] < 131072 and done["warnings"] == []
    shell.ok("prune", log, "--grace", "0")
    assert size(log) < before - 65536 and shell.ok("verify", log).startswith("ok: point 4")
    (log / "maps" / "000000000004" / "aaaaaa").write_bytes(b"of a cycle that came to nothing")
    assert shell.json("prune", log, "--collect", "--grace", "0", "--json")["warnings"] == []
    shell.ok("prune", log, "--grace", "0")
    assert not (log / "maps" / "000000000004" / "aaaaaa").exists()
    with disk.open("r+b") as file:
        file.write(os.urandom(65536))
    done = shell.json("replicate", disk, log, "--keep", "1", "--json")
    assert (done["point"], done["pruned"]) == ("5", 1)
    assert [point["point"] for point in shell.json("points", log, "--json")["points"]] == ["5"]
    done = shell("prune", log, "--drop", "5")
    assert done.status == 3 and "newest point is the head and stays" in done.complaint
    done = shell("prune", log, "--keep", "0")
    assert done.status == 2 and "keep (at least 1)" in done.complaint


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_grace_is_for_a_store(shell, disk, tmp_path):
    shell.ok("replicate", disk, tmp_path / "plain")
    for more in (["--collect"], ["--grace", "5"]):
        done = shell("prune", tmp_path / "plain", "--keep", "1", *more)
        assert done.status == 2 and "are for a replica in a store" in done.complaint
