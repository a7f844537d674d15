"""Hand-made VHDs, and other programs' view of one."""

from __future__ import annotations

import subprocess
from pathlib import Path
from uuid import UUID

from secondsite.engine.images.vhd.create import make_footer
from secondsite.engine.images.vhd.structures import (
    DIFFERENCING,
    DYNAMIC,
    NO_BLOCK,
    NO_PARENT,
    SECTOR,
    DynamicHeader,
    Footer,
    Locator,
)


def handmade(
    size: int,
    blocks: dict[int, tuple[bytes, bytes]],
    *,
    block_size: int = 2 << 20,
    parent: UUID | None = None,
    names: tuple[tuple[bytes, str], ...] = (),
    unique_id: UUID | None = None,
    table: dict[int, int] | None = None,
    entries: int | None = None,
) -> bytes:
    """A VHD with blocks as (bitmap, data), written here and nowhere else; `table` overrides entries of the BAT."""
    count = -(-size // block_size) if entries is None else entries
    strings = [(code, name.encode("utf-16-le")) for code, name in names]
    at = SECTOR + 1024
    locators, body = [], b""
    for code, raw in strings:
        locators.append(Locator(code, len(raw), at))
        raw = raw.ljust(SECTOR, b"\0")
        body += raw
        at += len(raw)
    header = DynamicHeader(
        offset=SECTOR, table_offset=at, entries=count, block_size=block_size, parent_id=parent or NO_PARENT,
        parent_name=names[0][1] if names else "", locators=tuple(locators),
    )  # fmt: skip
    table_bytes = -(-4 * count // SECTOR) * SECTOR
    place = (at + table_bytes) // SECTOR
    bat = [NO_BLOCK] * (table_bytes // 4)
    data = b""
    for block, (bitmap, content) in blocks.items():
        bat[block] = place
        piece = bitmap.ljust(header.bitmap_bytes, b"\0") + content.ljust(block_size, b"\0")
        data += piece
        place += len(piece) // SECTOR
    for block, entry in (table or {}).items():
        bat[block] = entry
    foot = make_footer(DIFFERENCING if parent else DYNAMIC, size, unique_id, 1e9).pack()
    return foot + header.pack() + body + b"".join(e.to_bytes(4, "big") for e in bat) + data + foot


def qemu(path: Path) -> bytes:
    """The disk as qemu-img converts it; the format is named, since it would take a fixed VHD for raw."""
    out = path.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-f", "vpc", "-O", "raw", path, out], check=True, capture_output=True)
    return out.read_bytes()


def vhdiinfo(path: Path) -> dict[str, str]:
    """What the program of libvhdi tells of a file."""
    done = subprocess.run(["vhdiinfo", path], check=True, capture_output=True, text=True, timeout=60)
    pairs = [line.split(":", 1) for line in done.stdout.splitlines() if line.startswith("\t")]
    return {name.strip(): value.strip() for name, value in pairs}


def footer_of(raw: bytes) -> Footer:
    return Footer.parse(raw[-512:], "test", len(raw) - 512)
