"""A machine that is at rest goes on, whoever is killed meanwhile: the program, the keeper, or both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_application import log, quiesce
from test_cycles import Bench, Clock, wait
from test_killed_cycles import hurry, start

from secondsite import engine
from secondsite.orchestration.protection import keeper
from secondsite.orchestration.protection.rest import Plan
from secondsite.orchestration.vault import audit
from secondsite.orchestration.vault.database import Database

HOLD = """
import time
from secondsite.orchestration.protection import keeper
from secondsite.orchestration.protection.rest import Plan
with keeper.kept(Plan("m", ("sh", "-c", "echo before >> {log}"), ("sh", "-c", "echo after >> {log}"), 10)):
    print("at rest", flush=True)
    time.sleep(600)
"""


def plan(folder: Path, before: str = "true", after: str = "true", **more: int) -> Plan:
    return Plan("m", ("sh", "-c", before), ("sh", "-c", f"echo after >> {folder}/log; {after}"), **more)


def test_a_program_that_is_killed_while_it_holds_lets_it_go_on_at_once(tmp_path: Path) -> None:
    code = HOLD.format(log=tmp_path / "log")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "at rest\n"
        began = time.monotonic()
        process.send_signal(signal.SIGKILL)
        wait(lambda: log(tmp_path) == ["before", "after"], 20)
    assert time.monotonic() - began < 5


def test_signals_to_all_of_a_service_do_not_end_the_keeper_first(tmp_path: Path) -> None:
    with keeper.kept(plan(tmp_path)) as found:
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(keepers(os.getpid())[0], number)
        time.sleep(0.1)
        assert log(tmp_path) == []
    assert (found.held, found.thawed, found.warnings) == (True, True, []) and log(tmp_path) == ["after"]


def test_without_its_keeper_a_program_lets_it_go_on_itself(tmp_path: Path) -> None:
    with keeper.kept(plan(tmp_path)) as found:
        os.kill(keepers(os.getpid())[0], signal.SIGKILL)
    assert (found.held, found.thawed) == (False, True) and "ended before its time" in found.warnings[0]
    assert log(tmp_path) == ["after"]


def test_an_instant_that_does_not_come_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from secondsite.orchestration.protection import keeper; keeper.HOLD_SECONDS = 0.2; keeper.main()"
    program = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with program:
        keeper._ask(program, plan(tmp_path))
        assert keeper._hear(program, 20) is not None
        wait(lambda: log(tmp_path) == ["after"], 20)
        last = keeper._hear(program, 20)
        assert last is not None and not last.held and "did not come" in last.warnings[0]
        assert program.stdin is not None
        program.stdin.close()


def test_what_an_operation_raises_in_it_comes_through(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), keeper.kept(plan(tmp_path)):
        raise ZeroDivisionError
    assert log(tmp_path) == ["after"]


def test_nothing_to_do_is_not_at_rest() -> None:
    with keeper.kept(Plan("m", agent="/nowhere/agent")) as found:
        assert isinstance(found, engine.Freeze)
    assert not found.held and found.thawed and "were not frozen" in found.warnings[0]


def keepers(parent: int) -> list[int]:
    """The processes of a program that keep a machine at rest."""
    found = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"protection.keeper" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


@pytest.mark.sweep(sample=1)
@pytest.mark.parametrize("both", [False, True], ids=["the program", "the keeper too"])
def test_a_killed_orchestrator_leaves_nothing_at_rest(
    both: bool, tmp_path: Path, url: str, vault: Database
) -> None:
    """The next start completes it: the machine goes on, and the point that was due is made."""
    commands = quiesce(tmp_path, "sleep 0.7")
    bench = Bench(tmp_path, vault, hours=1, machine=commands, clock=Clock(now=time.time()))
    process = start(url)
    try:
        wait(lambda: bool(bench.points()))
        hurry(vault)
        wait(lambda: len(log(tmp_path)) == 1)
        victims = [process.pid, *(keepers(process.pid) if both else [])]
        assert len(victims) == 1 + both and bench.item().at_rest is not None
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        process.wait(30)
        if not both:
            wait(lambda: log(tmp_path) == ["app1 before", "app1 after"], 10)
            assert bench.item().at_rest is not None, "nobody was left to note it"
        process = start(url)
        wait(lambda: bool(bench.item().statistics.application), 60)
    finally:
        process.terminate()
        process.wait(60)
    ran = ["app1 before", *["app1 after"] * (1 if both else 2), "app1 before", "app1 after"]
    assert log(tmp_path) == ran and bench.item().at_rest is None
    assert [one.detail for one in audit.newest(vault) if one.what == "let go on"] == [
        "a cycle had ended while it was at rest"
    ]
