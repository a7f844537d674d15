from array import array

from typing_extensions import Buffer

NONE: int
LZ4: int
ZSTD: int
DATA: int
ZEROS: int
HEADER_BYTES: int

def check_frame(frame: Buffer) -> bool: ...

class Encoder:
    def __init__(self, codec: int, level: int, group_bytes: int) -> None: ...
    @property
    def codec(self) -> int: ...
    @property
    def level(self) -> int: ...
    @property
    def group_bytes(self) -> int: ...
    def bound(self, count: int, used: int, block_size: int) -> int: ...
    def encode(
        self,
        blocks: Buffer,
        lengths: Buffer,
        hashes: Buffer,
        count: int,
        payload: Buffer,
        tag: int,
        out: Buffer,
        frames: array[int],
    ) -> tuple[int, int]: ...

class Decoder:
    def __init__(self) -> None: ...
    def decode(self, codec: int, stored: Buffer, raw: Buffer) -> bool: ...
