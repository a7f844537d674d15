"""Sizes in bytes, numbers and names, and how people write them."""

from __future__ import annotations

import re
from decimal import Decimal

from secondsite.engine import errors

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

MIN_BLOCK_SIZE = 4 * KIB
MAX_BLOCK_SIZE = 4 * MIB
DEFAULT_BLOCK_SIZE = 64 * KIB
# 64 TiB in the smallest blocks, 1 PiB in the default ones. The table of such an image's block map takes 128 MiB of
# memory, and no file that claims more is believed.
MAX_BLOCKS = 1 << 34
# Sizes, counts, epochs and times: whatever a file offset can be. No record holds more.
MAX_NUMBER = (1 << 63) - 1

_FACTORS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}


def parse_size(text: str) -> int:
    """`64K`, `1.5G`, `4096`, `2TiB` in bytes. Raises Usage."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE | re.ASCII)
    if match is None:
        raise errors.Usage(f"{text!r} is not a size; write a number with K, M, G or T, such as 64K")
    size = Decimal(match[1]) * _FACTORS[match[2].upper()]
    if size > MAX_NUMBER:
        raise errors.Usage(f"{text!r} is more than a file can have")
    return int(size)


def larger_disk(path: str, size: int, made: int) -> str:
    """What is said of a disk of `made` bytes that was to have `size`."""
    return f"{path}: its disk has {made} bytes, {made - size} more than what was written to it; they are zeros"


def format_size(size: float) -> str:
    """The shortest readable form: `512 B`, `64.0 KiB`, `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def check_block_size(size: int) -> int:
    """A power of two from 4 KiB to 4 MiB, or Usage."""
    if size & (size - 1) or not MIN_BLOCK_SIZE <= size <= MAX_BLOCK_SIZE:
        raise errors.Usage(f"block size {size} is not a power of two from 4K to 4M")
    return size


def check_number(number: int, what: str, *, least: int = 0) -> int:
    """One that a record can hold, or Usage."""
    if not least <= number <= MAX_NUMBER:
        raise errors.Usage(f"{what} {number} is not from {least} to {MAX_NUMBER}")
    return number


def printable(name: str) -> str:
    """A path may hold anything, also bytes that are no text: those as `\\udcff`."""
    return name.encode("utf-8", "backslashreplace").decode()
