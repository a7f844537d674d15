"""A replica is deleted: all that is its own and nothing else, whenever the deletion was killed before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.replica import lease

SIZE = 1 << 20


@pytest.fixture(params=["undo", "log"])
def replica(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """With three points, and what a killed cycle may leave."""
    source, made = tmp_path / "vm.raw", tmp_path / "replicas" / "vm"
    made.parent.mkdir()
    for _ in range(3):
        source.write_bytes(os.urandom(SIZE))
        engine.replicate(source, made, history=request.param)
    return made


def identity(replica: Path) -> str:
    return getattr(engine.info(replica), "replica_id", "")


def test_a_replica_goes_whole_and_only_once(replica: Path) -> None:
    known = identity(replica)
    assert engine.delete_replica(replica, replica_id=known) is True
    assert list(replica.parent.iterdir()) == []
    assert engine.delete_replica(replica, replica_id=known) is False


def test_what_a_resync_locked_goes_too(tmp_path: Path) -> None:
    source, made = tmp_path / "vm.raw", tmp_path / "replicas" / "vm"
    made.parent.mkdir()
    source.write_bytes(os.urandom(SIZE))
    engine.replicate(source, made)
    engine.replicate(source, made, resync=True)
    assert engine.delete_replica(made, replica_id=identity(made)) is True
    assert list(made.parent.iterdir()) == []


def test_what_is_not_its_own_stays(replica: Path) -> None:
    """Files of others, and what links lead to."""
    known, outside = identity(replica), replica.parent / "outside"
    outside.write_text("stays")
    (replica / "notes").mkdir()
    (replica / "notes" / "000000000001.json").write_text("mine")
    (replica / "hrl.json").symlink_to(outside)
    engine.delete_replica(replica, replica_id=known)
    assert outside.read_text() == "stays"
    left = {path.name for path in replica.rglob("*") if path.is_file() and not path.is_symlink()}
    assert "000000000001.json" in left and not (replica / "replica.json").exists()
    assert not (replica / "points").exists()


def test_another_replica_or_a_higher_epoch_is_refused(replica: Path) -> None:
    known = identity(replica)
    with pytest.raises(errors.Refused, match="is another replica"):
        engine.delete_replica(replica, replica_id="0" * 32)
    engine.raise_epoch(replica, 7)
    with pytest.raises(errors.Refused, match="is in epoch 7"):
        engine.delete_replica(replica, replica_id=known, epoch=6)
    assert len(engine.points(replica)) == 3 and engine.verify(replica).ok


def test_a_link_in_its_place_is_not_followed(replica: Path) -> None:
    known, real = identity(replica), replica.parent / "real"
    replica.rename(real)
    replica.symlink_to(real)
    with pytest.raises(errors.Refused, match="is a link"):
        engine.delete_replica(replica, replica_id=known)
    assert len(engine.points(real)) == 3


def test_a_folder_that_is_not_there_is_told_from_one_that_is_not_mounted(tmp_path: Path) -> None:
    with pytest.raises(errors.Unreachable):
        engine.delete_replica(tmp_path / "away" / "vm", replica_id="0" * 32)
    (tmp_path / "vm").mkdir()
    (tmp_path / "vm" / "precious").write_text("stays")
    with pytest.raises(errors.Refused, match="is not a replica"):
        engine.delete_replica(tmp_path / "vm", replica_id="0" * 32)
    assert (tmp_path / "vm" / "precious").read_text() == "stays"


def test_who_reads_or_writes_it_keeps_it(tmp_path: Path) -> None:
    source, made = tmp_path / "vm.raw", tmp_path / "vm"
    source.write_bytes(os.urandom(SIZE))
    engine.replicate(source, made)
    known, held = identity(made), lease.Lease(str(made), 1)
    with pytest.raises(errors.Busy):
        engine.delete_replica(made, replica_id=known)
    held.end()
    with engine.open_point(made), pytest.raises(errors.Busy):
        engine.delete_replica(made, replica_id=known)
    assert engine.verify(made).ok


class Killed(BaseException):
    """The process ends here."""


def test_killed_at_any_step_it_is_gone_on_with(
    replica: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before each removal of a file or folder, one after the other, until none is left."""
    known, left = identity(replica), 0
    calls = {name: getattr(os, name) for name in ("unlink", "rmdir")}

    def kill(name: str) -> None:
        def called(*arguments: object, **more: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return calls[name](*arguments, **more)

        monkeypatch.setattr(os, name, called)

    for name in calls:
        kill(name)
    kills = 0
    while True:
        left = 3  # so that it goes on in small steps
        try:
            engine.delete_replica(replica, replica_id=known)
        except Killed:
            kills += 1
            assert kills < 100
            continue
        break
    assert kills > 2 and list(replica.parent.iterdir()) == []
