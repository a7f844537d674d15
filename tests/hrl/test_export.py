"""Points as logs, and logs as points: a replica, its exports, and a copy that takes them."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hrlkit import BLOCK, SIZE, contents, replica_of

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.hrl import HrlReader, open_chain, overlay
from secondsite.engine.hrl.export import export_hrl
from secondsite.engine.hrl.history import last_applied
from secondsite.engine.hrl.source import HrlSource
from secondsite.engine.images import RawImage
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.replica.directory import Replica
from secondsite.orchestration import cli


@pytest.mark.parametrize("seed", range(200))
@pytest.mark.sweep(sample=4)
def test_there_and_back(tmp_path: Path, seed: int) -> None:
    disks = contents(seed, 4)
    replica = replica_of(tmp_path, disks)
    logs = [tmp_path / f"{n}.hrl" for n in (2, 3, 4)]
    for number, path in enumerate(logs, 2):
        done = export_hrl(replica, path, at=str(number))
        assert (done.point, done.base) == (str(number), str(number - 1))
    random.Random(seed).shuffle(logs)
    with MemoryImage(disks[0]) as base, overlay(base, open_chain(logs)) as image:
        assert bytes(image.read(0, SIZE)) == disks[3]
        assert image.unproved_bytes == 0
    whole = export_hrl(replica, tmp_path / "whole.hrl", base="1")
    with MemoryImage(disks[0]) as base, overlay(base, open_chain([tmp_path / "whole.hrl"])) as image:
        assert bytes(image.read(0, SIZE)) == disks[3]
    # The same identifiers at both ends, whichever way.
    chain = open_chain(logs)
    assert [whole.previous_id, whole.unique_id] == [str(chain[0].previous_id), str(chain[-1].unique_id)]
    for reader in chain:
        reader.close()


def test_the_same_log_each_time(tmp_path: Path) -> None:
    replica = replica_of(tmp_path, contents(1, 2))
    export_hrl(replica, tmp_path / "a.hrl")
    export_hrl(replica, tmp_path / "b.hrl")
    assert (tmp_path / "a.hrl").read_bytes() == (tmp_path / "b.hrl").read_bytes()
    done = export_hrl(replica, tmp_path / "c.hrl", unique_id=UUID(int=7))
    with HrlReader(str(tmp_path / "c.hrl")) as reader:
        assert reader.unique_id == UUID(int=7) == UUID(done.unique_id)


def test_long_runs_of_zeros_and_data(tmp_path: Path) -> None:
    disks = [b"\1" * (12 << 20), b"\2" * (3 << 20) + bytes(9 << 20)]
    replica = replica_of(tmp_path, disks)
    done = export_hrl(replica, tmp_path / "x.hrl")
    assert done.data_bytes == 12 << 20 and done.entries < 20
    with MemoryImage(disks[0]) as base, overlay(base, open_chain([tmp_path / "x.hrl"])) as image:
        assert bytes(image.read(0, image.size)) == disks[1]


def test_what_is_refused(tmp_path: Path) -> None:
    disks = contents(2, 2)
    replica = replica_of(tmp_path, [*disks, disks[1] + b"more"])
    output = tmp_path / "x.hrl"
    for options, kind, says in (
        ({}, errors.Refused, "bytes in point 2 and .* in point 3; a log cannot say that"),
        ({"at": "1"}, errors.Refused, "no point before 1"),
        ({"at": "1", "base": "2"}, errors.Usage, "point 2 is not older than point 1"),
        ({"at": "2", "base": "2"}, errors.Usage, "not older"),
        ({"at": "9"}, errors.Refused, "no point 9"),
    ):
        with pytest.raises(kind, match=says):
            export_hrl(replica, output, **options)  # type: ignore[arg-type]
    with pytest.raises(errors.Refused, match="inside the replica"):
        export_hrl(replica, replica / "x.hrl", at="2")
    output.write_bytes(b"mine")
    with pytest.raises(errors.Refused, match="exists"):
        export_hrl(replica, output, at="2")
    assert output.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk.raw", "r", "x.hrl"]


def test_damage_is_found(tmp_path: Path) -> None:
    disks = contents(3, 2)
    replica = replica_of(tmp_path, disks, history="undo")
    changed = next(at for at in range(SIZE) if disks[0][at] != disks[1][at] and disks[1][at])
    with (replica / "head.raw").open("r+b") as file:
        file.seek(changed)
        file.write(bytes([disks[1][changed] ^ 1]))
    with pytest.raises(errors.Damaged, match="a block is not what it was"):
        export_hrl(replica, tmp_path / "x.hrl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk.raw", "r"]


# -- the other way -------------------------------------------------------------------------------------------------


def apply(replica: Path, logs: list[Path], **options: Any) -> tuple[str, int]:
    """As a cycle does it: (kind, bytes read)."""
    opened = Replica.open(str(replica))
    # Over the head in place: the cycle writes the file that the overlay reads.
    with opened.reading():
        origin = HrlSource(opened, logs)
    try:
        done = engine.replicate(origin.image, replica, accept_source=True, **options)
        newest = opened.newest()
        assert newest is not None
        origin.remember(newest)
        return done.kind, done.read_bytes
    finally:
        origin.close()


@pytest.mark.parametrize("history", ["auto", "undo"])
@pytest.mark.parametrize("head", ["raw", "vhdx", "vhd"])
def test_applying_a_chain(tmp_path: Path, head: str, history: str) -> None:
    disks = [disk[: 200 * BLOCK] for disk in contents(4, 5)]
    disks = [disk[:-1] + bytes([number]) for number, disk in enumerate(disks)]
    replica = replica_of(tmp_path, disks)
    logs = [tmp_path / f"{n}.hrl" for n in (2, 3, 4, 5)]
    for number, path in enumerate(logs, 2):
        export_hrl(replica, path, at=str(number))
    copy = tmp_path / "copy"
    (tmp_path / "seed.raw").write_bytes(disks[0])
    engine.replicate(tmp_path / "seed.raw", copy, block_size=BLOCK, head=head, history=history)
    assert apply(copy, logs[1::-1], history=history)[0] == "delta"
    with engine.open_point(copy) as view:
        assert bytes(view.read(0, 200 * BLOCK)) == disks[2]
    # Those that were applied may be given again; a gap is refused, and nothing happens.
    assert apply(copy, logs[:2])[0] == "unchanged"
    with pytest.raises(errors.Refused, match="chain is broken"):
        apply(copy, logs[3:])
    assert [point.point for point in engine.points(copy)] == ["1", "2"]
    assert apply(copy, logs, history=history)[0] == "delta"
    for at, disk in (("1", disks[0]), ("2", disks[2]), ("3", disks[4])):
        with engine.open_point(copy, at=at) as view:
            assert bytes(view.read(0, 200 * BLOCK)) == disk
    assert engine.verify(copy).ok


def test_what_a_replica_remembers(tmp_path: Path) -> None:
    disks = contents(5, 3)
    replica = replica_of(tmp_path, disks)
    logs = [tmp_path / "2.hrl", tmp_path / "3.hrl"]
    ids = [UUID(export_hrl(replica, path, at=path.stem).unique_id) for path in logs]
    copy = tmp_path / "copy"
    first = Replica.open(str(replica))
    empty = Replica.create(str(tmp_path / "empty"), first.files, first.identity)
    with pytest.raises(errors.Refused, match="replicate the disk first"):
        HrlSource(empty, logs)
    (tmp_path / "seed.raw").write_bytes(disks[0])
    engine.replicate(tmp_path / "seed.raw", copy, block_size=BLOCK)
    opened = Replica.open(str(copy))

    def last() -> UUID | None:
        newest = opened.newest()
        assert newest is not None
        return last_applied(opened, newest)

    assert last() is None
    apply(copy, logs[:1])
    assert last() == ids[0]
    # After a scan of the disk itself any chain may begin.
    shutil.copytree(copy, tmp_path / "before")
    (tmp_path / "seed.raw").write_bytes(disks[0])
    engine.replicate(tmp_path / "seed.raw", copy, accept_source=True)
    assert last() is None
    # A replica that went back behind the log is told so.
    apply(copy, logs)
    (tmp_path / "before" / "hrl.json").write_bytes((copy / "hrl.json").read_bytes())
    opened = Replica.open(str(tmp_path / "before"))
    with pytest.raises(errors.Refused, match=r"went back to point 2; log .* was applied in point 4"):
        last()
    for spoiled in (b"", b"{}\n{}\n"):
        (tmp_path / "before" / "hrl.json").write_bytes(spoiled)
        with pytest.raises(errors.Damaged):
            last()


def test_a_bad_log_applies_nothing(tmp_path: Path) -> None:
    disks = contents(6, 3)
    replica = replica_of(tmp_path, disks)
    logs = [tmp_path / "2.hrl", tmp_path / "3.hrl"]
    for path in logs:
        export_hrl(replica, path, at=path.stem)
    copy = tmp_path / "copy"
    (tmp_path / "seed.raw").write_bytes(disks[0])
    engine.replicate(tmp_path / "seed.raw", copy, block_size=BLOCK)
    good = logs[1].read_bytes()
    for at in (41, 9000, len(good) - 4090, len(good) - 4060):
        logs[1].write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises((errors.Damaged, errors.Refused)) as caught:
            apply(copy, logs)
        assert str(logs[1]) in str(caught.value) and "\n" not in str(caught.value)
    with RawImage(copy / "head.raw") as head:
        assert bytes(head.read(0, SIZE)) == disks[0]
    assert [point.point for point in engine.points(copy)] == ["1"]


def test_a_log_that_is_written_after_it_was_proved(tmp_path: Path) -> None:
    disks = contents(8, 2)
    replica = replica_of(tmp_path, disks)
    log = tmp_path / "x.hrl"
    export_hrl(replica, log)
    copy = tmp_path / "copy"
    (tmp_path / "seed.raw").write_bytes(disks[0])
    engine.replicate(tmp_path / "seed.raw", copy, block_size=BLOCK)
    time.sleep(0.03)  # files are stamped by a clock that ticks
    opened = Replica.open(str(copy))
    with opened.writing():
        origin = HrlSource(opened, [log])
        assert origin.settled() == origin.stamp() is not None
        with log.open("r+b") as file:
            file.seek(9000)
            file.write(b"other")
        for _ in range(3):
            with pytest.raises(errors.SourceChanged, match="a log was written after it was read"):
                origin.settled()
        origin.close()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replica = replica_of(tmp_path, contents(7, 3))
    output = tmp_path / "x.hrl"
    assert cli.run(["export-hrl", str(replica), str(output)]) == 0
    assert f"{output}: from point 2 to 3; " in capsys.readouterr().out
    assert cli.run(["export-hrl", str(replica), str(tmp_path / "y.hrl"), "--base", "1", "--at", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["point"], found["base"], found["output"]) == ("3", "1", str(tmp_path / "y.hrl"))
    assert cli.run(["export-hrl", str(replica), str(output)]) == errors.REFUSED
    assert capsys.readouterr().err == f"secondsite: {output}: exists; name another file\n"
    assert cli.run(["export-hrl", "--help"]) == 0
    assert "Hyper-V Replica" in capsys.readouterr().out
