"""A machine's disk with a real file system, whose files somebody encrypts in place: the good points stay (M15)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import to_builtins
from operators import Shell
from sqlalchemy import update
from test_cycles import Bench

from secondsite.orchestration.health.rules import Level
from secondsite.orchestration.health.tripwire import RECENT, WARM_UP, Seen, Tripwire
from secondsite.orchestration.protection import report
from secondsite.orchestration.protection.worker import Cut, EngineWorker
from secondsite.orchestration.vault import audit, database, schema
from secondsite.orchestration.vault.database import Database

BLOCK, MIB = 4096, 1 << 20
pytestmark = pytest.mark.needs("e2fsprogs")


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Database]:
    with database.create(str(tmp_path / "vault.db")) as made:
        yield made


class Disk:
    """An ext4 with documents, in a file: written by its own tools while nobody has it mounted."""

    def __init__(self, path: Path) -> None:
        self.path, folder = path, path.parent / "documents"
        folder.mkdir()
        for number, source in enumerate(sorted(Path(os.__file__).parent.glob("*.py"))[:160]):
            (folder / f"{number}.txt").write_bytes(source.read_bytes() * 3)
        path.unlink(missing_ok=True)
        path.touch()
        os.truncate(path, 96 * MIB)
        self._run("mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-d", str(folder), str(path))
        self.files = [one.name for one in sorted(folder.iterdir())]

    def _run(self, *command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def add(self, name: str, data: bytes) -> None:
        """A new file."""
        given = self.path.parent / "given"
        given.write_bytes(data)
        self._run("debugfs", "-w", "-R", f"write {given} {name}", str(self.path))

    def encrypt(self, names: list[str]) -> None:
        """Each block of these files becomes what nobody can read without a key, where it is."""
        asked = self.path.parent / "asked"
        asked.write_text("".join(f"blocks /{name}\n" for name in names))
        found = self._run("debugfs", "-f", str(asked), str(self.path))
        blocks = [int(one) for line in found.splitlines() if not line.startswith("debugfs") for one in line.split()]
        assert len(blocks) > len(names)
        with self.path.open("r+b") as file:
            for block in blocks:
                file.seek(block * BLOCK)
                file.write(os.urandom(BLOCK))


def cycle(bench: Bench) -> None:
    bench.clock.now += 300
    bench.cycle()


def test_files_that_are_encrypted_in_place_trip_it_and_the_points_before_stay(
    tmp_path: Path, vault: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tmp_path, vault, additional=2)
    disk = Disk(tmp_path / "data.raw")
    for number in range(WARM_UP + RECENT + 2):
        cycle(bench)
        disk.add(f"note{number}", disk.path.read_bytes()[: 200_000 + number] + b"text" * 20_000)
    found = [one.read_bytes() for one in sorted(Path("/usr/bin").glob("b*"))[:40] if one.is_file()]
    programs = b"".join(found)[: 20 * MIB]
    disk.add("programs", programs)
    for _ in range(3):
        cycle(bench)
    calm = report.rows(vault, bench.clock.now)[0]
    assert (calm.tripwire, calm.level) == ("watching", Level.NORMAL)
    good = bench.points()[-1]
    contents = bench.contents(good)
    for part in range(4):
        disk.encrypt(disk.files[part::4])
        cycle(bench)
    tripped = report.rows(vault, bench.clock.now)[0]
    assert tripped.tripwire == "tripped" and "M15" in {one.rule for one in tripped.reasons}
    assert [one.what for one in audit.newest(vault)].count("tripwire") == 1
    for _ in range(30):
        cycle(bench)
    kept = next(one for one in bench.points() if one.number == good.number)
    assert str(kept.pinned).startswith("tripwire: ") and bench.contents(kept) == contents
    shell = Shell(capsys, tmp_path / "vault.db")
    row = shell.json("status", status=1)["machines"][0]
    assert row["tripwire"] == "tripped"
    assert "acknowledged" in shell("protection", "acknowledge", "app1")
    assert "has not tripped" in shell("protection", "acknowledge", "app1", status=3)
    cycle(bench)
    assert good.number not in {one.number for one in bench.points()}, "it goes as it would have long ago"


class Sealed(EngineWorker):
    """Its cycles write some data that does not pack, as it says."""

    def replicate(self, *arguments: Any, **more: Any) -> Cut:
        found = super().replicate(*arguments, **more)
        return replace(found, data_bytes=2 * MIB, sealed_bytes=2 * MIB, virtual_bytes=96 * MIB)


def test_retention_tells_of_a_point_that_waits_for_the_tripwire(tmp_path: Path, vault: Database) -> None:
    """What no rule keeps stays as long as something may trip it yet, and dies when it was said to."""
    bench, seen = Bench(tmp_path, vault, additional=1), Tripwire()
    for _ in range(3):
        cycle(bench)
    for _ in range(WARM_UP + RECENT):
        seen = seen.after(Seen(2 * MIB, 0), 96 * MIB, bench.clock.now)
    with vault.begin() as connection:
        connection.execute(update(schema.item).values(tripwire=to_builtins(seen)))
    bench.cycles.worker = Sealed()
    cycle(bench)
    bench.cycles.worker = EngineWorker()
    rules = []
    for _ in range(RECENT + 2):
        told = {one.made.number: one for one in report.retention(bench.item(), bench.points(), bench.protected())}
        cycle(bench)
        for number in told.keys() - {one.number for one in bench.points()}:
            dies = told[number].dies
            assert dies is not None and dies.timestamp() == bench.clock.now
            rules.append(told[number].kept.votes[0].rule)
    assert rules.count("M15") == 1
