"""A container that a program writes which nothing here knows of: a copy is of one time, or there is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine import source as sources
from secondsite.engine.images.vhd.reader import VhdImage
from secondsite.engine.images.vhdx import VhdxImage

MIB = 1 << 20
SIZE = 64 * MIB


@pytest.fixture(params=["vhdx", "vhd"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """With one point, which has a block of data."""
    (tmp_path / "disk.raw").write_bytes(os.urandom(MIB) + bytes(SIZE - MIB))
    path = tmp_path / f"disk.{request.param}"
    engine.convert(tmp_path / "disk.raw", path, format=request.param)
    engine.replicate(path, tmp_path / "replica")
    return path


def write(disk: Path, at: int) -> None:
    """As another program does: into a block that is there, and into a new one."""
    with engine.open_image(disk, "rw") as image:
        image.write(100, b"old block")
        image.write(at, b"new block" * 1000)
        image.flush()


def check(disk: Path) -> None:
    with engine.open_image(disk) as image, engine.open_point(disk.parent / "replica") as point:
        assert image.read(0, SIZE) == point.read(0, SIZE)


def once(monkeypatch: pytest.MonkeyPatch, kind: type, name: str, act: Callable[[], None]) -> None:
    """Before a method is called for the first time."""
    real, done = getattr(kind, name), list[bool]()

    def first(self: object, *arguments: object, **named: object) -> object:
        if not done:
            done.append(True)
            act()
        return real(self, *arguments, **named)

    monkeypatch.setattr(kind, name, first)


@pytest.mark.parametrize("when", ["reread", "settled"])
def test_what_is_written_between_its_opening_and_its_reading_is_in_the_point(
    disk: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Its tables were read by then; the data would be of later than they are."""
    once(monkeypatch, sources.Source, when, lambda: write(disk, 40 * MIB))
    assert engine.replicate(disk, disk.parent / "replica").kind == "delta"
    check(disk)
    assert engine.replicate(disk, disk.parent / "replica", trust_mtime=True).kind == "unchanged"


def test_what_makes_no_sense_while_it_is_written_is_no_damage(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R7.1: nothing has to be compared with it, it is tried again."""
    kind = VhdxImage if disk.suffix == ".vhdx" else VhdImage
    path = str(disk)

    def damaged(self: object, *arguments: object) -> object:
        raise errors.Damaged("a table that makes no sense", path=path)

    def torn(self: object, *arguments: object) -> object:
        write(disk, 40 * MIB)
        return damaged(self)

    with monkeypatch.context() as patched:
        patched.setattr(kind, "scan_extents", torn)
        with pytest.raises(errors.SourceChanged, match="was written while it was read"):
            engine.replicate(disk, disk.parent / "replica")
        patched.setattr(kind, "scan_extents", damaged)
        with pytest.raises(errors.Damaged):
            engine.replicate(disk, disk.parent / "replica")
    engine.replicate(disk, disk.parent / "replica")
    check(disk)
