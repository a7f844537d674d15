"""What an export tells of its blocks is bounded, whatever the disk is."""

from __future__ import annotations

import pytest

from secondsite.engine.images import Extent
from secondsite.engine.images.memory import MemoryImage
from secondsite.engine.nbd.export import MAX_STRETCHES, allocation

EIB = 1 << 60


class Huge(MemoryImage):
    """Says of itself what a sparse file of exabytes would."""

    def __init__(self, extents):
        super().__init__(0)
        self.told, self.asked = extents, 0

    def extents(self, start, length):
        for extent in self.told:
            self.asked += 1
            yield extent


@pytest.mark.parametrize("one", [False, True])
def test_a_hole_of_exabytes_is_told_in_parts(one):
    found = allocation(Huge([Extent(0, 7 * EIB, True)]))(0, 7 * EIB, one)
    assert len(found) == (2 if one else 2 * MAX_STRETCHES)
    assert all(0 < length < 1 << 32 for length in found[0::2]) and set(found[1::2]) == {3}


@pytest.mark.parametrize("one", [False, True])
def test_a_disk_of_many_holes_is_not_walked_to_its_end(one):
    image = Huge([Extent(at * 4096, 4096, bool(at % 2)) for at in range(3 * MAX_STRETCHES)])
    found = allocation(image)(0, 3 * MAX_STRETCHES * 4096, one)
    assert len(found) == (2 if one else 2 * MAX_STRETCHES)
    assert image.asked <= MAX_STRETCHES + 1


def test_neighbours_of_one_sort_are_one_stretch():
    image = Huge([Extent(0, 10, False), Extent(10, 20, False), Extent(30, 5, True)])
    assert list(allocation(image)(0, 35, False)) == [30, 0, 5, 3]
    assert list(allocation(image)(0, 35, True)) == [30, 0]
