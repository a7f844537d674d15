"""Tests of retention share their histories and their model."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(params=[0])
def seed(request: pytest.FixtureRequest, sweep: bool) -> int:
    """Another one in each long run; printed, so that a failure can be run again."""
    chosen = random.SystemRandom().randrange(1 << 32) if sweep else int(request.param)
    print("seed", chosen)
    return chosen
