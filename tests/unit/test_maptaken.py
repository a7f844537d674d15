"""A map that begins as another replica's: as a clone of its file, or page by page, it says the same."""

from __future__ import annotations

import random
from array import array
from pathlib import Path

import pytest

from secondsite.engine import errors, mapcopy
from secondsite.engine.blockmap import HEADER_BYTES, PAGE_BLOCKS, PAGE_BYTES, BlockMap
from secondsite.engine.images import RawImage
from secondsite.engine.images.base import Image
from secondsite.engine.images.memory import MemoryImage

ONE, OTHER, BLOCK = bytes(range(16)), bytes(range(16, 32)), 4096
PAGES = (1, 3, 9)


def filled(file: Image, blocks: int, seed: int) -> BlockMap:
    """Of three pages, and zeros else, and only a part of it written out."""
    chance = random.Random(seed)
    made = BlockMap.create(file, "one", ONE, BLOCK, blocks * BLOCK)
    for _ in range(2):
        chosen = array("Q", sorted(page * PAGE_BLOCKS + chance.randrange(PAGE_BLOCKS) for page in PAGES))
        made.store(chosen, chance.randbytes(16 * len(chosen)), len(chosen))
    return made


def same(one: BlockMap, other: BlockMap) -> None:
    blocks = array("Q", range(min(one.blocks, other.blocks)))
    assert one.load_hashes(blocks, len(blocks)) == other.load_hashes(blocks, len(blocks))


def taken(base: BlockMap, file: Image, size: int) -> BlockMap:
    """In a map that held something else."""
    made = BlockMap.create(file, "other", OTHER, BLOCK, size)
    made.store(array("Q", [0]), b"y" * 16, 1)
    mapcopy.take(made, base)
    return made


@pytest.mark.parametrize("change", [0, -3 * PAGE_BLOCKS - 77, 2 * PAGE_BLOCKS + 5])
@pytest.mark.parametrize("where", ["memory", "files", "clones"])
def test_it_says_the_same(tmp_path: Path, where: str, change: int, request: pytest.FixtureRequest) -> None:
    blocks = 10 * PAGE_BLOCKS - 5
    folder = request.getfixturevalue("xfs_dir") if where == "clones" else tmp_path
    old, new = (
        MemoryImage(path="m") if where == "memory" else RawImage(folder / f"taken-{name}", "create")
        for name in ("old", "new")
    )
    with old, new:
        base, plain = filled(old, blocks, 1), filled(MemoryImage(path="p"), blocks, 1)
        made = taken(base, new, (blocks + change) * BLOCK)
        plain.resize((blocks + change) * BLOCK)
        assert made.replica_id == OTHER and made.image_size == (blocks + change) * BLOCK
        same(made, plain)
        again = BlockMap.load(made.file, "other", OTHER) if made.seal() else made
        same(again, plain)
        again.check()
        assert again.digests() == plain.digests()
        made.store(array("Q", [PAGE_BLOCKS]), b"z" * 16, 1)
        made.write_out()
        same(base, filled(MemoryImage(path="p"), blocks, 1))  # what is written into the new one is not in the old
        base.check()


def test_a_damaged_page_leaves_an_empty_map() -> None:
    blocks = 10 * PAGE_BLOCKS
    base = filled(MemoryImage(path="m"), blocks, 2)
    base.write_out()
    broken = BlockMap.load(base.file, "one", ONE)
    base.file.write(HEADER_BYTES + PAGE_BYTES * (1 + 3) + 9, b"\xff")
    made = BlockMap.create(MemoryImage(path="n"), "other", OTHER, BLOCK, blocks * BLOCK)
    with pytest.raises(errors.Damaged, match="does not match its digest"):
        mapcopy.take(made, broken)
    assert made.blocks == blocks and not list(made.nonzero(0, blocks))


def test_a_damaged_page_of_a_clone_is_met_when_it_is_read(xfs_dir: Path) -> None:
    blocks = 10 * PAGE_BLOCKS
    with RawImage(xfs_dir / "broken-old", "create") as old, RawImage(xfs_dir / "broken-new", "create") as new:
        base = filled(old, blocks, 3)
        base.write_out()
        old.write(HEADER_BYTES + PAGE_BYTES * (1 + 3) + 9, b"\xff")
        made = taken(BlockMap.load(old, "one", ONE), new, blocks * BLOCK)
        same_page = array("Q", range(PAGE_BLOCKS, 2 * PAGE_BLOCKS))
        assert made.load_hashes(same_page, len(same_page)) == base.load_hashes(same_page, len(same_page))
        with pytest.raises(errors.Damaged, match="does not match its digest"):
            made.load_hashes(array("Q", [3 * PAGE_BLOCKS]), 1)
