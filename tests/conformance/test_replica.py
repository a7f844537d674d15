"""What every replica promises through the engine's calls, wherever it lies: in a folder, as a log there, in a store."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from store.sitekit import Site, site_of

from secondsite import engine
from secondsite.engine import errors

# What speaks S3 keeps the promises of stores (tests/store/test_conformance.py), over which the log is the same.
KINDS = ["undo", "folder", pytest.param("azure", marks=pytest.mark.needs("azurite"))]
BLOCK = 4096


class Plain(Site):
    """In a folder, with a head and undo deltas."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url, self.disk, self.state = folder, str(folder / "replica"), folder / "disk.raw", None

    def replicate(self, **more: Any) -> engine.Replicated:
        return super().replicate(**{"history": "undo", **more})


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    """A replica with three points of a disk that was written, cut and grown."""
    made = Plain(tmp_path) if request.param == "undo" else site_of(request, tmp_path)
    chance = random.Random(6)
    first = bytearray(chance.randbytes(300 * BLOCK) + bytes(200 * BLOCK) + chance.randbytes(99))
    second = bytearray(first[: 400 * BLOCK + 7])
    second[5 * BLOCK : 8 * BLOCK] = bytes(3 * BLOCK)
    third = second + bytes(90 * BLOCK)
    third[-3:] = b"end"
    made.points = []
    for data in (first, second, third):
        made.points.append(bytes(data))
        write(made, data)
        made.replicate(**({"block_size": BLOCK} if len(made.points) == 1 else {}))
    return made


def write(site: Site, data: bytes | bytearray) -> None:
    site.disk.write_bytes(data)
    os.utime(site.disk, ns=(time.time_ns(),) * 2)


def test_points_are_listed_and_described(site: Site) -> None:
    listed = engine.points(site.url)
    assert [(one.point, one.generation, one.virtual_bytes, one.damaged) for one in listed] == [
        (str(number), number, len(data), False) for number, data in enumerate(site.points, 1)
    ]
    assert [one.time for one in listed] == sorted(one.time for one in listed)
    assert listed[1].changed_bytes > 0
    found = engine.info(site.url)
    assert isinstance(found, engine.ReplicaInfo)
    assert (found.generation, found.points, found.epoch, found.block_size) == (3, 3, 1, BLOCK)
    assert found.virtual_bytes == len(site.points[2]) and found.source == str(site.disk) and found.stored_bytes > 0


def test_json_has_the_fields_of_a_replica_in_a_folder(site: Site, tmp_path: Path) -> None:
    """Each with the same value, but for those that say what kind of replica it is."""
    plain = Plain(tmp_path)
    plain.url = str(tmp_path / "beside")
    for number, data in enumerate(site.points):
        write(plain, data)
        plain.replicate(**({} if number else {"block_size": BLOCK}))
    found, like = said("points", site), said("points", plain)
    assert len(found["points"]) == len(like["points"]) == 3
    for one, other in zip(found["points"], like["points"], strict=True):
        assert list(one) == list(other)
        assert {name for name in one if one[name] != other[name]} <= {"time", "history"}
    one, other = said("info", site), said("info", plain)
    assert list(one) == list(other)
    differ = {name for name in one if one[name] != other[name]}
    assert differ <= {"head", "time", "history", "replica_id", "stored_bytes"}


def said(command: str, site: Site) -> dict[str, Any]:
    from click.testing import CliRunner

    from secondsite.orchestration.cli import secondsite

    words = [command, site.url, "--json", *(["--state", str(site.state)] if site.state else [])]
    done = CliRunner().invoke(secondsite, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def test_every_point_restores_by_number_time_and_name(site: Site) -> None:
    for number, data in enumerate(site.points, 1):
        assert site.restored(str(number)) == data
        with engine.open_point(site.url, str(number)) as image:
            assert bytes(image.read(0, image.size)) == data
    assert site.restored(engine.points(site.url)[1].time) == site.points[1]
    assert site.restored() == site.points[2]
    with pytest.raises(errors.Refused):
        site.restored("77")


def test_an_output_that_exists_is_left_alone_or_made_equal(site: Site) -> None:
    target = site.folder / "target.raw"
    target.write_bytes(b"mine")
    with pytest.raises(errors.Refused):
        engine.restore(site.url, target)
    assert target.read_bytes() == b"mine"
    engine.restore(site.url, target, at="1", in_place=True)
    assert target.read_bytes() == site.points[0]


def test_what_did_not_change_makes_no_point(site: Site) -> None:
    done = site.replicate()
    assert (done.kind, done.point, done.changed_bytes) == ("unchanged", "3", 0) and len(engine.points(site.url)) == 3


def test_it_is_proved_and_compared_with_its_source(site: Site) -> None:
    found = engine.verify(site.url)
    assert (found.ok, found.point, found.damaged) == (True, "3", {})
    assert found.blocks == -(-len(site.points[2]) // BLOCK)
    assert engine.verify(site.url, at="1").ok and engine.verify(site.url, source=site.disk).ok
    write(site, site.points[2][:-1] + b"x")
    found = engine.verify(site.url, source=site.disk)
    assert not found.ok and len(found.bad) == 1


def test_old_points_are_dropped_and_the_others_stay(site: Site) -> None:
    engine.prune(site.url, drop=["2"])
    assert [one.point for one in engine.points(site.url)] == ["1", "3"]
    assert site.restored("1") == site.points[0] and site.restored("3") == site.points[2]
    write(site, site.points[0])
    site.replicate(keep=1)
    assert [one.point for one in engine.points(site.url)] == ["4"] and site.restored() == site.points[0]


def test_another_source_and_a_lower_epoch_are_refused(site: Site) -> None:
    other = site.folder / "other.raw"
    other.write_bytes(bytes(3 * BLOCK))
    given: dict[str, Any] = {"state": site.state, "tracker": "scan"}
    with pytest.raises(errors.Refused, match="follows another image"):
        engine.replicate(other, site.url, **given)
    with pytest.raises(errors.Refused):
        site.replicate(block_size=65536)
    assert site.replicate(epoch=4).kind == "unchanged" and engine.raise_epoch(site.url, 2) == 4
    with pytest.raises(errors.Refused, match="epoch"):
        site.replicate(epoch=3)
    assert len(engine.points(site.url)) == 3
    done = engine.replicate(other, site.url, accept_source=True, epoch=4, **given)
    assert done.point == "4" and site.restored() == bytes(3 * BLOCK)


def test_a_source_is_known_by_a_name_and_times_may_be_trusted(site: Site) -> None:
    moved = site.folder / "moved.raw"
    site.replicate(source_id="vm", accept_source=True)
    site.disk.rename(moved)
    site.disk = moved
    assert site.replicate(source_id="vm").kind == "unchanged"
    time.sleep(2.1)  # times say nothing of the last two seconds
    site.replicate(source_id="vm")
    done = site.replicate(source_id="vm", trust_mtime=True)
    assert (done.kind, done.tracker, done.read_bytes) == ("unchanged", "mtime", 0)


def test_it_is_deleted_by_its_id_alone_and_nothing_of_it_stays(site: Site) -> None:
    """R1.10; a deletion that was cut short is gone on with, since a killed one may have got as far as that."""
    found = engine.info(site.url)
    assert isinstance(found, engine.ReplicaInfo)
    with pytest.raises(errors.Refused, match="is another replica"):
        engine.delete_replica(site.url, replica_id="0" * 32)
    engine.raise_epoch(site.url, 5)
    with pytest.raises(errors.Refused, match="is in epoch 5"):
        engine.delete_replica(site.url, replica_id=found.replica_id, epoch=4)
    assert site.restored() == site.points[2]
    assert engine.delete_replica(site.url, replica_id=found.replica_id, epoch=5)
    assert not engine.delete_replica(site.url, replica_id=found.replica_id)
    write(site, site.points[0])
    assert site.replicate(block_size=BLOCK).kind == "initial"
    assert len(engine.points(site.url)) == 1


def test_only_the_replica_that_is_meant_is_gone_on_with(site: Site) -> None:
    """A folder that is not mounted, or in which another one lies, is no reason to begin anew there."""
    known = engine.info(site.url).replica_id
    write(site, site.points[0])
    assert site.replicate(replica_id=known).generation == 4
    write(site, site.points[1])
    with pytest.raises(errors.Refused, match=f"is replica {known}, and not 0{{32}}, which was meant"):
        site.replicate(replica_id="0" * 32)
    assert len(engine.points(site.url)) == 4
    site.url += "-gone"
    for _ in range(2):
        with pytest.raises(errors.NoReplica, match=f"replica {known} is not there, and none is begun in its place"):
            site.replicate(replica_id=known)
    with pytest.raises((errors.NoReplica, errors.Refused), match=r"no such replica|holds no replica"):
        engine.info(site.url)
