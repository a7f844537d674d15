"""Files of every version of the format that was ever released are read for ever, and the writer writes the same."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from secondsite import engine
from secondsite.engine import kernel
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.reader import DeltaReader
from secondsite.engine.images import RawImage
from secondsite.engine.replica import record

HERE = Path(__file__).resolve().parent
VERSIONS = ["v1", "v2"]


@pytest.fixture(params=VERSIONS)
def golden(request: pytest.FixtureRequest) -> Path:
    return HERE / str(request.param)


def contents_of(golden: Path) -> dict[str, Any]:
    """SHA-256 of what a reader must find."""
    found: dict[str, Any] = json.loads((golden / "contents.json").read_text())
    return found


def sha256(data: bytes | bytearray) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """The script, which is no module of a package."""
    spec = importlib.util.spec_from_file_location("make_golden", HERE / "make_golden.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_files_are_those_that_were_committed(golden: Path) -> None:
    """A checkout that changed line ends, or somebody who made them anew, would test nothing."""
    held = {
        p.relative_to(golden).as_posix(): sha256(p.read_bytes()) for p in golden.rglob("*") if p.is_file()
    }
    del held["contents.json"]
    assert held == contents_of(golden)["files"]


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_a_delta_is_read(codec: str, golden: Path, maker: ModuleType) -> None:
    path = golden / f"delta-{codec}.undo"
    with RawImage(path) as file:
        reader = DeltaReader(file, str(path))
        version = int(golden.name[1:])
        header = fmt.Header(maker.REPLICA_ID, 4096, 7, 6, maker.SIZE - 5000, maker.SIZE, 3, version)
        assert reader.header == header
        disk = bytearray(b"\xff" * maker.SIZE)
        for frame in reader.frames():
            raw, at = frame.decode(kernel.codec.Decoder()) if frame.blocks else b"", 0
            for block, length in zip(frame.blocks, frame.lengths, strict=True):
                disk[block * 4096 : block * 4096 + length] = raw[at : at + length]
                at += length
            for first, count in zip(frame.runs[::2], frame.runs[1::2], strict=True):
                disk[first * 4096 : (first + count) * 4096] = bytes(count * 4096)
        assert sha256(disk) == contents_of(golden)["disk"]
        assert (reader.end().data_blocks, reader.end().zero_blocks) == (8, 2)
        assert (reader.end().base_seal, reader.end().target_seal) == (b"\x0a" * 32, b"\x0b" * 32)
        if codec != "none":
            assert {frame.head.codec for frame in reader.frames() if frame.blocks} >= {
                dict(lz4=1, zstd=2)[codec]
            }


def test_a_block_map_is_read(golden: Path, maker: ModuleType) -> None:
    path = golden / "golden.map"
    with RawImage(path) as file, BlockMap.load(file, str(path), maker.REPLICA_ID) as found:
        assert (found.block_size, found.blocks, found.pages) == (4096, 12299, 4)
        named = [block for blocks in found.nonzero(0, found.blocks) for block in blocks]
        assert named == [0, 1, 4095, 8192, 8193, 12288, 12298]
        for block in named:
            entry = found.read(block, 1)
            assert entry == kernel.scan.hash_block(b"%d" % block, maker.SEED)
        assert found.read(4096, 4096) is None
        assert found.seal().hex() == "01c8ea3083f922236b99a61695bb9629171491fb1e265348781f6d16e0883535"


def test_a_record_is_read(golden: Path, maker: ModuleType) -> None:
    fields, complaint = record.unpack((golden / "record.json").read_bytes(), "record.json")
    assert (fields, complaint) == ({"format": 1, **maker.RECORD}, None)


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_a_replica_is_read_and_goes_on(codec: str, golden: Path, tmp_path: Path, maker: ModuleType) -> None:
    root = tmp_path / "replica"
    shutil.copytree(golden / f"replica-{codec}", root)
    assert engine.verify(root).ok
    assert [(point.point, point.history) for point in engine.points(root)] == [
        ("1", "undo"), ("2", "undo"), ("3", "head"),
    ]  # fmt: skip
    for number, digest in enumerate(contents_of(golden)["points"], 1):
        engine.restore(root, tmp_path / f"out{number}", at=str(number))
        assert sha256((tmp_path / f"out{number}").read_bytes()) == digest
    assert engine.restore(root, tmp_path / "at", at="2026-11-22T09:11").point == "2"
    source = tmp_path / "source"
    source.write_bytes(maker.contents()[0])
    assert engine.replicate(source, root, source_id="golden", keep=2).pruned == 2
    assert engine.verify(root).ok


def test_the_writer_writes_the_same_bytes(maker: ModuleType) -> None:
    """All that no compressor had a part in: another version of one may pack differently. And not replica.json, to which
    later programs add members; those of an older one are read all the same, as the test above shows."""
    made = {name: data for name, data in maker.make().items() if not name.endswith("replica.json")}
    found = contents_of(HERE / VERSIONS[-1])
    same = [name for name in made if "lz4" not in name and not ("zstd" in name and name.endswith(".undo"))]
    assert len(same) > 10
    assert {name: sha256(made[name]) for name in same} == {name: found["files"][name] for name in same}
