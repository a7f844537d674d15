"""Whole scenarios use what tests of hosts, estates and vaults have."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("scenarios", "remote", "estate", "vault")]

from vaultkit import server  # noqa: E402

__all__ = ["server"]
