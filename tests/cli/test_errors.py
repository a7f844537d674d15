"""An error is one line that names the file, and the exit status that the README promises."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clikit import Pair, Shell, change, make_disk, program, start

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.replica import record

DIFFERENCE, USAGE, REFUSED, DAMAGED, UNREACHABLE, BUG = 1, 2, 3, 4, 5, 70


def fails(shell: Shell, status: int, *arguments: str | Path, retryable: bool = False) -> str:
    """The one line of a command that fails so; with --json the same, and one object that says it too."""
    done = shell(*arguments)
    assert (done.status, done.out) == (status, ""), done
    again = shell(*arguments, "--json")
    assert (again.status, again.err) == (status, done.err), again
    text = done.complaint.removeprefix("secondsite: ")
    assert again.json == {"error": text, "exit": status, "retryable": retryable}
    return text


# -- 1: a difference ---------------------------------------------------------------------------------------------


def test_a_difference(shell: Shell, pair: Pair) -> None:
    change(pair.disk, 50_000, 10)
    done = shell("verify", pair.root, "--source", pair.disk)
    assert (done.status, done.err) == (DIFFERENCE, "")
    assert done.out.startswith("differs: 4096 bytes at 49152\nNOT OK: ")
    found = shell.json("verify", pair.root, "--source", pair.disk, status=DIFFERENCE)
    assert (found["ok"], found["bad"]) == (False, [{"offset": 49152, "length": 4096}])


def test_a_head_that_rotted(shell: Shell, pair: Pair) -> None:
    change(pair.root / "head.raw", 70_000, 1, seed=5)
    found = shell.json("verify", pair.root, status=DIFFERENCE)
    assert found["bad"] == [{"offset": 69632, "length": 4096}] and set(found["damaged"]) == {"1", "2"}
    assert shell("points", pair.root).out.count("DAMAGED") == 2
    assert all(point["damaged"] for point in shell.json("points", pair.root)["points"])


def test_many_differences_are_counted(shell: Shell, pair: Pair) -> None:
    for block in range(0, 100, 2):
        change(pair.disk, block * 4096, 10, seed=block + 100)
    lines = shell("verify", pair.root, "--source", pair.disk).out.splitlines()
    assert sum(line.startswith("differs: 4096 bytes at ") for line in lines) == 20
    assert lines[-2] == "differs: 30 more ranges (--json lists all)"
    assert len(shell.json("verify", pair.root, "--source", pair.disk, status=1)["bad"]) == 50


# -- 2: usage ----------------------------------------------------------------------------------------------------

REPLICATE = ("replicate", "DISK", "NEW")
BAD_USAGE = [
    ("unknown",), ("replicate",), ("replicate", "DISK"), ("points", "REPLICA", "surplus"), ("points", "--no-such"),
    (*REPLICATE, "--block-size", "5K"), (*REPLICATE, "--block-size", "1K"), (*REPLICATE, "--block-size", "8M"),
    (*REPLICATE, "--block-size", "many"), (*REPLICATE, "--block-size", "-4K"), (*REPLICATE, "--limit", "4X"),
    (*REPLICATE, "--limit", "0"), (*REPLICATE, "--limit", "9999999T"), (*REPLICATE, "--codec", "brotli"),
    (*REPLICATE, "--codec", "zstd:99"), (*REPLICATE, "--codec", "zstd:x"), (*REPLICATE, "--codec", "none:1"),
    (*REPLICATE, "--keep", "0"), (*REPLICATE, "--keep", "few"), (*REPLICATE, "--threads", "0"),
    (*REPLICATE, "--head", "qcow2"), (*REPLICATE, "--history", "none"), (*REPLICATE, "--tracker", "magic"),
    ("replicate", "FOLDER", "NEW"), ("convert", "FOLDER", "NEW", "--format", "raw"), ("convert", "DISK", "NEW"),
    ("convert", "DISK", "NEW", "--format", "qcow2"), ("map", "FOLDER"), ("check", "FOLDER"),
    ("restore", "REPLICA", "NEW", "--at", "yesterday"), ("verify", "REPLICA", "--at", ""),
    ("verify", "REPLICA", "--source", "FOLDER"), ("restore", "REPLICA", "FOLDER", "--in-place"),
]  # fmt: skip


@pytest.mark.parametrize("arguments", BAD_USAGE, ids=" ".join)
def test_bad_usage(shell: Shell, pair: Pair, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    folder, new = tmp_path / "folder", tmp_path / "new"
    folder.mkdir()
    names: dict[str, Path] = {"DISK": pair.disk, "REPLICA": pair.root, "NEW": new, "FOLDER": folder}
    text = fails(shell, USAGE, *(names.get(argument, argument) for argument in arguments))
    if "FOLDER" in arguments:
        assert str(folder) in text
    assert not new.exists(), "something was begun"


def test_usage_points_to_the_help(shell: Shell) -> None:
    assert shell("points", "--no-such").complaint.endswith(" (see: secondsite points --help)")


# -- 3: refused --------------------------------------------------------------------------------------------------


def test_another_image(shell: Shell, pair: Pair, tmp_path: Path) -> None:
    other = make_disk(tmp_path / "other.raw", seed=7)
    text = fails(shell, REFUSED, "replicate", other, pair.root)
    assert text.startswith(f"{pair.root}: follows another image, {pair.disk} ")
    shell.ok("replicate", other, pair.root, "--accept-source")
    fails(shell, REFUSED, "replicate", pair.disk, pair.root)


def test_a_source_by_name(shell: Shell, disk: Path, tmp_path: Path) -> None:
    root = tmp_path / "r"
    shell.ok("replicate", disk, root, "--source-id", "vm-7")
    moved = disk.rename(tmp_path / "moved.raw")
    shell.ok("replicate", moved, root, "--source-id", "vm-7")
    fails(shell, REFUSED, "replicate", moved, root, "--source-id", "vm-8")


def test_no_name_is_not_the_folder_that_it_is_run_in(
    shell: Shell, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a script's variable that was never set."""
    monkeypatch.chdir(tmp_path)
    there = sorted(tmp_path.iterdir())
    for words in (["replicate", pair.disk, ""], ["replicate", "--history", "log", pair.disk, ""], ["verify", ""]):
        assert "is no name of one" in fails(shell, USAGE, *words)
    assert sorted(tmp_path.iterdir()) == there


def test_another_block_size_or_head(shell: Shell, pair: Pair) -> None:
    assert "block size is 4096, not 65536" in fails(
        shell, REFUSED, "replicate", pair.disk, pair.root, "--block-size", "64K"
    )
    assert str(pair.root) in fails(shell, REFUSED, "replicate", pair.disk, pair.root, "--head", "vhdx")


HOLD = """
import fcntl, sys
with open(sys.argv[1], "r+") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(pair: Pair) -> Iterator[Pair]:
    """A replica that another process writes."""
    command = [sys.executable, "-c", HOLD, str(pair.root / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield pair
        child.stdin.close()


def test_a_second_writer(shell: Shell, held: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondsite.engine.replica.directory.READER_SECONDS", 0.1)
    root = str(held.root)
    assert root in fails(shell, REFUSED, "replicate", held.disk, root, retryable=True)
    assert root in fails(shell, REFUSED, "verify", root, retryable=True)
    assert root in fails(shell, REFUSED, "restore", root, tmp_path / "x", retryable=True)
    assert shell.ok("points", root) and shell.ok("info", root)


def test_a_lower_epoch(shell: Shell, pair: Pair) -> None:
    shell.ok("replicate", pair.disk, pair.root, "--epoch", "3")
    assert str(pair.root) in fails(shell, REFUSED, "replicate", pair.disk, pair.root, "--epoch", "2")
    shell.ok("replicate", pair.disk, pair.root, "--epoch", "3")
    assert shell.json("info", pair.root)["epoch"] == 3


@pytest.mark.parametrize("command", ["restore", "convert", "export-hrl"])
def test_an_output_that_exists(shell: Shell, pair: Pair, tmp_path: Path, command: str) -> None:
    out = tmp_path / "out.raw"
    out.write_bytes(b"precious")
    source = pair.disk if command == "convert" else pair.root
    more = ("--format", "raw") if command == "convert" else ()
    assert str(out) in fails(shell, REFUSED, command, source, out, *more)
    assert out.read_bytes() == b"precious"


def test_outputs_and_sources_inside_a_replica(shell: Shell, pair: Pair) -> None:
    inside = pair.root / "inside"
    for arguments in (
        ("restore", pair.root, inside), ("replicate", pair.disk, inside),
        ("replicate", pair.root / "head.raw", pair.root),
    ):  # fmt: skip
        assert str(pair.root) in fails(shell, REFUSED, *arguments)


def test_a_newer_format(shell: Shell, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pair.root / "replica.json"
    fields, _ = record.unpack(path.read_bytes(), "")
    monkeypatch.setattr(record, "FORMAT", record.FORMAT + 6)
    path.write_bytes(record.pack({name: fields[name] for name in fields if name not in ("format", "checksum")}))
    monkeypatch.undo()
    for command in (("points", pair.root), ("replicate", pair.disk, pair.root)):
        assert str(path) in fails(shell, REFUSED, *command)


def test_what_is_no_replica(shell: Shell, pair: Pair, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "letter.txt").write_text("dear")
    for command in ("points", "info", "verify"):
        assert str(folder) in fails(shell, REFUSED, command, folder)
    assert str(folder) in fails(shell, REFUSED, "replicate", pair.disk, folder)


def test_points_that_are_not_there(shell: Shell, pair: Pair, tmp_path: Path) -> None:
    for at in ("7", "1999-12-31"):
        assert str(pair.root) in fails(shell, REFUSED, "restore", pair.root, tmp_path / "x", "--at", at)


# -- 4: damaged --------------------------------------------------------------------------------------------------


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def test_damaged_records(shell: Shell, pair: Pair) -> None:
    path = pair.root / "replica.json"
    flip(path, 30)
    # One of two copies: the other serves, and the user hears of it.
    done = shell("points", pair.root)
    assert done.status == 0 and str(path) in done.complaint
    flip(path, path.stat().st_size - 30)
    for command in ("points", "info", "verify"):
        assert str(path) in fails(shell, DAMAGED, command, pair.root)


def test_damaged_contents(shell: Shell, pair: Pair, tmp_path: Path) -> None:
    flip(pair.root / "head.raw", 80_000)
    out = tmp_path / "out.raw"
    assert "at byte 77824" in fails(shell, DAMAGED, "restore", pair.root, out)
    assert not out.exists() and not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_damaged_undo_delta(shell: Shell, pair: Pair, tmp_path: Path) -> None:
    path = pair.root / "points/000000000001.undo"
    flip(path, 1000)
    assert str(path) in fails(shell, DAMAGED, "restore", pair.root, tmp_path / "out.raw", "--at", "1")
    done = shell("verify", pair.root)
    assert done.status == DIFFERENCE and f"point 1 is damaged: {path}" in done.out


def test_a_damaged_image(shell: Shell, disk: Path, tmp_path: Path) -> None:
    path = tmp_path / "vm.vhdx"
    shell.ok("convert", disk, path, "--format", "vhdx")
    data = bytearray(path.read_bytes())
    for offset in (64 << 10, 128 << 10):
        data[offset : offset + 100] = bytes(100)
    path.write_bytes(data)
    time.sleep(0.05)  # what was written just now may be in the midst of it
    for command in (("check", path), ("info", path), ("map", path), ("replicate", path, tmp_path / "r")):
        assert str(path) in fails(shell, DAMAGED, *command)


def test_damage_in_the_middle_of_a_map(shell: Shell, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written already and the error are one object."""
    for count in range(4):

        def broken(*arguments: object, count: int = count, **options: object) -> Iterator[engine.MapExtent]:
            for at in range(count):
                yield engine.MapExtent(at, 1, True, False, 0)
            raise errors.Damaged("it is spoiled", path="disk")

        monkeypatch.setattr(engine, "image_map", broken)
        done = shell("map", disk, "--json")
        assert (done.status, done.complaint) == (DAMAGED, "secondsite: disk: it is spoiled")
        assert done.json["error"] == "disk: it is spoiled" and done.json["exit"] == DAMAGED
        assert [extent["start"] for extent in done.json.get("extents", [])] == list(range(count))


# -- 5: unreachable ----------------------------------------------------------------------------------------------


def test_what_is_missing(shell: Shell, pair: Pair, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for arguments in (
        ("replicate", missing, pair.root), ("replicate", missing, tmp_path / "new"), ("points", missing),
        ("info", missing), ("verify", missing), ("restore", missing, tmp_path / "x"), ("map", missing),
        ("check", missing),
        ("convert", missing, tmp_path / "x", "--format", "raw"), ("verify", pair.root, "--source", missing),
        ("restore", pair.root, missing, "--in-place"),
    ):  # fmt: skip
        assert str(missing) in fails(shell, UNREACHABLE, *arguments, retryable=True)
    for path in (tmp_path / "new", tmp_path / "x"):
        assert not path.exists()
    nowhere = missing / "out.raw"
    assert str(missing) in fails(shell, UNREACHABLE, "restore", pair.root, nowhere, retryable=True)


def test_a_file_where_a_folder_should_be(shell: Shell, disk: Path, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    for command in (("replicate", disk, path), ("points", path), ("verify", path)):
        done = shell(*command)
        assert done.status in (REFUSED, UNREACHABLE) and str(path) in done.complaint, done
    assert path.read_text() == "x"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_without_permission(shell: Shell, pair: Pair) -> None:
    pair.disk.chmod(0)
    assert str(pair.disk) in fails(shell, UNREACHABLE, "replicate", pair.disk, pair.root, retryable=True)


def test_a_full_disk(shell: Shell, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise errors.from_os(OSError(28, ""), "/disk/head.raw", "write")

    monkeypatch.setattr(engine, "replicate", full)
    text = fails(shell, UNREACHABLE, "replicate", pair.disk, pair.root, retryable=True)
    assert text == "/disk/head.raw: cannot write: No space left on device"


@pytest.mark.parametrize("command", ["info", "points"])
def test_a_path_that_is_too_long_is_the_one_that_the_line_is_about(shell: Shell, tmp_path: Path, command: str) -> None:
    long = tmp_path / "/".join(["d" * 200] * 22)
    assert str(long) in fails(shell, UNREACHABLE, command, long, retryable=True)


# -- 70: a bug ---------------------------------------------------------------------------------------------------


def test_an_unexpected_error(shell: Shell, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(engine, "points", broken)
    monkeypatch.delenv("SECONDSITE_DEBUG", raising=False)
    text = fails(shell, BUG, "points", pair.root)
    assert text.startswith("internal error: RuntimeError: first second (SECONDSITE_DEBUG=1 ")
    monkeypatch.setenv("SECONDSITE_DEBUG", "1")
    with pytest.raises(RuntimeError):
        shell("points", pair.root)


# -- the real program --------------------------------------------------------------------------------------------


def test_the_real_program(pair: Pair, tmp_path: Path) -> None:
    other = make_disk(tmp_path / "other.raw", seed=7)
    for status, arguments in (
        (USAGE, ("replicate", pair.disk)), (REFUSED, ("replicate", other, pair.root)),
        (UNREACHABLE, ("points", tmp_path / "missing")),
    ):  # fmt: skip
        done = program(*arguments, "--json")
        assert done.status == status and done.json["exit"] == status
        assert done.complaint == f"secondsite: {done.json['error']}"


def test_a_reader_that_goes_away(pair: Pair) -> None:
    """`secondsite points | head -1`: not a word, and no status that means something else."""
    for arguments in (
        ("points", pair.root),
        ("points", pair.root, "--json"),
        ("--help",),
        ("map", pair.disk, "--json"),
    ):
        reading, writing = os.pipe()
        os.close(reading)
        child = start(*arguments, stdout=writing)
        os.close(writing)
        _, err = child.communicate(timeout=60)
        assert (child.returncode, err) == (UNREACHABLE, "")


def test_names_that_are_not_utf8(pair: Pair, tmp_path: Path) -> None:
    missing = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")
    for more in ((), ("--json",)):
        done = program("points", missing, *more)
        assert done.status == UNREACHABLE and "Traceback" not in done.err, done
        assert done.err.count("\n") == 1
    odd = pair.root.rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    for command in ("info", "points", "verify"):
        assert program(command, odd).status == 0


def test_a_record_is_one_line_whatever_it_says(shell: Shell, pair: Pair) -> None:
    """What a file makes us say has no line break and nothing that moves a terminal's cursor."""
    path = pair.root / "replica.json"
    path.unlink()
    target = pair.root.rename(pair.root.with_name("re\n\x1b[2Jplica"))
    done = shell("points", target)
    assert done.status == DAMAGED
    assert done.err.count("\n") == 1 and "\x1b" not in done.err


def test_an_interrupt_where_nothing_is_taken_back(shell: Shell, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "points", interrupted)
    assert fails(shell, 130, "points", pair.root) == "interrupted"


def test_an_interrupt_while_a_class_is_made(shell: Shell, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an import does; Python 3.11 makes a RuntimeError of it."""

    class Interrupted:
        def __set_name__(self, owner: type, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(engine, "points", lambda *arguments, **options: type("Made", (), {"field": Interrupted()}))
    assert fails(shell, 130, "points", pair.root) == "interrupted"


def test_an_empty_point_is_not_the_latest(shell: Shell, pair: Pair, tmp_path: Path) -> None:
    """As a script has it whose variable was never set."""
    for command in (("verify", pair.root), ("restore", pair.root, tmp_path / "x"), ("export-hrl", pair.root, "x")):
        fails(shell, USAGE, *command, "--at", "")
    assert not (tmp_path / "x").exists()
