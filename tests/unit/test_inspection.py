"""What a replica says of itself, without changing anything; and the small calls of an embedding program."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from secondsite import engine
from secondsite.engine import errors
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.layout import Layout, generations, next_generation

BLOCK = 4096


def test_info_of_a_replica(lab: Any) -> None:
    lab.cycle(b"x" * 9999)
    lab.cycle(b"y" * 9999)
    info = engine.info("/r", files=lab.files)
    assert isinstance(info, engine.ReplicaInfo)
    assert (info.kind, info.generation, info.epoch, info.points) == ("replica", 2, 1, 2)
    assert (info.block_size, info.virtual_bytes, info.history) == (BLOCK, 9999, "undo")
    assert (info.source, info.time, info.warnings) == ("disk", "2026-11-22T09:05:00.000000Z", [])
    assert info.head == "/r/head.raw" and len(info.replica_id) == 32
    held = [n for n in lab.files.names if n.endswith((".json", ".undo", ".map"))]
    assert info.stored_bytes == sum(lab.files.size(name) for name in held)


def test_results_are_ready_for_json(lab: Any) -> None:
    results: list[Any] = [lab.cycle(b"x" * 9999), engine.info("/r", files=lab.files)]
    results += [*engine.points("/r", files=lab.files), engine.verify("/r", files=lab.files)]
    results.append(engine.restore("/r", "/out", files=lab.files))
    for result in results:
        fields = json.loads(json.dumps(dataclasses.asdict(result)))
        assert set(fields) == {field.name for field in dataclasses.fields(result)}
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(result, dataclasses.fields(result)[0].name, "other")


def test_info_of_an_image_and_of_neither(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(10 << 20)
        file.write(b"x" * 4096)
    info = engine.info(path)
    assert isinstance(info, engine.ImageInfo)
    assert (info.kind, info.format, info.virtual_bytes) == ("image", "raw", 10 << 20)
    assert 4096 <= info.allocated_bytes < 1 << 20
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(errors.Refused, match="neither a replica nor a disk image"):
        engine.info(tmp_path)
    with pytest.raises(errors.Usage, match="neither a file nor a block device, not a disk image"):
        engine.info(tmp_path / "pipe")
    with pytest.raises(errors.Unreachable, match="there is no such replica"):
        engine.info(tmp_path / "none")


def test_reading_calls_change_nothing(lab: Any) -> None:
    lab.cycle(b"x" * 9999)
    lab.cycle(b"y" * 9999)
    before = {name: bytes(image.read(0, image.size)) for name, image in lab.files.names.items()}
    engine.info("/r", files=lab.files)
    engine.points("/r", files=lab.files)
    engine.verify("/r", files=lab.files)
    lab.restore("1")
    assert {name: bytes(image.read(0, image.size)) for name, image in lab.files.names.items()} == before


def test_what_verify_found_is_told_by_points(lab: Any) -> None:
    lab.cycle(b"x" * 9999)
    lab.cycle(b"y" * 9999)
    with lab.files.open("/r/head.raw", "rw") as head:
        head.write(5000, b"rot")
    assert not any(point.damaged for point in engine.points("/r", files=lab.files))
    verified = engine.verify("/r", files=lab.files)
    assert (verified.ok, verified.bad) == (False, [(4096, 4096)])
    assert list(verified.damaged) == ["2"]  # point 1 has its own bytes for all three blocks
    listed = {point.point: point for point in engine.points("/r", files=lab.files)}
    assert listed["2"].damaged and "contents changed" in (listed["2"].problem or "")
    assert not listed["1"].damaged
    with lab.files.open("/r/head.raw", "rw") as head:
        head.write(5000, b"yyy")
    assert engine.verify("/r", files=lab.files).ok
    assert not any(point.damaged for point in engine.points("/r", files=lab.files))


def test_a_record_that_cannot_be_read_is_listed(lab: Any) -> None:
    """And another point never takes its place under `latest` or a time."""
    for content in (b"x", b"y", b"z"):
        lab.cycle(content * 9999)
    with lab.files.open("/r/points/000000000002.json", "rw") as file:
        file.write(0, bytes(file.size))
    listed = engine.points("/r", files=lab.files)
    assert [(point.point, point.damaged) for point in listed] == [("1", False), ("2", True), ("3", False)]
    assert engine.info("/r", files=lab.files).points == 3
    assert lab.restore("latest") == b"z" * 9999
    assert lab.restore("1") == b"x" * 9999
    assert lab.restore("2026-11-22T09:07:00") == b"z" * 9999
    for at in ("2", "2026-11-22T09:05:30"):
        with pytest.raises(errors.Damaged, match=r"000000000002\.json"):
            lab.restore(at)


def test_the_newest_record_that_cannot_be_read_is_not_passed_over(lab: Any) -> None:
    for content in (b"x", b"y"):
        lab.cycle(content * 9999)
    with lab.files.open("/r/points/000000000002.json", "rw") as file:
        file.write(0, bytes(file.size))
    with pytest.raises(errors.Damaged, match=r"000000000002\.json"):
        lab.restore("latest")
    assert lab.restore("1") == b"x" * 9999
    verified = engine.verify("/r", files=lab.files)
    assert list(verified.damaged) == ["2"] and not verified.bad
    assert any("000000000002.json" in line for line in engine.info("/r", files=lab.files).warnings)


def test_one_bad_copy_of_a_record_is_a_warning_and_is_mended(lab: Any) -> None:
    lab.cycle(b"x" * 9999)
    with lab.files.open("/r/replica.json", "rw") as file:
        file.write(5, b"#")
    assert "next cycle mends it" in engine.info("/r", files=lab.files).warnings[0]
    assert lab.cycle(b"x" * 9999).kind == "unchanged"
    assert engine.info("/r", files=lab.files).warnings == []


def test_a_replica_without_points() -> None:
    from secondsite.engine.replica.directory import Replica

    files = MemoryFiles()
    Replica.create("/r", files, Identity.new(4096, "2026-11-22T09:00:00Z", "name:x", "undo"))
    assert engine.points("/r", files=files) == []
    info = engine.info("/r", files=files)
    assert isinstance(info, engine.ReplicaInfo)
    assert (info.head, info.generation, info.time) == (None, 0, None)
    for call in (
        lambda: engine.verify("/r", files=files),
        lambda: engine.restore("/r", "/out", files=files),
    ):
        with pytest.raises(errors.Refused, match="no recovery point yet"):
            call()


def test_raise_epoch(lab: Any) -> None:
    lab.cycle(b"x")
    assert engine.raise_epoch("/r", 3, files=lab.files) == 3
    assert engine.raise_epoch("/r", 2, files=lab.files) == 3
    assert engine.info("/r", files=lab.files).epoch == 3
    lab.check()


# -- names and identity ----------------------------------------------------------------------------------------


def test_layout() -> None:
    layout = Layout("/r/")
    assert (layout.root, Layout("/").head) == ("/r", "/head.raw")
    assert layout.record(7) == "/r/points/000000000007.json"
    assert layout.next_map(7) == "/r/next-000000000007.map"


def test_names_that_are_not_generations() -> None:
    names = [
        "000000000002.undo",
        "000000000001.undo",
        "1.undo",
        "00000000000².undo",
        "000000000003.undo.merge",
        "x.undo",
    ]
    assert generations(names, "undo") == [1, 2]
    for name in ("next-.raw", "next-1", "next-1.txt", "x-1.raw", "next-².raw", "next-1.raw.tmp"):
        assert next_generation(name) is None
    assert next_generation("next-000000000012.map") == 12


def test_identity() -> None:
    one, two = (Identity.new(4096, "2026-11-22T09:00:00Z", "name:x", "undo") for _ in range(2))
    assert one.replica_id != two.replica_id and one.seed != two.seed
    assert Identity.parse(one.fields(), "x") == one
    assert one.raised(4).epoch == 4 and one.following("name:y", "vhd").source == "name:y"
    for changes in (
        {"replica_id": "zz" * 16}, {"replica_id": "ab"}, {"block_size": 512}, {"block_size": 8 << 20},
        {"block_size": 5000}, {"seed": -1}, {"source": 7}, {"epoch": True},
    ):  # fmt: skip
        with pytest.raises(errors.Damaged, match="x: "):
            Identity.parse({**one.fields(), **changes}, "x")
