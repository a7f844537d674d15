"""Checksums over numpy: CRC-32C, and the sum of bytes. The portable `_crc`.

For the CRC the bytes are cut into lanes that go through the table side by side, one byte of each at a time; then the
lanes are joined in pairs. Zero bytes before the first leave an empty register empty, so the lanes may be padded there.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from secondsite.engine.portable import view

if TYPE_CHECKING:
    from typing_extensions import Buffer

Registers = npt.NDArray[np.uint32]

_POLYNOMIAL = 0x82F63B78
_SHORT = 512  # below, a plain loop is faster
_BITS = np.arange(32, dtype=np.uint32)


def _make_table() -> Registers:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ np.where(table & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return table


_TABLE = _make_table()
_PLAIN: list[int] = _TABLE.tolist()


def _step(registers: Registers, column: npt.NDArray[np.uint8] | int) -> Registers:
    stepped: Registers = _TABLE[(registers ^ column) & 0xFF] ^ (registers >> np.uint32(8))
    return stepped


def _apply(images: Registers, registers: Registers) -> Registers:
    """Send registers through a linear map that is given by the images of the 32 single bits."""
    chosen = np.where(registers[:, None] >> _BITS & 1, images, np.uint32(0))
    joined: Registers = np.bitwise_xor.reduce(chosen, axis=1)
    return joined


@functools.lru_cache(256)
def _skip(length: int) -> Registers:
    """The map of a register over `length` zero bytes."""
    if length == 1:
        return _step(np.uint32(1) << _BITS, 0)
    half = _skip(length // 2)
    both = _apply(half, half)
    return _apply(_skip(1), both) if length % 2 else both


def crc32c(data: Buffer, value: int = 0, tables: bool = False) -> int:
    """The CRC-32C of `data`, after bytes whose CRC-32C is `value`. `tables` makes no difference here."""
    if not 0 <= value < 1 << 32:
        raise OverflowError(f"{value} is no 32-bit number")
    raw = view(data, np.uint8)
    crc = value ^ 0xFFFFFFFF
    if len(raw) < _SHORT:
        for byte in raw.tolist():
            crc = _PLAIN[(crc ^ byte) & 0xFF] ^ (crc >> 8)
        return crc ^ 0xFFFFFFFF
    lanes = 1 << (len(raw).bit_length() // 2)
    length = -(-len(raw) // lanes)
    padded = np.zeros(lanes * length, np.uint8)
    start = len(padded) - len(raw)
    padded[start:] = raw
    padded[start : start + 4] ^= np.frombuffer(crc.to_bytes(4, "little"), np.uint8)
    registers = np.zeros(lanes, np.uint32)
    for column in np.ascontiguousarray(padded.reshape(lanes, length).T):
        registers = _step(registers, column)
    while len(registers) > 1:
        registers = _apply(_skip(length), registers[0::2]) ^ registers[1::2]
        length *= 2
    return int(registers[0]) ^ 0xFFFFFFFF


def byte_sum(data: Buffer) -> int:
    """The sum of all bytes."""
    return int(view(data, np.uint8).sum(dtype=np.uint64))
