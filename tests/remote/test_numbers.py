"""Numbers that no record can hold are refused before anything is written, whoever gives them; and who may fence."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hosting import Site

from secondsite import engine
from secondsite.engine import errors, units
from secondsite.engine.remote import questions, talk
from secondsite.engine.remote.link import protocol
from secondsite.engine.replica.identity import Identity

pytestmark = pytest.mark.timeout(60)
SIZE = 300_000
ABOVE = [1 << 63, (1 << 64) - 1]
NONE = [ABOVE[0], 10**20, -1]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


def epoch(there: Site) -> int:
    return engine.info(there.root / "disk").epoch or 0


def begins(there: Site, state: Path, **more: Any) -> protocol.Message:
    """What the agent answers to a source that does not look at its own numbers."""
    told = {"name": "disk", "source": "name:disk", "source_format": "raw", "size": SIZE, **more}
    with there.connect(state) as connection, connection.call(talk.OPERATION, talk.Begin(**told)) as call:
        return call.receive()


# -- numbers that are none -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", NONE)
@pytest.mark.parametrize("name", ["epoch", "keep", "block_size"])
@pytest.mark.parametrize("far", [False, True], ids=["folder", "agent"])
def test_the_source_refuses_a_number_that_no_record_holds(
    there: Site, disk: Path, name: str, number: int, far: bool
) -> None:
    state = there.host(allow="send,administer")
    with pytest.raises(errors.Usage):
        engine.replicate(disk, there.url() if far else there.root / "disk", state=state, **{name: number})
    assert not (there.root / "disk").exists()


@pytest.mark.parametrize("far", [False, True], ids=["folder", "agent"])
def test_so_do_prune_and_raise_epoch(there: Site, disk: Path, far: bool) -> None:
    state = there.host(allow="send,administer")
    engine.replicate(disk, there.url(), state=state)
    replica = there.url() if far else there.root / "disk"
    for number in NONE:
        with pytest.raises(errors.Usage):
            engine.prune(replica, keep=number, state=state)
        with pytest.raises(errors.Usage):
            engine.raise_epoch(replica, number, state=state)
    assert engine.raise_epoch(replica, units.MAX_NUMBER, state=state) == epoch(there) == units.MAX_NUMBER


@pytest.mark.parametrize("number", ABOVE)
@pytest.mark.parametrize("name", ["epoch", "keep", "block_size", "size"])
def test_the_agent_writes_no_such_number(there: Site, disk: Path, name: str, number: int) -> None:
    state = there.host(allow="send,administer")
    engine.replicate(disk, there.url(), state=state, source_id="disk")
    before = {path: path.read_bytes() for path in (there.root / "disk").rglob("*") if path.is_file()}
    with pytest.raises((errors.Usage, protocol.Garbled)):
        begins(there, state, **{name: number})
    assert {path: path.read_bytes() for path in before} == before
    assert engine.verify(there.root / "disk").ok


@pytest.mark.parametrize("number", [*ABOVE, -1])
@pytest.mark.parametrize("name", ["read_bytes", "changed_bytes", "sent_bytes"])
def test_what_a_source_says_at_the_end_leaves_the_replica_readable(
    there: Site, disk: Path, name: str, number: int
) -> None:
    """The point's record has these numbers."""
    state = there.host()
    engine.replicate(disk, there.url(), state=state, source_id="disk")
    said = talk.Begin(name="disk", source="name:disk", source_format="raw", size=0)
    with there.connect(state) as connection, connection.call(talk.OPERATION, said) as call:
        call.receive()
        counts = {"read_bytes": 0, "changed_bytes": 0, "sent_bytes": 0, name: number}
        call.send(talk.Finish(seal="0" * 64, tracker="scan", **counts))
        with pytest.raises(protocol.Garbled, match="expected"):
            call.receive()
    assert engine.verify(there.root / "disk").ok


@pytest.mark.parametrize("number", ABOVE)
def test_the_agent_raises_no_epoch_that_is_none(there: Site, disk: Path, number: int) -> None:
    state = there.host(allow="send,administer")
    engine.replicate(disk, there.url(), state=state)
    with there.connect(state) as connection, pytest.raises(errors.Usage):
        connection.ask("raise-epoch", questions.RaiseEpoch("disk", number), questions.Count)
    assert epoch(there) == 1


# -- who may raise an epoch ----------------------------------------------------------------------------------------


def test_who_may_only_send_raises_no_epoch(there: Site, disk: Path) -> None:
    state = there.host()
    engine.replicate(disk, there.url(), state=state, epoch=3)  # a new replica begins with it
    disk.write_bytes(disk.read_bytes()[::-1])
    for resync in (False, True):
        with pytest.raises(errors.Refused, match="may not administer disk"):
            engine.replicate(disk, there.url(), state=state, epoch=4, resync=resync)
        with pytest.raises(errors.Refused, match="is at epoch 3, this source at 2"):
            engine.replicate(disk, there.url(), state=state, epoch=2, resync=resync)
    assert epoch(there) == 3 and len(engine.points(there.root / "disk")) == 1
    assert engine.replicate(disk, there.url(), state=state, epoch=3).kind == "delta"


def test_who_may_administer_raises_it(there: Site, disk: Path) -> None:
    state = there.host(allow="send,administer")
    engine.replicate(disk, there.url(), state=state)
    disk.write_bytes(disk.read_bytes()[::-1])
    assert engine.replicate(disk, there.url(), state=state, epoch=5).kind == "delta"
    assert epoch(there) == 5


def test_nor_does_who_sends_a_seed(there: Site, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replica waits for its first seed; another announcement with a higher epoch would fence its source off."""
    one, two = there.host("one"), there.host("two")
    engine.export_seed(disk, tmp_path / "seed", replica=there.url(), state=one, source_id="disk")
    monkeypatch.setattr(Identity, "new", classmethod(lambda cls, *about: _later(*about)))
    with pytest.raises(errors.Refused, match="may not administer disk"):
        engine.export_seed(disk, tmp_path / "other", replica=there.url(), state=two, source_id="disk", anew=True)
    assert epoch(there) == 1


def _later(*about: Any) -> Any:
    """An identity as a source makes one that wants to fence."""
    return Identity(b"\1" * 16, about[0], 7, 9, about[1], about[2], "undo", *about[4:5], "raw")
