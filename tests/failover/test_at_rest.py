"""Application-consistent points (R4) of machines that failed over: by the agent of the QEMU that was started for them,
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

from bench import Bench
from secondsite.orchestration.protection import report

AGENT = 'guest_agent = "{folder}/vm.agent"\n'


def with_policy(bench: Bench) -> None:
    """One each hour; a cycle of the bench is an hour after the one before."""
    plain = bench.text
    bench.text = lambda estate: (
        plain(estate)
        .replace("additional = 15\n", "additional = 15\napplication_consistent = 1\n")
        .replace("[[policy]]", f"{AGENT}[[policy]]")
    )
    bench.apply()


def told(bench: Bench) -> list[str]:
    """What `status` says of them."""
    (row,) = report.rows(bench.database, bench.clock.now)
    return [one.words for one in row.reasons if one.rule == "R4.4"]


def marked(linux: Linux) -> None:
    """Its file systems need no recovery, and the guest goes on."""
    linux.cycle(write=False)  # a resync makes none
    linux.write_on(2)
    made = linux.cycle(write=False)
    assert made.application and not needs_recovery(image(linux, linux.contents(made)))
    linux.write_on(2)
    assert not told(linux)


def image(linux: Linux, disks: dict[str, bytes]) -> Path:
    path = linux.folder / "marked.raw"
    path.write_bytes(disks[str(linux.paths[0])])
    return path


@pytest.mark.needs("guest")
@pytest.mark.timeout(900)
def test_of_a_linux_there_and_at_home_again(linux: Make) -> None:
    one = linux()
    with_policy(one)
    moved(one, "planned")
    marked(one)
    moved(one, "failback")
    marked(one)


def test_what_commands_start_has_none_that_could_be_asked(bench: Bench) -> None:
    with_policy(bench)
    bench.start_home()
    bench.cycle()
    bench.failovers().fail_over("app1", "planned")
    bench.failovers().act("app1", "commit")
    for _ in range(2):
        made = bench.cycle(write=False)
    lacks = "no application-consistent point: the machine has no guest_agent where it runs now"
    assert not made.application and told(bench) == [lacks]
