"""The batch kernels over numpy and the packages xxhash, zstandard and lz4: same calls, same bits, slower.

They run where the extension modules were not built, and are the oracle of the kernel tests. Each module
stands for the extension module of the same name, `scan` for `_scan`. This file holds what they share.
"""

from __future__ import annotations

import functools
import itertools
import os
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from typing_extensions import Buffer

Params = ParamSpec("Params")
Result = TypeVar("Result")
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Lengths = npt.NDArray[np.uint32]

MAX_OFFSET = (1 << 63) - 1


def released(call: Callable[Params, Result]) -> Callable[Params, Result]:
    """When `call` raises, drop its locals: arrays in a traceback would keep a caller's mmap from closing."""

    @functools.wraps(call)
    def run(*args: Params.args, **kwargs: Params.kwargs) -> Result:
        try:
            return call(*args, **kwargs)
        except Exception as error:
            traceback.clear_frames(error.__traceback__)
            raise

    return run


def unsigned(*values: int) -> None:
    """Refuse what does not fit the kernels' 64-bit arguments, as Cython does."""
    for value in values:
        if not 0 <= value < 1 << 64:
            raise OverflowError(f"{value} does not fit an unsigned 64-bit number")


def view(buffer: Buffer, dtype: type[np.generic], *, writable: bool = False) -> npt.NDArray[Any]:
    """The buffer's items as an array, without a copy."""
    raw = memoryview(buffer)
    if raw.itemsize != np.dtype(dtype).itemsize or not raw.c_contiguous:
        raise ValueError(f"a flat buffer of {np.dtype(dtype).name} was expected")
    if writable and raw.readonly:
        raise BufferError("the buffer is not writable")
    return np.frombuffer(raw, dtype)


def check_image(block_size: int, image_size: int) -> None:
    """Sizes that no multiplication below can overflow."""
    unsigned(block_size, image_size)
    if block_size == 0 or image_size > MAX_OFFSET:
        raise ValueError(f"blocks of {block_size} bytes in an image of {image_size}")


def block_lengths(blocks: Words, block_size: int, image_size: int) -> Words:
    """The bytes of each block: less than `block_size` in the image's last, 0 past the image's end."""
    whole, rest = divmod(image_size, block_size)
    lengths = np.where(blocks < np.uint64(whole), np.uint64(block_size), np.uint64(0))
    return np.where(blocks == np.uint64(whole), np.uint64(rest), lengths)


def check_blocks(blocks: Words, lengths: Lengths, count: int, block_size: int, image_size: int) -> None:
    """Refuse a batch that names anything outside the image, before a byte is read or written."""
    if len(blocks) < count or len(lengths) < count:
        raise ValueError("blocks or lengths are too short")
    check_image(block_size, image_size)
    room = block_lengths(blocks[:count], block_size, image_size)
    bad = np.flatnonzero((room == 0) | (lengths[:count] > room))
    if len(bad):
        where = bad[0]
        raise ValueError(
            f"block {blocks[where]} of {lengths[where]} bytes is not inside an image of {image_size}"
        )


def runs(
    blocks: Words, lengths: Lengths, count: int, block_size: int, limit: int
) -> Iterator[tuple[int, int]]:
    """Neighbouring blocks of one sort (data or zero) as [at, end), each run with at most `limit` bytes.

    A short block of data ends its run: what follows it in the payload does not follow it in the file.
    """
    if count == 0:
        return
    blocks, lengths = blocks[:count], lengths[:count]
    before, after = lengths[:-1], lengths[1:]
    apart = blocks[1:] != blocks[:-1] + np.uint64(1)
    cut = apart | ((before == 0) != (after == 0)) | ((before != 0) & (before != block_size))
    edges = [0, *(np.flatnonzero(cut) + 1).tolist(), count]
    step = max(limit // block_size, 1)
    for start, end in itertools.pairwise(edges):
        for at in range(start, end, step):
            yield at, min(at + step, end)


def read_all(fd: int, data: memoryview, offset: int, what: str) -> None:
    """Fill `data` from the file; EOFError with `what` where the file ends first."""
    while len(data):
        got = os.preadv(fd, [data], offset)
        if got == 0:
            raise EOFError(what)
        data, offset = data[got:], offset + got
