"""What an NBD server offers under one name: a disk of the native data path, and what it tells of its blocks."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from secondsite.engine.images import Image
from secondsite.engine.nbd import protocol as p

if TYPE_CHECKING:
    from secondsite.engine._nbd import Disk

# (offset, length, whether one stretch is enough) -> flat pairs 'Q' of length and flags, from `offset` on, at least one.
Status = Callable[[int, int, bool], "array[int]"]

# Descriptors of one reply. A client that wants more asks again from where they end.
MAX_STRETCHES = 8192
# Without extended headers a length has 32 bits; the largest that is whole in every block size.
_LONGEST = (1 << 32) - (1 << 25)


@dataclass(frozen=True)
class Export:
    """One disk under a name. `contexts` are its metadata contexts by their whole names, in the order of LIST."""

    name: str
    disk: Disk
    description: str = ""
    contexts: Mapping[str, Status] = field(default_factory=dict)
    preferred: int = 4096

    @property
    def size(self) -> int:
        return self.disk.size

    @property
    def flags(self) -> int:
        """The transmission flags. Every connection sees every write at once, so many may be used together."""
        always = p.FLAG_HAS_FLAGS | p.FLAG_SEND_FLUSH | p.FLAG_SEND_FUA | p.FLAG_CAN_MULTI_CONN | p.FLAG_SEND_CACHE
        if self.disk.frozen:
            return always | p.FLAG_READ_ONLY | p.FLAG_SEND_TRIM
        if self.disk.read_only:
            return always | p.FLAG_READ_ONLY
        return always | p.FLAG_SEND_TRIM | p.FLAG_SEND_WRITE_ZEROES


def allocation(image: Image) -> Status:
    """`base:allocation` of an image: its holes read as zeros."""

    def status(offset: int, length: int, one: bool) -> array[int]:
        found = array("Q")
        for extent in image.extents(offset, length):
            flags = p.STATE_HOLE | p.STATE_ZERO if extent.zero else 0
            if found and found[-1] == flags and found[-2] + extent.length <= _LONGEST:
                found[-2] += extent.length
                continue
            if found and (one or len(found) >= 2 * MAX_STRETCHES):
                break
            _append(found, extent.length, flags)
        # What a disk of exabytes is in one piece has many of these lengths.
        del found[2 * MAX_STRETCHES :]
        return found if not one else found[:2]

    return status


def _append(found: array[int], length: int, flags: int) -> None:
    while length > _LONGEST and len(found) < 2 * MAX_STRETCHES:
        found.extend((_LONGEST, flags))
        length -= _LONGEST
    found.extend((length, flags))


def dirty(changes: Callable[[int, int, int], array[int]]) -> Status:
    """A dirty bitmap's context, of a function of offset, length and how many stretches at most (ChangeMap.status)."""

    def status(offset: int, length: int, one: bool) -> array[int]:
        return changes(offset, min(length, _LONGEST), 1 if one else MAX_STRETCHES)

    return status
