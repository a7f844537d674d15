"""Make the frozen files of a replica in a store, version 1 (engine/store/FORMAT.md). Run once; what is committed stays.

    .venv/bin/python tests/golden/make_store.py

Ids, seed, clock and what is random are fixed, and few points fit into the head, so that there is a page of the
catalogue. contents.json holds the SHA-256 of each file and of each point's disk.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import random
import secrets
import time
from pathlib import Path

from secondsite.engine.admission import Terms
from secondsite.engine.delta import format as fmt
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.remote.sending.mapcache import MapCache
from secondsite.engine.remote.sending.sender import Transfer
from secondsite.engine.replica.identity import Identity
from secondsite.engine.source import Source
from secondsite.engine.store.log import head as heads
from secondsite.engine.store.log import named, prune, readers
from secondsite.engine.store.log.writing import Into, attempt, holding
from secondsite.engine.store.memory import MemoryStore
from secondsite.engine.trackers.scan import ScanTracker

HERE = Path(__file__).resolve().parent / "store1"
BLOCK = 4096
IDENTITY = Identity(
    bytes(range(0x10, 0x20)), BLOCK, 0x5EC0_0D51_7E00_0001, 1, "2026-11-26T09:00:00.000000Z", "name:golden", "log",
    "raw", "raw",
)  # fmt: skip
CODECS = [(fmt.NONE, 0), (fmt.LZ4, 1), (fmt.ZSTD, 3)]
POINTS, DROPPED = 10, ["4", "9"]


def contents() -> list[bytes]:
    """The disk at each point: noise, text, zeros; it grows, shrinks and has odd ends."""
    chance = random.Random(2026)
    data = bytearray(chance.randbytes(6 * BLOCK) + b"row of a table\n" * 2000 + bytes(3 * BLOCK) + b"end")
    found = []
    for number in range(POINTS):
        at = chance.randrange(len(data) // BLOCK) * BLOCK
        data[at : at + 2000] = bytes(2000) if number % 4 == 3 else chance.randbytes(2000)
        if number % 3 == 2:
            data[BLOCK * chance.randrange(8, 20) + 77 :] = b""
            data += chance.randbytes(chance.randrange(3 * BLOCK))
        found.append(bytes(data))
    return found


def make() -> dict[str, bytes]:
    """Every object by its name."""
    store = MemoryStore(clock=lambda: 1_795_600_000.0)
    heads.create(store, IDENTITY)
    files, numbers = MemoryFiles(), iter(range(1, POINTS + 1))
    for data in contents():
        number = next(numbers)
        origin = Source(MemoryImage(data), "golden")
        moment = datetime.datetime(2026, 11, 26, 9, number, tzinfo=datetime.UTC)
        into = Into(store, lambda: files.temporary("/maps"), lambda moment=moment: moment)  # type: ignore[misc]
        transfer = Transfer(
            origin, lambda state, origin=origin: ScanTracker(origin), MapCache("/maps", files),  # type: ignore[misc]
            codec=CODECS[number % 3], clock=lambda moment=moment: moment,  # type: ignore[misc]
        )  # fmt: skip
        with attempt(into, origin, Terms()) as target:
            transfer.attempt(target, len(data), time.monotonic())
    with holding(store, IDENTITY, 60) as fence:
        pruning = prune.Pruning(store, IDENTITY, heads.load(store, IDENTITY), fence)
        pruning.drop(DROPPED)
    store.put_if_absent(f"{readers.FOLDER}00112233445566aa", readers.said(3))
    return {name: held.data for name, held in store.objects.items() if not name.endswith(".lease")}


def fixed() -> dict[str, bytes]:
    """Made with nothing left to chance."""
    chance = random.Random(7)
    heads.INLINE, heads._KEPT = 5, 2
    named.turn = lambda: chance.randbytes(8).hex()
    secrets.randbelow = chance.randrange  # type: ignore[assignment]
    return make()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    made = fixed()
    for name, data in made.items():
        (HERE / name).parent.mkdir(parents=True, exist_ok=True)
        (HERE / name).write_bytes(data)
    found = {
        "points": {str(number): sha256(data) for number, data in enumerate(contents(), 1)},
        "files": {name: sha256(data) for name, data in sorted(made.items())},
    }
    (HERE / "contents.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
