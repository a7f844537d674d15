"""New VHDs. A name is given only to a file that is whole and durable: until then it ends in `.tmp`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID, uuid4

from secondsite.engine import errors
from secondsite.engine.files.base import Files
from secondsite.engine.files.local import LocalFiles
from secondsite.engine.images.base import Image
from secondsite.engine.images.vhd.geometry import geometry_of
from secondsite.engine.images.vhd.reader import VhdImage, open_vhd
from secondsite.engine.images.vhd.structures import (
    DYNAMIC,
    FIXED,
    FOOTER_BYTES,
    HEADER_BYTES,
    MAX_BLOCK,
    MAX_BYTES,
    MAX_ENTRIES,
    NO_OFFSET,
    SECTOR,
    DynamicHeader,
    Footer,
)

# Azure takes fixed disks of whole MiB only (formats section 2).
AZURE_UNIT = 1 << 20
DEFAULT_BLOCK = 2 << 20
# "win " because every reader goes by CurrentSize then: QEMU before 10.0 takes the geometry, which is rounded down,
# for any creator that it does not know.
CREATOR, CREATOR_VERSION, CREATOR_HOST = b"win ", 0x000A0000, b"Wi2k"
# 2000-01-01 00:00:00 UTC.
_EPOCH = 946684800


def whole_units(size: int, *, rounding: str = "up", path: str | None = None) -> int:
    """A size that Azure takes: `up` to a whole MiB, or `refuse` what is none; `exact` keeps whole sectors.

    Raises Usage for a size that a VHD cannot have.
    """
    if rounding == "up":
        size = -(-size // AZURE_UNIT) * AZURE_UNIT
    elif rounding == "refuse" and size % AZURE_UNIT:
        raise errors.Usage(f"a disk of {size} bytes is not a whole number of MiB, which Azure asks of a fixed VHD")
    elif rounding not in ("refuse", "exact"):
        raise errors.Usage(f"rounding {rounding!r}; it takes up, refuse or exact")
    if size % SECTOR or not 0 < size <= MAX_BYTES:
        raise errors.Usage(
            f"a VHD of {size} bytes; it has whole sectors of {SECTOR}, and at most {MAX_BYTES} bytes", path=path
        )
    return size


def make_footer(kind: int, size: int, unique_id: UUID | None = None, now: float | None = None) -> Footer:
    """A footer of ours; `unique_id` and `now` (seconds since 1970) may be given, to make the same file twice."""
    seconds = int(time.time() if now is None else now) - _EPOCH
    return Footer(
        kind=kind, current_size=size, original_size=size, geometry=geometry_of(size), unique_id=unique_id or uuid4(),
        data_offset=NO_OFFSET if kind == FIXED else FOOTER_BYTES, timestamp=min(max(seconds, 0), 0xFFFFFFFF),
        creator=CREATOR, creator_version=CREATOR_VERSION, creator_host=CREATOR_HOST,
    )  # fmt: skip


def fixed_footer(size: int, *, unique_id: UUID | None = None, now: float | None = None) -> bytes:
    """The 512 bytes that turn `size` bytes of a raw disk, whole MiB, into a fixed VHD that Azure takes."""
    return make_footer(FIXED, whole_units(size, rounding="refuse"), unique_id, now).pack()


def create_fixed(
    path: str | os.PathLike[str],
    size: int,
    *,
    rounding: str = "up",
    files: Files | None = None,
    overwrite: bool = False,
    unique_id: UUID | None = None,
    now: float | None = None,
) -> VhdImage:
    """A new fixed VHD of zeros, sparse on disk, opened for writing. See `whole_units` for `rounding`."""
    size = whole_units(size, rounding=rounding)
    footer = make_footer(FIXED, size, unique_id, now)

    def fill(file: Image) -> None:
        file.write(size, footer.pack())

    return _create(os.fspath(path), files or LocalFiles(), overwrite, fill)


def create_dynamic(
    path: str | os.PathLike[str],
    size: int,
    *,
    block_size: int = DEFAULT_BLOCK,
    files: Files | None = None,
    overwrite: bool = False,
    unique_id: UUID | None = None,
    now: float | None = None,
) -> VhdImage:
    """A new dynamic VHD of zeros, opened for writing. The size is in whole sectors."""
    size = whole_units(size, rounding="exact")
    entries = -(-size // block_size) if block_size > 0 else 0
    if block_size < 4096 or block_size > MAX_BLOCK or block_size & (block_size - 1) or entries > MAX_ENTRIES:
        raise errors.Usage(
            f"blocks of {block_size} bytes for a VHD of {size}; it takes a power of two from 4096 to {MAX_BLOCK}, "
            f"and at most {MAX_ENTRIES} blocks"
        )
    footer = make_footer(DYNAMIC, size, unique_id, now).pack()
    table_at = FOOTER_BYTES + HEADER_BYTES
    header = DynamicHeader(offset=FOOTER_BYTES, table_offset=table_at, entries=entries, block_size=block_size)
    table = b"\xff" * (-(-4 * entries // SECTOR) * SECTOR)

    def fill(file: Image) -> None:
        file.write(0, footer + header.pack() + table + footer)

    return _create(os.fspath(path), files or LocalFiles(), overwrite, fill)


def _create(path: str, files: Files, overwrite: bool, fill: Callable[[Image], None]) -> VhdImage:
    if not overwrite and files.exists(path):
        raise errors.Refused("it exists already", path=path)
    temporary = path + ".tmp"
    try:
        with files.open(temporary, "create") as file:
            fill(file)
            file.flush()
        files.replace(temporary, path)
        files.flush_dir(os.path.dirname(path) or os.curdir)
    except errors.Error:
        with suppress(errors.Error):
            files.unlink(temporary)
        raise
    return open_vhd(path, "rw", files=files)
