"""How large a VHD is, and the geometry that is written into one: the format has two answers (formats section 2)."""

from __future__ import annotations

from secondsite.engine.images.vhd.structures import SECTOR, Footer, Geometry

# The largest geometry there is. Writers put it where the disk is larger, so it says nothing of a size.
_LARGEST = Geometry(65535, 16, 255)
# Creators whose guests see the disk that the geometry describes: Virtual PC, and QEMU before it wrote "qem2".
_BY_GEOMETRY = (b"vpc ", b"qemu")


def disk_bytes(footer: Footer) -> int:
    """The size of the disk that the guest sees.

    CurrentSize is the rule: Hyper-V (`win `), Azure (`wa`), disk2vhd (`d2v`), newer QEMU (`qem2`) and every creator
    not known to differ. Virtual PC (`vpc `) and old QEMU (`qemu`) show the guest cylinders x heads x sectors, which
    is CurrentSize rounded down to whole cylinders. That geometry is nonsense, and CurrentSize is taken after all,
    where a part of it is zero, where it is the largest there is, and where it says more than CurrentSize.
    """
    geometry = footer.geometry
    if footer.creator not in _BY_GEOMETRY or geometry == _LARGEST:
        return footer.current_size
    return geometry.bytes if 0 < geometry.bytes <= footer.current_size else footer.current_size


def chs_bytes(size: int) -> int:
    """The disk that QEMU makes for `size` bytes: the smallest that a geometry describes, so up to some 2 MiB more."""
    sectors = -(-size // SECTOR)
    if sectors * SECTOR >= _LARGEST.bytes:
        return sectors * SECTOR
    # As QEMU looks for it: asking for a sector more until there are enough, a cylinder's at most.
    asked = sectors
    while (found := geometry_of(asked * SECTOR)).bytes < sectors * SECTOR:
        asked += 1
    return sectors * SECTOR if found == _LARGEST else found.bytes


def geometry_of(size: int) -> Geometry:
    """The geometry for a disk of `size` bytes: never more than the disk, and the largest where that is too small.

    Few heads and sectors for small disks, as BIOSes wanted it: 17 sectors and 4 to 16 heads, then 31 or 63 sectors
    with 16 heads while the cylinders fit 1024 or 65535, then 255 sectors.
    """
    total = min(size // SECTOR, _LARGEST.bytes // SECTOR)
    if total >= 65535 * 16 * 63:
        return Geometry(total // 255 // 16, 16, 255)
    tracks = total // 17
    heads = max((tracks + 1023) // 1024, 4)
    if heads <= 16 and tracks < heads * 1024:
        return Geometry(tracks // heads, heads, 17)
    if total // 31 < 16 * 1024:
        return Geometry(total // 31 // 16, 16, 31)
    return Geometry(total // 63 // 16, 16, 63)
