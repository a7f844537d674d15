"""The disk of an existing VHD, made to hold that of a recovery point.

Some VHDs are larger than the disk that was put into them: QEMU rounds the size up to a geometry, and fixed disks have
whole MiB for Azure. Such a file keeps its size, and the rest of it is zeros: a dynamic one cannot be cut, and a fixed
one, cut to the exact size, would be no disk that Azure takes.
"""

from __future__ import annotations

from collections.abc import Callable

from secondsite.engine.images.vhd.geometry import chs_bytes
from secondsite.engine.images.vhd.reader import VhdImage


class FittingVhd(VhdImage):
    """What the two writers share. `roundings` are sizes that the file may keep, `wanted` is the one it gets else."""

    roundings: tuple[Callable[[int], int], ...] = (chs_bytes,)
    wanted: Callable[[int], int] = int

    def fit(self, size: int) -> None:
        """As any image. Raises Refused for a dynamic disk that is larger for any other reason than rounding."""
        if self.size != size and self.size not in [rounding(size) for rounding in self.roundings]:
            self.resize(self.wanted(size))
        if self.size > size:
            self.zero(size, self.size - size)
