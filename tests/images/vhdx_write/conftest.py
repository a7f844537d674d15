"""What the tests of VHDX writing share."""

from __future__ import annotations

import sys
from pathlib import Path

# pytest's importlib mode imports each test file alone: what they share is found by this.
sys.path.insert(0, str(Path(__file__).parent))
