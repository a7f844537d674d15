"""The commands as an operator gives them, on the vault of a bench."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from operators import Shell

from bench import GUEST, Bench


def shell_of(capsys: pytest.CaptureFixture[str], bench: Bench) -> Shell:
    return Shell(capsys, bench.folder / "vault.db")


def gated(text: str, gate: Path, host: str) -> str:
    """An estate in which the machines of a host start once a file is there."""
    before, name, after = text.partition(f'name = "{host}"')
    start = json.dumps([sys.executable, str(GUEST), str(gate.parent / "guests"), "start"])
    held = json.dumps(["sh", "-c", f'test -e {gate} && exec "$@"', "sh", *json.loads(start)])
    return before + name + after.replace("start = {start}", f"start = {held}", 1)
