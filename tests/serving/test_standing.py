"""Overlays that are images by themselves: made over a point, opened by their name, and the point kept for them."""

from __future__ import annotations

import random
import shutil

import pytest
from serving.conftest import made

from secondsite import engine
from secondsite.engine import claiming, errors, overlays
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.images.overlay import OverlayImage, read_header

MIB = 1 << 20


def whole(path, **more):
    with engine.open_image(path, **more) as image:
        return bytes(image.read(0, image.size))


@pytest.fixture
def overlay(points, tmp_path):
    """Over point 2."""
    engine.create_overlay(tmp_path / "vm.overlay", points.root, "2")
    return tmp_path / "vm.overlay"


def test_it_is_an_image_like_others(points, overlay, tmp_path):
    model, chance = bytearray(points.states[1]), random.Random(3)
    with engine.open_image(overlay, "rw") as image:
        for _ in range(40):
            at = chance.randrange(len(model) - 70_000)
            data = chance.randbytes(chance.choice([1, 4096, 70_000]))
            image.write(at, data)
            model[at : at + len(data)] = data
    assert whole(overlay) == model
    found = engine.info(overlay)
    assert (found.format, found.virtual_bytes) == ("overlay", len(model))
    assert found.parents[0][0] == f"{points.root} at point 2" and 0 < found.allocated_bytes < len(model) + MIB
    assert sum(extent.length for extent in engine.image_map(overlay)) == len(model)
    engine.convert(overlay, tmp_path / "out.raw", format="raw")
    assert (tmp_path / "out.raw").read_bytes() == model
    assert engine.replicate(overlay, tmp_path / "back").kind == "initial"
    assert engine.verify(tmp_path / "back", source=overlay).ok
    assert (tmp_path / "back/head.raw").read_bytes() == model


def test_cycles_and_pruning_beside_it_change_nothing(points, overlay):
    with engine.open_image(overlay, "rw") as image:
        image.write(5000, b"written")
        expected = bytearray(points.states[1])
        expected[5000:5007] = b"written"
        for _ in range(4):
            points.cycle(keep=2)
            assert bytes(image.read(0, image.size)) == expected
    points.cycle(keep=2)
    assert whole(overlay) == expected
    assert [point.point for point in engine.points(points.root)] == ["2", "7", "8"]
    assert engine.verify(points.root).ok


def test_its_point_cannot_be_dropped_before_it_is_removed(points, overlay):
    with pytest.raises(errors.Refused, match=r"vm\.overlay"):
        engine.prune(points.root, drop=["1", "2"])
    assert [point.point for point in engine.points(points.root)] == ["1", "2", "3"]
    assert "overlay stands on it" in engine.prune_report(points.root, keep=1).warnings[0]
    with pytest.raises(errors.Refused, match="overlay stands on point 2"):
        engine.delete_replica(points.root, replica_id=engine.info(points.root).replica_id)
    assert [claim.generation for claim in engine.overlays_of(points.root)] == [2]
    assert engine.remove_overlay(overlay) and not engine.remove_overlay(overlay)
    assert not engine.overlays_of(points.root)
    assert engine.prune(points.root, keep=1) == 1
    assert engine.delete_replica(points.root, replica_id=engine.info(points.root).replica_id)
    assert not points.root.exists()


def test_made_again_it_is_the_same_and_over_another_point_it_is_refused(points, overlay):
    with engine.open_image(overlay, "rw") as image:
        image.write(0, b"kept")
    again = engine.create_overlay(overlay, points.root, "2")
    assert not again.created and again.point == "2" and whole(overlay)[:4] == b"kept"
    with pytest.raises(errors.Refused, match="remove that first"):
        engine.create_overlay(overlay, points.root, "3")
    assert len(engine.overlays_of(points.root)) == 1


@pytest.mark.parametrize("step", ["claim", "_publish", "release"])
def test_cut_short_anywhere_the_next_call_completes_it(points, tmp_path, monkeypatch, step):
    """Before the claim, before the name, and between the file that is renamed away and the claim that is released."""
    path = tmp_path / "vm.overlay"

    def cut(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if step == "release":
            engine.create_overlay(path, points.root, "1")
        patch.setattr(overlays if step == "_publish" else claiming, step, cut)
        engine.remove_overlay(path) if step == "release" else engine.create_overlay(path, points.root, "1")
    assert not path.exists()
    assert engine.create_overlay(path, points.root, "2").created
    assert [claim.generation for claim in engine.overlays_of(points.root)] == [2]
    assert whole(path) == points.states[1]
    assert engine.remove_overlay(path) and not engine.overlays_of(points.root)
    assert not list(tmp_path.glob(".vm*"))


def test_a_removal_that_was_cut_short_is_completed(points, overlay, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(claiming, "release", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        engine.remove_overlay(overlay)
    assert len(engine.overlays_of(points.root)) == 1
    assert engine.remove_overlay(overlay) and not engine.overlays_of(points.root)


def test_no_raw_disk_passes_for_one(points, overlay, tmp_path):
    """Its guest could write the first page of an overlay into it, and have any replica read (README)."""
    for name in ("disk.raw", "disk", "disk.img"):
        forged = tmp_path / "forged" / name
        forged.parent.mkdir(exist_ok=True)
        shutil.copy(overlay, forged)
        with pytest.raises(errors.Usage, match="overlay"):
            engine.open_image(forged)
        assert whole(forged, format="raw")[:8] == b"SSOVERLY"
    with pytest.raises(errors.Usage, match=r"ends in \.overlay"):
        engine.create_overlay(tmp_path / "other.raw", points.root)
    (tmp_path / "none.overlay").write_bytes(bytes(MIB))
    with pytest.raises(errors.Usage, match="is none"):
        engine.open_image(tmp_path / "none.overlay")


def test_one_that_serve_made_does_not_say_where_its_replica_is(tmp_path):
    path = tmp_path / "drill.overlay"
    OverlayImage(MemoryImage(bytes(MIB)), path, {"replica": "r", "generation": 3, "seal": "s"}).close()
    with pytest.raises(errors.Refused, match="--overlay"):
        engine.open_image(path)


def test_serve_takes_one_that_was_made_by_itself(points, overlay, tmp_path):
    pytest.importorskip("secondsite.engine._nbd", reason="the native kernels are not built")
    with engine.open_image(overlay, "rw") as image:
        image.write(0, b"kept")
    with engine.serve(points.root, "2", socket=str(tmp_path / "s"), overlay=overlay) as serving:
        assert whole(serving.urls[0])[:4] == b"kept"
    with pytest.raises(errors.Refused, match="generation"), engine.serve(
        points.root, "3", socket=str(tmp_path / "s"), overlay=overlay
    ):
        pass


def test_a_point_that_is_gone_or_damaged_is_told(points, overlay, tmp_path):
    claim = engine.overlays_of(points.root)[0]
    shutil.move(points.root, tmp_path / "elsewhere")
    with pytest.raises(errors.Unreachable, match="no such replica"):
        engine.open_image(overlay)
    other = made_elsewhere(tmp_path)
    with pytest.raises(errors.Damaged, match="not the one"):
        engine.open_image(overlay)
    shutil.rmtree(other)
    shutil.move(tmp_path / "elsewhere", points.root)
    undo = points.root / "points/000000000002.undo"
    undo.write_bytes(undo.read_bytes()[:-100])
    with pytest.raises(errors.Damaged):
        engine.open_image(overlay)
    assert engine.release_overlay(points.root, claim.id) and not engine.release_overlay(points.root, claim.id)
    engine.prune(points.root, keep=1)
    with pytest.raises(errors.Refused, match="no point 2"):
        engine.open_image(overlay)


def made_elsewhere(tmp_path):
    """Another replica in the first one's place."""
    (tmp_path / "other").mkdir()
    found = made(tmp_path / "other")
    shutil.move(found.root, tmp_path / "replica")
    return tmp_path / "replica"


def test_a_claim_that_cannot_be_read_keeps_all_points(points, overlay):
    claim = points.root / f"claim-{engine.overlays_of(points.root)[0].id}.json"
    claim.write_bytes(b"x" * 200)
    with pytest.raises(errors.Refused, match="damaged"):
        engine.prune(points.root, drop=["1"])
    assert engine.prune(points.root, keep=1) == 0 and whole(overlay) == points.states[1]
    assert engine.release_overlay(points.root, claim.stem.removeprefix("claim-"))
    assert engine.prune(points.root, keep=1) == 2


def test_one_bad_byte_of_a_claim_changes_nothing(points, overlay):
    claim = points.root / f"claim-{engine.overlays_of(points.root)[0].id}.json"
    data = claim.read_bytes()
    for at in range(0, len(data), 13):
        claim.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(errors.Refused, match="overlay"):
            engine.prune(points.root, drop=["2"])
        assert engine.overlays_of(points.root)[0].generation == 2


def test_in_use_it_is_not_removed_and_not_written_twice(points, overlay):
    with engine.open_image(overlay, "rw"):
        for call in (lambda: engine.open_image(overlay, "rw"), lambda: engine.remove_overlay(overlay)):
            with pytest.raises(errors.Busy):
                call()
        assert whole(overlay) == points.states[1]
        with engine.open_image(overlay) as image, pytest.raises(errors.Refused, match="read"):
            image.write(0, b"x")


def test_one_whose_replica_is_gone_is_removed_by_force(points, overlay):
    shutil.rmtree(points.root)
    with pytest.raises(errors.Unreachable):
        engine.remove_overlay(overlay)
    assert engine.remove_overlay(overlay, force=True)


@pytest.mark.parametrize("at", [0, 8, 13, 20, 30, 60, 100])
def test_a_header_with_a_bad_byte(points, overlay, at):
    with overlay.open("r+b") as file:
        file.seek(at)
        file.write(b"\xee")
    with pytest.raises((errors.Damaged, errors.NewerFormat, errors.Usage, errors.Refused)):
        engine.open_image(overlay)
    with pytest.raises((errors.Damaged, errors.NewerFormat, errors.Refused)):
        engine.remove_overlay(overlay)
    assert overlay.exists()


def test_a_claimed_point_behind_a_clone_keeps_the_clone(xfs_dir):
    """Older points are undo deltas that lead to a newer one's clone: where such a point stays, the clone does."""
    found = made(xfs_dir)
    found.cycle(history="clone")
    found.cycle()
    kept = [point.history for point in engine.points(found.root)]
    engine.create_overlay(xfs_dir / "vm.overlay", found.root, "1")
    engine.prune(found.root, keep=1)
    assert whole(xfs_dir / "vm.overlay") == found.states[0] and "clone" in kept
    assert read_header(xfs_dir / "vm.overlay")[0] == len(found.states[0])
