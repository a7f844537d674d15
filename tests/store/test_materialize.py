"""Points as disks of Azure (engine/materialization.py), in the emulator."""

from __future__ import annotations

import json
import random

import pytest
from remote.hosting import site
from store.diskkit import MIB, Lab, break_lease, cutting, run
from store.httpproxy import listed, proxied, seeded

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.store import blobdisk, opening, pageblob
from secondsite.engine.store.base import Fenced, Held, Rejected
from secondsite.engine.store.retry import Limits

pytestmark = [pytest.mark.needs("azurite"), pytest.mark.usefixtures("opens")]
CHANCE = random.Random(7)


@pytest.fixture
def lab(azurite, tmp_path):
    return Lab(azurite, tmp_path)


def sparse(*parts: bytes | int) -> bytes:
    return b"".join(bytes(part) if isinstance(part, int) else part for part in parts)


OLD = sparse(CHANCE.randbytes(70_000), MIB, CHANCE.randbytes(65_536), MIB, CHANCE.randbytes(200_003))
NEW = sparse(70_000, MIB, CHANCE.randbytes(65_536), CHANCE.randbytes(100_000))


@pytest.mark.sweep(sample=3)
@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, MIB - 1, MIB, MIB + 1, 5 * MIB + 1003])
def test_disks_of_any_size(lab, size):
    lab.cycle(CHANCE.randbytes(size))
    done = lab.materialize()
    assert (done.point, done.kind, done.virtual_bytes, done.bytes_written) == ("1", "new", size, size)
    assert done.output_bytes == max(-(-size // MIB), 1) * MIB and done.warnings == []
    assert lab.holds(lab.points[0])


@pytest.mark.needs("qemu-img")
def test_qemu_takes_it_for_the_source(lab):
    lab.cycle(NEW)
    lab.cycle(OLD)
    lab.materialize()
    assert lab.holds(OLD)
    lab.qemu_compares()


def test_zeros_take_no_room_and_no_request(lab, azurite, monkeypatch):
    with lab.disk.open("wb") as file:
        file.truncate(1 << 40)
        for at in (0, 300 << 30, (1 << 40) - 70_000):
            file.seek(at)
            file.write(b"x" * 70_000)
    engine.replicate(lab.disk, lab.replica, block_size=MIB)
    with proxied(azurite.port, listed()) as proxy:
        text = azurite.connection_string.replace(f":{azurite.port}/", f":{proxy.port}/")
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
        lab.materialize()
        assert proxy.requests <= 24 and proxy.bodies <= 4 * MIB
    assert lab.blob.get_blob_properties().size == (1 << 40) + 512
    assert lab.blob.download_blob((1 << 40) - 70_001, 70_001 + 8).readall() == b"\0" + b"x" * 70_000 + b"conectix"
    ranges = [(each.start, each.end + 1) for each in lab.blob.list_page_ranges()]
    footer = (1 << 40, (1 << 40) + 512)
    assert ranges == [(0, MIB), (300 << 30, (300 << 30) + MIB), ((1 << 40) - MIB, 1 << 40), footer]


def test_an_older_point_and_what_is_rewritten_in_place(lab):
    lab.cycle(OLD)
    lab.cycle(NEW)
    assert lab.materialize(at="1").point == "1" and lab.holds(OLD)
    with pytest.raises(errors.Refused) as raised:
        lab.materialize()
    assert str(raised.value).startswith(f"{lab.url}: exists and holds point 1; --in-place") and lab.holds(OLD)
    # A shorter disk in whole MiB, and one that is longer again.
    assert lab.materialize(in_place=True).kind == "in-place" and lab.holds(NEW)
    assert lab.materialize(in_place=True).bytes_written == 0 and lab.holds(NEW)
    assert lab.materialize(in_place=True, at="1").kind == "in-place" and lab.holds(OLD)


@pytest.mark.sweep(sample=2)
@pytest.mark.parametrize("end", [0, 3, 512, 515])
def test_what_lies_behind_the_disk_becomes_zeros(lab, end):
    lab.cycle(OLD[: -(200_003 % 512) + end])
    lab.materialize()
    size = lab.blob.get_blob_properties().size
    at = len(lab.points[0]) // 512 * 512
    lab.blob.upload_page(b"y" * (size - at), at, size - at)
    lab.materialize(in_place=True)
    assert lab.holds(lab.points[0])


def test_what_rotted_or_was_booted_is_found_and_written_again(lab):
    lab.cycle(OLD)
    lab.materialize()
    lab.blob.upload_page(b"z" * 512, 512, 512)
    lab.blob.upload_page(b"z" * 512, 2 * MIB, 512)
    lab.blob.clear_page(len(OLD) // 512 * 512 - 512, 512)
    done = lab.materialize(in_place=True)
    assert done.bytes_written <= 3 * 65536 and lab.holds(OLD)


def test_neighbours_are_written_together_and_never_more_than_a_request_takes(lab, monkeypatch):
    """At most 4 MiB, which the emulator does not enforce."""
    lab.cycle(CHANCE.randbytes(11 * MIB))
    puts = []
    real = pageblob.PageBlob.put
    monkeypatch.setattr(pageblob.PageBlob, "put", lambda self, at, data: (puts.append(len(data)), real(self, at, data)))
    lab.materialize()
    assert sorted(puts) == [3 * MIB, 4 * MIB, 4 * MIB] and lab.holds(lab.points[0])


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("made", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("in_place", [False, True], ids=["new", "in-place"])
def test_cut_short_at_each_write_and_gone_on_with(lab, monkeypatch, sweep, in_place, made):
    """What is cut short is no disk, or a whole one; the next call makes it whole."""
    lab.cycle(OLD)
    lab.cycle(NEW)
    steps = 1 if sweep else 3
    for at in range(CHANCE.randrange(steps) + 1, 50, steps):
        lab.anew()
        if in_place:
            lab.materialize(at="1")
        with monkeypatch.context() as patch:
            cuts = cutting(patch, at, made)
            try:
                lab.materialize(in_place=in_place, workers=1)
                break
            except errors.Cancelled as error:
                assert "the next call goes on" in str(error)
        lab.never_wrong()
        done = lab.materialize(in_place=lab.state == "whole")
        assert lab.holds(NEW), (at, done)
    assert at >= 7 and cuts[0].count >= at - steps and lab.holds(NEW)


def test_what_was_written_is_not_written_again(lab, monkeypatch):
    lab.cycle(sparse(*[CHANCE.randbytes(65_536), 65_536] * 20))
    with monkeypatch.context() as patch:
        cutting(patch, 13, made=True)
        with pytest.raises(errors.Cancelled):
            lab.materialize(workers=1)
    done = lab.materialize()
    assert (done.kind, done.bytes_written) == ("continued", 9 * 65_536) and lab.holds(lab.points[0])


def test_an_unfinished_disk_goes_on_at_another_point_of_the_same_replica_only(lab, azurite, tmp_path, monkeypatch):
    lab.cycle(OLD)
    with monkeypatch.context() as patch:
        cutting(patch, 4, made=True)
        with pytest.raises(errors.Cancelled):
            lab.materialize()
    (tmp_path / "other").mkdir()
    other = Lab(azurite, tmp_path / "other", NEW)
    other.url, other.blob = lab.url, lab.blob
    with pytest.raises(errors.Refused) as raised:
        other.materialize()
    assert "is being written from another replica" in str(raised.value)
    lab.cycle(NEW)
    assert lab.materialize().kind == "continued" and lab.holds(NEW)


def test_a_killed_call_leaves_its_lease_which_runs_out(lab, monkeypatch):
    lab.cycle(OLD)
    with monkeypatch.context() as patch:
        cutting(patch, 4, made=True)
        patch.setattr("secondsite.engine.store.azure._Lease.release", lambda self: None)
        with pytest.raises(errors.Cancelled):
            lab.materialize()
    with pytest.raises(Held):
        lab.materialize()
    break_lease(lab)
    assert lab.materialize().kind == "continued" and lab.holds(OLD)


def test_another_ones_lease_is_respected(lab):
    """A virtual machine that runs from it has one."""
    lab.cycle(OLD)
    lab.materialize()
    before = lab.blob.get_blob_properties().etag
    lease = lab.blob.acquire_lease()
    with pytest.raises(Held) as raised:
        lab.materialize(in_place=True)
    assert raised.value.exit_code == errors.REFUSED and raised.value.retryable
    assert lab.blob.get_blob_properties().etag == before
    lease.release()
    assert lab.holds(OLD)


def test_a_lease_that_is_lost_ends_it(lab, monkeypatch):
    lab.cycle(OLD)
    real = pageblob.PageBlob.put

    def put(self, offset, data):
        break_lease(lab)
        real(self, offset, data)

    with monkeypatch.context() as patch:
        patch.setattr(pageblob.PageBlob, "put", put)
        with pytest.raises(Fenced):
            lab.materialize(workers=1)
    lab.never_wrong()
    assert lab.state == "writing"
    assert lab.materialize().kind == "continued" and lab.holds(OLD)


def test_what_somebody_else_put_there_stays(lab):
    lab.cycle(OLD)
    lab.blob.upload_blob(b"mine")
    for in_place in (False, True):
        with pytest.raises(errors.Refused) as raised:
            lab.materialize(in_place=in_place)
        assert "no page blob" in str(raised.value) and lab.blob.download_blob().readall() == b"mine"
    lab.anew()
    lab.blob.create_page_blob(1024, metadata={"owner": "me"})
    lab.blob.upload_page(b"m" * 1024, 0, 1024)
    with pytest.raises(errors.Refused) as raised:
        lab.materialize()
    assert "was made by somebody else" in str(raised.value)
    assert lab.blob.download_blob().readall() == b"m" * 1024
    assert lab.materialize(in_place=True).kind == "in-place" and lab.holds(OLD)
    assert lab.blob.get_blob_properties().metadata["owner"] == "me"


def test_a_disk_of_a_newer_format_is_left_alone(lab):
    lab.cycle(OLD)
    lab.materialize()
    lab.blob.set_blob_metadata({**lab.blob.get_blob_properties().metadata, "secondsite_format": "2"})
    with pytest.raises(errors.NewerFormat):
        lab.materialize(in_place=True)


def test_more_than_8_tib_is_refused_here(lab):
    """The emulator takes it."""
    tib = 1 << 40
    assert blobdisk.disk_bytes(8 * tib - MIB, "x") + 512 < 8 * tib
    with lab.disk.open("wb") as file:
        file.truncate(8 * tib - MIB + 1)
    engine.replicate(lab.disk, lab.replica, block_size=4 * MIB)
    with pytest.raises(errors.Full) as raised:
        lab.materialize()
    assert "at most 8 TiB" in str(raised.value) and not lab.blob.exists()
    with opening.open_page_blob(lab.url) as blob, pytest.raises(Rejected):
        blob.create(8 * tib + 512, {})
    with lab.disk.open("r+b") as file:
        file.truncate(3 * tib)
    engine.replicate(lab.disk, lab.replica)
    done = lab.materialize()
    assert "2040 GiB" in done.warnings[0] and done.output_bytes == 3 * tib


def test_a_damaged_point_makes_no_disk(lab):
    lab.cycle(OLD)
    with (lab.replica / "head.raw").open("r+b") as file:
        file.seek(1000)
        file.write(b"rot")
    with pytest.raises(errors.Damaged):
        lab.materialize()
    lab.never_wrong()
    assert lab.state == "writing"


def test_cycles_go_on_while_a_point_is_written(lab, monkeypatch):
    """The replica's folder has no clones, so that a cycle overwrites what is still to be read."""
    lab.cycle(OLD)
    lab.materialize()
    real = pageblob.PageBlob.put

    def put(self, offset, data):
        real(self, offset, data)
        if len(lab.points) == 1:
            lab.cycle(CHANCE.randbytes(len(OLD)))

    lab.anew()
    monkeypatch.setattr(pageblob.PageBlob, "put", put)
    assert lab.materialize(workers=1).point == "1" and len(lab.points) == 2
    assert lab.holds(OLD)


def test_a_replica_on_another_host(lab, tmp_path):
    with site(tmp_path) as made:
        state = made.host("reader", allow="read")
        lab.replica = made.root / "disk"
        lab.cycle(OLD)
        lab.cycle(NEW)
        done = engine.materialize(made.url(), lab.url, at="1", state=state)
        assert done.kind == "new" and lab.holds(OLD)
        done = engine.materialize(made.url(), lab.url, in_place=True, state=state)
        assert done.point == "2" and lab.holds(NEW)


def test_a_replica_in_a_store(lab):
    lab.replica = lab.url.removesuffix(".vhd")
    lab.cycle(OLD)
    lab.cycle(NEW)
    assert lab.materialize(at="1").kind == "new" and lab.holds(OLD)
    assert lab.materialize(in_place=True).point == "2" and lab.holds(NEW)


def _succeeds(lab, at):
    try:
        lab.materialize(at=at, in_place=True)
    except errors.Error:
        lab.never_wrong()
        return False
    return True


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("seed", range(40))
def test_faults_on_the_way_make_no_wrong_disk(lab, azurite, monkeypatch, seed):
    """503, cut connections, lost and late answers: never a wrong disk, and whole once it is called whole."""
    lab.cycle(OLD)
    lab.cycle(NEW)
    real = opening.Retrying
    quick = Limits(attempts=6, seconds=20, first=0.01, longest=0.05)
    monkeypatch.setattr(opening, "Retrying", lambda store, **how: real(store, **{**how, "limits": quick}))
    kinds = ("busy", "refused", "lost", "half", "late", "flipped")
    with proxied(azurite.port, seeded(seed, 0.15, kinds)) as proxy:
        for at in ("1", "2"):
            with monkeypatch.context() as patch:
                text = azurite.connection_string.replace(f":{azurite.port}/", f":{proxy.port}/")
                patch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
                done = any(_succeeds(lab, at) for _ in range(6))
            proxy.settle()
            break_lease(lab)
            lab.never_wrong()
            assert not done or lab.holds(lab.points[int(at) - 1]), f"seed {seed}"
    lab.materialize(at="2", in_place=True)
    assert lab.holds(NEW), f"seed {seed}"


def test_ranges_that_alternate_and_windows_that_meet(lab, monkeypatch):
    """Pages and cleared ones in turn (P38), and extents over several lists."""
    monkeypatch.setattr(pageblob, "_WINDOW", 2048)
    lab.blob.create_page_blob(MIB + 512)
    for at in range(0, 16384, 1024):
        lab.blob.upload_page(b"p" * 1024, at, 1024)
        lab.blob.clear_page(at + 512, 512)
    with opening.open_page_blob(lab.url) as blob:
        blob.find()
        found = [tuple(each) for each in blobdisk.BlobDisk(blob).extents(0, 16384)]
        part = [tuple(each) for each in blobdisk.BlobDisk(blob).extents(100, 1000)]
    assert found == [(at, 512, at % 1024 == 512) for at in range(0, 16384, 512)]
    assert part == [(100, 412, False), (512, 512, True), (1024, 76, False)]


def test_the_command(lab, capsys):
    lab.cycle(OLD)
    status, out, err = run(capsys, "materialize", lab.replica, lab.url, "--json")
    said = json.loads(out)
    assert (status, err) == (0, "") and said["output"] == lab.url and said["point"] == "1" and lab.holds(OLD)
    assert said["bytes_written"] and said["kind"] == "new" and said["output_bytes"] == 3 * MIB
    status, out, err = run(capsys, "materialize", lab.replica, lab.url)
    assert status == 3 and out == "" and "--in-place" in err and err.count("\n") == 1
    status, out, err = run(capsys, "materialize", lab.replica, lab.url, "--in-place", "--at", "1")
    assert (status, err) == (0, "") and out.startswith(f"{lab.url}: point 1; wrote 0 B of ")


@pytest.mark.parametrize("url", ["azure://tests/disk", "s3://tests/disk.vhd", "disk.vhd", "azure://tests/a.vhd?sig=x"])
def test_what_is_no_disk_of_azure_is_refused(lab, capsys, url):
    lab.cycle(OLD[:1000])
    status, out, err = run(capsys, "materialize", lab.replica, url)
    assert status == 2 and out == "" and err.count("\n") == 1 and "sig=x" not in err
