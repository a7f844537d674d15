"""`secondsite overlay`, `place` and `adopt --like`: what they print, and a failover and its way back by hand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from secondsite import engine
from secondsite.orchestration import cli


def run(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> Any:
    """What a command says with --json."""
    assert cli.run([*(str(argument) for argument in arguments), "--json"]) == status
    out, error = capsys.readouterr()
    return json.loads(out) if not status else error


def test_a_failover_and_back_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk, forward, back = tmp_path / "vm.raw", tmp_path / "forward", tmp_path / "back"
    overlay, data = tmp_path / "vm.overlay", bytearray(os.urandom(1 << 20))
    disk.write_bytes(data)
    run(capsys, "replicate", disk, forward)
    made = run(capsys, "overlay", "create", overlay, forward)
    assert made["created"] and made["point"] == "1"
    with engine.open_image(overlay, "rw") as image:
        image.write(70_000, b"written there")
    data[70_000:70_013] = b"written there"
    listed = run(capsys, "overlay", "list", forward)["overlays"]
    assert [(one["id"], one["generation"]) for one in listed] == [(made["claim"], 1)]
    assert "overlay stands on it" in run(capsys, "prune", forward, "--drop", "1", status=3)
    assert run(capsys, "adopt", disk, back, "--like", forward)["point"] == "1"
    assert run(capsys, "replicate", overlay, back)["changed_bytes"] == 65536
    placed = run(capsys, "place", disk, back)
    assert placed["before"] == f"{disk}.before-2" and disk.read_bytes() == data
    assert run(capsys, "place", disk, "--commit") == {"commit": True}
    assert run(capsys, "place", disk, "--undo") == {"undo": False}
    assert run(capsys, "overlay", "remove", overlay) == {"gone": True}
    assert run(capsys, "overlay", "release", forward, made["claim"]) == {"gone": False}


def test_lines_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk = tmp_path / "vm.raw"
    disk.write_bytes(os.urandom(100_000))
    engine.replicate(disk, tmp_path / "replica")
    overlay = tmp_path / "vm.overlay"
    for arguments, said in (
        (["overlay", "create", overlay, tmp_path / "replica"], "over point 1"),
        (["overlay", "create", overlay, tmp_path / "replica"], "it was there"),
        (["overlay", "list", tmp_path / "replica"], "CLAIM"),
        (["overlay", "remove", overlay], "gone"),
        (["place", disk, tmp_path / "replica"], "the old disk is"),
        (["place", disk, "--undo"], "done"),
    ):
        assert cli.run([str(argument) for argument in arguments]) == 0
        assert said in capsys.readouterr().out
    for wrong in (["overlay", "create", overlay], ["place", disk], ["overlay", "remove", overlay, "x"]):
        assert cli.run([str(argument) for argument in wrong]) == 2
        assert "Traceback" not in capsys.readouterr().err
