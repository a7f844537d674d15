"""The layout of a delta on disk and on the wire. FORMAT.md, section 2, is the specification."""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

from secondsite.engine import errors
from secondsite.engine.units import MAX_BLOCKS

MAGIC = b"2SITEDLT"
# 2: a data frame's table has a sum of its own.
VERSION = 2
_HEADER = struct.Struct("<8sII16sIIQQQQQQ16s")
HEADER_BYTES = _HEADER.size

FRAME = struct.Struct("<IBBHIIIIQQQ16s")
FRAME_BYTES = 64
FRAME_MAGIC = 0x4D524653
DATA, ZEROS, INDEX, END = 1, 2, 3, 4
TABLE_SUM = 1
TABLE_ENTRY = 24
NONE, LZ4, ZSTD = 0, 1, 2
CODECS = {NONE: "none", LZ4: "lz4", ZSTD: "zstd"}

END_BODY = struct.Struct("<QQQQQ32s32s32s")
END_BYTES = FRAME_BYTES + END_BODY.size
INDEX_ENTRY = struct.Struct("<QQQ")

# Blocks are compressed in groups: 256 KiB of LZ4 packs as well as the lz4 command's 64 KiB blocks do and zstd
# within 5 % of its command; larger groups make a single block dearer to read.
GROUP_BYTES = 256 * 1024
MAX_RAW = 4 * 1024 * 1024
# A frame's body is its table and at most MAX_RAW of payload; an index may be longer.
MAX_BODY = MAX_RAW + 24 * (MAX_RAW // 512)
# The smallest frame that an index entry can stand for: a header and one run of zeros.
MIN_FRAME = FRAME_BYTES + 16


class Header(NamedTuple):
    """What a delta leads from and to: content of `base_generation` in, content of `target_generation` out."""

    replica_id: bytes
    block_size: int
    base_generation: int
    target_generation: int
    base_size: int
    target_size: int
    epoch: int
    version: int = VERSION

    @property
    def tag(self) -> int:
        """Seeds the frames' checksums, so that another replica's frames do not pass for this one's."""
        return int.from_bytes(self.replica_id[:8], "little")

    def pack(self) -> bytes:
        head = _HEADER.pack(
            MAGIC, self.version, HEADER_BYTES, self.replica_id, self.block_size, 0, self.base_generation,
            self.target_generation, self.base_size, self.target_size, self.epoch, 0, bytes(16),
        )[:-16]  # fmt: skip
        return head + hashlib.sha256(head).digest()[:16]

    @classmethod
    def unpack(cls, data: bytes, path: str) -> Header:
        """Raises Damaged or NewerFormat, naming `path`."""
        if len(data) < HEADER_BYTES:
            raise errors.Damaged(f"a delta has a header of {HEADER_BYTES} bytes", path=path, offset=0)
        magic, version, size, owner, block, _, base, target, base_size, target_size, epoch, _, checksum = (
            _HEADER.unpack(data[:HEADER_BYTES])
        )
        if magic != MAGIC:
            raise errors.Damaged(f"expected the mark {MAGIC.decode()} of a delta", path=path, offset=0)
        if hashlib.sha256(data[: HEADER_BYTES - 16]).digest()[:16] != checksum or size != HEADER_BYTES:
            raise errors.Damaged("the header's checksum does not hold", path=path, offset=0)
        if version > VERSION:
            raise errors.NewerFormat(f"delta version {version}; this program knows {VERSION}", path=path)
        if block < 512 or block & (block - 1) or block > MAX_RAW:
            raise errors.Damaged(f"{block} is no block size", path=path, offset=32)
        if max(base_size, target_size) > MAX_BLOCKS * block:
            raise errors.Damaged(f"an image has at most {MAX_BLOCKS} blocks", path=path, offset=56)
        return cls(owner, block, base, target, base_size, target_size, epoch, version)


class FrameHeader(NamedTuple):
    """The 64 bytes before a frame's body."""

    magic: int
    kind: int
    codec: int
    flags: int
    entries: int
    stored: int
    raw: int
    table_sum: int
    tag: int
    first: int
    last: int
    checksum: bytes

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> FrameHeader:
        return cls(*FRAME.unpack(data[:FRAME_BYTES]))


class End(NamedTuple):
    """The last frame: what the delta holds and the digest over all of it."""

    index_offset: int
    frames: int
    data_blocks: int
    zero_blocks: int
    raw_bytes: int
    base_seal: bytes
    target_seal: bytes
    digest: bytes


def parse_codec(text: str) -> tuple[int, int]:
    """`none`, `lz4`, `zstd`, `zstd:LEVEL` or `auto` as (codec, level). Raises Usage."""
    name, _, level = text.partition(":")
    if name == "auto" and not level:
        return LZ4, 1
    if name == "none" and not level:
        return NONE, 0
    if name in ("lz4", "zstd"):
        try:
            number = int(level) if level else 1
        except ValueError:
            number = 1000
        if (name == "zstd" and -50 <= number <= 19) or (name == "lz4" and 1 <= number <= 64):
            return (ZSTD if name == "zstd" else LZ4), number
    raise errors.Usage(f"{text!r} is not a codec; it is auto, none, lz4 or zstd[:LEVEL] with a level up to 19")
