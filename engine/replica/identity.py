"""What a replica is: its id, block size, hash seed, fencing epoch and the source that it follows (`replica.json`)."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from secondsite.engine import errors, units
from secondsite.engine.replica import record
from secondsite.engine.replica.container import FORMATS

# A replica that was made of a copy that lay there; the first source that comes is the one that it follows.
ADOPTED = "adopted:"


@dataclass(frozen=True, slots=True)
class Identity:
    """`source` is the name under which it remembers its source image: a path on a machine, or the user's word; that is
    read as `source_format`. `head_format` is how the head is written. `history` is how its folder could keep points
    when it was made: `clone` or `undo`.
    """

    replica_id: bytes
    block_size: int
    seed: int
    epoch: int
    created: str
    source: str
    history: str
    source_format: str
    head_format: str

    @classmethod
    def new(
        cls,
        block_size: int,
        created: str,
        source: str,
        history: str = "undo",
        source_format: str = "raw",
        head_format: str = "raw",
    ) -> Identity:
        """A fresh one. Its random seed keys the hashes: a guest that could choose colliding blocks does not know it."""
        seed = int.from_bytes(os.urandom(8), "little") >> 1
        return cls(os.urandom(16), block_size, seed, 1, created, source, history, source_format, head_format)

    @property
    def adopted(self) -> bool:
        """It follows no source yet."""
        return self.source.startswith(ADOPTED)

    def fields(self) -> dict[str, Any]:
        return {
            "kind": "secondsite replica",
            "replica_id": self.replica_id.hex(),
            "block_size": self.block_size,
            "seed": self.seed,
            "epoch": self.epoch,
            "created": self.created,
            "source": self.source,
            "history": self.history,
            "source_format": self.source_format,
            "head_format": self.head_format,
        }

    @classmethod
    def parse(cls, fields: dict[str, Any], path: str) -> Identity:
        """Raises Damaged where the fields make no sense."""
        text = record.field(fields, "replica_id", str, path)
        block_size = record.field(fields, "block_size", int, path)
        try:
            replica_id = bytes.fromhex(text)
        except ValueError:
            replica_id = b""
        if len(replica_id) != 16:
            raise errors.Damaged("'replica_id' should be 32 hexadecimal digits", path=path, offset=0)
        if block_size < 4096 or block_size & (block_size - 1) or block_size > 4 << 20:
            raise errors.Damaged(f"{block_size} is no block size", path=path, offset=0)
        return cls(
            replica_id,
            block_size,
            record.field(fields, "seed", int, path) & (1 << 64) - 1,
            record.field(fields, "epoch", int, path),
            record.field(fields, "created", str, path),
            units.printable(record.field(fields, "source", str, path)),
            record.field(fields, "history", str, path),
            record.field({"source_format": "raw", **fields}, "source_format", str, path),
            _head_format({"head_format": "raw", **fields}, path),
        )

    def following(self, source: str, source_format: str) -> Identity:
        """The same replica with another source."""
        return replace(self, source=source, source_format=source_format)

    def reshaped(self, block_size: int, head_format: str) -> Identity:
        """The same replica, which holds nothing yet, in other blocks or with a head of another format."""
        return replace(self, block_size=block_size, head_format=head_format)

    def raised(self, epoch: int) -> Identity:
        """The same replica with a higher epoch."""
        return replace(self, epoch=epoch)


def _head_format(fields: dict[str, Any], path: str) -> str:
    found: str = record.field(fields, "head_format", str, path)
    if found not in FORMATS:
        raise errors.NewerFormat(f"its head is of format {found!r}, which this program does not write", path=path)
    return found
