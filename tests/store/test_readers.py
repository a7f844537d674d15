"""A point that is read is not removed under its reader (engine/store/log/readers.py)."""

from __future__ import annotations

import time

import pytest
from store.logkit import Failing, changing
from store.prunekit import HOUR, PruneLab

from secondsite.engine import errors
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.progress import Monitor
from secondsite.engine.store.base import Denied
from secondsite.engine.store.log import readers
from secondsite.engine.store.log.reading import Replica, restore


def history(count=6):
    lab, step = PruneLab(), changing(11)
    for _ in range(count):
        lab.cycle(step())
    return lab


def never(warning):
    raise AssertionError(warning)


def test_what_a_reader_needs_stays_while_he_renews(monkeypatch):
    monkeypatch.setattr(readers, "RENEWED_SECONDS", 0.05)
    lab = history()
    want = lab.contents[2]
    with Replica.open(lab.store).reading("2", never) as point:
        lab.prune(keep=1)
        for _ in range(3):
            lab.later(HOUR)
            renewed(lab)
            assert lab.prune().freed_bytes == 0
        assert point.read(0, point.size) == want
    lab.later()
    assert lab.prune().freed_bytes > 0
    assert lab.held() == lab.needed()


def renewed(lab):
    """Wait until every reader's note is of now."""
    until = time.monotonic() + 10
    while any(entry.modified < lab.time for entry in lab.store.list("readers/")):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_what_no_reader_needs_goes_meanwhile():
    """He reads a point that is listed, or one that is older than all that is condemned."""
    lab = history()
    with Replica.open(lab.store).reading("6", never), Replica.open(lab.store).reading("1", never) as first:
        lab.prune(drop=[3, 4])
        lab.later()
        touch(lab)
        assert lab.prune().freed_bytes > 0
        assert first.read(0, first.size) == lab.contents[1]
    assert lab.held() == lab.needed()


def touch(lab):
    """As if each reader had renewed his note just now."""
    for name in [name for name in lab.held() if name.startswith("readers/")]:
        lab.store.put_if_absent(name, lab.store.objects.pop(name).data)


def test_a_reader_that_is_gone_holds_nothing_back_and_his_note_goes():
    lab = history()
    with Replica.open(lab.store).reading("2", never):
        lab.prune(keep=1)
        lab.later(HOUR + 100)
        touch(lab)
        lab.later(readers.ALIVE_SECONDS - 1)
        assert lab.prune().freed_bytes == 0
        lab.later(3)
        assert lab.prune().freed_bytes > 0
        assert [name for name in lab.held() if name.startswith("readers/")]
        lab.cycle(b"more")
        lab.prune(keep=1)
        lab.later()
        lab.prune()
        assert not [name for name in lab.held() if name.startswith("readers/")]
    assert lab.held() == lab.needed()


def test_a_note_that_was_removed_is_written_again(monkeypatch):
    monkeypatch.setattr(readers, "RENEWED_SECONDS", 0.02)
    lab = history(2)
    with Replica.open(lab.store).reading("2", never):
        name = next(name for name in lab.held() if name.startswith("readers/"))
        lab.store.delete(name)
        until = time.monotonic() + 10
        while name not in lab.store.objects:
            assert time.monotonic() < until
            time.sleep(0.01)
    assert name not in lab.store.objects


@pytest.mark.parametrize("said", [b"", b"no record", b"\0" * 3_000_000])
def test_a_note_that_says_nothing_holds_all_back(said):
    lab = history()
    lab.prune(keep=1)
    lab.later()
    lab.store.put_if_absent("readers/0123456789abcdef", said)
    assert lab.prune().freed_bytes == 0
    lab.later()
    assert lab.prune().freed_bytes > 0


def test_a_point_that_is_dropped_between_two_looks_is_refused():
    lab = history()

    class Late(Failing):
        def put_if_absent(self, name, *args, **more):
            if name.startswith("readers/"):
                lab.prune(keep=1, grace=0)
            return super().put_if_absent(name, *args, **more)

    with pytest.raises(errors.Refused) as raised, Replica.open(Late(lab.store)).reading("2", never):
        raise AssertionError
    assert str(raised.value) == "memory://store: point 2 was dropped just now"
    assert not [name for name in lab.held() if name.startswith("readers/")]


def test_who_may_not_write_is_warned_and_has_the_grace():
    lab, told = history(), []

    class ReadOnly(Failing):
        def put_if_absent(self, name, *args, **more):
            raise Denied("this key only reads", path=self.label)

    want = lab.contents[2]
    with Replica.open(ReadOnly(lab.store)).reading("2", told.append) as point:
        assert len(told) == 1 and "this key only reads; so nobody knows" in told[0]
        lab.prune(keep=1)
        lab.later(HOUR - 60)
        lab.prune()
        with MemoryImage() as output:
            restore(point, output, Monitor())
            assert output.read(0, output.size) == want


def test_a_restore_goes_on_while_points_are_pruned_and_collected():
    """Between any two of its requests the point is dropped and what is due is removed, without a grace."""
    for at in range(1, 12):
        lab = history()
        want = lab.contents[3]

        class Between(Failing):
            def _do(self, name, *args, lab=lab, at=at, **more):
                done = super()._do(name, *args, **more)
                if self.calls == at:
                    lab.prune(keep=1, grace=0)
                    lab.later(1)
                    touch(lab)
                    lab.prune(grace=0)
                return done

        store = Between(lab.store)
        try:
            with Replica.open(store).reading("3", never) as point, MemoryImage() as output:
                restore(point, output, Monitor())
                assert output.read(0, output.size) == want
        except errors.Refused as error:
            assert "dropped just now" in str(error) or "no point 3" in str(error)
        lab.later()
        lab.prune()
        assert lab.held() == lab.needed()
