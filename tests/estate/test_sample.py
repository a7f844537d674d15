"""What `scenarios --sample` prints is a whole estate; the small one protects a machine once it has its paths."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from operators import Shell

from secondsite import engine
from secondsite.orchestration import cli
from secondsite.orchestration.estate.loading import parse
from secondsite.orchestration.scenarios import matrix
from secondsite.orchestration.scenarios.check import check


def sample(capsys: pytest.CaptureFixture[str], name: str) -> str:
    capsys.readouterr()
    assert cli.run(["scenarios", "--sample", name]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["small", *matrix.SCENARIOS])
def test_no_sample_breaks_a_rule(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not check(parse(sample(capsys, name).encode()).estate).findings


def test_the_small_one_protects_a_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = sample(capsys, "small").replace('"/vm', f'"{tmp_path}/vm').replace('"/backup', f'"{tmp_path}/backup')
    (tmp_path / "estate.toml").write_text(text)
    (tmp_path / "vm").mkdir()
    disk = tmp_path / "vm" / "vm.raw"
    disk.write_bytes(b"machine" * 50_000)
    shell = Shell(capsys, tmp_path / "vault.db")
    shell("vault", "init")
    shell("apply", str(tmp_path / "estate.toml"))
    code = "from secondsite.orchestration.cli import main; main()"
    program = [sys.executable, "-c", code, "run", "--vault", shell.vault, "--json"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert (first["machine"], first["error"], first["what"], first["point"]) == ("vm", None, "cycle", 1)
    assert engine.verify(tmp_path / "backup/vm/vm", source=disk).ok


@pytest.mark.parametrize("more", [("--json",), ("--check", "estate.toml")])
def test_a_sample_is_printed_as_it_is(more: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["scenarios", "--sample", "small", *more]) == 2
    assert capsys.readouterr().err == "secondsite: --sample prints a file as it is: without --check and --json\n"
