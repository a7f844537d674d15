"""NBD exports of other servers with a dirty bitmap: believed where the point before named it, else read whole."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from qemukit import MIB, wait_for

from secondsite import engine
from secondsite.engine import errors

pytestmark = pytest.mark.needs("qemu-nbd", "qemu-img", "qemu-io")
PROGRAM = Path(sysconfig.get_path("scripts"), "secondsite")
SIZE = 16 * MIB


class Disk:
    """A QCOW2 image at rest, whose bitmaps are in it, served by qemu-nbd while a cycle reads."""

    def __init__(self, folder: Path) -> None:
        self.path, self.socket, self.root = folder / "disk.qcow2", folder / "nbd.sock", folder / "replica"
        self.run("qemu-img", "create", "-q", "-f", "qcow2", self.path, str(SIZE))

    def run(self, *command: str | Path) -> None:
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def bitmap(self, verb: str, name: str) -> None:
        self.run("qemu-img", "bitmap", f"--{verb}", self.path, name)

    def write(self, at: int, length: int, pattern: int) -> None:
        self.run("qemu-io", "-f", "qcow2", "-c", f"write -P {pattern} {at} {length}", self.path)

    @contextmanager
    def served(self, bitmap: str | None, export: str = "vda") -> Iterator[str]:
        names = ["-B", bitmap] if bitmap else []
        command = ["qemu-nbd", "-r", "-f", "qcow2", "-x", export, "-k", self.socket, *names, self.path]
        server = subprocess.Popen(command)
        try:
            wait_for(self.socket)
            yield f"nbd+unix:///{export}?socket={self.socket}"
        finally:
            server.kill()
            server.wait()
            self.socket.unlink(missing_ok=True)

    def cycle(self, bitmap: str | None, asked: str | None = None, **options: Any) -> engine.Replicated:
        """Serve it with a bitmap, and replicate; `asked` for in the URL is another one."""
        with self.served(bitmap) as url:
            named = asked or bitmap
            return engine.replicate(url + (f"&bitmap={named}" if named else ""), self.root, distrust=1, **options)

    def proved(self) -> None:
        with self.served(None) as url:
            assert engine.verify(self.root, source=url).ok


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_bitmaps_one_after_the_other(disk: Disk) -> None:
    disk.write(0, 8 * MIB, 1)
    disk.bitmap("add", "one")
    first = disk.cycle(None, next_bitmap="one")
    assert (first.kind, first.tracker, first.scanned, first.warnings) == ("initial", "bitmap", True, [])
    disk.write(MIB, 4096, 2)
    disk.bitmap("add", "two")
    second = disk.cycle("one", next_bitmap="two")
    assert (second.kind, second.scanned, second.changed_bytes, second.warnings) == ("delta", False, 65536, [])
    disk.bitmap("remove", "one")
    disk.write(9 * MIB, 4096, 3)
    disk.run("qemu-io", "-f", "qcow2", "-c", f"write -z {2 * MIB} {MIB}", disk.path)
    third = disk.cycle("two")
    assert (third.scanned, third.changed_bytes) == (False, MIB + 65536)
    disk.proved()


def test_one_bitmap_for_ever_names_more_and_more(disk: Disk) -> None:
    disk.bitmap("add", "all")
    disk.cycle("all", next_bitmap="all")
    read = []
    for number in range(3):
        disk.write(number * MIB, 65536, 7)
        done = disk.cycle("all", next_bitmap="all")
        assert not done.scanned
        assert done.changed_bytes == 65536
        read.append(done.read_bytes)
    assert read == [65536, 2 * 65536, 3 * 65536]
    unchanged = disk.cycle("all")  # the point stays, and so does what was named with it
    assert (unchanged.kind, unchanged.scanned) == ("unchanged", False)
    assert not disk.cycle("all").scanned
    disk.proved()


def test_what_is_not_known_is_a_scan_that_says_why(disk: Disk) -> None:
    disk.write(0, MIB, 1)
    disk.bitmap("add", "one")
    disk.bitmap("add", "two")
    first = disk.cycle("one")
    assert first.scanned
    never = disk.cycle("one", next_bitmap="two")
    assert never.scanned
    assert "no bitmap was named with the point before (--next-bitmap)" in never.warnings[0]
    disk.write(MIB, 4096, 2)
    other = disk.cycle("one")
    assert other.scanned
    assert "'two' was named as the next bitmap, not 'one'" in other.warnings[0]
    late = disk.cycle("two")  # the right name, of the point before the last one
    assert late.scanned
    assert "of another point" in late.warnings[0]
    disk.cycle("one", next_bitmap="two")
    gone = disk.cycle("one", asked="two")
    assert gone.scanned
    assert "the server has no bitmap 'two' of this export" in gone.warnings[0]
    assert not disk.cycle("two").scanned
    disk.run("qemu-img", "resize", "-q", disk.path, str(SIZE + MIB))
    larger = disk.cycle("two")
    assert (larger.kind, larger.scanned, larger.virtual_bytes) == ("delta", True, SIZE + MIB)
    disk.proved()


def test_a_note_that_is_damaged_is_no_note(disk: Disk) -> None:
    disk.bitmap("add", "one")
    disk.cycle("one", next_bitmap="one")
    assert not disk.cycle("one").scanned
    (disk.root / "bitmap.json").write_bytes(b"{}\n" * 2)
    assert disk.cycle("one").scanned


def test_a_checkpoint_has_another_name_than_its_export_gives_it(disk: Disk) -> None:
    disk.bitmap("add", "backup-vda")
    disk.cycle("backup-vda", next_bitmap="checkpoint7")
    assert disk.cycle("backup-vda").scanned
    assert not disk.cycle("backup-vda", bitmap_since="checkpoint7").scanned


def test_another_disk_is_not_followed_by_its_name_alone(disk: Disk) -> None:
    disk.bitmap("add", "one")
    disk.cycle("one", next_bitmap="one")
    with disk.served("one", "vdb") as url, pytest.raises(errors.Refused, match="follows another image"):
        engine.replicate(f"{url}&bitmap=one", disk.root)
    with disk.served("one", "vdb") as url:
        done = engine.replicate(f"{url}&bitmap=one", disk.root, accept_source=True)
    assert done.scanned
    assert "another export" in done.warnings[0]


def test_what_makes_no_sense_is_usage(disk: Disk, tmp_path: Path) -> None:
    plain = tmp_path / "plain.raw"
    plain.write_bytes(bytes(MIB))
    for options in ({"next_bitmap": "one"}, {"bitmap_since": "one"}):
        with pytest.raises(errors.Usage, match="has no dirty bitmap that could be named"):
            engine.replicate(plain, tmp_path / "other", **options)
    with pytest.raises(errors.Usage, match="only an NBD URL with bitmap=NAME"):
        engine.replicate(plain, tmp_path / "other", tracker="bitmap")
    with disk.served(None) as url, pytest.raises(errors.Usage, match="not as vhdx"):
        engine.replicate(url, tmp_path / "other", source_format="vhdx")


def test_the_command_and_an_export_without_a_bitmap(disk: Disk) -> None:
    def command(url: str, *more: str) -> dict[str, Any]:
        done = subprocess.run([PROGRAM, "replicate", url, disk.root, "--json", *more], capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    disk.bitmap("add", "one")
    with disk.served(None) as url:
        assert command(url)["tracker"] == "scan"
    with disk.served(None) as url:
        assert command(url, "--next-bitmap", "one")["tracker"] == "bitmap"
    with disk.served("one") as url:
        done = command(f"{url}&bitmap=one")
    assert (done["tracker"], done["scanned"]) == ("bitmap", False)
