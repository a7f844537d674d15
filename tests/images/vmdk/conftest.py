"""Makes `vmdkkit` importable, and unpacks samples."""

from __future__ import annotations

import bz2
import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def sample(samples: Path, tmp_path: Path) -> Callable[[str], tuple[Path, dict]]:
    """A sample by its name, unpacked, and what the manifest says of it."""
    manifest = json.loads((samples / "manifest.json").read_text())

    def unpack(name: str) -> tuple[Path, dict]:
        entry = next(e for e in manifest if Path(e["path"]).name.startswith(name))
        packed = samples / entry["path"]
        raw = packed.read_bytes()
        for suffix, open_packed in ((".gz", gzip.decompress), (".bz2", bz2.decompress)):
            if packed.suffix == suffix:
                raw, packed = open_packed(raw), packed.with_suffix("")
        out = tmp_path / packed.name
        out.write_bytes(raw)
        return out, entry

    return unpack
