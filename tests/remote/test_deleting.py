"""R1.10: a replica at an agent is deleted by a host that may administer it, and only the one that is meant."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hosting import Site, soon

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.replica.directory import Replica


@pytest.fixture
def state(there: Site) -> Path:
    return there.host("source", "disk", "other", allow="send,read,administer")


def sent(there: Site, state: Path, disk: Path, name: str = "disk") -> str:
    """A replica that the agent keeps; its id."""
    engine.replicate(disk, there.url(name), state=state)
    found = engine.info(there.url(name), state=state)
    assert isinstance(found, engine.ReplicaInfo)
    return found.replica_id


def test_it_is_gone_whole_and_so_it_is_again(there: Site, state: Path, disk: Path) -> None:
    known, kept = sent(there, state, disk), sent(there, state, disk, "other")
    assert engine.delete_replica(there.url(), replica_id=known, state=state)
    assert not (there.root / "disk").exists() and engine.verify(there.root / "other").ok
    assert not engine.delete_replica(there.url(), replica_id=known, state=state)
    assert sent(there, state, disk) not in (known, kept)


def test_another_replica_and_a_later_epoch_stay(there: Site, state: Path, disk: Path) -> None:
    """D9: a host that was fenced off deletes nothing."""
    known, other = sent(there, state, disk), sent(there, state, disk, "other")
    with pytest.raises(errors.Refused, match="is another replica"):
        engine.delete_replica(there.url(), replica_id=other, state=state)
    engine.raise_epoch(there.url(), 5, state=state)
    with pytest.raises(errors.Refused, match="is in epoch 5, and this comes from 4"):
        engine.delete_replica(there.url(), replica_id=known, epoch=4, state=state)
    assert engine.verify(there.root / "disk", source=disk).ok
    assert engine.delete_replica(there.url(), replica_id=known, epoch=5, state=state)


def test_who_may_only_send_or_read_deletes_nothing(there: Site, state: Path, disk: Path) -> None:
    known = sent(there, state, disk)
    less = there.host("less", "disk", allow="send,read")
    with pytest.raises(errors.Refused, match="administer"):
        engine.delete_replica(there.url(), replica_id=known, state=less)
    elsewhere = there.host("elsewhere", "other", allow="send,read,administer")
    with pytest.raises(errors.Refused):
        engine.delete_replica(there.url(), replica_id=known, state=elsewhere)
    assert engine.verify(there.root / "disk").ok


def test_one_that_is_read_or_written_is_busy(there: Site, state: Path, disk: Path) -> None:
    known = sent(there, state, disk)
    with engine.open_point(there.root / "disk"), pytest.raises(errors.Busy):
        engine.delete_replica(there.url(), replica_id=known, state=state)
    with Replica.open(str(there.root / "disk")).writing(), pytest.raises(errors.Busy):
        engine.delete_replica(there.url(), replica_id=known, state=state)
    assert engine.delete_replica(there.url(), replica_id=known, state=state)


def test_a_host_that_is_sending_keeps_it(there: Site, state: Path, disk: Path) -> None:
    """Between two frames nobody writes, and the spool is there all the same."""
    known = sent(there, state, disk)
    disk.write_bytes(bytes(reversed(disk.read_bytes())))
    thread = threading.Thread(
        target=engine.replicate, args=(disk, there.url()), kwargs={"state": state, "limit": 1 << 20}
    )
    thread.start()
    try:
        assert soon(lambda: (there.root / "disk" / "incoming.spool").exists())
        with pytest.raises(errors.Busy):
            engine.delete_replica(there.url(), replica_id=known, state=state)
    finally:
        thread.join()
    assert engine.verify(there.root / "disk", source=disk).ok


def test_a_killed_deletion_is_gone_on_with(there: Site, state: Path, disk: Path) -> None:
    known = sent(there, state, disk)
    folder = there.root / "disk"
    for name in [one.name for one in folder.iterdir() if one.name not in ("replica.json", "lock", "incoming.lock")]:
        path = folder / name
        if path.is_dir():
            for below in path.iterdir():
                below.unlink()
            path.rmdir()
        else:
            path.unlink()
    assert engine.delete_replica(there.url(), replica_id=known, state=state) and not folder.exists()
    folder.mkdir()
    (folder / "incoming.lock").touch()
    assert not engine.delete_replica(there.url(), replica_id=known, state=state) and not folder.exists()
