from array import array

from typing_extensions import Buffer

def scan_segments(
    fds: Buffer,
    offsets: Buffer,
    seg_lengths: Buffer,
    first_block: int,
    block_size: int,
    image_size: int,
    n_blocks: int,
    seed: int,
    previous: Buffer | None,
    blocks: array[int],
    lengths: array[int],
    hashes: Buffer,
    payload: Buffer,
    count: int,
    used: int,
) -> tuple[int, int, int]: ...
def scan_buffer(
    data: Buffer,
    first_block: int,
    block_size: int,
    image_size: int,
    n_blocks: int,
    seed: int,
    previous: Buffer | None,
    blocks: array[int],
    lengths: array[int],
    hashes: Buffer,
    payload: Buffer,
    count: int,
    used: int,
) -> tuple[int, int, int]: ...
def hash_blocks(payload: Buffer, lengths: Buffer, count: int, seed: int, out: Buffer) -> None: ...
def check_file(
    fd: int,
    blocks: Buffer,
    lengths: Buffer,
    hashes: Buffer,
    count: int,
    block_size: int,
    image_size: int,
    seed: int,
) -> int: ...
def hash_block(data: Buffer, seed: int, library: bool = False) -> bytes: ...
def is_zero(data: Buffer) -> bool: ...
