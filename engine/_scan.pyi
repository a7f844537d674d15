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
def nonzero_entries(entries: Buffer, first_block: int, out: array[int]) -> int: ...
def differing_entries(want: Buffer, have: Buffer, first_block: int, out: array[int]) -> int: ...
def store_entries(
    page: Buffer, page_first: int, blocks: Buffer, hashes: Buffer, at: int, count: int
) -> int: ...
def load_entries(
    page: Buffer, page_first: int, blocks: Buffer, hashes: Buffer, at: int, count: int
) -> int: ...
def set_lengths(
    blocks: Buffer, hashes: Buffer, count: int, block_size: int, image_size: int, lengths: array[int]
) -> int: ...
def zero_blocks(blocks: Buffer, lengths: Buffer, count: int, out: array[int]) -> int: ...
def ascending(blocks: Buffer, count: int, end: int) -> bool: ...
def pick_blocks(
    have_blocks: Buffer,
    have_lengths: Buffer,
    have_count: int,
    have_payload: Buffer,
    want_blocks: Buffer,
    resolved: Buffer,
    want_count: int,
    block_size: int,
    lengths: array[int],
    slots: Buffer,
) -> int: ...
def compact(slots: Buffer, lengths: Buffer, count: int, block_size: int, payload: Buffer) -> int: ...
def pick_zeros(
    runs: Buffer, want_blocks: Buffer, resolved: Buffer, want_count: int, lengths: array[int]
) -> int: ...
def hash_block(data: Buffer, seed: int, library: bool = False) -> bytes: ...
def is_zero(data: Buffer) -> bool: ...
