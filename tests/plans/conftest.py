"""Plans are run on a vault of each kind."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "vault"))

from vaultkit import server, url, vault

sys.path.insert(0, str(Path(__file__).parent))

__all__ = ["server", "url", "vault"]
