"""The engine's calls over a replica in Azure's emulator, reached as a user reaches it: URL and environment; and over
one in a folder.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from store.storekit import azure_store, numbers

from secondsite.engine import errors
from secondsite.engine.admission import Terms
from secondsite.engine.images import open_image
from secondsite.engine.progress import Monitor
from secondsite.engine.remote.sending.outbound import Link
from secondsite.engine.replication import utc_now
from secondsite.engine.source import Given
from secondsite.engine.store.base import Store
from secondsite.engine.store.folder import FolderStore
from secondsite.engine.store.log import calls
from secondsite.engine.trackers.choose import Wish
from secondsite.engine.work import Options

MIB = 1 << 20
BLOCK = 65536


class User:
    """With a disk in a file, and a replica of it at `url`."""

    def __init__(self, folder: Path, url: str, store: Store) -> None:
        self.folder, self.url, self.store, self.disk = folder, url, store, folder / "disk.raw"

    @classmethod
    def of_azure(cls, emulator, folder: Path) -> User:
        prefix = f"u{next(numbers)}"
        return cls(folder, f"azure://tests/{prefix}", azure_store(emulator, prefix + "/"))

    def write(self, at: int, data: bytes) -> None:
        with self.disk.open("r+b") as file:
            file.seek(at)
            file.write(data)
        os.utime(self.disk, ns=(time.time_ns(),) * 2)

    def replicate(self, **more):
        options = Options(None, "auto", False, more.pop("trust_mtime", False), 2, utc_now)
        wish = Wish(tracker=more.pop("tracker", "auto"), changed=more.pop("changed", None))
        given = Given(more.pop("source", self.disk))
        return calls.replicate(
            given, self.url, Terms(**more), wish, options, Monitor(), state=self.folder / "state", link=Link(0)
        )

    def restore(self, name: str, format: str = "raw", at: str = "latest") -> Path:
        target = self.folder / name
        calls.restore(self.url, target, at=at, format=format, subformat=None, workers=2, monitor=Monitor())
        return target


@pytest.fixture(params=[pytest.param("azure", marks=pytest.mark.needs("azurite")), "folder"])
def user(request, tmp_path, monkeypatch):
    if request.param == "azure":
        made = User.of_azure(request.getfixturevalue("opens_azure"), tmp_path)
    else:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        made = User(tmp_path, str(tmp_path / "replica"), FolderStore(str(tmp_path / "replica")))
    with made.disk.open("wb") as file:
        file.truncate(40 * MIB)
        file.seek(8 * MIB)
        file.write(os.urandom(3 * MIB))
    return made


def test_cycles_points_and_restores(user):
    first = user.disk.read_bytes()
    done = user.replicate()
    assert (done.kind, done.point, done.virtual_bytes, done.history) == ("initial", "1", 40 * MIB, "log")
    assert done.changed_bytes == 3 * MIB and done.warnings == []
    assert user.replicate().kind == "unchanged"
    user.write(20 * MIB + 5, b"changed")
    user.write(8 * MIB, bytes(MIB))
    done = user.replicate()
    assert (done.kind, done.point, done.changed_bytes) == ("delta", "2", MIB + BLOCK)
    listed = calls.points(user.url)
    assert [(point.point, point.virtual_bytes, point.changed_bytes, point.history) for point in listed] == [
        ("1", 40 * MIB, 3 * MIB, "log"), ("2", 40 * MIB, MIB + BLOCK, "log"),
    ]  # fmt: skip
    assert user.restore("new.raw").read_bytes() == user.disk.read_bytes()
    assert user.restore("old.raw", at="1").read_bytes() == first
    assert user.restore("new.raw.2", at=listed[1].time).stat().st_blocks * 512 < 4 * MIB  # holes stay holes
    with pytest.raises(errors.Refused) as raised:
        user.restore("new.raw")
    assert "exists" in str(raised.value)
    found = calls.info(user.url)
    assert (found.generation, found.points, found.epoch, found.history) == (2, 2, 1, "log")
    assert found.source == str(user.disk) and found.stored_bytes < 4 * MIB


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize("format", ["vhdx", "vhd"])
def test_a_point_becomes_an_image_that_others_open(user, format):
    user.replicate()
    made = user.restore(f"disk.{format}", format)
    kind = {"vhd": "vpc"}.get(format, format)
    subprocess.run(
        ["qemu-img", "compare", "-f", "raw", "-F", kind, user.disk, made], check=True, capture_output=True
    )


def test_a_container_is_replicated_as_the_disk_in_it(user):
    user.replicate()
    container = user.restore("disk.vhdx", "vhdx")
    user.url += "-2"
    done = user.replicate(source=container)
    assert done.virtual_bytes == 40 * MIB
    with open_image(container) as disk:
        assert user.restore("again.raw").read_bytes() == disk.read(0, disk.size)


def test_what_a_list_names_is_read_alone_and_times_may_be_trusted(user):
    user.replicate()
    user.write(12 * MIB, b"new")
    changed = user.folder / "changed"
    changed.write_text(f'[{{"offset": {12 * MIB}, "length": {BLOCK}}}]')
    done = user.replicate(changed=changed)
    assert done.changed_bytes == BLOCK and done.read_bytes < 20 * MIB and done.tracker == "changed"
    assert user.restore("new.raw").read_bytes() == user.disk.read_bytes()
    time.sleep(2.2)  # times say nothing about the last two seconds
    user.replicate()
    done = user.replicate(trust_mtime=True)
    assert (done.kind, done.tracker, done.read_bytes) == ("unchanged", "mtime", 0)


def test_verify_reads_everything_and_finds_what_is_wrong(user):
    user.replicate()
    user.write(8 * MIB, os.urandom(MIB))
    user.replicate()
    found = calls.verify(user.url, at=None, monitor=Monitor())
    assert found.ok and found.point == "2" and found.blocks == 640 and not found.damaged
    assert calls.verify(user.url, at="1", monitor=Monitor()).point == "1"
    name = next(entry.name for entry in user.store.list("segments/000000000001/"))
    held = user.store.get(name).data
    user.store.delete(name)
    at = len(held) // 2  # inside what the second cycle left alone
    user.store.put_if_absent(name, held[:at] + bytes([held[at] ^ 1]) + held[at + 1 :])
    found = calls.verify(user.url, at=None, monitor=Monitor())
    assert not found.ok and set(found.damaged) == {"1", "2"}
    assert all(name in problem for problem in found.damaged.values())
    with pytest.raises(errors.Damaged):
        user.restore("bad.raw")
    assert not list(user.folder.glob("*bad.raw*")) and not list(user.folder.glob(".bad*"))


def test_an_old_source_is_fenced_off(user):
    user.replicate()
    user.write(0, b"before the failover")
    user.replicate(epoch=2)
    user.write(0, b"and after it")
    with pytest.raises(errors.Refused) as raised:
        user.replicate(epoch=1)
    assert str(raised.value).startswith(f"{user.url}: is at epoch 2, this source at 1")
    assert len(calls.points(user.url)) == 2


def test_what_is_not_for_a_store_is_refused(user):
    with pytest.raises(errors.Usage):
        user.replicate(head="vhdx")
    with pytest.raises(errors.Refused) as raised:
        calls.points(user.url)
    assert str(raised.value) == f"{user.url}: holds no replica"
    with pytest.raises(errors.Refused):
        calls.verify(user.url, at=None, monitor=Monitor())
