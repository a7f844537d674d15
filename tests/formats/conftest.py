"""What the tests of formats share: a model of a disk, and images of it in every format."""

from __future__ import annotations

import sys
from pathlib import Path

# pytest's importlib mode imports each test file alone: what they share is found by this.
sys.path.insert(0, str(Path(__file__).parent))
