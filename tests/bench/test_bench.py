"""The benchmark runs, at a size that takes seconds, and its report is whole. No ratio is judged here."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from secondsite.orchestration.bench import host, kernels, peers, process, rows, runner, table, workload

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, **options)


def check(report: dict[str, Any], groups: set[str]) -> None:
    assert {row["group"] for row in report["rows"]} == groups
    for row in report["rows"]:
        assert row["ours"] >= 0 and all(run >= 0 for run in row["runs"]["ours"])
        if row["peer"]:
            assert math.isfinite(row["ratio"]) and row["ratio"] > 0, row
        else:
            assert row["ratio"] is None
        assert (row["met"] is None) == (row["figure"] is None)
    assert report["parameters"]["virtual_bytes"] == 64 * MIB
    assert 0 < report["parameters"]["data_bytes"] <= 64 * MIB
    assert report["host"]["cores"] >= 1 and report["host"]["kernels"] in ("native", "portable")


def test_the_command_measures_everything(tmp_path: Path) -> None:
    done = run(*process.secondsite(), "bench", "--size", "64M", "--rounds", "1", "--dir", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    check(report, set(runner.GROUPS) - set(report["skipped"]))
    assert {"source", "initial copy", "deltas", "older point", "8 TiB sparse"} <= set(report["checksum"])
    installed = {tool for peer in peers.COPIES if peer.installed for tool in [peer.tool]}
    assert not installed & set(report["not_installed"])
    assert not list(tmp_path.iterdir())


def test_the_matrix_at_smoke_size(tmp_path: Path) -> None:
    output = tmp_path / "results" / "smoke.json"
    done = run(
        sys.executable, ROOT / "bench" / "run.py", "--smoke", "--output", output,
        "--only", "initial", "--only", "delta", env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    check(report, {"initial", "delta"})
    assert {row["place"] for row in report["rows"]} == {"disk"} == set(report["checksum"])
    assert "| initial copy |" in output.with_suffix(".md").read_text()
    assert os.uname().nodename not in json.dumps([report["parameters"], report["checksum"], list(report["host"])])
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["--size", "1K"], 2), (["--size", "900T"], 5), (["--only", "nothing"], 2), (["--dir", "/no/such/folder"], 2)],
)
def test_what_cannot_be_measured_is_refused_in_one_line(arguments: list[str], status: int, tmp_path: Path) -> None:
    done = run(*process.secondsite(), "bench", "--dir", tmp_path, *arguments)
    assert done.returncode == status
    assert done.stderr.startswith("secondsite: ") and done.stderr.count("\n") == 1


def test_one_change_touches_so_many_blocks_and_no_more(tmp_path: Path) -> None:
    work = workload._mix(tmp_path / "image", 32 * MIB)
    before = work.path.read_bytes()
    count = workload.change(work.path, 0.05, 1)
    after = work.path.read_bytes()
    size = workload.BLOCK
    differing = [at for at in range(0, len(before), size) if before[at : at + size] != after[at : at + size]]
    assert len(differing) == count == 32 * MIB // size * 5 // 100


def test_the_bare_loop_and_the_scan_see_the_same_bytes(tmp_path: Path) -> None:
    work = workload._mix(tmp_path / "image", 16 * MIB)
    known = kernels.block_hashes(work.path, 2)
    seen: list[int] = []
    kernels.scan(work.path, 2, known, lambda room: seen.extend(room.blocks[: room.count]))
    assert not seen
    workload.change(work.path, 0.05, 2)
    kernels.scan(work.path, 2, known, lambda room: seen.extend(room.blocks[: room.count]))
    assert len(seen) == 16 * MIB // workload.BLOCK * 5 // 100
    assert kernels.read(work.path, workload.extents(work.path), 2, 256 * 1024) > 0


def test_a_row_is_met_by_its_median() -> None:
    row = rows.compare("g", "n", [1.0, 9.0, 2.0], "peer", [4.0, 6.0, 5.0], figure=2.5)
    assert (row.ours, row.theirs, row.ratio, row.met) == (2.0, 5.0, 2.5, True)
    assert rows.at_most("g", "n", 3.0, 2.0, "s").met is False
    assert rows.compare("g", "n", [1.0]).met is None


def test_sides_take_turns() -> None:
    order: list[str] = []

    def side(name: str) -> float:
        order.append(name)
        return 1.0

    rows.alternate(3, {name: lambda name=name: side(name) for name in "ab"})
    assert "".join(order) == "abbaab"


def test_peak_memory_is_of_the_command_alone() -> None:
    ballast = bytearray(b"x") * (96 * MIB)
    assert process.run(["true"]).peak < 48 * MIB
    assert len(ballast) and process.run([sys.executable, "-c", "x = b'x' * (64 << 20)"]).peak > 64 * MIB


def test_the_report_names_no_machine(tmp_path: Path) -> None:
    described = json.dumps(host.describe(tmp_path))
    assert os.uname().nodename not in described and str(Path.home()) not in described


def test_values_are_written_for_people() -> None:
    assert table.value("s", 0.1234) == "0.123 s"
    assert table.value("B", 3 * MIB) == "3.0 MiB"
    assert (table.ratio(2.5), table.ratio(25.4)) == ("2.50x", "25x")
    assert table.bar(0.5) == "" and len(table.bar(1e9)) == table.BAR
