"""The source side's copy of a far replica's block map: what its newest generation holds, so that only changes are read
over the network. It is advice: each use is proved by the replica's seal, and what does not fit is fetched.
"""

from __future__ import annotations

import os
import posixpath
from array import array
from collections.abc import Callable, Iterator

from secondsite.engine import errors
from secondsite.engine.blockmap import DIGEST_BYTES, PAGE_BLOCKS, BlockMap
from secondsite.engine.files import Files
from secondsite.engine.remote import maps, talk


def default_folder() -> str:
    """Where a user's programs keep what may be made anew (XDG)."""
    base = os.environ.get("XDG_STATE_HOME") or posixpath.join(posixpath.expanduser("~"), ".local", "state")
    return posixpath.join(base, "secondsite", "maps")


class MapCache:
    """The maps of one user's far replicas, a file each, named by the replica's id."""

    def __init__(self, folder: str, files: Files) -> None:
        self.folder, self.files = folder, files
        files.mkdir(folder)

    def _path(self, replica_id: bytes) -> str:
        return posixpath.join(self.folder, f"{replica_id.hex()}.map")

    def working(self, state: talk.State, fetch: Callable[[talk.Ask], Iterator[bytes]], peer: str) -> BlockMap:
        """A map of the replica's newest generation in an unnamed file, open for writing; `fetch` asks the replica.
        Raises Damaged where what came does not have the seal.
        """
        file = self.files.temporary(self.folder)
        made = BlockMap.create(file, f"the map of {peer}", state.replica_id, state.block_size, state.virtual_bytes)
        try:
            if state.generation:
                self._fill(made, state, fetch, peer)
                if made.seal().hex() != state.seal:
                    raise errors.Damaged("its block map does not have its newest point's seal", path=peer)
        except BaseException:
            made.close()
            raise
        return made

    def _fill(
        self, made: BlockMap, state: talk.State, fetch: Callable[[talk.Ask], Iterator[bytes]], peer: str
    ) -> None:
        cached = self.cached(state.replica_id, state.block_size)
        try:
            if cached is not None and _same(cached, state):
                _copy(cached, made, range(made.pages))
                return
            held = cached.digests() if cached is not None else b""

            def has(page: int, digest: bytes) -> bool:
                return held[page * DIGEST_BYTES : (page + 1) * DIGEST_BYTES] == digest and _try(cached, made, page)

            maps.fill(made, fetch, peer, has)
        finally:
            if cached is not None:
                cached.close()

    def cached(self, replica_id: bytes, block_size: int) -> BlockMap | None:
        """What is remembered of a replica's map, if anything; of which generation, its digests tell."""
        path = self._path(replica_id)
        if self.files.size(path) < 0:
            return None
        file = self.files.open(path, "r")
        try:
            found = BlockMap.load(file, path, replica_id)
            if found.block_size == block_size:
                return found
        except errors.Error:
            pass
        file.close()
        return None

    def keep(self, block_map: BlockMap) -> None:
        """The map that the replica has now, for the next cycle."""
        path = self._path(block_map.replica_id)
        try:
            with self.files.open(path + ".new", "create") as file:
                block_map.copy_to(file, path)
                file.flush()
            self.files.replace(path + ".new", path)
        except errors.Error:
            self.files.unlink(path + ".new")
            raise


def _same(cached: BlockMap, state: talk.State) -> bool:
    """A table is proved by the seal, and each page by the table when it is read."""
    if cached.image_size != state.virtual_bytes or cached.seal().hex() != state.seal:
        return False
    try:
        cached.check()
    except errors.Damaged:
        return False
    return True


def _copy(cached: BlockMap, made: BlockMap, pages: range) -> None:
    for page in pages:
        first = page * PAGE_BLOCKS
        count = min(PAGE_BLOCKS, made.blocks - first)
        found = cached.read(first, count)
        if found is not None:
            made.store(array("Q", range(first, first + count)), found, count)


def _try(cached: BlockMap | None, made: BlockMap, page: int) -> bool:
    if cached is None or page >= cached.pages:
        return False
    try:
        first = page * PAGE_BLOCKS
        if min(PAGE_BLOCKS, cached.blocks - first) < min(PAGE_BLOCKS, made.blocks - first):
            return False
        _copy(cached, made, range(page, page + 1))
    except errors.Damaged:
        return False
    return True
