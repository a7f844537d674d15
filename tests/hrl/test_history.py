"""Where a replica is in a chain: what it knows of logs that it never took, and what it tells where it knows nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import UUID

import pytest
from hrlkit import BLOCK, SIZE, contents, number, replica_of, write_log

from secondsite import engine
from secondsite.engine import attempts, errors
from secondsite.engine.hrl.export import export_hrl, log_id
from secondsite.engine.hrl.source import HrlSource
from secondsite.engine.replica.directory import Replica

NOTHING_TELLS = "nothing tells that this first log goes on from point"


def exported(replica: Path, *points: int) -> list[Path]:
    """The logs that lead to these points, each from the point before it."""
    logs = [replica.parent / f"{point}.hrl" for point in points]
    for path in logs:
        export_hrl(replica, path, at=path.stem)
    return logs


def content(replica: Path) -> bytes:
    with engine.open_point(replica) as view:
        return bytes(view.read(0, view.size))


def ids(replica: Path, *points: int) -> list[UUID]:
    opened = Replica.open(str(replica))
    return [log_id(opened.identity.replica_id, opened.choose(str(point))) for point in points]


def test_a_copy_knows_the_logs_of_the_replica_that_it_was_copied_from(tmp_path: Path) -> None:
    disks = contents(11, 3)
    copy = tmp_path / "copy"
    shutil.copytree(replica_of(tmp_path, disks[:1]), copy)
    logs = exported(replica_of(tmp_path, disks[1:]), 2, 3)
    done = engine.replicate_logs(logs[:1], copy)
    assert (done.kind, done.warnings) == ("delta", []) and content(copy) == disks[1]
    # Also where no record says which log was the last: the point does.
    (copy / "hrl.json").unlink()
    done = engine.replicate_logs(logs, copy)
    assert done.kind == "delta" and content(copy) == disks[2]
    assert done.warnings == [
        f"1 of 2 logs are left out: they lead up to {ids(copy, 2)[0]}, with which point 2 ends"
    ]
    done = engine.replicate_logs(logs, copy)
    assert done.kind == "unchanged" and done.warnings[0].startswith("2 of 2 logs are left out")


def test_logs_of_older_points_are_refused(tmp_path: Path) -> None:
    disks = contents(12, 4)
    copy = tmp_path / "copy"
    shutil.copytree(replica_of(tmp_path, disks[:2]), copy)
    replica = replica_of(tmp_path, disks[2:])
    logs = exported(replica, 2, 3, 4)
    [second] = ids(replica, 2)
    # The copy went another way.
    (tmp_path / "other.raw").write_bytes(bytes(SIZE))
    engine.replicate(tmp_path / "other.raw", copy, accept_source=True)
    for given, says in (
        (logs[1:], f"3.hrl: this log {ids(replica, 3)[0]} goes on from point 2 of this disk, and the replica is"),
        (logs, f"3.hrl: this log {ids(replica, 3)[0]} goes on from point 2 of this disk"),
        (logs[:1], f"2.hrl: this log {second} leads to point 2 of this disk, and the replica is at point 3 ("),
    ):
        with pytest.raises(errors.Refused) as caught:
            engine.replicate_logs(given, copy)
        assert says in str(caught.value) and "\n" not in str(caught.value) and not caught.value.retryable
    assert content(copy) == bytes(SIZE) and len(engine.points(copy)) == 3
    # Of the replica itself: what led to its newest point is known, what led to an older one is refused.
    assert engine.replicate_logs(logs, replica).kind == "unchanged"
    with pytest.raises(errors.Refused, match="leads to point 3 of this disk, and the replica is at point 4"):
        engine.replicate_logs(logs[:2], replica)


def test_an_older_point_with_the_content_of_the_newest(tmp_path: Path) -> None:
    disks = contents(13, 2)
    replica = replica_of(tmp_path, [*disks, disks[0]])
    done = engine.replicate_logs(exported(replica, 2), replica)
    assert (done.kind, done.warnings) == ("delta", []) and content(replica) == disks[1]


def test_a_first_log_of_which_nothing_tells(tmp_path: Path) -> None:
    disks = contents(14, 2)
    [log] = exported(replica_of(tmp_path, disks), 2)
    (tmp_path / "seed.raw").write_bytes(disks[0])
    engine.replicate(tmp_path / "seed.raw", tmp_path / "copy", block_size=BLOCK)
    [warning] = engine.replicate_logs([log], tmp_path / "copy").warnings
    assert warning.startswith(f"{log}: {NOTHING_TELLS} 1 of this disk")


def test_two_names_of_one_point(tmp_path: Path) -> None:
    """A point that Hyper-V's log led to is called by that log, and by our exports."""
    disks = contents(15, 1)
    replica, copy, away = replica_of(tmp_path, disks), tmp_path / "copy", tmp_path / "away"
    engine.replicate_logs([write_log(tmp_path / "x.hrl", [(5, b"x")], 7, 6)], replica)
    shutil.copytree(replica, copy)
    replica_of(tmp_path, [bytes(SIZE)])
    logs = exported(replica, 2, 3)
    # What it holds is left out, by whichever name, and the other is not forgotten.
    assert engine.replicate_logs(logs[:1], copy).kind == "unchanged"
    shutil.copytree(copy, away)
    done = engine.replicate_logs([write_log(tmp_path / "y.hrl", [(9, b"y")], 8, 7)], away)
    assert (done.kind, done.warnings) == ("delta", [])
    done = engine.replicate_logs(logs[1:], copy)
    assert (done.kind, done.warnings) == ("delta", []) and content(copy) == bytes(SIZE)
    with pytest.raises(errors.Refused, match=f"{number(8)} follows {number(7)}"):
        engine.replicate_logs([tmp_path / "y.hrl"], copy)


def test_a_crash_between_the_commit_and_its_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disks = contents(16, 3)
    copy = tmp_path / "copy"
    shutil.copytree(replica_of(tmp_path, disks[:1]), copy)
    logs = exported(replica_of(tmp_path, disks[1:]), 2, 3)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(HrlSource, "remember", crash)
        with pytest.raises(KeyboardInterrupt):
            engine.replicate_logs(logs, copy)
    assert len(engine.points(copy)) == 2 and content(copy) == disks[2]
    done = engine.replicate_logs(logs, copy)
    assert done.kind == "unchanged" and "2 of 2 logs are left out" in done.warnings[0]


def test_a_cycle_that_was_announced_and_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disks = contents(17, 2)
    replica = replica_of(tmp_path, disks[:1])
    log = write_log(tmp_path / "x.hrl", [(5, b"x")], 7, 6)

    def fail(*_: object) -> None:
        raise errors.Full("no room")

    with monkeypatch.context() as patch:
        patch.setattr(attempts, "run", fail)
        with pytest.raises(errors.Full):
            engine.replicate_logs([log], replica)
    # Nothing was applied, so nothing is left out, neither now nor after a scan.
    assert NOTHING_TELLS in engine.replicate_logs([log], replica).warnings[0]
    assert engine.replicate_logs([log], replica).kind == "unchanged"
    replica_of(tmp_path, disks[1:])
    assert NOTHING_TELLS in engine.replicate_logs([log], replica).warnings[0]


def test_logs_of_another_chain_are_named_and_not_left_out(tmp_path: Path) -> None:
    replica = replica_of(tmp_path, contents(18, 1))
    chain = [write_log(tmp_path / f"{n}.hrl", [(n, b"x")], n, n - 1) for n in (2, 3, 4, 5)]
    other = write_log(tmp_path / "other.hrl", [(9, b"o")], 99, 98)
    engine.replicate_logs(chain[:2], replica)
    for given in ([*chain, other], [other, *chain], [other, *chain[:2]], [other, *chain[2:]]):
        with pytest.raises(errors.Refused) as caught:
            engine.replicate_logs(given, replica)
        assert str(caught.value).startswith(f"{other}: this log {number(99)}, which follows {number(98)}, is not in")
        assert str(number(3)) in str(caught.value)
    # A log that may well have been applied, but nothing tells: the one between is not given.
    with pytest.raises(errors.Refused, match=f"2.hrl: this log {number(2)}.* is not in one chain with {number(3)}"):
        engine.replicate_logs([chain[0], chain[2]], replica)
    assert len(engine.points(replica)) == 2
    [warning] = engine.replicate_logs(chain, replica).warnings
    assert warning == f"2 of 4 logs are left out: they lead up to {number(3)}, with which point 2 ends"


# -- what an error line advises, done ------------------------------------------------------------------------------


def refused(logs: list[Path], replica: Path) -> str:
    with pytest.raises(errors.Refused) as caught:
        engine.replicate_logs(logs, replica)
    assert "--resync" not in str(caught.value)
    return str(caught.value)


def test_a_gap_is_mended(tmp_path: Path) -> None:
    disks = contents(19, 1)
    replica = replica_of(tmp_path, disks)
    logs = [write_log(tmp_path / f"{n}.hrl", [(n, b"x")], n, n - 1) for n in (2, 3, 4)]
    engine.replicate_logs(logs[:1], replica)
    assert "(give the missing one, or replicate the disk itself)" in refused(logs[2:], replica)
    shutil.copytree(replica, tmp_path / "copy")
    assert engine.replicate_logs(logs[1:], tmp_path / "copy").kind == "delta"
    replica_of(tmp_path, [b"xx" + disks[0][2:]])
    assert NOTHING_TELLS in engine.replicate_logs(logs[2:], replica).warnings[0]


def test_a_log_past_the_end_is_mended(tmp_path: Path) -> None:
    disks = contents(20, 1)
    replica = replica_of(tmp_path, disks)
    log = write_log(tmp_path / "x.hrl", [(SIZE, b"x")])
    assert "or the disk has grown (then replicate the disk itself)" in refused([log], replica)
    replica_of(tmp_path, [disks[0] + bytes(BLOCK)])
    assert engine.replicate_logs([log], replica).kind == "delta"
    assert content(replica) == disks[0] + b"x" + bytes(BLOCK - 1)


def test_a_replica_that_went_back_is_mended(tmp_path: Path) -> None:
    disks = contents(21, 2)
    replica = replica_of(tmp_path, disks[:1])
    shutil.copytree(replica, tmp_path / "before")
    logs = [write_log(tmp_path / f"{n}.hrl", [(n, b"x")], n, n - 1) for n in (2, 3)]
    for log in logs:
        engine.replicate_logs([log], replica)
    note = (replica / "hrl.json").read_bytes()
    shutil.rmtree(replica)
    shutil.copytree(tmp_path / "before", replica)
    (replica / "hrl.json").write_bytes(note)
    assert f"{replica / 'hrl.json'}: the replica went back to point 1; log {number(3)}" in refused(logs, replica)
    replica_of(tmp_path, disks[1:])
    assert "(replicate the disk itself, then remove this file)" in refused(logs, replica)
    (replica / "hrl.json").unlink()
    assert engine.replicate_logs(logs, replica).kind == "delta"


@pytest.mark.parametrize("spoiled", [b"", b"{}\n{}\n"])
def test_a_damaged_note_is_mended(tmp_path: Path, spoiled: bytes) -> None:
    disks = contents(22, 2)
    replica = replica_of(tmp_path, disks[:1])
    log = write_log(tmp_path / "x.hrl", [(0, b"x")])
    (replica / "hrl.json").write_bytes(spoiled)
    with pytest.raises(errors.Damaged):
        engine.replicate_logs([log], replica)
    replica_of(tmp_path, disks[1:])
    (replica / "hrl.json").unlink()
    assert engine.replicate_logs([log], replica).kind == "delta"
