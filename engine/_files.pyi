from typing_extensions import Buffer

PUNCH: int
ZERO: int

def zero_range(fd: int, offset: int, length: int, punch: bool) -> None: ...
def start_writeback(fd: int, offset: int, length: int) -> None: ...
def read_blocks(
    fd: int, blocks: Buffer, lengths: Buffer, count: int, block_size: int, payload: Buffer
) -> int: ...
def write_blocks(
    fd: int,
    blocks: Buffer,
    lengths: Buffer,
    count: int,
    block_size: int,
    image_size: int,
    payload: Buffer,
    punch: bool,
) -> None: ...
def read_segments(fds: Buffer, offsets: Buffer, lengths: Buffer, buffer: Buffer) -> None: ...
