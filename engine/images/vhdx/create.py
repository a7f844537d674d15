"""New VHDX files: dynamic, fixed, and differencing over an existing one (formats 1.1 to 1.3, 1.5).

Everything else is durable before the first header is written, so that a crash leaves a valid file or none.
"""

from __future__ import annotations

import os
import posixpath
import struct
from uuid import UUID, uuid4

from secondsite.engine import errors
from secondsite.engine.files import Files, LocalFiles
from secondsite.engine.images.base import Image
from secondsite.engine.images.vhdx import packing
from secondsite.engine.images.vhdx.journal import NO_LOG, Headers
from secondsite.engine.images.vhdx.metadata import Item, Metadata
from secondsite.engine.images.vhdx.opening import Identity, identify
from secondsite.engine.images.vhdx.packing import FULL, MIB
from secondsite.engine.images.vhdx.structures import MAX_BLOCK, MAX_DISK, MIN_BLOCK
from secondsite.engine.images.vhdx.table import region_bytes

CREATOR = "secondsite"
SUBFORMATS = ("dynamic", "fixed", "differencing")
# As Windows: large blocks where there is nothing to share, small ones where each is a copy or all are there anyway.
DYNAMIC_BLOCK, OTHER_BLOCK = 32 * MIB, 2 * MIB
# Also as Windows: log, metadata and table follow the first MiB.
_LOG, _METADATA, _TABLE = MIB, 2 * MIB, 3 * MIB
_PART = 1 << 16


def create(
    path: str | os.PathLike[str],
    size: int | None = None,
    *,
    subformat: str = "dynamic",
    block_size: int | None = None,
    logical_sector: int = 512,
    physical_sector: int = 4096,
    parent: str | os.PathLike[str] | None = None,
    files: Files | None = None,
) -> None:
    """Make a VHDX of `size` bytes that read as zeros, or, with `parent` (a VHDX), as that.

    A differencing file has its parent's size, disk identifier and logical sectors; `size` may be left out. Raises
    Refused where the path exists, Usage for sizes that the format does not know.
    """
    files, path = files or LocalFiles(), os.fspath(path)
    if (parent is not None) != (subformat == "differencing"):
        raise errors.Usage("a differencing file needs a parent, and no other has one", path=path)
    if files.exists(path):
        raise errors.Refused("exists already", path=path)
    disk_id, pairs = uuid4(), {}
    if parent is not None:
        above = identify(files, os.fspath(parent))
        if size not in (None, above.size):
            raise errors.Usage(f"the parent has {above.size} bytes, a child cannot have {size}", path=path)
        size, logical_sector, disk_id = above.size, above.sector, above.disk_id
        pairs = _locator(path, os.fspath(parent), above)
    block_size = block_size or (DYNAMIC_BLOCK if subformat == "dynamic" else OTHER_BLOCK)
    _check(path, size, subformat, block_size, logical_sector, physical_sector)
    assert size is not None
    locator = Item(packing.PARENT_LOCATOR, 0, 0, packing.IS_REQUIRED, 0) if pairs else None
    disk = Metadata(size, block_size, logical_sector, physical_sector, disk_id, subformat == "fixed", locator)
    items = _items(disk)
    if pairs:
        items[packing.PARENT_LOCATOR] = (packing.IS_REQUIRED, packing.pack_locator(pairs))
    with files.open(path, "create") as file:
        _write(file, disk, items)
    files.flush_dir(posixpath.dirname(path) or ".")


def _check(path: str, size: int | None, subformat: str, block_size: int, logical: int, physical: int) -> None:
    if subformat not in SUBFORMATS:
        raise errors.Usage(f"no subformat {subformat!r}: {', '.join(SUBFORMATS)}", path=path)
    if logical not in (512, 4096) or physical not in (512, 4096):
        raise errors.Usage(f"sectors of {logical} and {physical} bytes: each is 512 or 4096", path=path)
    check_size(size, logical, path)
    if not MIN_BLOCK <= block_size <= MAX_BLOCK or block_size & block_size - 1:
        raise errors.Usage(f"blocks of {block_size} bytes: a power of two from 1 to 256 MiB was expected", path=path)


def check_size(size: int | None, logical: int, path: str) -> None:
    """Raises Usage for what the size of a disk with such sectors cannot be."""
    if size is None or not 0 < size <= MAX_DISK or size % logical:
        raise errors.Usage(f"{size} bytes: a multiple of {logical} up to 64 TiB was expected", path=path)


def _locator(path: str, parent: str, above: Identity) -> dict[str, str]:
    """Where the parent is, and which state of it this is a difference to."""
    folder = os.path.abspath(posixpath.dirname(path))
    relative = os.path.relpath(os.path.abspath(parent), folder).replace("/", "\\")
    return {
        "parent_linkage": f"{{{above.data_write}}}",
        "relative_path": relative if relative.startswith("..\\") else ".\\" + relative,
        "absolute_win32_path": os.path.abspath(parent),
    }


def _items(meta: Metadata) -> dict[UUID, tuple[int, bytes]]:
    """Metadata items: (flags, content)."""
    disk = packing.IS_DISK | packing.IS_REQUIRED
    flags = meta.fixed | (meta.locator is not None) << 1
    return {
        packing.FILE_PARAMETERS: (packing.IS_REQUIRED, struct.pack("<II", meta.block_size, flags)),
        packing.DISK_SIZE: (disk, struct.pack("<Q", meta.size)),
        packing.DISK_ID: (disk, meta.disk_id.bytes_le),
        packing.LOGICAL_SECTOR: (disk, struct.pack("<I", meta.logical_sector)),
        packing.PHYSICAL_SECTOR: (disk, struct.pack("<I", meta.physical_sector)),
    }


def _write(file: Image, disk: Metadata, items: dict[UUID, tuple[int, bytes]]) -> None:
    length = region_bytes(disk.entries)
    payload = _TABLE + length
    file.resize(payload + (disk.blocks * disk.block_size if disk.fixed else 0))
    file.write(0, (packing.FILE_ID + CREATOR.encode("utf-16-le")).ljust(packing.TABLE_BYTES, b"\0"))
    regions = (
        (packing.METADATA_REGION, _METADATA, MIB, True),
        (packing.BAT_REGION, _TABLE, length, True),
    )
    for offset in packing.TABLE_OFFSETS:
        file.write(offset, packing.pack_regions(regions))
    file.write(_METADATA, packing.pack_metadata(items))
    if disk.fixed:
        _fill_table(file, disk, payload)
    file.flush()
    Headers(file, 0, 1, uuid4(), uuid4(), _LOG, MIB).update(NO_LOG)


def _fill_table(file: Image, disk: Metadata, payload: int) -> None:
    """Every block of a fixed file is there from the start, one after the other."""
    stride = disk.ratio + 1
    for start in range(0, disk.entries, _PART):
        part = [
            0 if index % stride == disk.ratio else payload + (index - index // stride) * disk.block_size | FULL
            for index in range(start, min(start + _PART, disk.entries))
        ]
        file.write(_TABLE + 8 * start, struct.pack(f"<{len(part)}Q", *part))


# The name under which the engine offers it.
create_vhdx = create
