"""A demo on a disk that is nearly full: a smaller image where the usual has no room, one clear line where none has."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "bench" / "demo.py"
MIB = 1 << 20


@pytest.fixture
def nearly_full(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder with so many bytes of room."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def played(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(DEMO), *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.needs("root", "mount", "e2fsprogs")
@pytest.mark.parametrize("nearly_full", [400 * MIB], indirect=True)
def test_a_smaller_image_where_the_usual_one_has_no_room(nearly_full: Path) -> None:
    done = played("--dir", str(nearly_full))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert done.stderr == f"demo: {nearly_full} has 400.0 MiB free: an image of 64.0 MiB instead of 1.0 GiB\n"
    assert "All as it should be." in done.stdout and not list(nearly_full.iterdir())


@pytest.mark.needs("root", "mount", "e2fsprogs")
@pytest.mark.parametrize("nearly_full", [100 * MIB], indirect=True)
@pytest.mark.parametrize("asked", [(), ("--size", "64M")])
def test_no_room_for_any(nearly_full: Path, asked: tuple[str, ...]) -> None:
    done = played("--dir", str(nearly_full), *asked)
    assert done.returncode == 1 and not list(nearly_full.iterdir())
    assert done.stderr == f"demo: {nearly_full}: the demo needs 256.0 MiB, and 100.0 MiB are free\n"
