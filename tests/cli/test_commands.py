"""Each command does what it says, for people and as one JSON object."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from clikit import KIB, MIB, Done, Pair, Shell, change, make_disk, program

from secondsite import engine
from secondsite.orchestration.cli import COMMANDS

REPLICATED = {
    "kind", "generation", "point", "tracker", "virtual_bytes", "read_bytes", "changed_bytes", "sent_bytes", "seconds",
}  # fmt: skip
BLOCK = 4096


def test_the_first_cycle_and_the_next(shell: Shell, disk: Path, tmp_path: Path) -> None:
    root, size = tmp_path / "r", disk.stat().st_size
    line = shell.ok("replicate", disk, root, "--block-size", "4K", "--history", "undo")
    assert line.startswith("initial: point 1, 600.5 KiB; ")
    assert line.splitlines()[1:] == ["tracker scan: nothing follows this source"]
    line = shell.ok("replicate", disk, root)
    assert line.startswith("unchanged: point 1, 600.5 KiB; 0 B changed; read ")
    change(disk, 5 * BLOCK, 10)
    done = shell.json("replicate", disk, root)
    assert done.keys() >= REPLICATED
    assert done.pop("seconds") > 0
    assert {name: done[name] for name in REPLICATED - {"seconds", "read_bytes"}} == {
        "kind": "delta", "generation": 2, "point": "2", "tracker": "scan", "virtual_bytes": size,
        "changed_bytes": BLOCK, "sent_bytes": BLOCK,
    }  # fmt: skip
    # Zeros that are stored are read as well; a hole is not.
    assert size // 2 <= done["read_bytes"] <= size
    assert (root / "head.raw").read_bytes() == disk.read_bytes()


def test_a_zeroed_block_is_changed_and_not_sent(shell: Shell, pair: Pair) -> None:
    with pair.disk.open("r+b") as file:
        file.write(bytes(2 * BLOCK))
    done = shell.json("replicate", pair.disk, pair.root, "--tracker", "scan")
    assert (done["changed_bytes"], done["sent_bytes"]) == (2 * BLOCK, 0)


def test_keep_drops_old_points(shell: Shell, pair: Pair) -> None:
    change(pair.disk, 0)
    line = shell.ok("replicate", pair.disk, pair.root, "--keep", "1")
    assert line.splitlines()[0].endswith(", 2 old points dropped")
    assert [point["point"] for point in shell.json("points", pair.root)["points"]] == ["3"]
    change(pair.disk, 0, seed=9)
    assert shell.json("replicate", pair.disk, pair.root, "--keep", "1")["pruned"] == 1


@pytest.mark.parametrize("codec", ["auto", "none", "lz4", "zstd", "zstd:9"])
def test_codecs(shell: Shell, pair: Pair, codec: str) -> None:
    change(pair.disk, 30_000, 70_000)
    shell.ok("replicate", pair.disk, pair.root, "--codec", codec, "--threads", "2")
    shell.ok("verify", pair.root)


def test_points(shell: Shell, pair: Pair) -> None:
    points = shell.json("points", pair.root)["points"]
    assert [(p["point"], p["generation"], p["changed_bytes"], p["damaged"]) for p in points] == [
        ("1", 1, points[0]["changed_bytes"], False), ("2", 2, BLOCK, False),
    ]  # fmt: skip
    assert points[0]["changed_bytes"] > BLOCK
    times = [datetime.datetime.fromisoformat(point["time"]) for point in points]
    assert times == sorted(times) and times[0].utcoffset() == datetime.timedelta(0)
    head, *rows = shell.ok("points", pair.root).splitlines()
    assert head.split("  ")[0] == "POINT" and head.endswith("STATE")
    assert [(row.split()[0], row.split()[-1]) for row in rows] == [("1", "ok"), ("2", "ok")]


def test_points_of_a_replica_without_one(shell: Shell, pair: Pair) -> None:
    for path in (pair.root / "points").iterdir():
        path.unlink()
    assert shell.json("points", pair.root) == {"points": []}
    assert shell.ok("points", pair.root).startswith("no recovery point yet")
    assert shell.json("info", pair.root)["head"] is None


def test_info_of_a_replica(shell: Shell, pair: Pair) -> None:
    info = shell.json("info", pair.root)
    size = pair.disk.stat().st_size
    wanted = ("head", "generation", "epoch", "block_size", "virtual_bytes", "history")
    assert [info[name] for name in wanted] == [str(pair.root / "head.raw"), 2, 1, BLOCK, size, "undo"]
    text = shell.ok("info", pair.root)
    assert f"head: {pair.root}/head.raw\n" in text and "newest point: 2, of " in text


def test_info_of_an_image(shell: Shell, disk: Path) -> None:
    info = shell.json("info", disk)
    assert (info["kind"], info["format"], info["virtual_bytes"]) == ("image", "raw", disk.stat().st_size)
    assert f"image: {disk}\n" in shell.ok("info", disk)


def test_verify(shell: Shell, pair: Pair) -> None:
    blocks = -(-pair.disk.stat().st_size // BLOCK)
    found = shell.json("verify", pair.root)
    assert (found["ok"], found["blocks"], found["bad"]) == (True, blocks, [])
    assert found["seconds"] >= 0
    assert shell.ok("verify", pair.root).startswith(f"ok: point 2, {blocks} blocks, ")
    assert shell.ok("verify", pair.root, "--at", "1").startswith("ok: point 1, ")
    assert shell.ok("verify", pair.root, "--source", pair.disk).startswith(f"ok: {pair.disk} against point 2, ")


def test_restore(shell: Shell, pair: Pair, tmp_path: Path) -> None:
    out = tmp_path / "out.raw"
    done = shell.json("restore", pair.root, out, "--at", "1")
    assert done["point"] == "1" and 0 < done["bytes_written"] <= len(pair.first) and done["seconds"] > 0
    assert out.read_bytes() == pair.first
    line = shell.ok("restore", pair.root, out, "--in-place")
    assert line.startswith(f"{out}: point 2; wrote 4.0 KiB of 600.5 KiB (in-place) in ")
    assert out.read_bytes() == pair.second
    shell.ok("restore", pair.root, tmp_path / "latest.raw")
    assert (tmp_path / "latest.raw").read_bytes() == pair.second


def test_a_time_is_a_point(shell: Shell, pair: Pair, tmp_path: Path) -> None:
    points = shell.json("points", pair.root)["points"]
    first, second = (datetime.datetime.fromisoformat(point["time"]) for point in points)
    east = datetime.timezone(datetime.timedelta(hours=5))
    times = {
        points[0]["time"]: "1", points[1]["time"]: "2", "latest": "2", "2099-01-01": "2", "2099-01-01T10:00": "2",
        (second - datetime.timedelta(microseconds=1)).isoformat(): "1", second.astimezone(east).isoformat(): "2",
        first.replace(tzinfo=None).isoformat(): "1",
    }  # fmt: skip
    for at, point in times.items():
        assert shell.json("verify", pair.root, "--at", at)["point"] == point, at
    done = shell("restore", pair.root, tmp_path / "x", "--at", "2001-01-01")
    assert done.status == 3 and str(pair.root) in done.complaint


def test_convert_check_and_map(shell: Shell, disk: Path, tmp_path: Path) -> None:
    vhdx, back = tmp_path / "vm.vhdx", tmp_path / "back.raw"
    done = shell.json("convert", disk, vhdx, "--format", "vhdx")
    assert (done["format"], done["virtual_bytes"]) == ("vhdx", disk.stat().st_size)
    assert shell.ok("convert", vhdx, back, "--format", "raw").startswith(f"{back}: raw; ")
    assert back.read_bytes() == disk.read_bytes()
    assert shell.ok("check", vhdx) == f"ok: {vhdx}\n"
    assert shell.json("check", vhdx) == {"ok": True, "findings": []}
    assert "format: vhdx, dynamic\n" in shell.ok("info", vhdx)


@pytest.mark.parametrize("command", ["convert", "restore"])
def test_a_fixed_vhd_that_is_larger_says_so(shell: Shell, pair: Pair, tmp_path: Path, command: str) -> None:
    source, size = {"convert": pair.disk, "restore": pair.root}[command], len(pair.second)
    line = f"its disk has {MIB} bytes, {MIB - size} more than what was written to it; they are zeros"
    done = shell(command, source, tmp_path / "a.vhd", "--format", "vhd", "--subformat", "fixed")
    assert (done.status, done.complaint) == (0, f"secondsite: warning: {tmp_path}/a.vhd: {line}")
    found = shell.json(command, source, tmp_path / "b.vhd", "--format", "vhd", "--subformat", "fixed")
    assert (found["virtual_bytes"], found["output_bytes"]) == (size, MIB)
    assert found["warnings"] == [f"{tmp_path}/b.vhd: {line}"]
    exact = shell.json(command, source, tmp_path / "c.vhd", "--format", "vhd")
    assert (exact["output_bytes"], exact["warnings"]) == (size, [])


def test_restore_into_a_child_with_its_parent_elsewhere(shell: Shell, pair: Pair, tmp_path: Path) -> None:
    there, out = tmp_path / "parents", tmp_path / "out.avhdx"
    there.mkdir()
    shell.ok("restore", pair.root, there / "base.vhdx", "--format", "vhdx", "--at", "1")
    engine.create_vhdx(there / "a.avhdx", subformat="differencing", parent=there / "base.vhdx")
    (there / "a.avhdx").rename(out)
    assert shell("restore", pair.root, out, "--in-place").status == 3
    shell.ok("restore", pair.root, out, "--in-place", "--allow-parent-path", there)
    shell.ok("convert", out, tmp_path / "back.raw", "--format", "raw", "--allow-parent-path", there)
    assert (tmp_path / "back.raw").read_bytes() == pair.second


def test_check_tells_the_place_once(shell: Shell, tmp_path: Path) -> None:
    path, place = tmp_path / "vm.vhdx", 3 * MIB + 8 * 4
    engine.create_vhdx(path, 8 * MIB, block_size=MIB)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\x06" + b"\xff" * 7)
    done = shell("check", path)
    line = done.out.splitlines()[0]
    assert done.status == 4 and line.startswith(f"DAMAGED: {path} at byte {place}: block allocation table: block 4 is ")
    assert done.out.count("at byte") == 1
    finding = shell.json("check", path, status=4)["findings"][0]
    assert finding["offset"] == place and "at byte" not in finding["text"]


def test_map(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "sparse.raw"
    with path.open("wb") as file:
        file.write(b"x" * MIB)
        file.seek(3 * MIB)
        file.write(b"x" * MIB)
    extents = shell.json("map", path)["extents"]
    assert extents == [
        {"start": 0, "length": MIB, "data": True, "zero": False, "depth": 0},
        {"start": MIB, "length": 2 * MIB, "data": False, "zero": True, "depth": 0},
        {"start": 3 * MIB, "length": MIB, "data": True, "zero": False, "depth": 0},
    ]
    rows = [line.split() for line in shell.ok("map", path).splitlines()]
    assert rows[:2] == [["START", "LENGTH", "KIND", "DEPTH"], ["0", str(MIB), "data", "0"]]
    path.write_bytes(b"")
    assert shell.json("map", path) == {"extents": []}


def test_export_hrl(shell: Shell, pair: Pair, tmp_path: Path) -> None:
    done = shell.json("export-hrl", pair.root, tmp_path / "2.hrl")
    assert (done["base"], done["point"]) == ("1", "2")
    assert shell.ok("export-hrl", pair.root, tmp_path / "again.hrl").startswith(f"{tmp_path}/again.hrl: from point 1 ")


@pytest.mark.parametrize(
    ("text", "size"),
    [("8K", 8 * KIB), ("8k", 8 * KIB), ("8KiB", 8 * KIB), ("8192", 8 * KIB), ("1M", MIB), ("0.5M", MIB // 2)],
)  # fmt: skip
def test_sizes(shell: Shell, tmp_path: Path, text: str, size: int) -> None:
    disk = make_disk(tmp_path / "d.raw", 20_000)
    shell.ok("replicate", disk, tmp_path / "r", "--block-size", text, "--limit", "1G")
    assert shell.json("info", tmp_path / "r")["block_size"] == size


def test_a_limit_may_be_terabytes(shell: Shell, disk: Path, tmp_path: Path) -> None:
    for number, limit in enumerate(("1T", "2TiB", "1.5 g", "100M")):
        shell.ok("replicate", disk, tmp_path / f"r{number}", "--limit", limit)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(shell: Shell, command: str) -> None:
    for flag in ("--help", "-h"):
        text = shell.ok(command, flag)
        assert f"  secondsite {command} " in text
        assert "--json" in text
    assert f"  {command} " in shell.ok("--help")


def test_help_names_every_exit_status(shell: Shell) -> None:
    text = shell.ok("--help")
    for status in ("0", "1", "2", "3", "4", "5", "129, 130, 143"):
        assert f"  {status}  " in text


def test_version(shell: Shell) -> None:
    name, version, kernels, _ = shell.ok("--version").split()
    assert name == "secondsite" and version[0].isdigit() and kernels in ("(native", "(portable")


def test_the_real_program(disk: Path, tmp_path: Path) -> None:
    """The same through the console script: nothing on standard error, where that is no terminal."""
    root, out = tmp_path / "r", tmp_path / "out.raw"
    for arguments in (
        ("replicate", disk, root), ("points", root), ("info", root), ("verify", root), ("restore", root, out),
    ):  # fmt: skip
        done = program(*arguments)
        assert (done.status, done.err) == (0, ""), done
        assert isinstance(done, Done) and done.out
    assert out.read_bytes() == disk.read_bytes()


def test_without_arguments_it_explains_itself(shell: Shell) -> None:
    done = shell()
    assert done.status == 2 and done.err.startswith("Usage: secondsite ")
