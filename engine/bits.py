"""Runs of equal bits in bytes, bit 0 of byte 0 first, without a look at each: a terabyte in 64 KiB has 16 million."""

from __future__ import annotations

import re

_NOT_ZERO, _NOT_FULL = re.compile(rb"[^\x00]"), re.compile(rb"[^\xff]")


def is_set(bits: bytes | bytearray, at: int) -> bool:
    return bool(bits[at >> 3] & (1 << (at & 7)))


def run_end(bits: bytes | bytearray, at: int, end: int) -> int:
    """The first bit behind `at` that is not as that one, or `end`."""
    value, other = is_set(bits, at), _NOT_FULL if is_set(bits, at) else _NOT_ZERO
    at += 1
    while at < end:
        if at % 8 == 0:
            found = other.search(bits, at >> 3, -(-end // 8))
            if found is None:
                return end
            at = 8 * found.start()
        if is_set(bits, at) != value:
            return min(at, end)
        at += 1
    return end


def set_run(bits: bytearray, first: int, end: int) -> None:
    """Set all of [first, end)."""
    low, high = -(-first // 8), end // 8
    if low < high:
        bits[low:high] = b"\xff" * (high - low)
    for at in (*range(first, min(8 * low, end)), *range(max(8 * high, first), end)):
        bits[at >> 3] |= 1 << (at & 7)
