"""A head that is a VHDX or VHD: QEMU finds in it what the source is, after every cycle and every crash."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from formatkit import KIB, MIB, change, content, head, hold, read, replicate, same, sparse

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.files import LocalFiles
from secondsite.engine.files.failing import FailingFiles
from secondsite.engine.images.failing import Crash, Faults

HEADS = ["vhdx", "vhd"]
# In units of 512 bytes, not of blocks: the last block is a part of one.
SIZES = [3 * MIB + 512, 3 * MIB + 512, 5 * MIB + 3 * KIB, 5 * MIB + 3 * KIB, 2 * MIB + 512, 2 * MIB + 512]


class Story:
    """A disk over time, its replica, and what each point must be."""

    def __init__(self, folder: Path, format: str, history: str, seed: int, size: int = SIZES[0]) -> None:
        self.folder, self.format, self.history = folder, format, history
        self.disk, self.root = folder / "disk.raw", folder / "replica"
        self.data, self.seed = content(size, seed), seed
        self.points: dict[str, bytes] = {}

    def cycle(self, size: int = 0, **options: object) -> engine.Replicated:
        """Change the disk, a little and perhaps in size, and replicate it."""
        if self.points:
            self.seed += 1
            change(self.data, self.seed)
            size = size or len(self.data)
            grown = random.Random(self.seed).randbytes(max(0, size - len(self.data)) // 2)
            del self.data[size:]
            self.data += bytes(max(0, size - len(self.data) - len(grown))) + grown
            # Something must differ, whatever the dice said.
            self.data[0] ^= 1
        sparse(self.disk, self.data)
        done = replicate(self.disk, self.root, head=self.format, block_size=4096, history=self.history, **options)
        self.points[done.point] = bytes(self.data)
        return done

    def check(self) -> None:
        hold(self.root, self.points)
        same(head(self.root), self.disk, self.format)


@pytest.fixture(params=["undo", pytest.param("clone", marks=pytest.mark.needs("xfs"))])
def story(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, int], Story]:
    def make(format: str, seed: int) -> Story:
        folder = tmp_path
        if request.param == "clone":
            folder = Path(request.getfixturevalue("xfs_dir"), f"head-{format}-{seed}")
            folder.mkdir()
        return Story(folder, format, request.param, seed)

    return make


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize("format", HEADS)
def test_a_history(story: Callable[[str, int], Story], tmp_path: Path, format: str) -> None:
    """Changes, zeros, other sizes; every point as every format; points that are dropped."""
    tale = story(format, 10)
    for size in SIZES:
        assert tale.cycle(size).kind in ("initial", "delta")
        tale.check()
    kept = {point.point: point.history for point in engine.points(tale.root)}
    # Where the size changed the container is a new one, and the old one whole.
    wanted = "clone" if tale.history == "clone" else "undo"
    assert kept == {"1": wanted, "2": "clone", "3": wanted, "4": "clone", "5": wanted, "6": "head"}
    out = tmp_path / "out"
    for name, data in tale.points.items():
        for target, subformat in (("raw", None), ("vhdx", "dynamic"), ("vhdx", "fixed"), ("vhd", None)):
            engine.restore(tale.root, out, at=name, format=target, subformat=subformat)
            assert read(out, target) == data, (name, target)
            out.unlink()
    engine.prune(tale.root, drop=["1", "3"])
    for name in ("1", "3"):
        del tale.points[name]
    tale.check()
    tale.cycle(keep=3)
    for name in ("2", "4"):
        del tale.points[name]
    tale.check()


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize("target", ["raw", "vhdx", "vhd"])
@pytest.mark.parametrize("format", HEADS)
def test_restore_in_place(tmp_path: Path, format: str, target: str) -> None:
    tale = Story(tmp_path, format, "undo", 20, MIB + 512)
    for size in (MIB + 512, MIB + 512, 2 * MIB):
        tale.cycle(size)
    out = tmp_path / f"out.{target}"
    engine.restore(tale.root, out, at="1", format=target)
    for name in ("2", "3"):
        done = engine.restore(tale.root, out, at=name, in_place=True)
        assert done.method == "in-place" and 0 < done.bytes_written < len(tale.points[name])
        assert read(out) == tale.points[name]
    same(out, tale.disk, target)
    assert engine.restore(tale.root, out, in_place=True).bytes_written == 0


@pytest.mark.parametrize("format", HEADS)
def test_a_fixed_vhd_of_whole_mib_as_azure_takes_it(tmp_path: Path, format: str) -> None:
    tale = Story(tmp_path, format, "undo", 30)
    tale.cycle()
    tale.cycle()
    out = tmp_path / "azure.vhd"
    engine.restore(tale.root, out, at="1", format="vhd", subformat="fixed")
    size = -(-SIZES[0] // MIB) * MIB
    assert out.stat().st_size == size + 512
    assert read(out) == tale.points["1"] + bytes(size - SIZES[0])
    engine.restore(tale.root, out, in_place=True)
    assert read(out)[: SIZES[0]] == tale.points["2"]


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize("format", HEADS)
def test_resync_mends_a_container(tmp_path: Path, format: str) -> None:
    tale = Story(tmp_path, format, "undo", 40)
    tale.cycle()
    tale.cycle()
    path = head(tale.root)
    data = bytearray(path.read_bytes())
    # A byte of the disk, somewhere in the middle of the file.
    place = data.index(bytes(tale.data[4096:4112]))
    data[place] ^= 0xFF
    path.write_bytes(data)
    found = engine.verify(tale.root)
    assert [tuple(bad) for bad in found.bad] == [(4096, 4096)]
    assert replicate(tale.disk, tale.root, resync=True).kind == "resync"
    assert engine.verify(tale.root).ok
    tale.check()


@pytest.mark.parametrize("format", HEADS)
def test_a_size_that_a_container_cannot_have(tmp_path: Path, format: str) -> None:
    """Nothing is made that the next call without --head would trip over."""
    disk, root = tmp_path / "disk.raw", tmp_path / "replica"
    for size in (0, 1000):
        disk.write_bytes(b"x" * size)
        with pytest.raises(errors.Usage):
            replicate(disk, root, head=format)
        assert not root.exists()
    assert replicate(disk, root).kind == "initial"


@pytest.mark.parametrize("format", HEADS)
def test_a_disk_that_grew_to_such_a_size_is_left_as_it_was(tmp_path: Path, format: str) -> None:
    tale = Story(tmp_path, format, "undo", 50)
    tale.cycle()
    with tale.disk.open("ab") as file:
        file.write(b"x")
    with pytest.raises(errors.Usage):
        replicate(tale.disk, tale.root)
    hold(tale.root, tale.points)
    tale.cycle()
    hold(tale.root, tale.points)


# -- crashes -----------------------------------------------------------------------------------------------------


def attempt(tale: Story, files: LocalFiles | FailingFiles) -> None:
    replicate(tale.disk, tale.root, workers=1, files=files)


def sweep_crashes(tale: Story, monkeypatch: pytest.MonkeyPatch) -> int:
    """Crash the cycle from point 2 to 3 at each call with an effect in turn; how many crashes there were."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)
    tale.cycle()
    tale.cycle()
    before, saved = dict(tale.points), tale.folder / "saved"
    shutil.copytree(tale.root, saved)
    change(tale.data, 99)
    tale.data[0] ^= 1
    sparse(tale.disk, tale.data)
    after = before | {"3": bytes(tale.data)}
    faults = Faults()
    attempt(tale, FailingFiles(LocalFiles(), faults))
    hold(tale.root, after)
    calls, ends = faults.count, set()
    for n in range(1, calls + 1):
        shutil.rmtree(tale.root)
        shutil.copytree(saved, tale.root)
        faults = Faults(n, crash=True)
        with pytest.raises(Crash):
            attempt(tale, FailingFiles(LocalFiles(), faults))
        label = f"crash at call {n} {faults.log[n - 1]}"
        assert engine.verify(tale.root).ok, label
        listed = [point.point for point in engine.points(tale.root)]
        assert listed in (["1", "2"], ["1", "2", "3"]), label
        ends.add(len(listed))
        try:
            hold(tale.root, after if len(listed) == 3 else before)
        except AssertionError as error:
            raise AssertionError(label) from error
        out = tale.folder / "out"
        for name in listed:
            engine.restore(tale.root, out, at=name)
            assert out.read_bytes() == after[name], label
            out.unlink()
        attempt(tale, LocalFiles())
        hold(tale.root, after)
    assert ends == {2, 3}
    return calls


@pytest.mark.parametrize("format", HEADS)
def test_a_crash_at_any_call(tmp_path: Path, format: str, sweep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(60, 70 if sweep else 61):
        folder = tmp_path / str(seed)
        folder.mkdir()
        assert sweep_crashes(Story(folder, format, "undo", seed), monkeypatch) > 10
        shutil.rmtree(folder)
