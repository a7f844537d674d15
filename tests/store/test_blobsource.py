"""A disk of Azure as a source (engine/store/blobsource.py), in the emulator: the way home of what ran there."""

from __future__ import annotations

import random

import pytest
from store.diskkit import MIB, Lab, changed, run

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.store import blobsource
from secondsite.engine.store.base import Denied
from secondsite.engine.store.opening import open_page_blob

pytestmark = [pytest.mark.needs("azurite"), pytest.mark.usefixtures("opens")]
DATA = random.Random(3).randbytes(600_000) + bytes(2 * MIB - 600_000) + random.Random(4).randbytes(MIB)


@pytest.fixture
def lab(azurite, tmp_path):
    """Point 1 of a disk of 3 MiB is a disk of Azure."""
    made = Lab(azurite, tmp_path)
    made.cycle(DATA)
    made.materialize()
    return made


def whole(image):
    return bytes(image.read(0, image.size))


def snapshots(lab):
    listed = lab.container.list_blobs(lab.url.removeprefix("azure://tests/"), include=["snapshots"])
    return [one.snapshot for one in listed if one.snapshot]


def guest_writes(lab, data):
    """A machine that runs from it writes."""
    with open_page_blob(lab.url) as blob:
        blob.find()
        for at in range(0, len(data), MIB):
            blob.blob.upload_page(data[at : at + MIB], at, len(data[at : at + MIB]))


def test_it_comes_home(lab, tmp_path):
    """R12.11: the old disk is adopted, the blob replicated into that, the point put in the disk's place."""
    now = changed(DATA)
    guest_writes(lab, now)
    old, back = tmp_path / "old.raw", tmp_path / "back"
    old.write_bytes(DATA)
    engine.adopt(old, back, like=lab.replica)
    done = engine.replicate(lab.url, back)
    assert (done.kind, done.tracker) == ("delta", "scan") and 0 < done.changed_bytes < MIB
    assert (back / "head.raw").read_bytes() == now
    assert engine.replicate(lab.url, back).kind == "unchanged"
    assert engine.verify(back, source=lab.url).ok
    assert engine.place(back, old).point == "2" and old.read_bytes() == now
    assert not snapshots(lab)


def test_it_is_an_image_like_others(lab, tmp_path, capsys):
    with engine.open_image(lab.url) as image:
        assert (image.size, whole(image)) == (3 * MIB, DATA)
        zeros = [extent for extent in image.extents(0, image.size) if extent.zero]
        assert sum(extent.length for extent in zeros) > MIB
        with pytest.raises(errors.Refused, match="read as a source"):
            image.write(0, b"x")
    engine.convert(lab.url, tmp_path / "out.vhdx", format="vhdx")
    with engine.open_image(tmp_path / "out.vhdx") as image:
        assert whole(image) == DATA
    found = engine.info(lab.url)
    assert (found.kind, found.format, found.virtual_bytes) == ("image", "vhd", 3 * MIB)
    status, told, _ = run(capsys, "replicate", lab.url, tmp_path / "copy")
    assert status == 0 and "initial" in told and (tmp_path / "copy/head.raw").read_bytes() == DATA


def test_what_is_read_is_one_instant(lab):
    with engine.open_image(lab.url) as image:
        first = bytes(image.read(0, 4096))
        guest_writes(lab, bytes(range(256)) * (3 * MIB // 256))
        assert first + bytes(image.read(4096, image.size - 4096)) == DATA
        assert len(snapshots(lab)) == 1
    assert not snapshots(lab)


def test_without_the_right_to_a_snapshot_a_write_is_noticed(lab, monkeypatch):
    def denied(live):
        raise Denied("no", path=live.path)

    monkeypatch.setattr(blobsource, "take", denied)
    with engine.open_image(lab.url) as image:
        assert whole(image) == DATA
        guest_writes(lab, DATA)
        with pytest.raises(errors.SourceChanged):
            image.read(0, 4096)


def test_snapshots_of_killed_readers_go_a_day_later(lab, monkeypatch):
    with open_page_blob(lab.url) as blob:
        blobsource.take(blob)
        by_hand = blob.blob.create_snapshot()["snapshot"]
    with engine.open_image(lab.url):
        assert len(snapshots(lab)) == 3
    monkeypatch.setattr(blobsource, "_LEFT_BEHIND", blobsource._LEFT_BEHIND * 0)
    with engine.open_image(lab.url):
        pass
    assert snapshots(lab) == [by_hand]


def test_what_is_no_disk(lab):
    with pytest.raises(errors.Unreachable, match="no such blob"):
        engine.open_image(lab.url.replace(".vhd", "-none.vhd"))
    with open_page_blob(lab.url) as blob:
        blob.find()
        blob.blob.clear_page(blob.size - 512, 512)
    with pytest.raises(errors.Refused, match="being written"):
        engine.open_image(lab.url)
    lab.container.upload_blob("other.vhd", b"x" * 1024, overwrite=True)
    with pytest.raises(errors.Refused, match="no page blob"):
        engine.open_image("azure://tests/other.vhd")
    with pytest.raises(errors.Refused, match="read as a source"):
        engine.open_image(lab.url, "rw")
    assert not snapshots(lab)
