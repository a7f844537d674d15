"""What the property tests share with the fault tests, and what makes thousands of small cycles quick."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from secondsite.engine import source

# pytest's importlib mode imports each test file alone: what they share is found by this.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "faults")]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing loses power here, and nobody writes a source while it is read."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)
    monkeypatch.setattr(source, "TICK_NS", -1)
