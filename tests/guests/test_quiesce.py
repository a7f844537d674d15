"""Points by policy of a Linux that runs: its file systems are frozen where one is due (R4), and never stay frozen."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "protection"))

from guestkit import Guest, check_disk, make_disk
from test_cycles import HOUR, Bench
from test_guest import needs_recovery

from secondsite import engine
from secondsite.orchestration.protection import report
from secondsite.orchestration.vault import database
from secondsite.orchestration.vault.database import Database

pytestmark = pytest.mark.needs("guest")
HOLD = """
import sys, time
from secondsite.orchestration.protection import keeper
from secondsite.orchestration.protection.rest import Plan
with keeper.kept(Plan("m", agent=sys.argv[1])):
    print("at rest", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Database]:
    with database.create(str(tmp_path / "vault.db")) as made:
        yield made


def start(folder: Path) -> Guest:
    nodes = []
    for name in ("data", "system"):
        nodes += ["-blockdev", f"driver=file,node-name={name}-file,filename={folder}/{name}.raw"]
        nodes += ["-blockdev", f"driver=raw,node-name={name},file={name}-file"]
        nodes += ["-device", f"virtio-blk-pci,drive={name}"]
    guest = Guest(folder, nodes)
    guest.wait(lambda: guest.synced() > 0)
    return guest


def test_a_guest_is_frozen_for_the_points_that_are_due_and_for_no_other(tmp_path: Path, vault: Database) -> None:
    sockets = f'qmp = "{tmp_path}/vm.qmp"\nguest_agent = "{tmp_path}/vm.agent"'
    bench = Bench(tmp_path, vault, hours=1, machine=sockets)
    bench.to_span()
    make_disk(tmp_path / "data.raw")
    with start(tmp_path) as guest:
        for _ in range(3):
            bench.clock.now += 300
            before = guest.write_on(3)
            bench.cycle()
        assert [one.application for one in bench.points()][-2:] == [True, False] and bench.item().at_rest is None
        program = [sys.executable, "-c", HOLD, str(guest.agent)]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None and holder.stdout.readline() == "at rest\n"
            frozen = guest.synced()
            holder.send_signal(signal.SIGKILL)
        guest.write_on(2)
        assert guest.synced() > frozen, "its killed freezer does not keep it frozen"
        guest.agent.unlink()
        bench.clock.now += HOUR
        bench.cycle()
        assert len(bench.points()) >= 2 and not bench.points()[-1].application
        reasons = report.rows(vault, bench.clock.now)[0].reasons
        assert "R4.4" in {one.rule for one in reasons}, "the point is there, and its mark is missed"
    marked = next(one for one in bench.points() if one.application)
    path = str(tmp_path / "data.raw")
    restored = tmp_path / "marked.raw"
    engine.restore(bench.item().disks[path], restored, at=str(marked.generations[path]))
    assert not needs_recovery(restored)
    assert len(check_disk(restored, tmp_path / "copy.raw")) <= before + 1
