"""One cycle into a store as a process of its own, with small segments: `python storewriter.py DISK URL STATE [EPOCH]`.

It prints the kind of cycle and the newest point; of an error its name, and ends with its exit status.
"""

from __future__ import annotations

import sys

from secondsite import engine
from secondsite.engine import errors, source
from secondsite.engine.remote.sending import sender
from secondsite.engine.store.log import segment

BLOCK, SEGMENT_BYTES = 4096, 128 << 10


def main(disk: str, url: str, state: str, epoch: str | None = None) -> None:
    """Nobody writes the disk while it is read."""
    segment.SEGMENT_BYTES, sender.SMALL_BATCH_BYTES, source.TICK_NS = SEGMENT_BYTES, SEGMENT_BYTES // 2, -1
    try:
        done = engine.replicate(
            disk, url, state=state, block_size=BLOCK, codec="none", tracker="scan",
            epoch=int(epoch) if epoch else None,
        )  # fmt: skip
    except errors.Error as error:
        print(type(error).__name__, error)
        sys.exit(error.exit_code)
    print(done.kind, done.point)


if __name__ == "__main__":
    main(*sys.argv[1:])
