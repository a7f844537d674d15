"""Who this host is where it writes into a replica in a store.

Under the same name it gets its own fence again at once after it was killed; whoever else waits until that runs out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secondsite.engine import errors
from secondsite.engine.files import LocalFiles
from secondsite.engine.replica import record
from secondsite.engine.store.base import new_holder

_NAME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@contextmanager
def unknown(replica_id: bytes) -> Iterator[str]:
    """Of a host that remembers nothing."""
    yield new_holder()


@contextmanager
def of_host(folder: Path, replica_id: bytes) -> Iterator[str]:
    """The name that is remembered in a folder, for one process at a time. Raises Busy."""
    files, path = LocalFiles(), folder / replica_id.hex() / "writer.json"
    files.mkdir(str(path.parent))
    lock = files.lock(str(path.with_suffix(".lock")), exclusive=True)
    if lock is None:
        raise errors.Busy("another process of this host writes into the same replica", path=str(path.parent))
    try:
        yield _name(files, str(path))
    finally:
        lock.release()


def _name(files: LocalFiles, path: str) -> str:
    """What cannot be read is made anew: after a crash that costs a minute."""
    try:
        found = str(record.field(record.read(files, path)[0], "holder", str, path))
        if _NAME.fullmatch(found):
            return found
    except errors.Error:
        pass
    made = new_holder()
    record.write(files, path, {"holder": made})
    return made
