"""The note that a machine's protection left in a replica, as it was first written, is read for ever."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from secondsite import engine
from secondsite.orchestration.protection import note

HERE = Path(__file__).resolve().parent
DIGEST = "aadaa7b2bb1e5de2e1472b9d99dacbe94a126dfb2e2e932214226a854868bf54"


def test_it_is_the_file_that_was_committed() -> None:
    assert hashlib.sha256((HERE / "note1/note.json").read_bytes()).hexdigest() == DIGEST


def test_the_replica_gives_it_back_and_it_says_what_it_said(tmp_path: Path) -> None:
    root = tmp_path / "replica"
    shutil.copytree(HERE / "v2/replica-none", root)
    assert engine.read_note(root) is None, "replicas of before have none"
    shutil.copy(HERE / "note1/note.json", root)
    said = engine.read_note(root)
    assert said is not None
    found = note.parse(said, str(root))
    assert (found.machine, found.epoch, found.newest, found.older) == ("büro-1", 2, 3, False)
    assert [disk.path for disk in found.disks] == ["/vm/system.raw", "/vm/data.raw"]
    assert [row.generations for row in found.points] == [[1, 1], [2, 1], [2, 1]]
    assert [row.dropped for row in found.points] == [True, False, False]
    assert found.points[1].application and found.points[1].pinned == "before the upgrade"
    timeline = found.reached()
    assert timeline is not None and timeline.moment.boot == "boot-1"
    assert found.made(found.points[1]).generations == {"/vm/system.raw": 2, "/vm/data.raw": 1}
