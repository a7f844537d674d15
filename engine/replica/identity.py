"""What a replica is: its id, block size, hash seed, fencing epoch and the source that it follows (`replica.json`)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import Any

from secondsite.engine import errors
from secondsite.engine.replica import record


@dataclass(frozen=True, slots=True)
class Identity:
    """`source` is the name under which it remembers its source image: a path on a machine, or the user's word.
    `source_format` is how that is read. `history` is how its folder could keep points when it was made: `clone` or
    `undo`.
    """

    replica_id: bytes
    block_size: int
    seed: int
    epoch: int
    created: str
    source: str
    history: str
    source_format: str

    @classmethod
    def new(cls, block_size: int, created: str, source: str, history: str, source_format: str = "raw") -> Identity:
        """A fresh one. Its random seed keys the hashes: a guest that could choose colliding blocks does not know it."""
        seed = secrets.randbits(63)
        return cls(secrets.token_bytes(16), block_size, seed, 1, created, source, history, source_format)

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
            record.field(fields, "source", str, path),
            record.field(fields, "history", str, path),
            record.field({"source_format": "raw", **fields}, "source_format", str, path),
        )

    def following(self, source: str, source_format: str) -> Identity:
        """The same replica with another source."""
        return replace(self, source=source, source_format=source_format)

    def raised(self, epoch: int) -> Identity:
        """The same replica with a higher epoch."""
        return replace(self, epoch=epoch)
