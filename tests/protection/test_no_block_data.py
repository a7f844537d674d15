"""R1.9: the vault receives metadata alone. Everything that is sent to it is watched while real disks are protected
whose every sector is recognisable, and looked through for any of it, in any of the usual writings.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event
from test_cycles import SIZE, Bench

from secondsite import engine
from secondsite.orchestration.protection import ledger
from secondsite.orchestration.vault import audit
from secondsite.orchestration.vault.database import Database

# In every sector, once; long enough that no metadata holds it by chance, and that of each block's beginning some is
# there whole whatever was cut off.
MARK = b"Guest-Data-7f3a"


def writings(mark: bytes) -> list[bytes]:
    """As bytes, as hexadecimal digits, as base64 at any offset, and as a database would escape them."""
    found = [mark, mark.hex().encode(), mark.hex().upper().encode(), mark.decode().encode("utf-16-le")]
    for before in range(3):
        packed = base64.b64encode(bytes(before) + mark + bytes(3))
        found.append(packed[4 if before else 0 : len(packed) - 8])  # what does not depend on its neighbours
    found.append("".join(f"\\{byte:03o}" for byte in mark).encode())
    return found


class Watched:
    """All statements with their parameters, as they go to the driver, and how many bytes they were."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.binary: list[object] = []

    def add(self, statement: str, parameters: Any) -> None:
        self.sent.append(statement.encode())
        self._take(parameters)

    def _take(self, value: Any) -> None:
        if isinstance(value, dict):
            for key, one in value.items():
                self._take(key)
                self._take(one)
        elif isinstance(value, list | tuple):
            for one in value:
                self._take(one)
        elif isinstance(value, bytes | bytearray | memoryview):
            self.binary.append(value)
            self.sent.append(bytes(value))
        else:
            self.sent.append(str(getattr(value, "obj", value)).encode(errors="surrogateescape"))

    @property
    def bytes(self) -> int:
        return sum(map(len, self.sent))

    def found(self, mark: bytes = MARK) -> list[bytes]:
        every = b"\0".join(self.sent)
        return [one for one in writings(mark) if one in every]


@contextmanager
def watching(database: Database) -> Iterator[Watched]:
    watched = Watched()

    def before(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: bool) -> None:
        watched.add(statement, parameters)

    event.listen(database.engine, "before_cursor_execute", before)
    try:
        yield watched
    finally:
        event.remove(database.engine, "before_cursor_execute", before)


def fill(path: Path, turn: int) -> None:
    """Each sector with the mark, its number and the turn, so that every block is another one."""
    sectors = (b"%s %08d %08d " % (MARK, turn, number) for number in range(SIZE // 512))
    path.write_bytes(b"".join(one.ljust(512, b".") for one in sectors))


def lives(bench: Bench) -> None:
    """What happens to an item: cycles, failures, a resync, pins, a pause, and its end."""
    for turn in range(4):
        for name in ("system", "data"):
            fill(bench.folder / f"{name}.raw", turn)
        bench.clock.now += 4000
        bench.cycle()
    item = bench.item()
    ledger.pin(bench.database, item.id, bench.points()[0].number, "before the upgrade")
    data = bench.folder / "data.raw"
    data.rename(bench.folder / "away.raw")
    bench.clock.now += 4000
    bench.cycle()  # and what went wrong is written down
    (bench.folder / "away.raw").rename(data)
    with (Path(item.disks[str(data)]) / "head.raw").open("r+b") as file:
        file.write(MARK * 20)
    engine.verify(item.disks[str(data)])
    fill(data, 9)
    bench.cycle()  # the damage is
    ledger.act(bench.database, "app1", "resync", bench.clock.now)
    bench.cycle()
    ledger.act(bench.database, "app1", "pause", bench.clock.now)
    bench.apply(protect=False)


def test_the_vault_receives_no_block_data(tmp_path: Path, vault: Database) -> None:
    bench = Bench(tmp_path, vault, enabled=False)
    with watching(vault) as watched:
        bench.apply()
        lives(bench)
        assert audit.newest(vault, 100) is not None
    assert len(watched.sent) > 100, "it was watched"
    assert watched.found() == []
    assert watched.binary == [], "no column takes bytes"
    # 11 MiB of disks went through the cycles; what the vault was told does not grow with them.
    assert watched.bytes < 200_000
    if not vault.shared:
        vault.close()
        stored = b"".join(path.read_bytes() for path in tmp_path.glob("vault.db*"))
        assert [one for one in writings(MARK) if one in stored] == []
        assert b"app1" in stored


def test_what_watches_would_see_it(vault: Database) -> None:
    """One sector, in any of the writings, inside of something else."""
    for before in range(4):
        sector = os.urandom(before) + MARK + os.urandom(100)
        packed = base64.b64encode(sector).decode()
        octal = "".join(f"\\{byte:03o}" for byte in sector)
        for told in (MARK.decode(), sector.hex(), sector.hex().upper(), packed, octal, {"nested": [packed]}):
            with watching(vault) as watched, vault.begin() as connection:
                audit.note(connection, "test", "app1", who="me", at=1.0, detail=str(told))
            assert watched.found(), told
