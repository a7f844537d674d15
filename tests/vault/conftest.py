"""Tests of the vault; their fixtures are in vaultkit.py, for others too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from vaultkit import server, url, vault

__all__ = ["server", "url", "vault"]
