"""An instant at which what writes the disks is at rest (R4): around the cut and no longer, and never in its way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.qemu.agent import Freeze
from secondsite.engine.together import Disk, replicate_together

SIZE = 1 << 20


@dataclass
class Application:
    """Writes both disks but while it is at rest. `after` is what it does as soon as it goes on."""

    paths: list[Path]
    held: bool = True
    after: bool = False
    log: list[str] = field(default_factory=list)

    @contextmanager
    def quiesce(self) -> Iterator[Freeze]:
        found = Freeze()
        self.log.append("rest")
        yield found
        self.log.append("on")
        found.held = self.held
        if not self.held:
            found.warnings.append("it did not stand still")
        if self.after:
            for path in self.paths:
                write(path, os.urandom(8))


def write(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"{name}.raw" for name in "ab"]
    for path in found:
        path.write_bytes(os.urandom(SIZE))
        os.utime(path, (1, 1))
    return found


def disks(paths: list[Path]) -> list[Disk]:
    return [Disk(str(path), str(path.with_suffix(".copy"))) for path in paths]


def test_on_a_tracking_server_it_goes_on_before_anything_is_read(paths: list[Path], tmp_path: Path) -> None:
    with engine.track([str(path) for path in paths], socket=str(tmp_path / "socket")) as tracking:
        application = Application(paths)
        plain = replicate_together(disks(paths))
        tracking.images[0].disk.write(0, b"before")
        done = replicate_together(disks(paths), quiesce=application.quiesce)
        tracking.images[0].disk.write(0, b"behind")
    assert application.log == ["rest", "on"]
    assert [one.application for one in plain] == [False, False]
    assert [one.application for one in done] == [True, True]
    with engine.open_point(str(paths[0].with_suffix(".copy"))) as image:
        assert image.read(0, 6) == b"before"


def test_what_did_not_stand_still_costs_the_mark_and_says_so(paths: list[Path]) -> None:
    done = replicate_together(disks(paths), quiesce=Application(paths, held=False).quiesce)
    assert [one.application for one in done] == [False, False]
    assert sorted(warning for one in done for warning in one.warnings) == ["it did not stand still"]


def test_disks_without_a_tracker_that_are_written_at_once_get_a_plain_point(paths: list[Path]) -> None:
    """R4.4: what is read then is not what was at rest."""
    application = Application(paths, after=True)
    done = replicate_together(disks(paths), quiesce=application.quiesce)
    assert application.log == ["rest", "on"]
    assert [one.application for one in done] == [False, False]
    assert any("written before all of it was read" in warning for warning in done[0].warnings)
    for path in paths:
        assert engine.verify(str(path.with_suffix(".copy")), source=str(path)).ok


def test_disks_without_a_tracker_that_nobody_writes_keep_the_mark(paths: list[Path]) -> None:
    done = replicate_together(disks(paths), quiesce=Application(paths).quiesce)
    assert [one.application for one in done] == [True, True] and not done[0].warnings


def test_a_cut_that_fails_lets_it_go_on(paths: list[Path], tmp_path: Path) -> None:
    application = Application(paths)
    replicate_together(disks(paths))
    with engine.track([str(path) for path in paths], socket=str(tmp_path / "socket")):
        from secondsite.engine.trackers.served import ServedTracker

        with ServedTracker(paths[1]) as other:
            other.begin(None)
            with pytest.raises(errors.Refused):
                replicate_together(disks(paths), quiesce=application.quiesce)
    assert application.log.count("rest") >= 1
