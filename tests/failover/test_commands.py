"""secondsite failover, as an operator uses it: plans, steps, JSON, lines on errors, and processes that are killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from operators import Shell
from shellkit import gated, shell_of

from bench import Bench, Clock
from secondsite.orchestration.vault import audit
from secondsite.orchestration.vault.database import Database


@pytest.fixture
def now(folder: Path, vault: Database) -> Iterator[Bench]:
    """By the wall clock."""
    made = Bench(folder, vault, Clock(time.time() - 8000))
    made.cycle()
    made.cycle()
    yield made
    made.end()


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], now: Bench) -> Shell:
    return shell_of(capsys, now)


def test_from_plan_to_commit_and_what_is_told_meanwhile(shell: Shell, now: Bench) -> None:
    """R9.12, R9.13: what waits for its commit is shown, and which way it goes; every action is in the audit log."""
    before = now.item
    told = shell("failover", "unplanned", "app1", "--at", "1", "--plan")
    assert "from point 1" in told and "raise the epoch" in told and "nothing was done" in told
    assert shell.json("failover", "planned", "app1", "--plan")["there"]["host"] == "h2"
    assert now.item == before and not list(now.folder.glob("run2/*"))
    told = shell("failover", "unplanned", "app1", "--at", "1")
    assert "app1: make the disks of the point" in told and "unplanned failover from point 1: running" in told
    found = shell.json("failover", "status", "app1")["machines"][0]
    assert (found["active"], found["failover"]["point"], found["seen"]) == (
        "target", 1, {"source": "stopped", "target": "running"}
    )  # fmt: skip
    told = shell("status", status=1)
    assert "target, forward" in told and "commit pending" in told
    assert shell.json("failover", "change-point", "app1")["failover"]["point"] == 2
    assert "R9.12" in shell("failover", "unplanned", "app1", status=3)
    assert shell.json("failover", "commit", "app1")["state"] == "failed over"
    done = [(one.what, one.result) for one in audit.newest(now.database) if one.what.startswith("failover")]
    assert done == [("failover unplanned", "done"), ("failover change-point", "done"), ("failover unplanned", "failed"),
                    ("failover commit", "done")]  # fmt: skip


LINES = [
    (("unplanned", "app1", "--at", "9"), 3, "there is no point 9"),
    (("unplanned", "app1", "--at", "never"), 2, "is no number of a point"),
    (("unplanned", "nobody"), 3, "nobody"),
    (("test-cleanup", "app1"), 3, "R9.3"),
    (("commit", "app1"), 3, "R9.12"),
    (("cancel", "app1"), 3, "R9.10"),
    (("failback", "app1", "--when", "before"), 3, "R10.1"),
    (("complete", "app1"), 3, "R10.4"),
    (("reverse", "app1"), 3, "R10.1"),
]


def test_what_is_refused_is_one_line(shell: Shell) -> None:
    for arguments, status, words in LINES:
        told = shell("failover", *arguments, status=status)
        assert words in told and len(told.splitlines()) == 1, told


def test_a_key_that_cannot_be_read_stops_no_machine(shell: Shell, now: Bench) -> None:
    """R9.14: a slip of the pen, also where no replica is encrypted; it is seen before anything is begun."""
    now.start_home()
    for option in ("--key-file", "--passphrase-file"):
        assert "there is no such file" in shell("failover", "planned", "app1", option, "/nowhere", status=5)
    assert now.item.failover is None and now.runs("source")


def test_a_point_that_is_damaged_or_gone_starts_nothing(shell: Shell, now: Bench) -> None:
    """Bad input: told before anything is stopped or fenced; it replicates as before."""
    replica = Path(next(iter(now.item.homes.values())))
    (replica / "points/000000000001.undo").unlink(missing_ok=True)
    for name in (replica / "points").glob("*1.json"):
        name.unlink()
    shell("failover", "unplanned", "app1", "--at", "1", status=3)
    assert not now.runs("target") and not list(now.folder.glob("run2/**/*.overlay"))
    found = shell.json("failover", "status", "app1")["machines"][0]
    assert (found["state"], found["failover"]) == ("replicating", None)


def test_a_point_is_proved_first_where_that_is_asked_for(shell: Shell, now: Bench) -> None:
    """What is in an undo delta is not looked at by a start; what rotted there is found before anything is begun."""
    shell("failover", "unplanned", "app1", "--at", "1", "--verify")
    told = shell("failover", "cancel", "app1")  # which nothing ran before: so it is now, and is said to be
    assert "app1: replicating; does not run at the source" in told
    replica = next(Path(place) for path, place in now.item.homes.items() if path.endswith("data.raw"))
    (delta,) = (replica / "points").glob("*.undo")
    data = bytearray(delta.read_bytes())
    data[len(data) // 2] ^= 1
    delta.write_bytes(data)
    assert "point 1 is damaged" in shell("failover", "unplanned", "app1", "--at", "1", "--verify", status=4)
    assert (now.item.state.words, now.item.failover) == ("replicating", None) and not now.runs("target")


def test_a_start_that_fails_says_what_may_be_done_and_does_not_say_that_it_runs(shell: Shell, now: Bench) -> None:
    """R9.7, R9.13: on the failing call, in both lists, and to monitoring; the named call then goes on."""
    gate = now.folder / "gate"
    now.text = lambda text: gated(text, gate, "h2")
    now.apply()
    told = shell("failover", "planned", "app1", status=3)
    onward = "`secondsite failover start app1` goes on, `secondsite failover cancel app1` takes it back"
    assert f"app1: {onward}" in told and not now.runs("source") and not now.runs("target")
    told = shell("failover", "status", "app1")
    assert "is to run at the target on h2" in told and onward in told and "runs at" not in told
    told = shell("status", status=3)
    assert "is to run at the target, forward  critical" in told and "R9.7 its failover failed" in told
    gate.touch()
    told = shell("failover", "start", "app1")
    assert now.runs("target") and "runs at the target on h2" in told and "R9.7" not in shell("status", status=1)


# The program, with leases of a second and a half.
QUICK = """
import sys
from secondsite.orchestration.protection import leases, orchestrator
from secondsite.orchestration.failover import renewing
leases.LEASE_SECONDS = 1.5
orchestrator._RENEW_SECONDS = renewing._RENEW_SECONDS = 0.3
from secondsite.orchestration.failover import record, rehearsals
record.LEASE_SECONDS = rehearsals.LEASE_SECONDS = 1.5
from secondsite.orchestration.cli import main
main()
"""


def test_a_command_that_is_killed_is_gone_on_with_by_who_runs_cycles(now: Bench) -> None:
    """kill -9 of the real process in the middle of its steps."""
    program = [sys.executable, "-c", QUICK]
    vault = ["--vault", str(now.folder / "vault.db")]
    command = [*program, "failover", "unplanned", "app1", *vault]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "make the disks" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert now.item.failover is not None and now.item.failover.phase == "preparing"
    with subprocess.Popen([*program, "run", *vault], stdout=subprocess.PIPE, text=True) as running:
        until = time.monotonic() + 60
        while (way := now.item.failover) is None or way.phase != "running":
            assert time.monotonic() < until and running.poll() is None
            time.sleep(0.1)
        running.terminate()
        said = running.communicate(timeout=30)[0]
        assert running.returncode == 0
    told = "is gone on with: it is fail over waiting completion, running"
    assert f"app1: its unplanned failover was left behind, and {told}" in said.splitlines(), said
    assert now.runs("target")
