"""A block map that begins as another one: a clone of its file, or page by page, each proved by its digest.

Of a far map the pages are asked for by several at once, and those that a map near by has are read there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from secondsite.engine import errors
from secondsite.engine.blockmap import BlockMap


def take(made: BlockMap, base: BlockMap, near: BlockMap | None = None, workers: int = 1) -> None:
    """Let `made` say of the blocks that both have what `base` says, a map of another replica; the others become zero
    blocks. Where files can be cloned no page is read, and each is checked when it is. Raises Damaged, and then all of
    them are zero blocks.
    """
    size = made.image_size
    made.resize(0)
    try:
        if not made.take_file(base):
            copy(base, made, near, workers)
    except BaseException:
        made.resize(0)
        raise
    finally:
        made.resize(size)


def copy(base: BlockMap, made: BlockMap, near: BlockMap | None = None, workers: int = 1) -> None:
    """All that a map says into an empty one. Raises Damaged."""
    from secondsite.engine.scan import run_workers

    base.write_out()
    made.resize(base.image_size)
    pages, lock = base.pages_held(), threading.Lock()

    def work(worker: int, stopping: Callable[[], bool]) -> None:
        while not stopping():
            with lock:
                page = next(pages, None)
            if page is None:
                return
            made.put_page(page, *_found(base, page, near))

    run_workers(workers, work)
    made.write_out()


def _found(base: BlockMap, page: int, near: BlockMap | None) -> tuple[bytes, bytearray]:
    if near is not None and page < near.pages and near.digest(page) == base.digest(page):
        try:
            return near.page(page)
        except errors.Error:
            pass  # what is near is a copy, and may be bad
    return base.page(page)
