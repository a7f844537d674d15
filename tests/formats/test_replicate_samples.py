"""Images that other programs wrote, as sources: their disks in raw and VHDX heads, a change, and both points back."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from formatkit import MIB, put, read, replicate

from secondsite import engine
from secondsite.engine.images import open_image

SMALL = [
    "fattools-synthetic/base-512-1M.vhdx.gz", "qemu-iotests/d2v-zerofilled.vhd.bz2", "vmdk-rs/monolithicSparse.vmdk.gz",
]  # fmt: skip
CHAIN = [f"fattools-synthetic/{name}-512-1M.vhdx.gz" for name in ("base", "child", "grand")]
UNPACK = {".gz": gzip.decompress, ".bz2": bz2.decompress}
# What is compared in full; the rest of a large disk by what verify says.
PART = 64 * MIB


def unpack(samples: Path, name: str, folder: Path) -> Path:
    """A writable copy."""
    packed = samples / name
    path = folder / packed.stem
    path.write_bytes(UNPACK[packed.suffix](packed.read_bytes()))
    return path


def expected(samples: Path, name: str) -> dict[str, object]:
    entries = json.loads((samples / "manifest.json").read_text())
    return next(entry for entry in entries if entry["path"] == name)


def change(path: Path) -> None:
    """As a guest would, by us or, for formats that we do not write, by QEMU."""
    if path.suffix == ".vmdk":
        command = ["qemu-io", "-f", "vmdk", "-c", "write -q -P 65 12345 70000", str(path)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        return
    with open_image(path, "rw") as image:
        put(image, (12345, b"A" * 70_000))


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.needs("qemu-io")
@pytest.mark.parametrize("head", ["raw", "vhdx"])
@pytest.mark.parametrize("name", SMALL)
def test_a_sample(samples: Path, tmp_path: Path, name: str, head: str) -> None:
    path, root = unpack(samples, name, tmp_path), tmp_path / "replica"
    entry = expected(samples, name)
    done = replicate(path, root, head=head)
    assert (done.kind, done.virtual_bytes) == ("initial", entry["virtual_size"])
    assert engine.verify(root, source=path).ok
    change(path)
    done = replicate(path, root)
    assert done.kind == "delta" and 70_000 <= done.changed_bytes <= 3 * 65536
    assert engine.verify(root, source=path).ok
    first, second = tmp_path / "first.raw", tmp_path / "second.vhdx"
    engine.restore(root, first, at="1")
    if "guest_sha256" in entry:
        assert digest(first) == entry["guest_sha256"]
    engine.restore(root, second, format="vhdx")
    with open_image(second) as image:
        assert image.size == entry["virtual_size"]
        assert image.read(12345, 70_000) == b"A" * 70_000
        with first.open("rb") as file:
            assert image.read(0, 12345) == file.read(12345)
    assert engine.verify(root).ok


def test_a_chain_of_samples(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer in turn: only what it has is read, and every point has its sum."""
    from secondsite.engine import source

    monkeypatch.setattr(source, "file_system", lambda path: "ext4")
    layers, root = [unpack(samples, name, tmp_path) for name in CHAIN], tmp_path / "replica"
    trackers = [replicate(path, root).tracker for path in layers]
    assert trackers == ["scan", "vhdx", "vhdx"]
    for number, name in enumerate(CHAIN, 1):
        out = tmp_path / f"{number}.raw"
        engine.restore(root, out, at=str(number))
        assert digest(out) == expected(samples, name)["guest_sha256"]
    assert read(tmp_path / "3.raw") == read(layers[2])


@pytest.mark.parametrize("number", [1, 2])
def test_lists_of_a_layer(samples: Path, tmp_path: Path, number: int) -> None:
    """The same by a list, without the tracker's help: the samples' own note of what each layer defines."""
    layers, root = [unpack(samples, name, tmp_path) for name in CHAIN], tmp_path / "replica"
    name = CHAIN[number].replace(".vhdx.gz", ".changed.json")
    ranges = json.loads((samples / name).read_text())["ranges_defined_in_this_layer"]
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps([{"ByteOffset": start, "ByteLength": length} for start, length in ranges]))
    replicate(layers[number - 1], root, source_id="vm")
    done = replicate(layers[number], root, source_id="vm", changed=listed)
    assert (done.tracker, done.warnings) == ("changed", [])
    assert done.read_bytes <= sum(length for _, length in ranges) + 2 * 65536 * len(ranges)
    assert engine.verify(root, source=layers[number]).ok
