"""A standby that goes on, a step every so many seconds (engine/following.py), in the emulator."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest
from store.diskkit import BLOCK, FIRST, SEED, Lab, changed, run

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.store import pageblob
from secondsite.engine.store.base import Fenced, Held
from secondsite.orchestration.commands import materialize

pytestmark = [pytest.mark.needs("azurite"), pytest.mark.usefixtures("opens")]


@pytest.fixture
def lab(azurite, tmp_path):
    print("seed", SEED)
    return Lab(azurite, tmp_path)


class Follower:
    """A standby that goes on in a thread; what it tells."""

    def __init__(self, lab, every: float = 1.0, **more) -> None:
        self.told, self.ended, self.over = [], None, threading.Event()
        self._new = threading.Condition()
        # Ten seconds of it are one.
        clock, sleep = (lambda: 10 * time.monotonic()), (lambda seconds: time.sleep(seconds / 10))
        more = {"cancel": self.over.is_set, "monotonic": clock, "sleep": sleep, **more}

        def run():
            try:
                engine.standby(lab.replica, lab.url, every=every, observe=self._hear, **more)
            except errors.Error as error:
                self.ended = error
            with self._new:
                self._new.notify()

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def _hear(self, now):
        with self._new:
            self.told.append(now)
            self._new.notify()

    def until(self, true):
        """Wait for something that it tells."""
        with self._new:
            assert self._new.wait_for(lambda: any(map(true, self.told)) or self.ended, 30)
        assert not self.ended, self.ended

    def at(self, point: str):
        self.until(lambda now: now.done is not None and now.done.point == point)

    def stop(self):
        self.over.set()
        self.thread.join(30)
        return self.ended


@pytest.fixture
def following(lab):
    made = []

    def start(**more):
        made.append(Follower(lab, **more))
        return made[-1]

    yield start
    for each in made:
        each.stop()


def test_it_goes_on_for_ever_and_says_what_is_new(lab, following):
    lab.cycle(FIRST)
    follower, data = following(), FIRST
    follower.at("1")
    for point in ("2", "3"):
        lab.cycle(data := changed(data))
        follower.at(point)
    with pytest.raises(Held):
        engine.standby(lab.replica, lab.url)
    ended = follower.stop()
    assert isinstance(ended, errors.Cancelled) and lab.holds(data)
    assert [now.done.point for now in follower.told if now.done and now.done.kind != "unchanged"] == ["1", "2", "3"]
    assert engine.standby(lab.replica, lab.url).kind == "unchanged"


def test_what_fails_before_the_lease_is_held_is_tried_again(lab, following, monkeypatch):
    """The replica is away, then the store; then somebody else has the lease."""
    lab.cycle(FIRST)
    lab.materialize()
    lease, aside = lab.blob.acquire_lease(), lab.replica.with_name("aside")
    real, failed = pageblob.PageBlob.find, []

    def find(self):
        failed.append(1)
        if len(failed) < 3:
            raise errors.Unreachable("the line is down", path=self.path)
        return real(self)

    monkeypatch.setattr(pageblob.PageBlob, "find", find)
    lab.replica.rename(aside)
    follower = following()
    follower.until(lambda now: now.error is not None)
    aside.rename(lab.replica)
    follower.until(lambda now: "the line is down" in (now.error or ""))
    follower.until(lambda now: "somebody else holds it" in (now.error or ""))
    assert [now.retry for now in follower.told][:3] == [1, 2, 4]
    lease.release()
    follower.at("1")
    assert isinstance(follower.stop(), errors.Cancelled) and lab.holds(FIRST)


def test_one_takes_over_from_another_only_if_told_to(lab, following):
    lab.cycle(FIRST)
    follower = following()
    follower.at("1")
    with pytest.raises(Held) as raised:
        engine.standby(lab.replica, lab.url)
    assert raised.value.exit_code == errors.REFUSED
    lab.cycle(newer := changed(FIRST))
    engine.standby(lab.replica, lab.url, take=True)
    follower.thread.join(30)
    assert isinstance(follower.ended, Fenced) and not follower.ended.retryable and lab.holds(newer)


@pytest.mark.parametrize("again", ["same", "newer"])
def test_a_step_that_failed_is_gone_on_with_by_what_it_may_have_written(lab, following, monkeypatch, again):
    """The next step of the same process reads nothing of the disk but what it writes."""
    lab.cycle(FIRST)
    follower = following()
    follower.at("1")
    real, reads, puts = pageblob.PageBlob.put, [], []

    def put(self, offset, data):
        puts.append(offset)
        real(self, offset, data)
        if len(puts) == 3:
            raise errors.Unreachable("the line is down", path=self.path)

    newer = bytearray(FIRST)
    for block in (1, 3, 5, 7):
        newer[block * BLOCK] ^= 1
    newer = bytes(newer)
    with monkeypatch.context() as patch:
        patch.setattr(pageblob.PageBlob, "put", put)
        real_read = pageblob.PageBlob.read
        patch.setattr(pageblob.PageBlob, "read", lambda self, at, n: (reads.append(n), real_read(self, at, n))[1])
        lab.cycle(newer)
        follower.until(lambda now: now.error is not None)
        assert "the line is down" in follower.told[-1].error and follower.told[-1].retry <= 1
        if again == "newer":
            lab.cycle(newer := FIRST)  # what was written must be taken back
        follower.at(str(len(lab.points)))
    assert follower.stop() and lab.holds(newer) and sum(reads) <= 10 * BLOCK


def test_a_lease_that_ran_out_is_ours_again_where_nobody_else_had_it(lab, following, monkeypatch):
    lab.cycle(FIRST)
    follower = following()
    follower.at("1")
    real, failed = pageblob.PageBlob.put, []

    def put(self, offset, data):
        if not failed:
            failed.append(offset)
            raise Fenced("the lease was lost", path=self.path)
        real(self, offset, data)

    monkeypatch.setattr(pageblob.PageBlob, "put", put)
    lab.cycle(newer := changed(FIRST))
    follower.at("2")
    follower.stop()
    assert failed and lab.holds(newer)


def test_a_write_that_arrives_late_changes_no_later_point(lab, following, monkeypatch):
    """The emulator holds to what the service promises of sequence numbers."""
    lab.cycle(FIRST)
    follower, late = following(), []
    real = pageblob.PageBlob._upload

    def upload(self, offset, data, **how):
        late.append((self, offset, data, how))
        return real(self, offset, data, **how)

    follower.at("1")
    monkeypatch.setattr(pageblob.PageBlob, "_upload", upload)
    second = FIRST[:BLOCK] + b"2" * BLOCK + FIRST[2 * BLOCK :]
    for point, data in (("2", second), ("3", FIRST)):
        lab.cycle(data)
        follower.at(point)
    blob, offset, data, how = next(each for each in late if each[2][:1] == b"2")
    from azure.core.exceptions import HttpResponseError

    with pytest.raises(HttpResponseError) as raised:
        real(blob, offset, data, **how)
    assert raised.value.status_code == 412 and "SequenceNumber" in str(raised.value)
    follower.stop()
    assert lab.holds(FIRST)


def test_json_is_the_same_with_watch_and_without(lab, capsys, monkeypatch):
    lab.cycle(FIRST)
    once = json.loads(run(capsys, "materialize", lab.replica, lab.url, "--standby", "--json")[1])
    real, steps = materialize._Steps.show, []

    def show(self, now):
        real(self, now)
        steps.append(now)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(materialize._Steps, "show", show)
    status, out, _ = run(capsys, "materialize", lab.replica, lab.url, "--standby", "--watch", "1", "--json")
    said = [json.loads(line) for line in out.splitlines()]
    assert status == 128 + signal.SIGTERM and len(steps) == 1 and said[1]["exit"] == status
    assert said[0].keys() == once.keys() and (said[0]["kind"], said[0]["point"]) == ("unchanged", "1")
