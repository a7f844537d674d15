"""A VHDX writer beside a plain bytearray, and what a crash may leave of its disk.

A `Run` does seeded operations to both. What was flushed must be there after a crash; of each later write any byte
may be there or not, so a byte may have its flushed value or any that it was given since.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable
from contextlib import suppress

import numpy as np

from secondsite.engine import errors
from secondsite.engine.files.memory import MemoryFiles
from secondsite.engine.images.base import Image
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.images.vhdx.create import create
from secondsite.engine.images.vhdx.structures import MIB
from secondsite.engine.images.vhdx.writer import VhdxWriter

DISK = 3 * MIB + 3 * 4096 + 512
_BLOCK = 65536
CHILD, BASE = "/d/disk.vhdx", "/d/base.vhdx"


class Stage:
    """A VHDX in a file system of memory, made by `create`, and the bytes that its disk has at first."""

    def __init__(self, kind: str) -> None:
        self.files = MemoryFiles()
        self.files.mkdir("/d")
        self.parent = b""
        if kind == "differencing":
            create(BASE, DISK, block_size=MIB, files=self.files)
            self.parent = random.Random(99).randbytes(DISK)
            with VhdxWriter(self.files.open(BASE, "rw")) as base:
                base.write(0, self.parent)
            create(CHILD, subformat=kind, block_size=MIB, parent=BASE, files=self.files)
        else:
            create(CHILD, DISK, subformat=kind, block_size=MIB, files=self.files)
        self.content = bytes(self.files.names[CHILD].read(0, self.files.size(CHILD)))

    def reset(self) -> None:
        """The child as it was made, durable."""
        self.files.names[CHILD]._data = bytearray(self.content)
        self.files.names[CHILD].flush()

    def open(self, file: Image | None = None) -> VhdxWriter:
        parent = MemoryImage(self.parent, "parent") if self.parent else None
        return VhdxWriter(file or self.files.open(CHILD, "rw"), parent, grow=2 * MIB)

    def first(self) -> bytearray:
        return bytearray(self.parent or bytes(DISK))


class Model:
    """The bytes of the disk now, and every state that a byte may fall back to."""

    def __init__(self, data: bytearray) -> None:
        self.data = data
        self.states = [bytes(data)]

    def write(self, offset: int, data: bytes) -> None:
        self.data[offset : offset + len(data)] = data
        self.states.append(bytes(self.data))

    def flushed(self) -> None:
        self.states = [bytes(self.data)]

    def check(self, image: Image) -> None:
        """Every byte is one that a crash may leave."""
        got = np.frombuffer(image.read(0, image.size), np.uint8)
        assert image.size in {len(state) for state in self.states}
        good = np.zeros(len(got), bool)
        for state in self.states:
            some = np.frombuffer(state.ljust(len(got), b"\0")[: len(got)], np.uint8)
            good |= got == some
        assert good.all(), f"byte {int(good.argmin())} of the disk is neither old nor new"


def operations(seed: int, count: int, whole: bool) -> Iterable[tuple[str, int, int, bool]]:
    """(what, offset, length, punch): the shapes that take different ways through the writer.

    `whole` does only whole blocks, which are allocated and given up all the time.
    """
    dice = random.Random(seed)
    for _ in range(count):
        block = dice.randrange(3) * MIB
        offset, length = dice.choice(
            [
                (block, MIB),
                (block, min(2 * MIB, DISK - block)),
                (block + dice.randrange(200) * 4096, dice.randrange(1, 9) * 4096),
                (block + dice.randrange(MIB), dice.randrange(1, 9000)),
                (3 * MIB, DISK - 3 * MIB),
                (DISK - 700, 700),
            ][: 1 if whole else 6]
        )
        what = dice.choices(["write", "batch", "zero", "flush"], [4, 2, 5 if whole else 3, 2])[0]
        yield what, offset, min(length, DISK - offset), whole or dice.random() < 0.7


def with_holes(data: bytes, dice: random.Random, whole: bool) -> bytes:
    """Some blocks of it as zeros."""
    parts = [data[at : at + _BLOCK] for at in range(0, len(data), _BLOCK)]
    return b"".join(part if whole or dice.random() < 0.6 else bytes(len(part)) for part in parts)


def write_blocks(image: VhdxWriter, offset: int, data: bytes) -> None:
    """One batch of all the blocks from `offset`, as a delta gives them."""
    parts = [data[at : at + _BLOCK] for at in range(0, len(data), _BLOCK)]
    parts = [part if any(part[:64]) else b"" for part in parts]
    first = offset // _BLOCK
    blocks, lengths = array("Q", range(first, first + len(parts))), array("I", [len(part) for part in parts])
    image.write_blocks(blocks, lengths, len(parts), _BLOCK, image.size, bytearray(b"".join(parts)))


def settle(image: VhdxWriter, model: Model, offset: int, length: int) -> None:
    """What a write that failed has left is what counts from now on; every byte is the one before or the new one."""
    with suppress(errors.Unreachable):  # after a flush that failed nothing can be read, and nothing is flushed any more
        got = np.frombuffer(image.read(offset, length), np.uint8)
        old, new = (np.frombuffer(state, np.uint8)[offset : offset + length] for state in model.states[-2:])
        assert ((got == old) | (got == new)).all()
        model.write(offset, got.tobytes())


def play(
    image: VhdxWriter,
    model: Model,
    seed: int,
    *,
    count: int = 20,
    resize: bool = False,
    ignore: bool = False,
    whole: bool = False,
) -> None:
    """The operations on both. `ignore`: an operation that fails may have done any part of its work."""
    dice = random.Random(seed)
    steps = list(operations(seed, count, whole))
    if resize:
        steps.insert(len(steps) // 3, ("resize", len(model.data) + 2 * MIB, 0, True))
        steps.insert(2 * len(steps) // 3, ("resize", 3 * MIB + 512 * 3, 0, True))
        steps.append(("resize", 6 * MIB, 0, True))
    for what, offset, length, punch in steps:
        if what != "resize":
            offset = min(offset, len(model.data))
            length = min(length, len(model.data) - offset)
        if what == "batch":
            offset -= offset % _BLOCK
            length = min(length - length % _BLOCK + _BLOCK, len(model.data) - offset)
        data = bytes(length) if what == "zero" else dice.randbytes(length)
        try:
            if what == "flush":
                image.flush()
                model.flushed()
            elif what == "resize":
                size = offset
                del model.data[size:]
                model.data.extend(bytes(size - len(model.data)))
                model.states.append(bytes(model.data))
                image.resize(size)
                model.flushed()
            else:
                if what == "batch":
                    data = with_holes(data, dice, whole)
                model.write(offset, data)
                if what == "batch":
                    write_blocks(image, offset, data)
                elif what == "write":
                    image.write(offset, data)
                else:
                    image.zero(offset, length, punch=punch)
        except errors.Unreachable:
            if not ignore or what == "resize":
                raise
            if what != "flush":
                settle(image, model, offset, length)
