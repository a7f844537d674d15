"""run, status, retention and protection, as an operator uses them, with real processes and images."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from operators import Shell
from test_cycles import Bench, Clock

sys.path.insert(0, str(Path(__file__).parents[1]))
import exposition

from secondsite.orchestration.vault.database import Database


def test_a_machine_is_run_shown_paused_and_kept(
    tmp_path: Path, url: str, vault: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tmp_path, vault, every=30, clock=Clock(now=time.time()))
    code = "from secondsite.orchestration.cli import main; main()"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
    program = [sys.executable, "-c", code, "run", "--vault", url, "--json", "--metrics", where]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert (first["machine"], first["error"], first["what"], first["point"]) == ("app1", None, "cycle", 1)
        with urllib.request.urlopen(f"http://{where}/metrics", timeout=30) as answer:
            figures = exposition.parsed(answer.read().decode())
        assert figures['secondsite_machine_cycles_total{machine="app1"}'] == 1
        assert 0 <= figures['secondsite_last_good_age_seconds{machine="app1"}'] < 60
        assert figures['secondsite_state{machine="app1",state="replicating"}'] == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    shell = Shell(capsys, url)
    shown = shell("status")
    assert "app1" in shown and "replicating" in shown and "normal" in shown
    facts = shell.json("status")["machines"][0]
    assert facts["level"] == "normal" and 0 <= facts["rpo"] < 60
    lines = [line.split() for line in shell("status", "app1").splitlines()]
    assert len(facts["disks"]) == 2 and all([path, replica] in lines for path, replica in facts["disks"].items())
    assert "R3.2 one of 3 additional" in shell("retention", "app1")
    shell("protection", "pin", "app1", "--point", "1", "--why", "before the upgrade")
    assert "M15 pinned" in shell("retention", "app1", "--at", "2099-01-01")
    shell("protection", "pause", "app1")
    assert "R8.3 replication is paused" in shell("status", status=1)
    reasons = shell.json("status", status=1)["machines"][0]["reasons"]
    assert reasons == [{"level": "warning", "rule": "R8.3", "words": "replication is paused"}]
    assert "R8.1" in shell("protection", "pause", "app1", status=3)
    assert "is pinned" not in shell("vault", "audit", "--subject", "app1")
    assert bench.points()[0].pinned == "before the upgrade"


def test_what_is_not_protected_is_said_so(url: str, vault: Database, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(capsys, url)
    assert "nothing is protected" in shell("status")
    for command in (("status", "app9"), ("retention", "app9"), ("protection", "pause", "app9")):
        assert "no machine 'app9' is protected" in shell(*command, status=3)
    assert "is no time" in shell("retention", "app9", "--at", "noon", status=2)
