"""What a source is called, when its times are believed, and that it stood still."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from secondsite import engine
from secondsite.engine import errors, source
from secondsite.engine.images.memory import MemoryImage


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A file that was last touched long enough ago."""
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(40_000))
    old = time.time_ns() - 60_000_000_000
    os.utime(path, ns=(old, old))
    return path


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """This test's folder may lie on a file system that is not trusted; and ctime cannot be set back."""
    monkeypatch.setattr(source, "file_system", lambda path: "ext4")
    monkeypatch.setattr(source, "RACY_NS", -60_000_000_000)


def replicate(disk: Path, **options: Any) -> engine.Replicated:
    return engine.replicate(disk, disk.parent / "r", trust_mtime=True, history="undo", **options)


@pytest.mark.usefixtures("trusting")
def test_trust_mtime_skips_the_scan_of_an_unchanged_file(disk: Path) -> None:
    assert (replicate(disk).kind, replicate(disk).tracker) == ("initial", "mtime")
    done = replicate(disk)
    assert (done.kind, done.tracker, done.read_bytes) == ("unchanged", "mtime", 0)
    with disk.open("r+b") as file:
        file.write(b"changed")
    done = replicate(disk)
    assert (done.kind, done.tracker) == ("delta", "scan")


@pytest.mark.usefixtures("trusting")
def test_a_write_that_puts_the_time_back_shows_in_ctime(disk: Path) -> None:
    """P4: mtime is the user's to set, as tools that restore files do."""
    replicate(disk)
    before = disk.stat()
    with disk.open("r+b") as file:
        file.write(b"changed")
    os.utime(disk, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert replicate(disk).kind == "delta"


@pytest.mark.usefixtures("trusting")
def test_another_file_of_the_same_name_is_scanned(disk: Path) -> None:
    replicate(disk)
    other = disk.with_suffix(".new")
    other.write_bytes(os.urandom(40_000))
    before = disk.stat()
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(disk)
    assert replicate(disk).kind == "delta"


def test_a_file_that_was_just_written_is_scanned(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second write in the same tick of the clock would not show."""
    monkeypatch.setattr(source, "file_system", lambda path: "ext4")
    replicate(disk)
    assert replicate(disk).tracker == "scan"


def test_only_known_file_systems_are_trusted(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "RACY_NS", -60_000_000_000)
    for kind in ("nfs4", "fuse.sshfs", "vfat", "overlay", None):
        monkeypatch.setattr(source, "file_system", lambda path, kind=kind: kind)
        replicate(disk)
        assert replicate(disk).tracker == "scan", kind


@pytest.mark.usefixtures("trusting")
def test_a_lost_note_costs_a_scan_and_a_resync_reads_all(disk: Path) -> None:
    replicate(disk)
    assert replicate(disk, resync=True).tracker == "scan"
    (disk.parent / "r/checked.json").unlink()
    assert replicate(disk).tracker == "scan"
    assert replicate(disk).tracker == "mtime"


@pytest.mark.usefixtures("trusting")
def test_without_being_asked_the_times_are_not_believed(disk: Path) -> None:
    replicate(disk)
    assert engine.replicate(disk, disk.parent / "r").tracker == "scan"


MOUNTS = rb"""/dev/a / ext4 rw 0 0
server:/x /mnt nfs4 rw 0 0
/dev/b /mnt/local xfs rw 0 0
server:/y /mnt/a\040b\134c nfs4 rw 0 0
server:/z /srv/D\303\274ren nfs4 rw 0 0
server:/z /srv/%s nfs4 rw 0 0
tmpfs /over tmpfs rw 0 0
server:/w /over fuse rw 0 0
bad line
""".replace(b"%s", "Köln".encode())  # fmt: skip


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/x", "ext4"), ("/mnt/file", "nfs4"), ("/mnt/local/file", "xfs"), ("/mnt/locality", "nfs4"),
        ("/mnt/a b\\c/file", "nfs4"), ("/srv/Düren/file", "nfs4"), ("/srv/Köln/file", "nfs4"), ("/over/file", "fuse"),
    ],
)  # fmt: skip
def test_the_file_system_of_a_path(path: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deepest mount counts, the last of several on one folder, and its name may be written in octal."""
    monkeypatch.setattr(source.Path, "read_bytes", lambda self: MOUNTS)
    monkeypatch.setattr(source, "real_path", lambda path: path)
    assert source.file_system(path) == kind


def test_names(disk: Path) -> None:
    one = source.Source(disk, None)
    assert one.name.endswith(f":{disk}")
    link = disk.with_name("link")
    link.symlink_to(disk)
    assert source.Source(link, None).name == one.name
    assert source.Source(disk, "vm1").name == "name:vm1"
    assert source.Source(MemoryImage(path="x"), None).name.endswith(":x")
    assert source.Source(MemoryImage(path="x"), None).stamp() is None


def test_an_image_of_the_callers_stays_open(disk: Path) -> None:
    with engine.RawImage(disk) as image:
        engine.replicate(image, disk.parent / "r")
        assert image.read(0, 10) == disk.read_bytes()[:10]


@pytest.mark.parametrize("what", ["write", "cut", "grow"])
def test_a_source_that_is_written_while_it_is_read(disk: Path, what: str) -> None:
    """It is read again, three times; then the cycle is refused, and the replica is as it was."""
    replica = disk.parent / "r"
    engine.replicate(disk, replica)
    held = disk.read_bytes()
    attempts = []

    def meddle(progress: engine.Progress) -> None:
        if progress.stage == "replicate" and progress.done == 0:
            attempts.append(progress)
            with disk.open("r+b") as file:
                if what == "write":
                    file.write(os.urandom(100))
                else:
                    file.truncate(disk.stat().st_size + (1000 if what == "grow" else -1000))

    with pytest.raises(errors.SourceChanged, match=str(disk)):
        engine.replicate(disk, replica, progress=meddle)
    assert len(attempts) == 3
    assert [point.point for point in engine.points(replica)] == ["1"]
    assert engine.verify(replica).ok
    assert (replica / "head.raw").read_bytes() == held


def test_a_source_that_came_to_rest(disk: Path) -> None:
    replica = disk.parent / "r"
    engine.replicate(disk, replica)
    attempts = []

    def meddle_once(progress: engine.Progress) -> None:
        if progress.stage == "replicate" and progress.done == 0 and not attempts:
            attempts.append(progress)
            with disk.open("r+b") as file:
                file.write(b"meddled with")

    assert engine.replicate(disk, replica, progress=meddle_once).kind == "delta"
    assert (replica / "head.raw").read_bytes() == disk.read_bytes()
