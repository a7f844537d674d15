"""Pieces that lie apart are asked for before they are read: in their order, and never more than a bound of them."""

from __future__ import annotations

from pathlib import Path

from secondsite.engine import ahead, scan
from secondsite.engine.ahead import AHEAD_BYTES, AHEAD_PIECES
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.images import RawImage
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.progress import Monitor
from secondsite.engine.units import KIB, MIB


class Expecting(MemoryImage):
    """Remembers what it was told to expect, and what was read without that."""

    def __init__(self, size: int) -> None:
        super().__init__(bytearray(size), path="expecting")
        self.expected: list[tuple[int, int]] = []

    def expect(self, offset: int, length: int) -> None:
        self.expected.append((offset, length))


def places(count: int, length: int) -> list[tuple[int, int]]:
    return [(2 * number * length, length) for number in range(count)]


def test_each_is_asked_for_before_it_is_given_and_not_much_earlier() -> None:
    for length, most in ((64 * KIB, AHEAD_PIECES), (MIB, AHEAD_BYTES // MIB), (64 * MIB, AHEAD_BYTES // MIB), (0, 0)):
        image, wanted, given = Expecting(0), places(300, length), []
        for piece in ahead.asked(image, wanted, lambda piece: piece):
            given.append(piece)
            assert [start for start, _ in image.expected[: len(given)]] == [start for start, length in given if length]
            assert len(image.expected) - len(given) <= most
        assert given == wanted and all(part == min(length, MIB) for _, part in image.expected)


def test_groups_hold_all_and_little() -> None:
    for length in (4 * KIB, MIB, 16 * MIB):
        found = list(ahead.groups(places(200, length)))
        assert [place for group in found for place in group] == places(200, length)
        for group in found:
            assert len(group) == 1 or (len(group) <= AHEAD_PIECES and len(group) * length <= AHEAD_BYTES)
    assert not list(ahead.groups([]))


def test_a_pass_over_named_blocks_asks_for_them_and_one_over_all_does_not(tmp_path: Path) -> None:
    image, block = Expecting(8 * MIB), 64 * KIB
    image.write(0, b"x" * 8 * MIB)
    for runs in (None, [(3, 4), (9, 12)]):
        made = BlockMap.create(MemoryImage(path="m"), "m", bytes(16), block, image.size)
        scan.rebuild(image, made, 1, runs=runs, monitor=Monitor())
        assert image.expected == ([] if runs is None else [(3 * block, block), (9 * block, 3 * block)])


def test_a_file_takes_the_hint(tmp_path: Path) -> None:
    """And one that is at its end, or gone, does not mind: the read tells what is wrong."""
    path = tmp_path / "disk"
    path.write_bytes(b"x" * MIB)
    with RawImage(path) as image:
        image.expect(0, MIB)
        image.expect(MIB, 64 * MIB)
        assert image.read(0, 4) == b"xxxx"
    image.expect(0, MIB)
