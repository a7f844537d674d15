"""A file as a crash leaves it, given to others: our reader sees through its log, QEMU replays it to the same disk."""

from __future__ import annotations

import random
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from vhdx_rig import CHILD, Model, Stage, play

from secondsite.engine.images.failing import Crash, FailingImage, Faults
from secondsite.engine.images.vhdx import VhdxImage
from secondsite.engine.images.vhdx.writer import VhdxWriter, open_writer


def crashed(path: Path, kind: str, seed: int, at: int) -> Model:
    """The file after a crash at that call and the power loss that comes with it."""
    place = Stage(kind)
    model = Model(place.first())
    with suppress(Crash):
        image = place.open(FailingImage(place.files.open(CHILD, "rw"), Faults(at, crash=True)))
        play(image, model, seed, resize=True, count=30)
    place.files.names[CHILD].power_loss(random.Random(f"{seed} {at}"))
    path.write_bytes(place.files.names[CHILD].read(0, place.files.size(CHILD)))
    return model


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
def test_a_dirty_file_is_the_same_disk_to_everybody(tmp_path: Path, kind: str, sweep: bool) -> None:
    dirty = 0
    for number in range(60 if sweep else 10):
        path, theirs, raw = (tmp_path / f"{number}.{end}" for end in ("vhdx", "qemu", "raw"))
        model = crashed(path, kind, number, 20 + 3 * number)
        theirs.write_bytes(path.read_bytes())
        with VhdxImage(path) as reader:
            dirty += reader.top.replay is not None
            model.check(reader)
            assert [finding for finding in reader.check() if finding.damaged] == []
            seen = reader.read(0, reader.size)
        for command in (["check", "-q", "-r", "all", "-f", "vhdx", theirs], ["check", "-q", "-f", "vhdx", theirs]):
            subprocess.run(["qemu-img", *command], check=True, timeout=60)
        subprocess.run(["qemu-img", "convert", "-f", "vhdx", "-O", "raw", theirs, raw], check=True, timeout=60)
        assert raw.read_bytes() == seen
        with open_writer(path) as writer:
            assert isinstance(writer, VhdxWriter) and writer.read(0, writer.size) == seen
        with VhdxImage(path) as reader:
            assert reader.top.replay is None
            assert reader.read(0, reader.size) == seen
        for one in (path, theirs, raw):
            one.unlink()
    assert dirty > 2
