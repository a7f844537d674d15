"""What a file of a folder store says at its end: how the object is called to account (FORMAT.md, section 6)."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from secondsite.engine import errors

_MAGIC, _VERSION = b"2SITEOBJ", 1
_FIXED = struct.Struct("<8sHHQQ8s")  # magic, version, bytes of metadata, bytes of the object, microseconds, turn
_COPY_BYTES = 512
_MAX_METADATA = _COPY_BYTES - _FIXED.size - 4
# Written twice, so that one bad byte loses nothing.
TRAILER_BYTES = 2 * _COPY_BYTES


@dataclass(frozen=True, slots=True)
class Trailer:
    """`etag` is random: no two objects that were ever written have the same."""

    size: int
    modified: float
    etag: str
    metadata: Mapping[str, str]

    @classmethod
    def new(cls, size: int, modified: float, metadata: Mapping[str, str] | None) -> Trailer:
        return cls(size, modified, os.urandom(8).hex(), dict(metadata or {}))

    def pack(self) -> bytes:
        """Raises Usage for metadata that are more than a few short words."""
        said = json.dumps(dict(self.metadata), separators=(",", ":")).encode() if self.metadata else b""
        if len(said) > _MAX_METADATA:
            raise errors.Usage(f"{len(said)} bytes of metadata; a folder takes {_MAX_METADATA} with an object")
        micros = max(int(self.modified * 1e6), 0)
        fixed = _FIXED.pack(_MAGIC, _VERSION, len(said), self.size, micros, bytes.fromhex(self.etag))
        body = (fixed + said).ljust(_COPY_BYTES - 4, b"\0")
        return 2 * (body + zlib.crc32(body).to_bytes(4, "little"))


def parse(data: bytes, size: int, path: str) -> Trailer:
    """The last bytes of a file with an object of `size` bytes. Raises Damaged, NewerFormat."""
    for copy in (data[:_COPY_BYTES], data[_COPY_BYTES:]):
        found = _parse(copy, path)
        if found is not None and found.size == size:
            return found
    raise errors.Damaged("it does not end as an object of a store in a folder does", path=path, offset=max(size, 0))


def _parse(copy: bytes, path: str) -> Trailer | None:
    if len(copy) != _COPY_BYTES or zlib.crc32(copy[:-4]).to_bytes(4, "little") != copy[-4:]:
        return None
    magic, version, said, size, micros, turn = _FIXED.unpack_from(copy)
    if magic != _MAGIC or said > _MAX_METADATA:
        return None
    if version != _VERSION:
        raise errors.NewerFormat(f"object of version {version}; this program knows {_VERSION}", path=path)
    try:
        metadata = json.loads(copy[_FIXED.size : _FIXED.size + said]) if said else {}
    except ValueError:
        return None
    return Trailer(size, micros / 1e6, turn.hex(), metadata) if _are_words(metadata) else None


def _are_words(metadata: object) -> bool:
    return isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
