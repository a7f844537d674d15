"""What a cycle changes, whatever was sent on the way: each block once, by its hashes before and after."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from secondsite.engine import kernel
from secondsite.engine.batch import Batch
from secondsite.engine.blockmap import BlockMap

Hashes = bytes | bytearray | memoryview


@dataclass
class Account:
    """In an image of `size` bytes `changed_bytes` are in blocks whose contents become others, and `data_bytes` of them
    in blocks that are not zeros then, as a scan that is not cut short counts them.
    """

    block_size: int
    size: int
    changed_bytes: int = 0
    data_bytes: int = 0

    def put(self, before: BlockMap | None, batch: Batch) -> None:
        """What a batch changes, before it goes into that map (None: where nothing was)."""
        blocks = batch.blocks[: batch.count]
        held = before.load_hashes(blocks, len(blocks)) if before is not None else bytes(16 * len(blocks))
        self.add(blocks, batch.hashes[: 16 * len(blocks)], held)

    def whole(self, block_map: BlockMap) -> Account:
        """All that a map names, of a first content."""
        for blocks in block_map.nonzero(0, block_map.blocks):
            self.changed_bytes += self._bytes(blocks)
        self.data_bytes = self.changed_bytes
        return self

    def add(self, blocks: array[int], after: Hashes, before: Hashes) -> None:
        """Ascending blocks with their hashes."""
        places = array("Q", bytes(8 * len(blocks)))
        count = kernel.entries.differing_entries(after, before, 0, places)
        changed = array("Q", [blocks[place] for place in places[:count]])
        data = [blocks[place] for place in places[:count] if any(after[16 * place : 16 * place + 16])]
        self.changed_bytes += self._bytes(changed)
        self.data_bytes += self._bytes(array("Q", data))

    def _bytes(self, blocks: array[int]) -> int:
        if not blocks:
            return 0
        return len(blocks) * self.block_size - max((blocks[-1] + 1) * self.block_size - self.size, 0)
