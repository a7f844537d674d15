"""export-seed, import-seed and adopt, for people and as one JSON object."""

from __future__ import annotations

import shutil
from pathlib import Path

from clikit import Shell, change

from secondsite import engine


def test_a_seed_goes_out_and_comes_in(shell: Shell, disk: Path, tmp_path: Path) -> None:
    usb, root, state = tmp_path / "usb" / "vm", tmp_path / "backup", ("--state", tmp_path / "state")
    line = shell.ok("export-seed", disk, usb, "--block-size", "4K", *state)
    assert line.startswith(f"{usb}: ") and " for 600.5 KiB in 1 file; tracker scan; " in line
    told = shell.json("export-seed", disk, usb, *state)
    assert (told["kind"], told["parts"], told["virtual_bytes"]) == ("whole", 1, disk.stat().st_size)
    line = shell.ok("import-seed", usb, root)
    assert line.startswith(f"{root}: imported: point 1, 600.5 KiB from ")
    assert (root / "head.raw").read_bytes() == disk.read_bytes()
    told = shell.json("import-seed", usb, root, status=3)
    assert told["error"].endswith("has point 1 already: its seed was imported before") and not told["retryable"]
    change(disk, 5000, 10)
    assert shell.json("replicate", disk, root)["sent_bytes"] == 4096


def test_what_is_wrong_with_a_medium_is_one_line(shell: Shell, disk: Path, tmp_path: Path) -> None:
    usb, root, state = tmp_path / "usb", tmp_path / "backup", ("--state", tmp_path / "state")
    done = shell("import-seed", usb, root)
    assert (done.status, done.complaint) == (3, f"secondsite: {usb}: holds no seed (there is no seed.json)")
    assert not root.exists()
    shell.ok("export-seed", disk, usb, *state)
    part = usb / "part-000001.delta"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(bytes(data))
    done = shell("import-seed", usb, root)
    assert done.status == 4 and done.complaint.startswith(f"secondsite: {part}: at byte ")
    done = shell("import-seed", usb, "secondsite://backup/vm")
    assert done.status == 2 and "on the replica's own host" in done.complaint
    shell.ok("export-seed", disk, usb, "--anew", *state)
    shell.ok("import-seed", usb, root)


def test_a_replicas_folder_is_exported_for_a_third_site(shell: Shell, disk: Path, tmp_path: Path) -> None:
    """R12.16: its newest point, known by the replica's own id."""
    shell.ok("replicate", disk, tmp_path / "second")
    shell.ok("export-seed", tmp_path / "second", tmp_path / "usb", "--state", tmp_path / "state")
    shell.ok("import-seed", tmp_path / "usb", tmp_path / "third")
    assert (tmp_path / "third" / "head.raw").read_bytes() == disk.read_bytes()


def test_a_copy_is_adopted(shell: Shell, disk: Path, tmp_path: Path) -> None:
    copy, root = tmp_path / "restored.raw", tmp_path / "backup"
    shutil.copy(disk, copy)
    line = shell.ok("adopt", copy, root, "--move", "--block-size", "4K")
    assert line.startswith(f"{root}: point 1 (move), 600.5 KiB, ") and not copy.exists()
    change(disk, 5000, 10)
    assert shell.json("replicate", disk, root)["sent_bytes"] == 4096
    assert engine.verify(root, source=disk).ok
    assert shell("adopt", disk, root).status == 3
    told = shell.json("adopt", disk, tmp_path / "other")
    assert told["method"] in ("copy", "clone") and told["point"] == "1"
