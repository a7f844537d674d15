"""bench/continuous.py for ten seconds: the figures that it promises are there, and fit each other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "bench/continuous.py"


def test_ten_seconds_of_continuous_protection(tmp_path: Path) -> None:
    asked = ["--seconds", "10", "--size", "64", "--rate", "10", "--keep", "5", "--most", "20", "--folder", tmp_path]
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, asked)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["verified"] and found["tracker"] == "nbd" and found["failed"] == 0
    assert 1 <= found["points"] <= 5 and found["cycles"] >= 3
    assert 0 < found["age_p50"] <= found["age_p99"] <= found["age_max"] < 20
    assert 5 < found["written_mib_per_second"] <= 10.5
    assert 10 < found["server_rss_mib"] < 200 and 10 < found["watcher_rss_mib"] < 400
    assert not list(tmp_path.iterdir()), "it leaves nothing behind"
