"""Reading another host's replica by its URL: the same answers as on the folder, and nothing beyond the replica."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hosting import Site, replica_of, site, soon

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.files import LocalFiles
from secondsite.engine.remote import dial, url
from secondsite.engine.remote import questions as q
from secondsite.engine.remote.far import files as far
from secondsite.engine.remote.far import point as farpoint
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.link import protocol
from secondsite.engine.replica.directory import Replica

pytestmark = pytest.mark.timeout(60)
MIB = 1 << 20


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An agent with a replica of five points, and a host `reader` that may read it."""
    folder = tmp_path_factory.mktemp("site")
    with site(folder) as made:
        chance, source = random.Random(5), folder / "disk.raw"
        source.write_bytes(chance.randbytes(6 * MIB) + bytes(2 * MIB))
        for history in ("undo", "undo", "undo", "undo", "undo"):
            engine.replicate(source, made.root / "disk", history=history, source_id="disk")
            with source.open("r+b") as file:
                for _ in range(20):
                    file.seek(chance.randrange(8 * MIB - 5000))
                    file.write(chance.randbytes(5000) if chance.random() < 0.7 else bytes(5000))
        made.host("reader", allow="read")
        yield made


@pytest.fixture
def reader(there: Site) -> Path:
    return there.folder / "reader"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- the same answers ---------------------------------------------------------------------------------------------


def test_points_and_info_are_those_of_the_folder(there: Site, reader: Path) -> None:
    assert engine.points(there.url(), state=reader) == engine.points(there.root / "disk")
    far_info, near = engine.info(there.url(), state=reader), engine.info(there.root / "disk")
    assert isinstance(far_info, engine.ReplicaInfo) and isinstance(near, engine.ReplicaInfo)
    assert far_info.head == f"{there.url()}/head.raw"
    assert dataclasses.replace(far_info, head=near.head) == near


@pytest.mark.parametrize("at", ["1", "2", "3", "4", "5", "latest"])
def test_every_point_restores_to_the_same_bytes(there: Site, reader: Path, tmp_path: Path, at: str) -> None:
    engine.restore(there.root / "disk", tmp_path / "near.raw", at=at)
    done = engine.restore(there.url(), tmp_path / "far.raw", at=at, state=reader)
    assert digest(tmp_path / "far.raw") == digest(tmp_path / "near.raw") and done.virtual_bytes == 8 * MIB
    assert not list(tmp_path.glob(".*"))


def test_a_restore_in_place_and_to_another_format(there: Site, reader: Path, tmp_path: Path) -> None:
    engine.restore(there.root / "disk", tmp_path / "near.raw", at="2")
    out = tmp_path / "far.raw"
    out.write_bytes(random.Random(9).randbytes(8 * MIB))
    engine.restore(there.url(), out, at="2", in_place=True, state=reader)
    assert digest(out) == digest(tmp_path / "near.raw")
    engine.restore(there.url(), tmp_path / "far.vhdx", at="2", format="vhdx", state=reader)
    with engine.open_image(tmp_path / "far.vhdx") as image:
        assert hashlib.sha256(image.read(0, image.size)).hexdigest() == digest(out)


@pytest.mark.parametrize("head", ["vhdx", "vhd"])
def test_a_head_in_a_container_is_read_as_its_disk(there: Site, tmp_path: Path, head: str) -> None:
    source, state = tmp_path / "disk.raw", there.host(head, head, allow="read")
    source.write_bytes(random.Random(3).randbytes(3 * MIB))
    engine.replicate(source, there.root / head, head=head, source_id="disk")
    before = digest(source)
    with source.open("r+b") as file:
        file.write(b"changed")
    engine.replicate(source, there.root / head, source_id="disk")
    engine.restore(there.url(head), tmp_path / "new.raw", state=state)
    engine.restore(there.url(head), tmp_path / "old.raw", at="1", state=state)
    assert (digest(tmp_path / "new.raw"), digest(tmp_path / "old.raw")) == (digest(source), before)


def test_verify_is_done_by_the_agent(there: Site, reader: Path) -> None:
    near, stages = engine.verify(there.root / "disk"), set()
    found = engine.verify(there.url(), state=reader, progress=lambda now: stages.add(now.stage))
    assert dataclasses.replace(found, seconds=near.seconds) == near and found.ok and stages
    assert engine.verify(there.url(), at="2", state=reader).ok


def test_verify_tells_what_is_damaged(there: Site, tmp_path: Path) -> None:
    source, state = tmp_path / "disk.raw", there.host("auditor", "bad", allow="read")
    source.write_bytes(random.Random(3).randbytes(2 * MIB))
    engine.replicate(source, there.root / "bad", source_id="disk")
    with (there.root / "bad" / "head.raw").open("r+b") as file:
        file.seek(MIB)
        file.write(b"damage")
    found = engine.verify(there.url("bad"), state=state)
    assert not found.ok and found.bad == engine.verify(there.root / "bad").bad != []
    with pytest.raises(errors.Damaged, match="not what it was"):
        engine.restore(there.url("bad"), tmp_path / "out.raw", state=state)
    assert not (tmp_path / "out.raw").exists()


def test_verify_against_a_source_reads_only_the_map(there: Site, reader: Path, tmp_path: Path) -> None:
    engine.restore(there.root / "disk", tmp_path / "same.raw")
    assert engine.verify(there.url(), source=tmp_path / "same.raw", state=reader).ok
    with (tmp_path / "same.raw").open("r+b") as file:
        file.seek(3 * MIB)
        file.write(b"other")
    found = engine.verify(there.url(), source=tmp_path / "same.raw", state=reader)
    assert [(r.offset, r.length) for r in found.bad] == [(3 * MIB, 64 << 10)]


def test_a_map_of_the_newest_point(there: Site, reader: Path, tmp_path: Path) -> None:
    found = list(engine.image_map(there.url(), state=reader))
    assert [e.start for e in found] == [0, *(e.start + e.length for e in found)][:-1]
    assert sum(e.length for e in found) == 8 * MIB
    engine.restore(there.root / "disk", tmp_path / "near.raw")
    data = (tmp_path / "near.raw").read_bytes()
    assert all(not any(data[e.start : e.start + e.length]) for e in found if e.zero)


def test_open_point_and_many_readers_at_once(there: Site, reader: Path, tmp_path: Path) -> None:
    engine.restore(there.root / "disk", tmp_path / "near.raw", at="1")
    data, wrong = (tmp_path / "near.raw").read_bytes(), []
    with engine.open_point(there.url(), "1", state=reader) as image:

        def read(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(40):
                at = chance.randrange(8 * MIB - 1)
                length = min(chance.randrange(1, 700_000), 8 * MIB - at)
                if image.read_bytes(at, length) != data[at : at + length]:
                    wrong.append((at, length))

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)
    assert not wrong


# -- points that stand --------------------------------------------------------------------------------------------


def test_a_point_stays_what_it_is_while_cycles_go_on(there: Site, tmp_path: Path) -> None:
    state, source = there.host("drill", "drill", allow="read"), replica_of(there, "drill", tmp_path)
    before = source.read_bytes()
    with farpoint.FarPoint(url.parse(there.url("drill")), Home.of(state)) as point:
        assert point.read_bytes(0, MIB) == before[:MIB]
        source.write_bytes(random.Random(4).randbytes(2 * MIB))
        engine.replicate(source, there.root / "drill", source_id="disk")
        assert point.read_bytes(0, 2 * MIB) == before and point.name == "1"


def test_a_point_goes_on_over_a_connection_that_broke(there: Site, tmp_path: Path) -> None:
    state, source = there.host("again", "again", allow="read"), replica_of(there, "again", tmp_path)
    with farpoint.FarPoint(url.parse(there.url("again")), Home.of(state)) as point:
        connection = point._connection
        assert connection is not None
        connection.close()
        assert point.read_bytes(MIB, MIB) == source.read_bytes()[MIB:]
        assert point._connection is not connection


def test_a_point_that_another_took_the_place_of_is_not_read_on(there: Site, tmp_path: Path) -> None:
    state, _ = there.host("swap", "swap", allow="read"), replica_of(there, "swap", tmp_path)
    with farpoint.FarPoint(url.parse(there.url("swap")), Home.of(state)) as point:
        (there.root / "swap").rename(tmp_path / "away")
        (tmp_path / "disk.raw").write_bytes(random.Random(8).randbytes(2 * MIB))
        engine.replicate(tmp_path / "disk.raw", there.root / "swap", source_id="disk")
        assert point._connection is not None
        point._connection.close()
        with pytest.raises(errors.Damaged, match="another replica took its place"):
            point.read_bytes(0, 4096)


def test_a_served_point_reads_over_nbd(there: Site, reader: Path, tmp_path: Path) -> None:
    engine.restore(there.root / "disk", tmp_path / "near.raw", at="3")
    sock, data = str(tmp_path / "nbd.sock"), (tmp_path / "near.raw").read_bytes()
    with (
        engine.serve(there.url(), "3", socket=sock, state=reader, overlay=tmp_path / "over") as serving,
        engine.open_image(serving.urls[0], format="raw") as image,
    ):
        assert serving.point == "3" and image.read_bytes(0, image.size) == data
        assert serving.writable


# -- locks, and what changes meanwhile ----------------------------------------------------------------------------


def test_a_far_reader_keeps_cycles_away_until_it_ends(
    there: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secondsite.engine.replica.directory.READER_SECONDS", 0.1)
    state, source = there.host("keeper", "keep", allow="read"), replica_of(there, "keep", tmp_path)
    source.write_bytes(random.Random(4).randbytes(2 * MIB))
    with engine.open_point(there.url("keep"), state=state), pytest.raises(errors.Busy):
        engine.replicate(source, there.root / "keep", source_id="disk")
    assert engine.replicate(source, there.root / "keep", source_id="disk").generation == 2
    with Replica.open(str(there.root / "keep")).writing(), pytest.raises(errors.Busy):
        engine.restore(there.url("keep"), tmp_path / "out.raw", state=state)


def test_a_reader_that_goes_away_without_a_word_lets_go(there: Site, tmp_path: Path) -> None:
    state, source = there.host("gone", "gone", allow="read"), replica_of(there, "gone", tmp_path)
    connection = dial.connect(url.parse(there.url("gone")), Home.of(state))
    files = far.FarFiles(connection, there.url("gone"), "gone")
    assert files.lock(f"{there.url('gone')}/lock", exclusive=False) is not None
    with pytest.raises(errors.Busy), Replica.open(str(there.root / "gone")).writing():
        pass
    connection.close()
    connection.join()
    source.write_bytes(random.Random(4).randbytes(2 * MIB))

    def free() -> bool:
        try:
            return engine.replicate(source, there.root / "gone", source_id="disk").generation == 2
        except errors.Busy:
            return False

    assert soon(free)


def test_a_cycle_that_was_cut_short_is_taken_back_for_a_far_reader(there: Site, tmp_path: Path) -> None:
    state, _ = there.host("cut", "cut", allow="read"), replica_of(there, "cut", tmp_path)
    (there.root / "cut" / "next-000000000002.map").write_bytes(b"half")
    assert [point.damaged for point in engine.points(there.url("cut"), state=state)] == [False]
    assert not (there.root / "cut" / "next-000000000002.map").exists()


def test_what_changes_shows_after_a_moment(there: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(far, "_MOMENT", 0.05)
    state, source = there.host("fresh", "fresh", allow="read"), replica_of(there, "fresh", tmp_path)
    with there.connect(state, "fresh") as connection:
        replica = Replica.open(there.url("fresh"), far.FarFiles(connection, there.url("fresh"), "fresh"))
        assert replica.head_generation() == 1
        source.write_bytes(random.Random(4).randbytes(2 * MIB))
        engine.replicate(source, there.root / "fresh", source_id="disk")
        assert soon(lambda: replica.head_generation() == 2)


# -- maintenance --------------------------------------------------------------------------------------------------


def test_pruning_and_fencing_need_to_be_allowed(there: Site, tmp_path: Path) -> None:
    source = replica_of(there, "kept", tmp_path)
    for seed in (4, 5, 6):
        source.write_bytes(random.Random(seed).randbytes(2 * MIB))
        engine.replicate(source, there.root / "kept", source_id="disk")
    reader, owner = there.host("r", "kept", allow="read,send"), there.host("o", "kept", allow="read,administer")
    with pytest.raises(errors.Refused, match="may not administer kept"):
        engine.prune(there.url("kept"), keep=2, state=reader)
    with pytest.raises(errors.Refused, match="may not administer kept"):
        engine.raise_epoch(there.url("kept"), 7, state=reader)
    assert engine.prune(there.url("kept"), keep=2, state=owner) == 2
    assert [point.generation for point in engine.points(there.url("kept"), state=owner)] == [3, 4]
    assert engine.prune(there.url("kept"), drop=["3"], state=owner) == 1
    assert engine.raise_epoch(there.url("kept"), 7, state=owner) == 7
    with pytest.raises(errors.Refused, match="failover"):
        engine.replicate(source, there.root / "kept", epoch=6, source_id="disk")
    with pytest.raises(errors.Refused, match="newest point"):
        engine.prune(there.url("kept"), drop=["4"], state=owner)


def test_who_may_only_send_reads_nothing(there: Site, tmp_path: Path) -> None:
    state = there.host("blind", "disk", allow="send")
    for call in (
        lambda: engine.points(there.url(), state=state),
        lambda: engine.restore(there.url(), tmp_path / "out.raw", state=state),
        lambda: engine.verify(there.url(), state=state),
        lambda: list(engine.image_map(there.url(), state=state)),
    ):
        with pytest.raises(errors.Refused, match="may not read disk"):
            call()


def test_what_is_not_there_is_said_as_for_a_folder(there: Site, tmp_path: Path) -> None:
    state = there.host("early", "later", "empty", allow="read")
    with pytest.raises(errors.Unreachable, match="no such replica"):
        engine.points(there.url("later"), state=state)
    (there.root / "empty").mkdir()
    with pytest.raises(errors.Refused, match="not a replica"):
        engine.info(there.url("empty"), state=state)


# -- hostile readers and agents -----------------------------------------------------------------------------------

BAD_PATHS = ["..", "../other", "/etc/passwd", "points/../../x", "a\0b", ".", "points/..", "points//x", "x/y", ".lock"]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_path_that_leaves_the_replica_is_refused(there: Site, reader: Path, path: str) -> None:
    questions: list[tuple[str, Any]] = [
        ("look", q.Look("disk", path)), ("list", q.List("disk", path)),
        ("peek", q.Peek("disk", [path])), ("open", q.Open("disk", path)),
    ]  # fmt: skip
    with there.connect(reader) as connection:
        for operation, asked in questions:
            with pytest.raises(errors.Refused, match="no file of a replica"):
                connection.ask(operation, asked, q.Seen)


def test_a_link_in_a_replica_is_not_read(there: Site, tmp_path: Path) -> None:
    state, _ = there.host("linked", "linked", allow="read"), replica_of(there, "linked", tmp_path)
    (there.root / "linked" / "secret").symlink_to("/etc/hostname")
    with there.connect(state, "linked") as connection:
        for operation, asked in (("open", q.Open("linked", "secret")), ("peek", q.Peek("linked", ["secret"]))):
            with pytest.raises(errors.Refused, match="is a link"):
                connection.ask(operation, asked, q.Opened)


@pytest.mark.parametrize("asked", [
    q.Read(-1, 10), q.Read(0, 0), q.Read(0, q.MAX_READ + 1), q.Read(8 * MIB - 1, 2), q.Read(1 << 62, 1), q.Holes(0, -1),
    q.Holes(0, 1 << 61), q.Count(3),
])  # fmt: skip
def test_a_read_out_of_bounds_is_refused(there: Site, reader: Path, asked: Any) -> None:
    with there.connect(reader) as connection:
        call = connection.call("open", q.Open("disk", "head.raw"))
        protocol.decode(call.receive(10).control, q.Opened, "it")
        call.send(asked)
        with pytest.raises(errors.Damaged):
            call.receive(10)
        assert connection.failed is None


def test_too_many_requests_of_one_connection_are_busy(there: Site, reader: Path) -> None:
    with there.connect(reader) as connection:
        calls = [connection.call("open", q.Open("disk", "head.raw")) for _ in range(40)]
        outcomes = []
        for call in calls:
            try:
                call.receive(10)
                outcomes.append(True)
            except errors.Busy:
                outcomes.append(False)
        assert outcomes.count(True) == 32 and not outcomes[-1]


@pytest.mark.parametrize("kind", ["names", "glance", "size", "read", "extents"])
def test_an_agent_that_lies_is_caught(kind: str) -> None:
    """What an agent answers is checked as much as what it is asked."""
    import socket

    from secondsite.engine.remote.link.connection import Connection

    near, remote = socket.socketpair()

    def lie() -> None:
        with Connection(remote, "source", client=False) as connection:
            while (call := connection.accept(10)) is not None:
                if call.operation == "list":
                    names = [] if kind == "names" else [10 * MIB]
                    call.send(q.Names(["head.raw"], names, False))
                elif call.operation == "peek":
                    head = 4096 if kind != "glance" else 4097
                    call.send(q.Glances([q.Glance(10 * MIB, 1, head, 0)]), bytes(head))
                elif call.operation == "open":
                    call.send(q.Opened(10 * MIB - (kind == "size"), 1))
                    for body in (b"short",) if kind == "read" else ():
                        call.send(None, body)
                    if kind == "extents":
                        call.send(q.Extents([-5, 5], [True, False]))

    def serve() -> None:
        try:
            lie()
        except errors.Error:
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    with Connection(near, "agent", client=True) as connection:
        files = far.FarFiles(connection, "secondsite://h/disk", "disk")
        with pytest.raises((protocol.Garbled, errors.Busy)):
            files.size("secondsite://h/disk/head.raw")
            image = files.open("secondsite://h/disk/head.raw", "r")
            if kind == "extents":
                list(image.extents(0, image.size))
            image.read_bytes(MIB, 100_000)
    thread.join(10)


def test_nothing_is_written_through_a_url(there: Site, reader: Path) -> None:
    with there.connect(reader) as connection:
        files, path = far.FarFiles(connection, there.url(), "disk"), f"{there.url()}/head.raw"
        for call in (
            lambda: files.open(path, "rw"), lambda: files.open(path, "create"), lambda: files.unlink(path),
            lambda: files.replace("/x", path), lambda: files.link(path, "/x"), lambda: files.mkdir(path),
        ):  # fmt: skip
            with pytest.raises(errors.Refused):
                call()
        assert not files.clone(path, "/nowhere") and isinstance(files.local, LocalFiles)
        with files.open(path, "r") as image:
            for write in (lambda: image.write(0, b"x"), lambda: image.zero(0, 1), lambda: image.resize(1)):
                with pytest.raises(errors.Refused):
                    write()
