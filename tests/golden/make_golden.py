"""Make the frozen files beside this script. Run once for each version of a format; what is committed stays for ever.

    .venv/bin/python tests/golden/make_golden.py

Ids, seeds and clock are fixed, so the files without compression come out the same on every machine. contents.json
holds the SHA-256 of what a reader must find in each.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import random
from array import array
from pathlib import Path
from typing import Any

from secondsite import engine
from secondsite.engine import kernel
from secondsite.engine.batch import Batch
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.writer import DeltaWriter, FrameBuffer
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.replica import record
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.identity import Identity

HERE = Path(__file__).resolve().parent
VERSION = "v2"
ROOT = "/golden"
BLOCK = 4096
SEED = 0x5EC0_0D51_7E00_0001
REPLICA_ID = bytes(range(0x10, 0x20))
SIZE = 9 * BLOCK + 1234
CODECS = {"none": (fmt.NONE, 0), "lz4": (fmt.LZ4, 1), "zstd": (fmt.ZSTD, 3)}
RECORD = {"name": "Zürich", "number": 2**40, "list": [1, 2], "none": None}


def sha256(data: bytes | bytearray | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def disk() -> bytes:
    """Noise, text that packs, and zeros; the tail block is cut."""
    chance = random.Random(2026)
    text = b"".join(b"row %06d of a table\n" % n for n in range(1000))
    return (chance.randbytes(3 * BLOCK) + text[: 3 * BLOCK] + bytes(2 * BLOCK) + chance.randbytes(2 * BLOCK))[
        :SIZE
    ]


def delta(codec: tuple[int, int]) -> bytes:
    """All blocks of the disk, in two batches of which the second comes first."""
    data, file = disk(), MemoryImage()
    header = fmt.Header(REPLICA_ID, BLOCK, 7, 6, SIZE - 5000, SIZE, 3)
    writer, buffer = DeltaWriter(file, header), FrameBuffer(*codec)
    for blocks in (range(5, 10), range(5)):
        batch = Batch(BLOCK, 16 * BLOCK)
        for block in blocks:
            part = data[block * BLOCK : (block + 1) * BLOCK]
            at = batch.count
            batch.blocks[at], batch.count = block, at + 1
            if any(part):
                batch.lengths[at] = len(part)
                batch.payload[batch.used : batch.used + len(part)] = part
                batch.used += len(part)
        batch.hashes[: 16 * batch.count] = batch.rehash(SEED)
        buffer.encode(batch, header.tag)
        writer.append(buffer)
    writer.finish(b"\x0a" * 32, b"\x0b" * 32)
    return bytes(file.read(0, file.size))


def block_map() -> bytes:
    """Of an image of three pages, of which the middle one is zero, and a part of a fourth."""
    file = MemoryImage()
    made = BlockMap.create(file, "golden.map", REPLICA_ID, BLOCK, 3 * 4096 * BLOCK + 10 * BLOCK + 1)
    for blocks in ((0, 1, 4095), (8192, 8193), (12288, 12298)):
        hashes = b"".join(kernel.scan.hash_block(b"%d" % block, SEED) for block in blocks)
        made.store(array("Q", blocks), hashes, len(blocks))
    made.write_out()
    return bytes(file.read(0, file.size))


def contents() -> list[bytes]:
    """The disk at three points; it grows, and then shrinks below what it was."""
    first = bytearray(disk())
    second = first + bytearray(random.Random(7).randbytes(2 * BLOCK))
    second[0:BLOCK] = bytes(BLOCK)
    second[6 * BLOCK : 6 * BLOCK + 9] = b"not zeros"
    third = second[: 8 * BLOCK + 100]
    third[4 * BLOCK + 5] ^= 1
    return [bytes(first), bytes(second), bytes(third)]


def replica(codec: str) -> dict[str, bytes]:
    """The files of a whole replica, by their names in its folder."""
    files = MemoryFiles()
    created = "2026-11-22T09:00:00.000000Z"
    Replica.create(ROOT, files, Identity(REPLICA_ID, BLOCK, SEED, 1, created, "name:golden", "undo", "raw", "raw"))
    moment = datetime.datetime(2026, 11, 22, 9, 0, tzinfo=datetime.UTC)
    for data in contents():
        moment += datetime.timedelta(minutes=5)
        options: dict[str, Any] = {"codec": codec, "source_id": "golden", "history": "undo", "workers": 1}
        image = MemoryImage(data, path="disk")
        engine.replicate(image, ROOT, files=files, clock=lambda now=moment: now, **options)
    kept = (name for name in files.names if not name.endswith(("lock", "checked.json")))
    return {
        name.removeprefix(f"{ROOT}/"): bytes(files.names[name].read(0, files.names[name].size))
        for name in kept
    }


def make() -> dict[str, bytes]:
    """Every golden file, by its path in the version's folder."""
    made = {f"delta-{name}.undo": delta(codec) for name, codec in CODECS.items()}
    made["golden.map"] = block_map()
    made["record.json"] = record.pack(RECORD)
    for codec in ("none", "zstd"):
        made |= {f"replica-{codec}/{name}": data for name, data in replica(codec).items()}
    return made


def main() -> None:
    folder = HERE / VERSION
    for name, data in make().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    found = {
        "disk": sha256(disk()),
        "points": [sha256(data) for data in contents()],
        "files": {name: sha256(data) for name, data in sorted(make().items())},
    }
    (folder / "contents.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
