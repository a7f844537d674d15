"""What 1,000 protected machines take: the scheduler's lag, memory and processor time, `status` and `plan`.

    python bench/protection.py VAULT [--seconds 60] [--items 1000] [--machines 10000] [--output FILE]

VAULT is a file that is not there yet, or an empty database, postgresql://USER@HOST/DATABASE. Cycles do nothing, so that
all that is measured is the vault and who runs them; the vault is as after a day, with all points that the policy keeps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from secondsite.orchestration.bench.protection.estates import estate

ROUNDS = 3
CLI = [sys.executable, "-c", "from secondsite.orchestration.cli import main; main()"]
SERVE = [sys.executable, "-m", "secondsite.orchestration.bench.protection.serve"]
# Figures of the issue: seconds, bytes, cores.
WANTED = {"lag_p99": 1.0, "memory_bytes": 200 << 20, "cores": 1.0, "status_seconds": 0.5, "plan_seconds": 3.0}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vault")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--machines", type=int, default=10_000)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def took(command: list[str], status: tuple[int, ...]) -> float:
    """The best of some runs of a whole command, in seconds."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.monotonic()
        ran = subprocess.run([*CLI, *command], capture_output=True, text=True)
        best = min(best, time.monotonic() - began)
        if ran.returncode not in status:
            raise SystemExit(f"{' '.join(command)}: status {ran.returncode}: {ran.stderr}")
    return best


def measure(options: argparse.Namespace) -> dict[str, Any]:
    served = [*SERVE, options.vault, str(options.items), str(options.seconds)]
    found = json.loads(subprocess.check_output(served, text=True).splitlines()[-1])
    found["status_seconds"] = took(["status", "--vault", options.vault], (0, 1, 3))
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(estate(options.machines))
        file.flush()
        found["plan_seconds"] = took(["plan", file.name, "--vault", options.vault], (0,))
    return found


def main() -> None:
    options = arguments()
    found = measure(options)
    for name, most in WANTED.items():
        print(f"{name:16}{found[name]:14.3f}  at most {most}{'' if found[name] <= most else '   MISSED'}")
    print(json.dumps(found))
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
