"""Random histories against a bytearray: what a replica holds is what the source held, whatever happened to both."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import rig
from history import History

# 527 histories by default, and ten times as many with --sweep.
GROUPS, EACH, EACH_IN_SWEEP = 10, 17, 170


def live(seed: int, folder: Path, mode: str) -> None:
    """One history; on failure a line that says how to have it again, and every step."""
    folder.mkdir()
    history: History | None = None
    try:
        history = History(seed, folder, mode)
        history.run()
    except Exception as error:
        steps = "\n  ".join(history.log if history else [])
        raise AssertionError(f"seed {seed}, mode {mode}: {error!r}\n  {steps}") from error
    shutil.rmtree(folder)


@pytest.mark.parametrize("group", range(GROUPS))
@pytest.mark.parametrize("mode", ["disk", "clones", "memory"])
def test_histories(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, sweep: bool, mode: str, group: int
) -> None:
    """Half of the groups with constants so small that small images have many pages and batches."""
    if group % 2:
        rig.make_small(monkeypatch)
    count = EACH_IN_SWEEP if sweep else EACH
    for seed in range(group * count, (group + 1) * count):
        live(seed, tmp_path / str(seed), mode)


@pytest.mark.needs("xfs")
def test_histories_with_real_clones(xfs_dir: Path, quick: None, sweep: bool) -> None:
    folder = xfs_dir / "property"
    folder.mkdir()
    for seed in range(EACH_IN_SWEEP if sweep else EACH):
        live(seed, folder / str(seed), "reflink")
    folder.rmdir()
