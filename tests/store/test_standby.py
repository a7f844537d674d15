"""A disk of Azure that follows a replica (engine/following.py), in the emulator."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest
from remote.hosting import site
from store.diskkit import BLOCK, CHANCE, FIRST, MIB, SEED, Lab, break_lease, changed, cutting, run
from store.httpproxy import listed, proxied

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.store import pageblob

pytestmark = [pytest.mark.needs("azurite"), pytest.mark.usefixtures("opens")]


@pytest.fixture
def lab(azurite, tmp_path):
    print("seed", SEED)
    return Lab(azurite, tmp_path)


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
        cycles, keep = (20, 4) if sweep else (3 if where == "folder" else 2, 2)
        for cycle in range(cycles):
            lab.cycle(data, **{"store": {}, "log": {"history": "log"}}.get(where, {"keep": keep}))
            done = engine.standby(url or lab.replica, lab.url, state=state)
            kept = {each.point for each in engine.points(url or lab.replica, state=state)}
            assert (done.kind, done.point) == ("standby" if cycle else "new", str(cycle + 1)) and done.warnings == []
            assert not cycle or done.bytes_written <= 6 * BLOCK
            assert lab.holds(data) and done.snapshots == len(kept) == len(lab.snapshots())
            if sweep or cycle + 1 == cycles:
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
    sizes = [700, 513, 2 * MIB + 5, MIB - 300]
    data = CHANCE.randbytes(3 * MIB)
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
    second, steps = changed(FIRST), 1 if sweep else 6
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
            lab.cycle(newer := changed(newer) if again == "newer" else newer[: MIB + 9])
        engine.standby(lab.replica, lab.url)
        assert lab.holds(newer), at
        assert lab.holds(newer, snapshot=lab.snapshots()[str(len(lab.points))])
    assert at >= 8 and cuts[0].count >= at - steps and lab.holds(newer)


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


def test_without_snapshots_a_note_of_the_host_saves_the_reading(lab, tmp_path, monkeypatch):
    """And where there is none, or it is of another state of the blob, all is read."""
    reads, real = [], pageblob.PageBlob.read
    monkeypatch.setattr(pageblob.PageBlob, "read", lambda self, at, n: (reads.append(n), real(self, at, n))[1])

    def read(name: str) -> int:
        reads.clear()
        done = engine.standby(lab.replica, lab.url, snapshots=0, state=tmp_path / name)
        assert (done.point, done.snapshots) == (str(len(lab.points)), 0) and lab.holds(lab.points[-1])
        return sum(reads)

    lab.cycle(FIRST)
    engine.standby(lab.replica, lab.url)
    assert (read("a"), read("a")) == (0, 0)  # first the snapshot was believed
    lab.cycle(second := changed(FIRST))
    assert read("b") >= 9 * BLOCK
    lab.cycle(changed(second))
    assert read("b") <= 6 * BLOCK
    assert read("a") >= 9 * BLOCK and read("a") == 0
    file = next((tmp_path / "a" / "disks").iterdir())
    file.write_bytes(file.read_bytes()[:-9])
    assert read("a") >= 9 * BLOCK
    lab.blob.upload_page(b"m" * 512, 512, 512)
    with pytest.raises(errors.Refused):
        read("a")


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
