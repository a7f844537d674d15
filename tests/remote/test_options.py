"""What `replicate` asks of an agent beside the data: how many points stay, how they are kept; and who may ask."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hosting import Site, site
from transfer import BLOCK, Pair, scribble

from secondsite import engine
from secondsite.engine import errors, source
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.remote import talk
from secondsite.engine.remote.agent.service import Agent
from secondsite.engine.remote.home import Home
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.link.connection import Connection
from secondsite.engine.remote.sending.mapcache import MapCache
from secondsite.engine.remote.trust import access

pytestmark = pytest.mark.timeout(60)
SIZE = 400_000


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


def write(path: Path, number: int) -> bytes:
    """A change; all of the disk afterwards."""
    with path.open("r+b") as file:
        file.seek(number * 1000)
        file.write(random.Random(number).randbytes(70_000))
    return path.read_bytes()


def listed(there: Site, name: str = "disk") -> list[int]:
    return [point.generation for point in engine.points(there.root / name)]


def restores(there: Site, generation: int, data: bytes) -> None:
    out = there.folder / f"out-{generation}"
    engine.restore(there.root / "disk", out, at=str(generation))
    assert out.read_bytes() == data


# -- how many points stay ------------------------------------------------------------------------------------------


def test_who_may_administer_drops_old_points(there: Site, disk: Path) -> None:
    state = there.host(allow="send,administer")
    kept = {1: write(disk, 1)}
    engine.replicate(disk, there.url(), state=state, keep=2)
    for number in (2, 3, 4):
        kept[number] = write(disk, number)
        done = engine.replicate(disk, there.url(), state=state, keep=2)
        assert (done.kind, done.pruned) == ("delta", int(number > 2))
    assert listed(there) == [3, 4]
    assert engine.replicate(disk, there.url(), state=state, keep=1).pruned == 1  # nothing changed, and it counts
    assert listed(there) == [4]
    restores(there, 4, kept[4])


def test_who_may_only_send_cannot_drop_a_point(there: Site, disk: Path) -> None:
    state = there.host()
    engine.replicate(disk, there.url(), state=state)
    write(disk, 1)
    with pytest.raises(errors.Refused, match="may not administer disk"):
        engine.replicate(disk, there.url(), state=state, keep=1)
    assert listed(there) == [1]
    assert not [path for path in (there.root / "disk").iterdir() if path.name.startswith("incoming.spool")]


def test_what_may_be_dropped_is_asked_again_at_the_end(
    there: Site, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was allowed at the beginning and is not any more: the point is there, and no older one went."""
    state = there.host(allow="send,administer")
    engine.replicate(disk, there.url(), state=state)
    write(disk, 1)
    was, asked = access.require, list[str]()

    def require(book: Any, pin: str, action: access.Action, replica: str) -> None:
        asked.append(action)
        if action == "administer" and asked.count("administer") > 1:
            raise errors.Refused("source may not administer disk")
        was(book, pin, action, replica)

    monkeypatch.setattr(access, "require", require)
    done = engine.replicate(disk, there.url(), state=state, keep=1)
    assert (done.kind, done.pruned) == ("delta", 0) and "were not dropped" in done.warnings[0]
    assert listed(there) == [1, 2]


def test_the_operator_of_the_agent_says_how_many_stay(tmp_path: Path, disk: Path) -> None:
    with site(tmp_path) as there:
        state = there.host(allow="send,administer")
        kept = {1: disk.read_bytes()}
        engine.replicate(disk, there.url(), state=state)
    with Agent(str(there.root), Home.of(there.there), keep=3) as agent:
        agent.listen("127.0.0.1", there.port)
        for number in (2, 3, 4, 5):
            kept[number] = write(disk, number)
            engine.replicate(disk, there.url(), state=state, keep=7)  # more than that is not kept
        assert listed(there) == [3, 4, 5]
        for generation in (3, 4, 5):
            restores(there, generation, kept[generation])
        assert engine.replicate(disk, there.url(), state=state, keep=2).pruned == 1


@pytest.mark.parametrize("bad", [{"keep": 0}, {"keep": -3}, {"history": "copies"}])
def test_options_that_are_none(there: Site, disk: Path, bad: dict[str, Any]) -> None:
    state = there.host(allow="send,administer")
    with pytest.raises(errors.Usage):
        engine.replicate(disk, there.url(), state=state, **bad)
    begin = talk.Begin(name="disk", source="name:d", source_format="raw", size=SIZE, **bad)
    with (
        there.connect(state) as connection,
        pytest.raises(errors.Usage),
        connection.call(talk.OPERATION, begin) as call,
    ):
        call.receive()
    assert not (there.root / "disk").exists()


# -- how points are kept -------------------------------------------------------------------------------------------


def test_history_is_the_one_that_is_asked_for() -> None:
    pair = Pair(MemoryImage(random.Random(1).randbytes(100 * BLOCK)), MemoryFiles(clones=True))
    chance = random.Random(2)
    pair.cycle(history="undo")
    pair.note()
    for history in ("undo", "clone", "auto", "undo"):
        scribble(pair.image, chance, 20)
        assert pair.cycle(history=history).done.history == ("undo" if history == "undo" else "clone")
        pair.note()
    pair.check()


def test_clones_that_cannot_be_are_refused_before_anything_is_sent() -> None:
    pair = Pair(MemoryImage(random.Random(1).randbytes(100 * BLOCK)))
    with pytest.raises(errors.Refused, match="cannot clone"):
        pair.cycle(history="clone")
    pair.cycle()
    pair.note()
    pair.image.write(0, b"x")
    with pytest.raises(errors.Refused, match="cannot clone"):
        pair.cycle(history="clone")
    assert not [name for name in pair.files.listdir(pair.root) if name.startswith("incoming.s") or "tmp" in name]
    pair.check()


# -- whether times are believed ------------------------------------------------------------------------------------


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """This test's folder may lie on a file system that is not trusted; and ctime cannot be set back."""
    monkeypatch.setattr(source, "file_system", lambda path: "ext4")
    monkeypatch.setattr(source, "RACY_NS", -60_000_000_000)


@pytest.mark.usefixtures("trusting")
def test_trust_mtime_skips_the_scan_of_an_unchanged_file(there: Site, disk: Path) -> None:
    state = there.host()
    assert engine.replicate(disk, there.url(), state=state, trust_mtime=True).tracker == "scan"
    done = engine.replicate(disk, there.url(), state=state, trust_mtime=True)
    assert (done.kind, done.tracker, done.read_bytes, done.scanned) == ("unchanged", "mtime", 0, False)
    assert "times" in done.why
    write(disk, 1)
    assert engine.replicate(disk, there.url(), state=state, trust_mtime=True).kind == "delta"
    assert engine.replicate(disk, there.url(), state=state, trust_mtime=True).tracker == "mtime"
    assert engine.replicate(disk, there.url(), state=state).tracker == "scan"


@pytest.mark.usefixtures("trusting")
def test_what_is_written_while_a_cycle_ends_is_not_taken_for_sent(
    there: Site, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The times that count are those from before the source was read."""
    state, was = there.host(), MapCache.keep

    def keep(self: MapCache, block_map: Any) -> None:
        was(self, block_map)
        write(disk, 5)

    with monkeypatch.context() as patch:
        patch.setattr(MapCache, "keep", keep)
        engine.replicate(disk, there.url(), state=state)
    assert engine.replicate(disk, there.url(), state=state, trust_mtime=True).kind == "delta"
    assert (there.root / "disk/head.raw").read_bytes() == disk.read_bytes()


@pytest.mark.usefixtures("trusting")
def test_times_are_not_believed_of_another_point_with_the_same_number(there: Site, disk: Path, tmp_path: Path) -> None:
    """The agent's folder was put back to an older state, and another host made the next point."""
    state, other = there.host("one"), there.host("two")
    engine.replicate(disk, there.url(), state=state, source_id="disk")
    with_one = {path: path.read_bytes() for path in (there.root / "disk").rglob("*") if path.is_file()}
    write(disk, 1)
    engine.replicate(disk, there.url(), state=state, source_id="disk")
    for path in [path for path in (there.root / "disk").rglob("*") if path.is_file()]:
        path.unlink()
    for path, data in with_one.items():
        path.write_bytes(data)
    elsewhere = tmp_path / "elsewhere.img"
    elsewhere.write_bytes(random.Random(9).randbytes(SIZE))
    assert engine.replicate(elsewhere, there.url(), state=other, source_id="disk").generation == 2
    assert engine.replicate(disk, there.url(), state=state, source_id="disk", trust_mtime=True).kind == "delta"
    assert (there.root / "disk/head.raw").read_bytes() == disk.read_bytes()


def test_only_the_replica_that_is_meant_is_gone_on_with(there: Site, disk: Path) -> None:
    """What an agent made for a source that then goes holds no point, and is not mistaken for another replica."""
    state = there.host("one")
    engine.replicate(disk, there.url(), state=state)
    known = engine.info(there.root / "disk").replica_id
    write(disk, 1)
    assert engine.replicate(disk, there.url(), state=state, replica_id=known).generation == 2
    write(disk, 2)
    with pytest.raises(errors.Refused, match=f"is replica {known}, and not 0{{32}}, which was meant"):
        engine.replicate(disk, there.url(), state=state, replica_id="0" * 32)
    assert listed(there) == [1, 2]
    (there.root / "disk").rename(there.root / "away")
    for _ in range(2):
        with pytest.raises(errors.NoReplica, match=f"replica {known} is not there, and none is begun in its place"):
            engine.replicate(disk, there.url(), state=state, replica_id=known)
    assert listed(there) == []


# -- older programs ------------------------------------------------------------------------------------------------


class OldBegin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """As agents of version 1 know it."""

    name: str
    source: str
    source_format: str
    size: int
    block_size: int | None = None
    head: str | None = None
    epoch: int | None = None
    accept_source: bool = False


class OldDone(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="done", kw_only=True):
    """As sources of version 1 know it."""

    kind: str
    generation: int
    seal: str
    time: str
    history: str


def test_an_agent_of_version_1_is_asked_for_nothing_that_it_does_not_know(
    there: Site, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = Connection._hello

    def hello(self: Connection, software: str) -> None:
        was(self, software)
        self.version = 1

    monkeypatch.setattr(Connection, "_hello", hello)
    state = there.host(allow="send,administer")
    assert engine.replicate(disk, there.url(), state=state).kind == "initial"
    for new, named in (({"keep": 1}, "--keep"), ({"history": "undo"}, "--history")):
        with pytest.raises(errors.Refused, match=f"its agent is too old for {named}; it must be updated"):
            engine.replicate(disk, there.url(), state=state, **new)  # type: ignore[arg-type]


def test_messages_without_anything_new_are_those_of_version_1() -> None:
    begin = talk.Begin(name="disk", source="name:d", source_format="raw", size=1, epoch=4)
    assert protocol.decode(protocol.encode(begin), OldBegin, "peer").epoch == 4
    done = talk.Done(kind="delta", generation=2, seal="0" * 64, time="now", history="undo")
    assert protocol.decode(protocol.encode(done), OldDone, "peer").generation == 2
