"""What the parts of the VHDX reader share: sizes, bounds, and the one way to say that a structure is wrong."""

from __future__ import annotations

from uuid import UUID

from secondsite.engine import errors
from secondsite.engine.images.vhdx.packing import KIB, MIB

TIB = 1 << 40
NO_GUID = UUID(int=0)

# Of a creation that was never finished (not in the specification, written by Microsoft's own library).
INCOMPLETE_FILE = UUID("71CC85F0-1B69-4E28-9558-C3BF83AE75D3")

MAX_DISK = 64 * TIB
MIN_BLOCK, MAX_BLOCK = MIB, 256 * MIB
# One sector bitmap, of 1 MiB, stands for so many sectors: a chunk.
CHUNK_SECTORS = 1 << 23
# Four times the largest disk: nothing that a file refers to may lie behind it.
MAX_FILE = 4 * MAX_DISK
# A table of regions or of metadata items has 64 KiB, of which the first entry is the head.
MAX_ENTRIES = 2047
# Logs of Windows and QEMU have 1 MiB; Microsoft's own library believes up to this.
MAX_LOG = 1024 * MIB
HEADER_AREA = MIB
TABLES_START = 192 * KIB
MAX_DEPTH = 64


def guid(raw: bytes) -> UUID:
    """Sixteen bytes as Microsoft orders them."""
    return UUID(bytes_le=bytes(raw))


def braced(value: UUID) -> str:
    """As it stands in parent locators."""
    return f"{{{value}}}"


def damaged(path: str, offset: int, what: str) -> errors.Damaged:
    """`what` names the structure, what is there and what was expected."""
    return errors.Damaged(what, path=path, offset=offset)
