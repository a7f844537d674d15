"""Application-consistent points (R4) of a Linux that failed over, by the agent of the QEMU that was started for it,
there and at home again, although the estate names the socket of another.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "guests"))

from linuxkit import Linux, Make
from test_guest import needs_recovery
from test_linux import moved

from secondsite.orchestration.protection import report

pytestmark = [pytest.mark.needs("guest"), pytest.mark.timeout(900)]


def with_policy(linux: Linux) -> Linux:
    """One each hour; a cycle of the bench is an hour after the one before."""
    plain = linux.text
    linux.text = lambda estate: (
        plain(estate)
        .replace("additional = 15\n", "additional = 15\napplication_consistent = 1\n")
        .replace("memory = 160\n", 'memory = 160\nguest_agent = "{folder}/vm.agent"\n')
    )
    linux.apply()
    return linux


def marked(linux: Linux) -> None:
    """Its file systems need no recovery, and the guest goes on."""
    linux.cycle(write=False)  # a resync makes none
    linux.write_on(2)
    made = linux.cycle(write=False)
    assert made.application and not needs_recovery(image(linux, linux.contents(made)))
    linux.write_on(2)
    (row,) = report.rows(linux.database, linux.clock.now)
    assert "R4.4" not in {one.rule for one in row.reasons}


def image(linux: Linux, disks: dict[str, bytes]) -> Path:
    path = linux.folder / "marked.raw"
    path.write_bytes(disks[str(linux.paths[0])])
    return path


def test_there_and_at_home_again(linux: Make) -> None:
    one = with_policy(linux())
    moved(one, "planned")
    marked(one)
    moved(one, "failback")
    marked(one)
