"""The text of a VMDK descriptor, parsed tolerantly and within bounds (formats section 3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from secondsite.engine import errors

# The largest that real descriptors have is some 100 KiB: a disk of 60 TiB in pieces of 2 GB.
MAX_BYTES = 1 << 20
# Each extent file costs an open descriptor.
MAX_EXTENTS = 4096
# 128 TiB, twice what VMware allows: a walk over the extents of a disk must come to an end.
MAX_SECTORS = 1 << 38
NO_PARENT = 0xFFFFFFFF

FLAT, SPARSE, ZERO, COWD = "flat", "sparse", "zero", "cowd"
_TYPES = {
    "FLAT": FLAT, "VMFS": FLAT, "SPARSE": SPARSE, "ZERO": ZERO, "VMFSSPARSE": COWD,
}  # fmt: skip
_REFUSED = {
    "SESPARSE": "a snapshot of ESXi 6.5 and later in the SESPARSE format",
    "VMFSRDM": "a raw device of an ESXi host",
    "VMFSRAW": "a raw device of an ESXi host",
}
_EXTENT = re.compile(r'^(RW|RDONLY|NOACCESS)\s+(\d{1,20})\s+([A-Za-z]+)(?:\s+"([^"]*)"(?:\s+(\d{1,20}))?)?', re.I)
_PAIR = re.compile(r"^\s*([^=\s][^=]*?)\s*=\s*(.*?)\s*$")
_ENCODINGS = re.compile(r"^(?:utf-?8|windows-\d{3,4}|iso-8859-\d{1,2}|gbk|gb18030|big5|shift_jis|euc-(?:jp|kr))$")


@dataclass(frozen=True)
class ExtentLine:
    """`sectors` of the disk in one file; `offset` is where in it they begin, in sectors, for flat ones."""

    kind: str
    sectors: int
    name: str
    offset: int


@dataclass(frozen=True)
class Descriptor:
    """What the text says that matters here."""

    create_type: str
    content_id: int
    parent_id: int
    parent_name: str
    extents: tuple[ExtentLine, ...]
    values: Mapping[str, str]


def looks_like(raw: bytes) -> bool:
    """Could these be the first bytes of a descriptor? The first line is not the same for all makers."""
    head = raw[:4096].lower()
    return b"disk descriptorfile" in head or (b"createtype" in head and b"cid" in head)


def parse(raw: bytes, path: str) -> Descriptor:
    """Raises Damaged where it makes no sense, Refused for what this program does not read."""
    text = _decode(raw.split(b"\0", 1)[0])
    values: dict[str, str] = {}
    extents: list[ExtentLine] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if found := _EXTENT.match(line):
            extents.append(_extent(found, path, number))
            if len(extents) > MAX_EXTENTS:
                raise errors.Refused(f"a disk of more than {MAX_EXTENTS} extents", path=path)
        elif pair := _PAIR.match(line):
            values.setdefault(pair[1].lower(), pair[2].strip('"'))
        elif '"' in line:
            # An extent whose line is damaged would otherwise be left out, and those behind it would move.
            raise errors.Damaged(f"line {number}: neither an extent nor a value: {line!r:.80}", path=path)
    if sum(extent.sectors for extent in extents) > MAX_SECTORS:
        raise errors.Damaged(f"extents of more than {MAX_SECTORS} sectors in all", path=path)
    if values.get("version") == "2" or any(key.startswith("encryption.") for key in values):
        raise errors.Refused("an encrypted VMDK; it can be read only by who has its key", path=path)
    if _number(values.get("version", "1"), 10) not in (1, 3):
        raise errors.NewerFormat(f"version {values['version']!r} of a VMDK descriptor; 1 and 3 are known", path=path)
    return Descriptor(
        create_type=values.get("createtype", ""),
        content_id=_identity(values, "cid", path),
        parent_id=_identity(values, "parentcid", path),
        parent_name=values.get("parentfilenamehint", ""),
        extents=tuple(extents),
        values=values,
    )


def _decode(raw: bytes) -> str:
    """Names are in the encoding that the text itself names; UTF-8 where that is nothing known."""
    named = re.search(rb'^\s*encoding\s*=\s*"?([\w-]+)"?', raw, re.I | re.M)
    encoding = named[1].decode("ascii", "replace").lower() if named else "utf-8"
    if not _ENCODINGS.match(encoding):
        encoding = "utf-8"
    return raw.decode(encoding, "surrogateescape" if encoding.startswith("utf") else "replace")


def _extent(found: re.Match[str], path: str, number: int) -> ExtentLine:
    access, sectors, kind, name, offset = found.groups()
    kind = kind.upper()
    if kind in _REFUSED:
        raise errors.Refused(f"line {number}: an extent of type {kind}, {_REFUSED[kind]}, is not read", path=path)
    if kind not in _TYPES:
        raise errors.Damaged(f"line {number}: an extent of type {kind!r}; FLAT, SPARSE, ... was expected", path=path)
    if rest := found.string[found.end() :].strip():
        raise errors.Damaged(f"line {number}: {rest!r:.40} behind an extent", path=path)
    if int(sectors) > MAX_SECTORS or int(offset or 0) > MAX_SECTORS:
        raise errors.Damaged(f"line {number}: an extent of {sectors} sectors; {MAX_SECTORS} is the most", path=path)
    if access.upper() == "NOACCESS":
        # Its bytes are there and are not ours: zeros in their place would pass for the disk.
        raise errors.Refused(
            f"line {number}: an extent of {sectors} sectors that is not to be accessed (NOACCESS), so that the disk "
            "cannot be read whole (copy it with a program that may access it)",
            path=path,
        )
    made = _TYPES[kind]
    if made != ZERO and not name:
        raise errors.Damaged(f"line {number}: an extent of type {kind} without the name of a file", path=path)
    return ExtentLine(made, int(sectors), name or "", int(offset or 0))


def _number(text: str, base: int) -> int | None:
    try:
        return int(text, base) if len(text) <= 10 else None
    except ValueError:
        return None


def _identity(values: dict[str, str], key: str, path: str) -> int:
    """A content identifier: 32 bits in hexadecimal. Absent ones count as "none"."""
    text = values.get(key, "ffffffff")
    found = _number(text, 16)
    if found is None or not 0 <= found <= NO_PARENT:
        raise errors.Damaged(f"{key} is {text[:40]!r}; eight hexadecimal digits were expected", path=path)
    return found
