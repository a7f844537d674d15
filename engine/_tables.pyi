from array import array

from typing_extensions import Buffer

Pieces = tuple[array[int], array[int], array[int]]

def vhd_map(
    table: Buffer,
    bitmaps: Buffer | None,
    fd: int,
    block_size: int,
    head: int,
    start: int,
    length: int,
    hole: int,
) -> Pieces: ...
def vhd_check(
    table: Buffer, block_size: int, head: int, size: int, file_size: int, reserved: Buffer
) -> int: ...
def vhd_survey(table: Buffer, stride: int) -> tuple[int, int, int]: ...
def grain_map(
    tables: Buffer,
    fd: int,
    grain: int,
    start: int,
    length: int,
    hole: int,
    zeros: bool,
    packed: int,
    first_sector: int,
    file_size: int,
) -> tuple[array[int], array[int], array[int], int]: ...
def grain_count(tables: Buffer, zeros: bool) -> int: ...
def overlay(
    fds: Buffer,
    offsets: Buffer,
    lengths: Buffer,
    below_fds: Buffer,
    below_offsets: Buffer,
    below_lengths: Buffer,
    hole: int,
) -> Pieces: ...
def zero_runs(fds: Buffer, lengths: Buffer) -> array[int]: ...
