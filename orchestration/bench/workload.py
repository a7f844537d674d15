"""The image that is measured: an ext4 file system of real files, or a seeded mix where mke2fs is missing."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from secondsite.engine import errors
from secondsite.engine.units import KIB, MIB
from secondsite.orchestration.bench import process

BLOCK = 64 * KIB
FOLDERS = ("/usr/bin", "/usr/lib", "/usr/share", "/usr")
# Of an image: what is left to ext4's own tables, its journal and the ends of files.
_FILLED = 0.88
_FILE_COST = 4 * KIB  # a file's last block, and its inode
# mke2fs takes half a millisecond a file, so small ones are taken up to a number: an image of 4 GiB in half a minute.
SMALL_BYTES = 128 * KIB
SMALL_FILES = 20_000
_SEED = 2014


@dataclass(frozen=True, slots=True)
class Workload:
    """`data_bytes` is what the file holds; the rest of `virtual_bytes` are holes."""

    path: Path
    kind: str
    virtual_bytes: int
    data_bytes: int
    files: int


def make(path: Path, size: int) -> Workload:
    """Write the image to `path`. Needs as much room again for a moment, for copies of the files beside it."""
    mke2fs = process.which("mke2fs")
    if mke2fs is None:
        return _mix(path, size)
    staging = path.with_name(path.name + ".files")
    try:
        files = stage(staging, int(size * _FILLED), FOLDERS)
        make_ext4(mke2fs, path, size, staging, files)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Workload(path, "ext4 of files from /usr", size, data_bytes(path), files)


def make_ext4(mke2fs: str, path: Path, size: int, tree: Path, files: int) -> None:
    """An ext4 image of a folder. Raises Unreachable where mke2fs refuses."""
    with path.open("wb") as file:
        file.truncate(size)
    inodes = max(files + files // 8 + 512, size // (64 * KIB))
    command = [mke2fs, "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-N", str(inodes), "-d", str(tree), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise errors.Unreachable(f"mke2fs ended with status {done.returncode}: {lines[-1]}", path=str(path))


def stage(target: Path, room: int, folders: tuple[str, ...], small_files: int = SMALL_FILES) -> int:
    """Copy readable files and links until `room` bytes of an image are used; how many inodes they need.

    Of files below SMALL_BYTES no more than `small_files` are taken.
    """
    used = small = count = 0
    target.mkdir(parents=True)
    made = {target}
    for source in _files(folders):
        try:
            info = source.lstat()
            size = info.st_size if stat.S_ISREG(info.st_mode) else 0
            if used + size + _FILE_COST > room:
                if room - used < MIB:
                    break
                continue
            if size < SMALL_BYTES and small >= small_files:
                continue
            copy = target / source.relative_to("/")
            if copy.parent not in made:
                copy.parent.mkdir(parents=True, exist_ok=True)
                made.update(copy.parents)
                made.add(copy.parent)
            if stat.S_ISLNK(info.st_mode):
                copy.symlink_to(source.readlink())
            else:
                shutil.copyfile(source, copy)
        except OSError:
            continue  # unreadable for this user, or gone: it is only filling
        used += size + _FILE_COST
        small += size < SMALL_BYTES
        count += 1
    return count + len(made)


def _files(folders: tuple[str, ...]) -> Iterator[Path]:
    """Regular files and links, in a constant order, each once."""
    seen: set[str] = set()
    for folder in folders:
        for where, below, names in os.walk(folder):
            below[:] = sorted(name for name in below if str(Path(where, name)) not in seen)
            for path in (Path(where, name) for name in sorted(names)):
                if path.is_symlink() or path.is_file():
                    yield path
        seen.add(folder)


def _mix(path: Path, size: int) -> Workload:
    """Half words, a quarter noise, a quarter holes, in runs of a megabyte: compresses about as real files do."""
    source = random.Random(_SEED)
    words = [source.randbytes(source.randint(2, 12)).hex().encode() for _ in range(4096)]
    with path.open("wb") as file:
        file.truncate(size)
        for start in range(0, size, MIB):
            sort, length = source.randrange(4), min(MIB, size - start)
            if sort == 3:
                continue
            data = source.randbytes(length) if sort == 2 else b" ".join(source.choices(words, k=length // 8))
            file.seek(start)
            file.write(data[:length])
    return Workload(path, "seeded mix", size, data_bytes(path), 0)


def extents(path: Path) -> list[tuple[int, int]]:
    """The (offset, length) of what a file holds."""
    found = []
    with path.open("rb") as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        while at < size:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, at - start))
    return found


def data_bytes(path: Path) -> int:
    """Bytes that are no holes."""
    return sum(length for _, length in extents(path))


def change(path: Path, share: float, seed: int) -> int:
    """Overwrite a random share of the image's blocks, chosen among those that hold data; their number.

    Each gets another block's bytes with every byte flipped by one constant: they compress as real files do, and
    match nothing that a peer could find elsewhere in its copy.
    """
    chosen = random.Random(seed)
    blocks = [
        block for start, length in extents(path) for block in range(-(-start // BLOCK), (start + length) // BLOCK)
    ]
    everything = path.stat().st_size // BLOCK
    targets = chosen.sample(blocks, min(max(int(everything * share), 1), len(blocks)))
    with path.open("r+b", buffering=0) as file:
        for number, target in enumerate(targets):
            mask = int.from_bytes(bytes([1 + (7 * number + seed) % 255]) * BLOCK, "little")
            data = os.pread(file.fileno(), BLOCK, chosen.choice(blocks) * BLOCK)
            os.pwrite(file.fileno(), (int.from_bytes(data, "little") ^ mask).to_bytes(BLOCK, "little"), target * BLOCK)
    return len(targets)
