"""The map of every block's hash: on disk, sparse, checked when it is read, sealed as a whole."""

from __future__ import annotations

import random
import time
import tracemalloc
from array import array

import pytest

from secondsite.engine import blockmap, errors
from secondsite.engine.blockmap import (
    CACHE_PAGES,
    HEADER_BYTES,
    PAGE_BLOCKS,
    PAGE_BYTES,
    BlockMap,
    differing_blocks,
)
from secondsite.engine.images import RawImage
from secondsite.engine.images.memory import MemoryImage

ID = bytes(range(16))
BLOCK = 4096


def new(blocks: int, file: MemoryImage | None = None) -> BlockMap:
    return BlockMap.create(file or MemoryImage(path="m"), "m", ID, BLOCK, blocks * BLOCK)


def put(block_map: BlockMap, entries: dict[int, bytes]) -> None:
    blocks = array("Q", sorted(entries))
    block_map.store(blocks, b"".join(entries[block] for block in blocks), len(blocks))


def everything(block_map: BlockMap) -> dict[int, bytes]:
    found = {}
    for blocks in block_map.nonzero(0, block_map.blocks):
        hashes = block_map.load_hashes(blocks, len(blocks))
        found |= {block: bytes(hashes[16 * n : 16 * n + 16]) for n, block in enumerate(blocks)}
    return found


def reopened(block_map: BlockMap) -> BlockMap:
    block_map.write_out()
    return BlockMap.load(block_map.file, "m", ID)


def test_against_a_dictionary() -> None:
    """Stores, clears and resizes at random, reopened now and then, against plain Python."""
    chance = random.Random(11)
    model: dict[int, bytes] = {}
    blocks = 3 * PAGE_BLOCKS
    found = new(blocks)
    for step in range(300):
        what = chance.random()
        if what < 0.5:
            entries = {chance.randrange(blocks): chance.randbytes(16) for _ in range(chance.randrange(1, 50))}
            put(found, entries)
            model |= entries
        elif what < 0.7:
            first = chance.randrange(blocks)
            count = min(chance.choice((1, 10, PAGE_BLOCKS, 2 * PAGE_BLOCKS)), blocks - first)
            found.clear(first, count)
            model = {b: h for b, h in model.items() if not first <= b < first + count}
        elif what < 0.8:
            blocks = chance.choice(
                (1, 100, PAGE_BLOCKS, PAGE_BLOCKS + 1, 5 * PAGE_BLOCKS, 9 * PAGE_BLOCKS - 1)
            )
            found.resize(blocks * BLOCK)
            model = {b: h for b, h in model.items() if b < blocks}
        elif what < 0.9:
            found = reopened(found)
        if step % 10 == 0:
            assert everything(found) == model, step
            first = chance.randrange(blocks)
            count = chance.randrange(1, blocks - first + 1)
            held = found.read(first, count)
            wanted = b"".join(model.get(b, bytes(16)) for b in range(first, first + count))
            assert (bytes(16 * count) if held is None else bytes(held)) == wanted
    fresh = new(blocks)
    if model:
        put(fresh, model)
    assert fresh.seal() == found.seal()


def test_what_was_cut_does_not_come_back() -> None:
    found = new(100)
    put(found, {10: b"a" * 16, 60: b"b" * 16})
    found.resize(50 * BLOCK)
    found.resize(100 * BLOCK)
    assert everything(found) == {10: b"a" * 16}
    assert everything(reopened(found)) == {10: b"a" * 16}


def test_a_sparse_map_of_8_tib_is_small_and_fast(tmp_path: object) -> None:
    """In blocks of 64 KiB; DESIGN section 6 of the engine promises a memory that does not grow with the image."""
    path = f"{tmp_path}/m"
    began = time.monotonic()
    tracemalloc.start()
    with RawImage(path, "create") as file:
        found = BlockMap.create(file, "m", ID, 65536, 8 << 40)
        blocks = array("Q", (0, 1 << 26, (8 << 40) // 65536 - 1))
        found.store(blocks, b"x" * 48, 3)
        seal = found.seal()
        again = BlockMap.load(file, "m", ID)
        assert [b for part in again.nonzero(0, again.blocks) for b in part] == list(blocks)
        assert again.seal() == seal
        again.check()
        with RawImage(f"{path}2", "create") as copy:
            assert again.copy_to(copy, "m2").seal() == seal
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        import os

        assert os.stat(path).st_blocks * 512 < 3 << 20  # three pages, three tables' pages and the header
    assert peak < 16 << 20
    assert time.monotonic() - began < 5


def test_pages_that_leave_the_cache_are_written() -> None:
    blocks = (3 * CACHE_PAGES) * PAGE_BLOCKS
    found = new(blocks)
    wanted = {page * PAGE_BLOCKS + 7: bytes([page % 255 + 1]) * 16 for page in range(3 * CACHE_PAGES)}
    for block, digest in wanted.items():
        put(found, {block: digest})
        assert len(found._cache) <= CACHE_PAGES
    assert everything(found) == wanted
    assert everything(reopened(found)) == wanted


@pytest.mark.parametrize("where", ["header", "table", "page"])
def test_a_flipped_byte_is_found(where: str) -> None:
    file = MemoryImage(path="m")
    found = new(PAGE_BLOCKS, file)
    put(found, {n: bytes([n % 251 + 1]) * 16 for n in range(PAGE_BLOCKS)})
    found.write_out()
    at = {"header": 41, "table": HEADER_BYTES + 3, "page": HEADER_BYTES + PAGE_BYTES + 999}[where]
    file.write(at, bytes([file.read(at, 1)[0] ^ 4]))
    with pytest.raises(errors.Damaged, match="m: at byte") as caught:
        BlockMap.load(file, "m", ID).check()
    assert caught.value.offset == {"header": 0}.get(where, HEADER_BYTES + PAGE_BYTES)


@pytest.mark.parametrize(
    "size", [0, 63, HEADER_BYTES, HEADER_BYTES + PAGE_BYTES, HEADER_BYTES + 2 * PAGE_BYTES - 1]
)
def test_a_file_that_was_cut(size: int) -> None:
    file = MemoryImage(path="m")
    put(new(10, file), {1: b"x" * 16})
    file.resize(size)
    with pytest.raises(errors.Damaged, match="m: at byte"):
        BlockMap.load(file, "m", ID)


def test_the_map_of_another_replica_or_kind() -> None:
    file = MemoryImage(path="m")
    new(10, file)
    with pytest.raises(errors.Damaged, match="another replica"):
        BlockMap.load(file, "m", bytes(16))
    file.write(0, b"2SITEDLT")
    with pytest.raises(errors.Damaged, match="2SITEMAP"):
        BlockMap.load(file, "m", ID)


def test_pages_of_zeros_are_neither_stored_nor_read() -> None:
    file = MemoryImage(path="m")
    found = new(2 * PAGE_BLOCKS, file)
    put(found, {5: b"x" * 16})
    found.write_out()
    found.clear(0, PAGE_BLOCKS)
    found.write_out()
    # The page's place may hold anything now.
    file.write(HEADER_BYTES + PAGE_BYTES, b"\xee" * PAGE_BYTES)
    again = BlockMap.load(file, "m", ID)
    again.check()
    assert again.read(0, 2 * PAGE_BLOCKS) is None
    assert list(again.nonzero(0, again.blocks)) == []
    assert again.seal() == new(2 * PAGE_BLOCKS).seal()


def test_the_seal_is_of_content_and_size_alone() -> None:
    one, two = new(100), new(100)
    assert one.seal() == two.seal()
    put(one, {1: b"a" * 16, 2: b"b" * 16})
    put(two, {2: b"b" * 16})
    assert one.seal() != two.seal()
    put(two, {1: b"a" * 16, 3: b"c" * 16})
    two.clear(3, 1)
    assert one.seal() == two.seal()
    two.resize(100 * BLOCK - 1)
    assert one.seal() != two.seal()
    two.resize(100 * BLOCK)
    assert one.seal() == two.seal()
    assert BlockMap.create(MemoryImage(), "m", bytes(16), BLOCK, 0).seal() != new(0).seal()
    assert BlockMap.create(MemoryImage(), "m", ID, 8192, 0).seal() != new(0).seal()


def test_blocks_past_the_end() -> None:
    found = new(10)
    with pytest.raises(ValueError, match="block 10 of an image of 10"):
        put(found, {10: b"x" * 16})
    assert found.load_hashes(array("Q", (9, 10, 1 << 40)), 3) == bytes(48)


def test_an_image_of_nothing() -> None:
    found = reopened(new(0))
    assert (found.blocks, found.pages, found.file.size) == (0, 0, HEADER_BYTES)
    found.resize(BLOCK)
    assert found.blocks == 1


def test_differing_blocks() -> None:
    one, two = new(2 * PAGE_BLOCKS), new(PAGE_BLOCKS + 1)
    put(one, {1: b"a" * 16, 2: b"b" * 16, PAGE_BLOCKS + 5: b"c" * 16})
    put(two, {1: b"a" * 16, 3: b"d" * 16})
    assert [list(b) for page in range(2) for b in differing_blocks(one, two, page)] == [
        [2, 3],
        [PAGE_BLOCKS + 5],
    ]
    assert [list(b) for page in range(2) for b in differing_blocks(one, None, page)] == [
        [1, 2],
        [PAGE_BLOCKS + 5],
    ]
    assert not list(differing_blocks(one, one, 0))


def test_groups_lie_where_the_format_says() -> None:
    assert blockmap._table_offset(1) == 4096 + 134_283_264
    assert blockmap._page_offset(2048) == 4096 + 134_283_264 + 65536
    assert blockmap._page_offset(2047) + 65536 == blockmap._table_offset(1)
