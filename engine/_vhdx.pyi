from array import array

from typing_extensions import Buffer

ZERO: int
PARENT: int
OK: int
RESERVED: int
STATE: int
OUTSIDE: int
TAKEN: int
PARTIAL: int
NO_BITMAP: int
BITMAP: int

Pieces = tuple[array[int], array[int], array[int]]

def overlaid(
    fd: int, offset: int, length: int, starts: Buffer, ends: Buffer, sources: Buffer, pages_fd: int
) -> Pieces: ...
def refine(
    fds: Buffer,
    offsets: Buffer,
    lengths: Buffer,
    chunk_start: int,
    block_size: int,
    sector: int,
    entries: Buffer,
    bitmap: Buffer,
    first_bit: int,
    fd: int,
    missing: int,
    starts: Buffer,
    ends: Buffer,
    sources: Buffer,
    pages_fd: int,
    limit: int,
) -> Pieces: ...
def runs(fds: Buffer, offsets: Buffer, lengths: Buffer, holes: bool) -> tuple[array[int], array[int]]: ...
def claim(
    entries: Buffer,
    ratio: int,
    blocks: int,
    differencing: bool,
    block_size: int,
    file_size: int,
    tail: int,
    used: Buffer,
) -> tuple[int, int]: ...
def tally(entries: Buffer, ratio: int, blocks: int) -> list[int]: ...
