"""Hand-made VMDKs, and QEMU's view of one."""

from __future__ import annotations

import struct
import subprocess
import zlib
from pathlib import Path

SECTOR = 512
GRAIN = 128 * SECTOR


def descriptor(extents: list[str], *, cid="00c0ffee", parent="ffffffff", hint="", kind="custom", more="") -> str:
    """The text of a descriptor."""
    lines = ["# Disk DescriptorFile", "version=1", f"CID={cid}", f"parentCID={parent}", f'createType="{kind}"']
    if hint:
        lines.append(f'parentFileNameHint="{hint}"')
    return "\n".join([*lines, *extents, 'ddb.adapterType = "ide"', more, ""])


def header(capacity: int, *, grain=128, entries=512, directory=0, redundant=0, flags=3, version=1, over=0,
           text_at=1, text_sectors=20, compress=0, newlines=b"\n \r\n") -> bytes:  # fmt: skip
    """The first sector of a sparse extent; sizes in sectors."""
    return struct.pack(
        "<4sIIQQQQIQQQB4sH", b"KDMV", version, flags, capacity, grain, text_at, text_sectors, entries, redundant,
        directory, over, 0, newlines, compress,
    ).ljust(SECTOR, b"\0")  # fmt: skip


def sparse(grains: dict[int, bytes | int], capacity: int, *, text="", entries=512, grain=128, flags=3,
           change=None, redundant=True, version=1) -> bytes:  # fmt: skip
    """A sparse extent: `grains` to data, or to the number that its table shall hold. `change` edits the parts.

    Layout: header, 20 sectors of text, redundant directory and tables, directory and tables, grains.
    """
    tables = -(-capacity // (grain * entries))
    table_sectors = -(-4 * entries // SECTOR)
    directory_sectors = -(-4 * tables // SECTOR)
    first = 21
    second = first + directory_sectors + tables * table_sectors
    data_at = second + directory_sectors + tables * table_sectors
    gts = [[0] * entries for _ in range(tables)]
    body = b""
    for number, content in sorted(grains.items()):
        entry = content if isinstance(content, int) else data_at + len(body) // SECTOR
        gts[number // entries][number % entries] = entry
        if not isinstance(content, int):
            body += content.ljust(grain * SECTOR, b"\0")
    parts = dict(
        header=dict(capacity=capacity, grain=grain, entries=entries, directory=second, redundant=first,
                    flags=flags, over=data_at, version=version),
        directory=[second + directory_sectors + n * table_sectors for n in range(tables)],
        spare=[first + directory_sectors + n * table_sectors for n in range(tables)],
        tables=gts,
    )  # fmt: skip
    if change is not None:
        change(parts)

    def block(directory):
        out = struct.pack(f"<{len(directory)}I", *directory).ljust(directory_sectors * SECTOR, b"\0")
        return out + b"".join(
            struct.pack(f"<{entries}I", *gt).ljust(table_sectors * SECTOR, b"\0") for gt in parts["tables"]
        )

    text_part = text.encode().ljust(20 * SECTOR, b"\0")
    return header(**parts["header"]) + text_part + block(parts["spare"]) + block(parts["directory"]) + body


def stream(grains: dict[int, bytes], capacity: int, *, text="", at_end=True, pack=None, lba=None) -> bytes:
    """A streamOptimized extent; with `at_end` its directory is told by the footer alone."""
    out = bytearray(128 * SECTOR)
    entries = [0] * 512
    for number, content in sorted(grains.items()):
        entries[number] = len(out) // SECTOR
        packed = (pack or zlib.compress)(content)
        out += struct.pack("<QI", number * 128 if lba is None else lba, len(packed)) + packed
        out += bytes(-len(out) % SECTOR)

    def marker(sectors, kind):
        return struct.pack("<QII", sectors, 0, kind).ljust(SECTOR, b"\0")

    out += marker(4, 1)
    table_at = len(out) // SECTOR
    out += struct.pack("<512I", *entries)
    out += marker(1, 2)
    directory = len(out) // SECTOR
    out += struct.pack("<I", table_at).ljust(SECTOR, b"\0")
    how = dict(flags=0x30001, compress=1, over=128, version=3)
    out += marker(1, 3) + header(capacity, directory=directory, **how) + marker(0, 0)
    told = 0xFFFFFFFFFFFFFFFF if at_end else directory
    out[: 21 * SECTOR] = header(capacity, directory=told, **how) + text.encode().ljust(20 * SECTOR, b"\0")
    return bytes(out)


def cowd(grains: dict[int, bytes], sectors: int) -> bytes:
    """A COWD extent with grains of one sector and one table."""
    entries = [0] * 4096
    body = b""
    for number, content in sorted(grains.items()):
        entries[number] = 4 + 1 + 32 + len(body) // SECTOR
        body += content
    head = struct.pack("<4sIIIIIII", b"COWD", 1, 3, sectors, 1, 4, 1, 0).ljust(4 * SECTOR, b"\0")
    return head + struct.pack("<I", 5).ljust(SECTOR, b"\0") + struct.pack("<4096I", *entries) + body


def qemu(path: Path) -> bytes:
    """The disk as qemu-img converts it."""
    out = path.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", path, out], check=True, capture_output=True)
    return out.read_bytes()
