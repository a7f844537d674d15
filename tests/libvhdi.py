"""The disk of a VHDX or VHD as libvhdi reads it, to standard output; each further file is the parent of the one before.

    python3 tests/libvhdi.py CHILD PARENT... >disk.raw

It is run by a Python that has `pyvhdi`: Debian's package is for Debian's own, not for the one in .venv.
"""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys
from pathlib import Path

PYTHONS = (sys.executable, "/usr/bin/python3")


@functools.cache
def python() -> str:
    """The first Python that has it. Raises LookupError."""
    for name in PYTHONS:
        if Path(name).exists() and subprocess.run([name, "-c", "import pyvhdi"], capture_output=True).returncode == 0:
            return name
    raise LookupError(f"no pyvhdi (package python3-libvhdi) for {' or '.join(PYTHONS)}")


def read(*paths: Path) -> bytes:
    """The disk of the first file; each next one is its parent."""
    command = [python(), __file__, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def main() -> None:
    import pyvhdi

    files = []
    for path in sys.argv[1:]:
        files.append(pyvhdi.file())
        files[-1].open(path)
    for child, parent in itertools.pairwise(files):
        assert child.get_parent_identifier() == parent.get_identifier(), "another parent"
        child.set_parent(parent)
    size = files[0].get_media_size()
    for at in range(0, size, 1 << 20):
        sys.stdout.buffer.write(files[0].read_buffer_at_offset(min(1 << 20, size - at), at))
    for file in files:
        file.close()


if __name__ == "__main__":
    main()
