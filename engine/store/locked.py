"""How a sealed object is known by its first bytes, without loading what opens it (`cryptography` takes 30 ms)."""

from __future__ import annotations

import struct

from secondsite.engine import errors

MAGIC = b"2SITEENC"
VERSION = 1
SALT_BYTES = 32
HEADER = struct.Struct(f"<8sI{SALT_BYTES}s")
HEADER_BYTES = HEADER.size


class Locked(errors.Refused):
    """The replica is encrypted, and no key was given."""
