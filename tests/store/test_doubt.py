"""What a verification found wrong with the newest point of a replica in a store holds up the cycles after it."""

from __future__ import annotations

import pytest
from store.sitekit import site_of

from secondsite import engine
from secondsite.engine import errors


@pytest.fixture(params=[pytest.param("azure", marks=pytest.mark.needs("azurite")), "folder"])
def site(request, tmp_path):
    made = site_of(request, tmp_path)
    made.cycle()
    return made


def test_no_cycle_goes_on_over_damage_that_verify_found(site):
    """A block that does not change stays damaged in every later point, and --keep would drop the last good ones."""
    site.cycle()
    lost = next(iter(site.store.list("segments/")))
    kept = site.store.get(lost.name)
    site.store.delete(lost.name)
    assert not engine.verify(site.url, state=site.state).ok
    site.write()
    with pytest.raises(errors.Damaged) as raised:
        site.replicate(keep=1)
    assert "the last verify found the newest point damaged" in str(raised.value) and "--resync" in str(raised.value)
    assert len(engine.points(site.url)) == 2
    site.store.put_if_absent(lost.name, kept.data, kept.metadata)
    assert engine.verify(site.url, state=site.state).ok
    assert site.replicate(keep=1).kind == "delta"
    assert site.restored() == bytes(site.data)


def test_where_the_finding_cannot_be_noted_verify_says_so(site):
    for entry in list(site.store.list("segments/")):
        site.store.delete(entry.name)
    blocked = site.folder / "no folder"
    blocked.write_bytes(b"")
    found = engine.verify(site.url, state=blocked)
    assert not found.ok and any("goes on over the damage" in warning for warning in found.warnings)


def test_damage_of_an_older_point_holds_nothing_up(site):
    row = next(iter(site.store.list("points/")))
    site.cycle()
    site.store.delete(row.name)
    assert list(engine.verify(site.url, state=site.state).damaged) == ["1"]
    assert engine.verify(site.url, at="2", state=site.state).ok
    assert [point.damaged for point in engine.points(site.url, state=site.state)] == [True, False]
    assert not any(point.damaged for point in engine.points(site.url, state=site.folder / "other"))
    site.write()
    assert site.replicate().kind == "delta"


def test_a_cycle_leaves_what_verify_finds_meanwhile(site):
    lost = next(iter(site.store.list("segments/")))

    def progress(now):
        if now.stage == "send" and site.store.stat(lost.name):
            site.store.delete(lost.name)
            assert not engine.verify(site.url, state=site.state).ok

    site.write()
    assert site.replicate(progress=progress).kind == "delta"
    with pytest.raises(errors.Damaged):
        site.replicate()


def test_a_resync_ends_it(site):
    lost = next(iter(site.store.list("segments/")))
    site.store.delete(lost.name)
    assert not engine.verify(site.url, state=site.state).ok
    with pytest.raises(errors.Damaged):
        site.replicate()
    assert site.replicate(resync=True).kind == "resync"
    assert site.restored() == bytes(site.data)
    site.write()
    assert site.replicate().kind == "delta"
    assert site.restored() == bytes(site.data)
