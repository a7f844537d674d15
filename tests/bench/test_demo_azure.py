"""`make demo-azure` at a small size; what it tells is checked by itself, and nothing of it stays."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.needs("azurite", "e2fsprogs", "qemu-img")
def test_the_story_is_told_to_its_end(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "bench" / "demo_azure.py"), "--size", "48M", "--dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert "Images are identical." in done.stdout and "All as it should be." in done.stdout
    assert re.search(r"[2-9]\.\d times less", done.stdout)
    assert "AccountKey" not in done.stdout and not list(tmp_path.iterdir())
