"""`make demo-failover` with a small disk; what it tells is checked by itself, and nothing of it stays."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.sweep(sample=0)
@pytest.mark.parametrize("size", ["96M"])
@pytest.mark.needs("root", "namespaces", "guest", "e2fsprogs")
def test_the_story_is_told_to_its_end(size: str) -> None:
    """Four boots under software emulation: 155 s on two cores of which others had most."""
    # Not pytest's own folder, which has a name too long for the socket of a monitor in it.
    with tempfile.TemporaryDirectory(prefix="demo") as folder:
        command = [sys.executable, str(ROOT / "bench" / "demo_failover.py"), "--size", size, "--dir", folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=540)
        left = list(Path(folder).iterdir())
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert "All as it should be." in done.stdout
    assert len(re.findall(r"(\d+) were on the disk in (?:London|Leeds), \1 are here", done.stdout)) == 2
    assert "10.2.0.11/24" in done.stdout and not left
