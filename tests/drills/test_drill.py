"""A drill by its command, whole: it boots from the point that is meant, is measured, reported, and taken away (M7)."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from drillkit import Drilled
from netkit import devices
from operators import Shell

from secondsite.orchestration.drills import journal
from secondsite.orchestration.failover import rehearsals
from secondsite.orchestration.networks import namespaces

pytestmark = pytest.mark.needs("root", "namespaces", "qemu-system-x86_64")
SECONDS = 60


class Drill(Shell):
    """`secondsite drill` of the bench, with its reports in a folder of their own."""

    def __init__(self, capsys: pytest.CaptureFixture[str], bench: Drilled) -> None:
        super().__init__(capsys, bench.folder / "vault.db")
        self.reports = bench.folder / "reports"

    def __call__(self, *arguments: str, status: int = 0) -> str:
        return super().__call__("drill", *arguments, "--reports", str(self.reports), status=status)

    def report(self, number: int = -1) -> dict[str, Any]:
        """As it was written; its page has the same."""
        files = sorted(self.reports.glob("*.json"), key=lambda path: path.stat().st_mtime)
        found = json.loads(files[number].read_bytes())
        page = files[number].with_suffix(".html").read_text()
        assert found["id"] in page and (">ok<" if found["ok"] else ">failed<") in page
        assert isinstance(found, dict)
        return found


@pytest.fixture
def drill(capsys: pytest.CaptureFixture[str], drilled: Drilled) -> Drill:
    return Drill(capsys, drilled)


def test_it_boots_from_the_point_is_measured_and_goes(drill: Drill, drilled: Drilled) -> None:
    began = time.monotonic()
    how = ("--verify", "--notes", "as every month", "--network", "none")
    told = drill("app1", "--at", "1", "--serial", "POINT 1\r", *how)
    took, found = time.monotonic() - began, drill.report()
    assert found["ok"] and found["point"] == "1" and 0 < found["up_seconds"] < took
    assert f"app1: up after {found['up_seconds']:.1f} s from point 1" in told
    assert found["age_seconds"] > 0 and found["notes"] == "as every month"
    assert base64.b64decode(found["screenshot"])[:4] == b"\x89PNG"
    assert [one["name"] for one in found["stages"] if one["ok"]] == [
        "prove the point by its hashes", "make its disks and networks", "start it",
        "wait for 'POINT 1\\r' on its serial line", "clean up",
    ]  # fmt: skip
    assert sum(found["disks"].values()) == 2 << 20
    assert drilled.item.test is None and drilled.left() == []
    assert [one["notes"] for one in rehearsals.notes(drilled.database, "app1")] == ["as every month"]
    assert [point.number for point in drilled.points] == [1, 2]
    assert "app1" in drill("--list") and " ok " in drill("--list")


def test_one_that_does_not_come_up_is_told_and_goes_too(drill: Drill, drilled: Drilled) -> None:
    """The newest point says another word than is waited for: the status is 1, the report has what it said."""
    told = drill("app1", "--serial", "POINT 1\r", "--seconds", "4", "--network", "none", status=1)
    found = drill.report()
    assert "did NOT come up from point 2" in told and not found["ok"] and found["up_seconds"] is None
    failed = [one["detail"] for one in found["stages"] if not one["ok"]]
    assert len(failed) == 1 and "within 4 s; its last line: 'POINT 2'" in failed[0]
    assert found["screenshot"] is not None and drilled.item.test is None and drilled.left() == []
    assert [one.ok for one in journal.newest(drilled.database)] == [False]


def test_the_policy_says_when_one_is_due(drill: Drill, drilled: Drilled) -> None:
    """M7: by the estate's own signal, from a timer that asks each day."""
    assert "up after" in drill("--due", "--network", "none")
    assert "no machine is due" in drill("--due", "--network", "none")
    assert drill.report()["signal"] == "'POINT' on its serial line"


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
def test_one_that_ends_in_the_middle_leaves_nothing_behind(how: signal.Signals, drill: Drill, drilled: Drilled) -> None:
    """What a killed one left the next one takes away; one that is stopped, as a timer's service, does so itself. Of its
    networks, which were in a namespace of their own, there is no device either (R9.2, R9.3).
    """
    code = "from secondsite.orchestration.cli import main; main()"
    command = [sys.executable, "-c", code, "drill", "app1", "--serial", "never"]
    command += ["--vault", drill.vault, "--reports", str(drill.reports)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + SECONDS
    while (test := drilled.item.test) is None or test.phase != "running":
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    (apart,) = namespaces.of_tests(drilled.namespace)
    assert {one["linkinfo"]["info_kind"] for one in devices(apart).values()} == {"bridge", "tun"}
    assert devices(drilled.namespace) == {}
    process.send_signal(how)
    told, _ = process.communicate(timeout=SECONDS)
    assert process.returncode != 0 and "Traceback" not in told
    notes = ["drill: did not come up"]
    if how is signal.SIGKILL:
        assert drilled.left(), "its machine runs"
        drill("app1")
        assert drill.report()["ok"]
        notes = ["drill: came up", "the drill was killed"]
    assert drilled.item.test is None and drilled.left() == []
    assert namespaces.of_tests(drilled.namespace) == [] and devices(drilled.namespace) == {}
    tested = rehearsals.notes(drilled.database, "app1")
    assert [one["notes"] for one in tested] == notes and all(one["drill"] for one in tested)
