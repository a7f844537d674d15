"""A QEMU that stands still, so that its monitor takes connections and says nothing, and one whose folder was removed
under it: it runs, whatever is asked, and nothing but its end by force is done to it.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from machinekit import Machine, make_replica, processes

from secondsite.engine import errors
from secondsite.orchestration.hypervisors import daemons, stopping
from secondsite.orchestration.hypervisors.qemu import process

pytestmark = pytest.mark.needs("qemu-system-x86_64")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANSWER_SECONDS", "_END_SECONDS", "_START_SECONDS"):
        monkeypatch.setattr(process, name, 0.3)
    monkeypatch.setattr(stopping, "_ANSWER_SECONDS", 0.3)


def test_one_that_hangs_runs_and_is_ended_by_force(machine: Callable[..., Machine]) -> None:
    """R9.6, R9.10: it is not asked to shut down in vain for ever, and what is given up need not answer."""
    one = machine()
    pid = one.start()["pid"]
    os.kill(pid, signal.SIGSTOP)
    found = one.status()
    assert (found["state"], found["wrong"]) == ("running", "its monitor does not answer")
    with pytest.raises(errors.Unreachable, match="'app1' runs, and its monitor does not answer"):
        one.start()
    with pytest.raises(errors.Refused, match=r"machine 'app1' still runs; agent: .*; acpi: "):
        one.call("stop", how=["agent", "acpi"], seconds=5)
    with pytest.raises(errors.Refused, match="machine 'app1' runs; stop it first"):
        one.remove()
    assert processes(one.run) == [pid]
    assert one.kill()["by"] == "kill" and processes(one.run) == []


def test_one_whose_folder_was_removed_under_it_runs_and_is_ended_by_force(
    machine: Callable[..., Machine], tmp_path: Path
) -> None:
    """R9.9: beside it the other side would be started, as of one that is off."""
    one = machine(disks=[{"name": "os", "replica": str(make_replica(tmp_path)), "at": "1"}])
    pid = one.start()["pid"]
    shutil.rmtree(one.run)
    assert (one.status()["state"], one.status()["ours"]) == ("running", False)
    assert "its folder was removed under process" in one.status()["why"]
    with pytest.raises(errors.Refused, match=r"'app1' runs already, not started from here: its folder was removed"):
        one.start()
    with pytest.raises(errors.Refused, match="machine 'app1' still runs"):
        one.call("stop", how=["agent", "acpi"], seconds=1)
    os.kill(pid, 0)
    assert one.kill()["by"] == "kill" and one.status()["state"] == "stopped"
    assert not daemons.left_in(str(one.run / "app1"))
