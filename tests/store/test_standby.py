"""A disk of Azure that follows a replica (engine/following.py), in the emulator."""

from __future__ import annotations

import json
import random
import threading
import time
from contextlib import ExitStack

import pytest
from remote.hosting import site
from store.diskkit import MIB, Lab, break_lease, cutting
from store.httpproxy import listed, proxied

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.store import pageblob
from secondsite.engine.store.base import Fenced, Held
from secondsite.orchestration import cli

pytestmark = [pytest.mark.needs("azurite"), pytest.mark.usefixtures("opens")]
SEED = random.randrange(1 << 30)
CHANCE = random.Random(SEED)
BLOCK = 65536


@pytest.fixture
def lab(azurite, tmp_path):
    print("seed", SEED)
    return Lab(azurite, tmp_path)


def changed(data: bytes, count: int = 3) -> bytes:
    """Some blocks written, and one made zeros."""
    made = bytearray(data)
    for _ in range(count):
        at = CHANCE.randrange(len(data) - 5000)
        made[at : at + 5000] = CHANCE.randbytes(5000)
    at = CHANCE.randrange(len(data) // BLOCK) * BLOCK
    made[at : at + BLOCK] = bytes(len(made[at : at + BLOCK]))
    return bytes(made)


FIRST = changed(CHANCE.randbytes(MIB) + bytes(MIB) + CHANCE.randbytes(100_000))


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize("where", ["folder", "agent", "store", "log"])
def test_equal_after_each_cycle_with_a_snapshot_of_each_kept_point(lab, tmp_path, where, sweep):
    with ExitStack() as stack:
        url, state = None, None
        if where == "agent":
            made = stack.enter_context(site(tmp_path))
            state, url, lab.replica = made.host("reader", allow="read"), made.url(), made.root / "disk"
        elif where == "store":
            lab.replica = lab.url.removesuffix(".vhd")
        data = FIRST
        for cycle in range(20 if sweep else 6 if where == "folder" else 2):
            lab.cycle(data, **{"store": {}, "log": {"history": "log"}}.get(where, {"keep": 4}))
            done = engine.standby(url or lab.replica, lab.url, state=state)
            kept = {each.point for each in engine.points(url or lab.replica, state=state)}
            assert (done.kind, done.point) == ("standby" if cycle else "new", str(cycle + 1)) and done.warnings == []
            assert not cycle or done.bytes_written <= 6 * BLOCK
            assert lab.holds(data) and done.snapshots == len(kept) == len(lab.snapshots())
            lab.qemu_compares()
            data = changed(data)
        assert set(lab.snapshots()) == kept
        for point in kept:
            assert lab.holds(lab.points[int(point) - 1], snapshot=lab.snapshots()[point])


def test_a_megabyte_of_changes_costs_a_megabyte_and_a_few_requests(lab, azurite, monkeypatch):
    with lab.disk.open("wb") as file:
        file.truncate(1 << 40)
        file.write(CHANCE.randbytes(8 * MIB))
    engine.replicate(lab.disk, lab.replica)
    engine.standby(lab.replica, lab.url)
    with lab.disk.open("r+b") as file:
        file.seek(MIB)
        file.write(CHANCE.randbytes(MIB))
    engine.replicate(lab.disk, lab.replica)
    with proxied(azurite.port, listed()) as proxy:
        text = azurite.connection_string.replace(f":{azurite.port}/", f":{proxy.port}/")
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
        assert engine.standby(lab.replica, lab.url).bytes_written == MIB
        print(proxy.requests, "requests,", proxy.bodies, "bytes")
        assert MIB <= proxy.bodies <= MIB + 4096 and proxy.requests <= 22


def test_disks_that_grow_and_shrink(lab):
    sizes = [700, 1000, 513, 3 * MIB + 5, MIB - 300]
    data = CHANCE.randbytes(4 * MIB)
    for size in sizes:
        lab.cycle(data[:size])
        engine.standby(lab.replica, lab.url)
        assert lab.holds(data[:size]), size
    assert {point: lab.holds(lab.points[int(point) - 1], snapshot=name) for point, name in lab.snapshots().items()} == {
        str(number + 1): True for number in range(len(sizes))
    }


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("made", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("again", ["same", "newer", "shorter"])
def test_cut_short_at_each_write_and_gone_on_with(lab, monkeypatch, sweep, made, again):
    """By a process that was killed: the newest snapshot is a whole disk, and the next call makes the blob one."""
    second, steps = changed(FIRST), 1 if sweep else 4
    for at in range(CHANCE.randrange(steps) + 1, 60, steps):
        lab.restart()
        lab.cycle(FIRST)
        engine.standby(lab.replica, lab.url)
        lab.cycle(newer := second)
        with monkeypatch.context() as patch:
            cuts = cutting(patch, at, made)
            try:
                engine.standby(lab.replica, lab.url, workers=1)
                break
            except errors.Cancelled:
                pass
        lab.never_wrong()
        assert lab.holds(FIRST, snapshot=lab.snapshots()["1"])
        if again != "same":
            lab.cycle(newer := changed(newer) if again == "newer" else newer[: 2 * MIB + 9])
        engine.standby(lab.replica, lab.url)
        assert lab.holds(newer), at
        assert lab.holds(newer, snapshot=lab.snapshots()[str(len(lab.points))])
    assert at >= 8 and cuts[0].count >= at - steps and lab.holds(newer)


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


def test_what_somebody_wrote_since_is_not_overwritten_unasked(lab):
    """A machine that ran from it after a failover."""
    lab.cycle(FIRST)
    engine.standby(lab.replica, lab.url)
    lab.blob.upload_page(b"m" * 512, 512, 512)
    lab.cycle(newer := changed(FIRST))
    before = lab.blob.get_blob_properties().etag
    with pytest.raises(errors.Refused) as raised:
        engine.standby(lab.replica, lab.url)
    assert "was written by somebody since it was whole at point 1; --in-place" in str(raised.value)
    assert lab.blob.get_blob_properties().etag == before
    assert lab.holds(FIRST, snapshot=lab.snapshots()["1"])
    assert engine.standby(lab.replica, lab.url, in_place=True).kind == "in-place" and lab.holds(newer)


def test_what_materialize_made_is_taken_over_once_it_is_read(lab):
    lab.cycle(FIRST)
    lab.materialize()
    lab.cycle(newer := changed(FIRST))
    assert engine.standby(lab.replica, lab.url).kind == "standby" and lab.holds(newer)
    assert set(lab.snapshots()) == {"1", "2"} and lab.holds(FIRST, snapshot=lab.snapshots()["1"])


def test_a_point_that_is_gone_costs_a_look_at_all(lab):
    lab.cycle(FIRST)
    engine.standby(lab.replica, lab.url)
    for _ in range(3):
        lab.cycle(newer := changed(FIRST))
    engine.prune(lab.replica, keep=2)
    assert engine.standby(lab.replica, lab.url).kind == "standby" and lab.holds(newer)
    assert set(lab.snapshots()) == {"4"}


def test_snapshots_of_others_stay_and_ours_are_counted(lab):
    lab.cycle(FIRST)
    engine.standby(lab.replica, lab.url)
    by_hand = lab.blob.create_snapshot()["snapshot"]
    for limit, kept in ((2, {"1", "2"}), (2, {"2", "3"}), (0, set()), (None, {"4", "5"})):
        lab.cycle(changed(FIRST))
        done = engine.standby(lab.replica, lab.url, snapshots=limit)
        assert set(lab.snapshots()) == kept and done.snapshots == len(kept)
    assert lab.holds(FIRST, snapshot=by_hand)


def test_a_snapshot_whose_answer_was_lost_is_taken_once(lab, azurite, monkeypatch):
    from store.httpproxy import Trouble

    lab.cycle(FIRST)
    lost = [False]

    def plan(method, path):
        if method == "PUT" and "comp=snapshot" in path and not lost[0]:
            lost[0] = True
            return Trouble("lost")
        return None

    with proxied(azurite.port, plan) as proxy:
        text = azurite.connection_string.replace(f":{azurite.port}/", f":{proxy.port}/")
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
        done = engine.standby(lab.replica, lab.url)
    assert lost[0] and "made again" in done.warnings[0] and done.snapshots == 1
    assert len(list(lab.all_snapshots())) == 1


def test_another_replicas_disk_and_a_foreign_one_are_refused(lab, azurite, tmp_path):
    lab.cycle(FIRST)
    engine.standby(lab.replica, lab.url)
    (tmp_path / "other").mkdir()
    other = Lab(azurite, tmp_path / "other", FIRST)
    with pytest.raises(errors.Refused) as raised:
        engine.standby(other.replica, lab.url)
    assert "holds point 1" in str(raised.value)
    other.blob.upload_blob(b"mine")
    with pytest.raises(errors.Refused):
        engine.standby(other.replica, other.url, in_place=True)
    assert other.blob.download_blob().readall() == b"mine"


def run(capsys, *arguments):
    status = cli.run([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def test_the_command(lab, capsys):
    lab.cycle(FIRST)
    status, out, err = run(capsys, "materialize", lab.replica, lab.url, "--standby", "--json")
    said = json.loads(out)
    assert (status, err, said["kind"], said["snapshots"]) == (0, "", "new", 1)
    status, out, err = run(capsys, "materialize", lab.replica, lab.url, "--standby")
    assert (status, err) == (0, "") and "point 1; wrote 0 B" in out and "(unchanged)" in out
    for wrong in (["--watch", "1"], ["--snapshots", "1"], ["--take-over"], ["--standby", "--at", "1"],
                  ["--standby", "--watch", "0.2"]):  # fmt: skip
        assert run(capsys, "materialize", lab.replica, lab.url, *wrong)[0] == 2
    break_lease(lab)
    lease = lab.blob.acquire_lease()
    status, out, err = run(capsys, "materialize", lab.replica, lab.url, "--standby")
    assert status == 3 and out == "" and "somebody else holds it" in err and err.count("\n") == 1
    status, _, err = run(capsys, "materialize", lab.replica, lab.url, "--standby", "--take-over")
    assert status == 3 and "as by a machine that runs from it" in err
    lease.release()
