"""Overlays over points of a log: claimed points stay, whoever prunes, and the rest goes."""

from __future__ import annotations

import pytest
from store.sitekit import Site

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.replica.claims import Claim
from secondsite.engine.store.log import claiming, claims
from secondsite.engine.store.log.session import Opened

pytestmark = pytest.mark.needs("azurite")


@pytest.fixture
def site(opens_azure, tmp_path):
    made = Site(opens_azure, tmp_path)
    for _ in range(3):
        made.cycle()
    return made


@pytest.fixture
def overlay(site):
    engine.create_overlay(site.folder / "vm.overlay", site.url, "1")
    return site.folder / "vm.overlay"


def whole(path):
    with engine.open_image(path) as image:
        return bytes(image.read(0, image.size))


def names(site):
    return [point.point for point in engine.points(site.url)]


def test_it_is_read_and_written_and_its_point_stays(site, overlay):
    with engine.open_image(overlay, "rw") as image:
        image.write(3, b"written")
    expected = site.points[0][:3] + b"written" + site.points[0][10:]
    assert whole(overlay) == expected
    with pytest.raises(errors.Refused, match=r"vm\.overlay"):
        engine.prune(site.url, drop=["1", "2"])
    assert engine.prune(site.url, keep=1) == 1 and names(site) == ["1", "3"]
    engine.prune_report(site.url, collect=True, grace=0)
    assert whole(overlay) == expected
    with pytest.raises(errors.Refused, match="overlay stands on point 1"):
        engine.delete_replica(site.url, replica_id=engine.info(site.url).replica_id)
    assert engine.remove_overlay(overlay) and not engine.overlays_of(site.url)
    assert engine.prune(site.url, keep=1) == 1 and names(site) == ["3"]


def test_cycles_that_keep_few_leave_it(site, overlay):
    for _ in range(3):
        site.cycle(keep=2)
    assert names(site) == ["1", "5", "6"] and whole(overlay) == site.points[0]
    engine.remove_overlay(overlay)
    site.cycle(keep=2)
    assert names(site) == ["6", "7"]


def test_a_point_that_goes_just_then_is_refused(site, monkeypatch):
    """A prune that looked for claims a moment before: the point is not listed any more when it is done."""
    settle = claiming.settle

    def late(store, generation, state):
        for entry in list(store.list("claims/")):
            held = store.get(entry.name).data
            store.delete(entry.name)
            engine.prune(site.url, drop=["1"])
            store.put_if_absent(entry.name, held)
        settle(store, generation, state)

    monkeypatch.setattr(claiming, "settle", late)
    with pytest.raises(errors.Refused, match="dropped just now"):
        engine.create_overlay(site.folder / "vm.overlay", site.url, "1")
    assert not engine.overlays_of(site.url) and not (site.folder / "vm.overlay").exists()


def test_a_claim_that_comes_while_a_prune_counts_is_seen(site, monkeypatch):
    """Between its look at the claims and the head that it puts."""
    from secondsite.engine.store.log import dead

    found, made = dead.of, []

    def slow(store, *arguments):
        if not made:
            made.append(Claim("0" * 16, 1, "another host:/vm.overlay"))
            claims.add(store, made[0])
        return found(store, *arguments)

    monkeypatch.setattr(dead, "of", slow)
    with pytest.raises(errors.Refused, match="another host"):
        engine.prune(site.url, drop=["1"])
    assert names(site) == ["1", "2", "3"]


def test_a_damaged_claim_keeps_everything(site, overlay, opens_azure):
    with Opened(site.url, None) as opened:
        (entry,) = opened.store.list("claims/")
        opened.store.delete(entry.name)
        opened.store.put_if_absent(entry.name, b"nothing")
    with pytest.raises(errors.Refused, match="damaged"):
        engine.prune(site.url, drop=["2"])
    assert engine.prune(site.url, keep=1) == 0
    assert engine.release_overlay(site.url, entry.name.removeprefix("claims/"))
    assert engine.prune(site.url, keep=1) == 2
