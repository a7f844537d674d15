"""An existing image made equal to a point in a store, and a source compared with one."""

from __future__ import annotations

import os

import pytest
from store.logkit import Failing
from store.sitekit import MIB, site_of

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.store.log import session


@pytest.fixture(params=[pytest.param("azure", marks=pytest.mark.needs("azurite")), "folder"])
def site(request, tmp_path):
    made = site_of(request, tmp_path)
    for _ in range(2):
        made.cycle()
    return made


@pytest.fixture
def asked(monkeypatch):
    """Bytes of segments that were fetched."""
    fetched, whole = [], session.open_replica

    class Counting(Failing):
        def get(self, name, start=0, length=None):
            found = super().get(name, start, length)
            fetched.append(len(found.data) if name.startswith("segments/") else 0)
            return found

    monkeypatch.setattr(session, "open_replica", lambda *given, **more: Counting(whole(*given, **more)))
    return fetched


def test_what_differs_is_fetched_and_written(site, asked):
    target = site.folder / "target.raw"
    for at, size in ((2, 0), (1, 0), (2, 300_001), (1, 40 * MIB)):
        if size:
            target.write_bytes(os.urandom(size))
        elif not target.exists():
            target.write_bytes(site.points[1])
        asked.clear()
        done = engine.restore(site.url, target, at=str(at), in_place=True)
        assert target.read_bytes() == site.points[at - 1]
        assert (done.method, done.point, done.virtual_bytes) == ("in-place", str(at), len(site.points[at - 1]))
        if not size:
            assert done.bytes_written <= 2 * 8192 and sum(asked) < 2 * MIB, (done, sum(asked))
    assert engine.restore(site.url, target, at="1", in_place=True).bytes_written == 0
    with pytest.raises(errors.Unreachable):
        engine.restore(site.url, site.folder / "nothing.raw", in_place=True)


def test_a_container_stays_what_it_is(site):
    target = site.folder / "target.vhdx"
    site.data += bytes(-len(site.data) % 512)
    for _ in range(2):
        site.cycle()
    engine.restore(site.url, target, at="3", format="vhdx")
    done = engine.restore(site.url, target, at="4", in_place=True)
    assert done.method == "in-place" and done.bytes_written <= 4 * 8192
    with engine.open_image(target) as image:
        assert bytes(image.read(0, image.size)) == site.points[3]
    with pytest.raises(errors.Error):
        engine.restore(site.url, target, in_place=True, format="raw")


def test_damage_is_told_before_it_is_written(site):
    target = site.folder / "target.raw"
    target.write_bytes(bytes(len(site.points[0])))
    entry = max(site.store.list("segments/000000000001/"), key=lambda entry: entry.size)
    held = bytearray(site.store.get(entry.name).data)
    held[len(held) // 2] ^= 1
    site.store.delete(entry.name)
    site.store.put_if_absent(entry.name, held)
    with pytest.raises(errors.Damaged):
        engine.restore(site.url, target, at="1", in_place=True)
    written = target.read_bytes()
    assert all(
        written[at : at + 4096] in (bytes(4096), site.points[0][at : at + 4096]) for at in range(0, 9 * MIB, 4096)
    )


def test_a_source_is_compared_with_a_point(site, asked):
    found = engine.verify(site.url, source=site.disk)
    assert (found.ok, found.point, found.bad) == (True, "2", []) and found.against in ("image", "clone", "kept clone")
    assert sum(asked) == 0  # hashes say it
    found = engine.verify(site.url, source=site.disk, at="1")
    assert not found.ok and sum(length for _, length in found.bad) <= 3 * 4096 and not found.damaged
    data = bytearray(site.points[1])
    data[5 * MIB] ^= 1
    site.disk.write_bytes(data + b"more")
    found = engine.verify(site.url, source=site.disk)
    starts = [offset for offset, _ in found.bad]
    assert not found.ok and starts[0] == 5 * MIB and len(starts) == 2
    assert found.bad[-1].offset + found.bad[-1].length == len(data) + 4
