"""What the status of failovers says is seen just then, of every machine, and within bounds."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
from killing import servers

from bench import Bench
from secondsite.orchestration.failover import asking, seeing


def told(bench: Bench) -> tuple[str, dict[str, str]]:
    """Of all that are not simply replicated, as the command without a machine has it."""
    failovers = bench.failovers()
    found = asking.looked(failovers, asking.find(failovers, None))
    assert [one["machine"] for one in found] == ["app1"]
    return found[0]["where"], found[0]["seen"]


def test_a_machine_whose_disks_nobody_serves_does_not_just_run(bench: Bench) -> None:
    """R9.13: the server of its overlays died; then the machine, too."""
    bench.cycle()
    bench.failovers().fail_over("app1", "unplanned")
    assert told(bench) == ("runs at the target", {"source": "stopped", "target": "running"})
    for number in servers(bench.folder / "run2"):
        os.kill(number, signal.SIGKILL)
    until = time.monotonic() + 10
    while servers(bench.folder / "run2") and time.monotonic() < until:
        time.sleep(0.02)
    where, seen = told(bench)
    assert where == "runs at the target, but the server of its disks is gone; failover start brings it back"
    assert seen["target"] == where.replace("runs at the target", "running")
    bench.power_off("target")
    assert told(bench) == ("does not run at the target", {"source": "stopped", "target": "stopped"})


def test_hosts_that_do_not_answer_are_not_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that hangs, and one in this process whose status command does."""
    bench.cycle()
    bench.failovers().fail_over("app1", "unplanned")
    monkeypatch.setattr(seeing, "SECONDS", 1.5)
    hangs = f'["{sys.executable}", "-c", "import time; time.sleep(30)"]'
    bench.text = lambda text: text.replace('name = "h2"\n', f'name = "h2"\nreach = {hangs}\n').replace(
        "status = {status}", f"status = {hangs}", 1
    )
    bench.apply()
    began = time.monotonic()
    where, seen = told(bench)
    assert time.monotonic() - began < 6
    assert where == "is not seen running at the target"
    assert seen["source"].startswith("unknown: no answer") and seen["target"].startswith("unknown")
    bench.text = lambda text: text
    bench.apply()
