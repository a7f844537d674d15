"""What the VHDX tests share: the hand-made files of vhdxkit, and the samples, unpacked."""

from __future__ import annotations

import bz2
import gzip
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# pytest's importlib mode imports each test file alone: what they share is found by this.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def unpack(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Unpacks a sample by its path in the manifest; once in a run, and all into one folder, as chains need it."""
    folder = tmp_path_factory.mktemp("samples")

    def one(name: str) -> Path:
        target = folder / Path(name).stem
        if not target.exists():
            opener = gzip.open if name.endswith(".gz") else bz2.open
            with opener(samples / name) as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
        return target

    return one


@pytest.fixture(scope="session")
def manifest(samples: Path) -> dict[str, dict]:
    """The VHDX samples by their paths."""
    entries = json.loads((samples / "manifest.json").read_text())
    return {entry["path"]: entry for entry in entries if entry["format"] == "vhdx"}
