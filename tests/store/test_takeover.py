"""Fencing of a replica in a store: epochs, taking over from a writer, and one's own fence again after a kill."""

from __future__ import annotations

import signal
import threading
import time

import pytest
from cli.clikit import program, start
from store.sitekit import MIB, site_of

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.store.base import Held
from secondsite.engine.store.log.layout import HEAD
from secondsite.engine.store.log.mine import of_host

KINDS = [pytest.param("azure", marks=pytest.mark.needs("azurite")), "s3", "folder"]


@pytest.fixture(params=KINDS)
def site(request, tmp_path):
    made = site_of(request, tmp_path)
    made.cycle()
    return made


class Writing(threading.Thread):
    """A cycle of another host that stands still before its head moves, until it is let go on."""

    def __init__(self, site, **more):
        super().__init__(daemon=True)
        self.site, self.more, self.error, self.done = site, more, None, None
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.start()
        assert self.reached.wait(20), self.error

    def run(self):
        try:
            self.done = self.site.replicate(progress=self._progress, state=self.site.folder / "first", **self.more)
        except errors.Error as error:
            self.error = error

    def _progress(self, now):
        if now.stage == "send" and now.done:
            self.reached.set()
            self.go_on.wait(30)

    def end(self):
        self.go_on.set()
        self.join(30)


@pytest.mark.sweep(sample=2)
def test_the_old_primary_is_refused_from_the_moment_it_is_taken_over(site):
    site.write()
    old = Writing(site)
    with pytest.raises(Held):
        site.replicate(epoch=2)
    done = site.replicate(take_over=True)
    assert (done.kind, engine.info(site.url).epoch) == ("delta", 2)
    old.end()
    assert isinstance(old.error, errors.Refused) and old.error.exit_code == 3, old.error
    assert len(engine.points(site.url)) == 2 and site.restored() == bytes(site.data)
    site.write()
    with pytest.raises(errors.Refused) as raised:  # also where nobody tells it the epoch
        site.replicate(state=site.folder / "first")
    assert "is at epoch 2, and this source last met it at 1: a failover happened in between" in str(raised.value)
    assert site.replicate().kind == "delta"  # the new one needs not say it
    assert site.replicate(state=site.folder / "first", epoch=2).kind == "unchanged"  # failed back


@pytest.mark.sweep(sample=1)
def test_a_takeover_says_a_higher_epoch_and_must_be_allowed_to_write(site, tmp_path):
    fence = site.store.fence(HEAD, 60)
    other = tmp_path / "other.raw"
    other.write_bytes(bytes(MIB))
    with pytest.raises(errors.Refused) as raised:
        engine.replicate(other, site.url, take_over=True, state=site.state)
    assert "follows another image" in str(raised.value)
    with pytest.raises(errors.Refused) as raised:
        site.replicate(take_over=True, epoch=1)
    assert str(raised.value) == f"{site.url}: is at epoch 1; to take it over takes a higher one than 1"
    fence.renew()  # nobody was disturbed
    assert engine.info(site.url).epoch == 1
    done = engine.replicate(other, site.url, take_over=True, epoch=7, accept_source=True, state=site.state)
    assert done.kind == "delta" and engine.info(site.url).epoch == 7
    with pytest.raises(errors.Error):
        fence.renew()


@pytest.mark.sweep(sample=2)
def test_an_epoch_is_raised_without_a_cycle(site):
    site.write()
    old = Writing(site)
    assert engine.raise_epoch(site.url, 5) == 5 and engine.raise_epoch(site.url, 3) == 5
    old.end()
    assert isinstance(old.error, errors.Refused), old.error
    assert engine.info(site.url).epoch == 5 and len(engine.points(site.url)) == 1
    with pytest.raises(errors.Refused):
        site.replicate(epoch=4)
    assert site.replicate(epoch=5).kind == "delta"


@pytest.mark.sweep(sample=1)
def test_there_is_nothing_to_take_over(site, tmp_path):
    site.url += "-nothing"
    with pytest.raises(errors.Refused) as raised:
        site.replicate(take_over=True)
    assert "holds no replica" in str(raised.value) or "no recovery point" in str(raised.value)
    with pytest.raises(errors.Usage):
        engine.replicate(site.disk, tmp_path / "folder", take_over=True)
    assert not (tmp_path / "folder").exists()


@pytest.mark.sweep(sample=1)
def test_two_writers_of_one_host_are_told_apart(site):
    site.write()
    first = Writing(site)
    with pytest.raises(errors.Busy) as raised:
        site.replicate(state=site.folder / "first")
    assert "another process of this host" in str(raised.value)
    first.end()
    assert first.error is None and first.done.kind == "delta"


@pytest.mark.sweep(sample=1)
def test_after_a_kill_the_same_host_goes_on_at_once_and_another_waits(site):
    site.write(9 * MIB)  # more than one segment
    words = ["replicate", site.disk, site.url, "--state", site.state, "--limit", "2M", "--tracker", "scan"]
    process = start(*words)
    end = time.monotonic() + 30
    while not any(site.store.list("segments/000000000002/")) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    if "://" in site.url:  # in a folder a fence ends with its holder's process
        other = program("replicate", site.disk, site.url, "--state", site.folder / "another")
        assert other.status == 3 and "cut off within the last minute" in other.err, other
    began = time.monotonic()
    done = program("replicate", site.disk, site.url, "--state", site.state, "--tracker", "scan")
    assert done.status == 0 and done.out.startswith("delta: point 2"), done
    assert time.monotonic() - began < 15
    assert site.restored() == bytes(site.data)


@pytest.mark.sweep(sample=1)
def test_an_attempt_after_one_that_took_over_goes_on(site, monkeypatch):
    """The first attempt ends behind the takeover."""
    from secondsite.engine.remote.sending.sender import Transfer
    from secondsite.engine.store.base import Failed

    failing, whole = [Failed("the link is cut", path="there")], Transfer._cycle

    def cycle(self, *given):
        if failing:
            raise failing.pop()
        return whole(self, *given)

    monkeypatch.setattr(Transfer, "_cycle", cycle)
    site.write()
    done = site.replicate(take_over=True, epoch=4, **site.again)
    assert done.kind == "delta" and engine.info(site.url).epoch == 4


def put_back(site, head):
    """The head is an older one again, as after a restore of the store from a copy."""
    site.store.delete(HEAD)
    site.store.put_if_absent(HEAD, head.data, head.metadata)


@pytest.mark.sweep(sample=1)
def test_a_head_that_was_put_back_is_told_by_who_had_gone_on(site):
    head = site.store.get(HEAD)
    site.cycle()
    site.cycle()
    put_back(site, head)
    site.write()
    done = site.replicate()
    assert [text for text in done.warnings if "point 3 was made from here, and 1 is the newest now" in text]
    assert site.restored() == bytes(site.data)
    site.write()
    assert not site.replicate().warnings  # once


@pytest.mark.sweep(sample=1)
def test_an_epoch_that_went_back_is_refused(site):
    head = site.store.get(HEAD)
    site.write()
    site.replicate(take_over=True)
    put_back(site, head)
    site.write()
    for more in ({}, {"epoch": 1}):
        with pytest.raises(errors.Refused) as raised:
            site.replicate(**more)
        assert "is at epoch 1, and this source met it at 2: it was put back to an older state" in str(raised.value)
    assert site.replicate(epoch=2).kind == "delta" and engine.info(site.url).epoch == 2
    assert site.restored() == bytes(site.data)


@pytest.mark.sweep(sample=2)
def test_a_host_whose_cycle_was_killed_prunes_at_once(site):
    site.cycle()
    with of_host(site.state / "far", bytes.fromhex(engine.info(site.url).replica_id)) as holder:
        site.store.fence(HEAD, 60, holder=holder)  # and nobody lets go of it
        with pytest.raises(errors.Busy):
            engine.prune_report(site.url, keep=1, state=site.state)  # another process of this host does write
    with pytest.raises(Held):
        engine.prune_report(site.url, keep=1, state=site.folder / "other")
    assert engine.prune_report(site.url, keep=1, state=site.state).points == 1


@pytest.mark.sweep(sample=2)
def test_a_takeover_that_failed_is_said_again(site, monkeypatch):
    """By the same host, in the same words; another one has to say a higher epoch."""
    from secondsite.engine.remote.sending.sender import Transfer
    from secondsite.engine.store.base import Failed

    def cut(self, *given):
        raise Failed("the link is cut", path="there")

    site.write()
    with monkeypatch.context() as broken, pytest.raises(errors.Unreachable):
        broken.setattr(Transfer, "_cycle", cut)
        site.replicate(take_over=True, epoch=4)
    assert engine.info(site.url).epoch == 4
    with pytest.raises(errors.Refused, match="takes a higher one than 4"):
        site.replicate(take_over=True, epoch=4, state=site.folder / "another")
    assert site.replicate(take_over=True, epoch=4).kind == "delta" and engine.info(site.url).epoch == 4
    assert site.replicate(take_over=True, epoch=4).kind == "unchanged"
    assert site.replicate(epoch=5, state=site.folder / "another").kind == "unchanged"
    with pytest.raises(errors.Refused, match="takes a higher one than 5"):
        site.replicate(take_over=True, epoch=5)
