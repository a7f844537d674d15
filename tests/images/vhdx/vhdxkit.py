"""VHDX files put together by hand from the specification, and a model of what each disk must read as.

Nothing here uses the product: not its packing, not its checksum.
"""

from __future__ import annotations

import functools
import random
import struct
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

KIB, MIB = 1 << 10, 1 << 20
NO_GUID = UUID(int=0)
BAT = UUID("2DC27766-F623-4200-9D64-115E9BFD4A08")
METADATA = UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E")
FILE_PARAMETERS = UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
DISK_SIZE = UUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
DISK_ID = UUID("BECA12AB-B2E6-4523-93EF-C309E000C746")
LOGICAL = UUID("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")
PHYSICAL = UUID("CDA348C7-445D-4471-9CC9-E9885251C556")
LOCATOR = UUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")
LOCATOR_TYPE = UUID("B04AEFB7-D19E-4A81-B789-25B8E9445913")
NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, FULL, PARTIAL = 0, 1, 2, 3, 6, 7


@functools.cache
def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


@functools.lru_cache(64)
def crc32c(data: bytes) -> int:
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def seal(data: bytes | bytearray) -> bytes:
    """With its checksum in bytes 4 to 8."""
    data = bytearray(data)
    data[4:8] = bytes(4)
    data[4:8] = struct.pack("<I", crc32c(bytes(data)))
    return bytes(data)


def header(sequence, *, file_write, data_write, log=NO_GUID, offset=MIB, length=MIB, log_version=0, version=1):
    raw = struct.pack(
        "<4sIQ16s16s16sHHIQ", b"head", 0, sequence, file_write.bytes_le, data_write.bytes_le, log.bytes_le,
        log_version, version, length, offset,
    )  # fmt: skip
    return seal(raw.ljust(4096, b"\0"))


def region_table(entries):
    raw = struct.pack("<4sIII", b"regi", 0, len(entries), 0)
    for guid, offset, length, required in entries:
        raw += struct.pack("<16sQII", guid.bytes_le, offset, length, required)
    return seal(raw.ljust(64 * KIB, b"\0"))


def metadata_region(items):
    """`items` are (guid, flags, content)."""
    raw = bytearray(struct.pack("<8sHH20x", b"metadata", 0, len(items)))
    body = bytearray()
    for guid, flags, content in items:
        offset = 64 * KIB + len(body) if content else 0
        raw += struct.pack("<16sIIII", guid.bytes_le, offset, len(content), flags, 0)
        body += content
    return bytes(raw.ljust(64 * KIB, b"\0") + body).ljust(MIB, b"\0")


def locator(pairs, kind=LOCATOR_TYPE):
    raw = struct.pack("<16sHH", kind.bytes_le, 0, len(pairs))
    at, text = len(raw) + 12 * len(pairs), b""
    for key, value in pairs:
        a, b = key.encode("utf-16-le"), value.encode("utf-16-le")
        raw += struct.pack("<IIHH", at + len(text), at + len(text) + len(a), len(a), len(b))
        text += a + b
    return raw + text


@dataclass
class Block:
    """`spots` is the data that is not zero, by offsets in the block; `present` the runs of sectors of a PARTIAL."""

    state: int
    spots: dict[int, bytes] = field(default_factory=dict)
    present: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Disk:
    """A disk, its file's structures, and what it reads as. Change the fields, then `write`."""

    size: int
    block: int = MIB
    sector: int = 512
    physical: int = 4096
    parent: Disk | None = None
    parent_path: str = ""
    fixed: bool = False
    blocks: dict[int, Block] = field(default_factory=dict)
    seed: int = 1
    log: UUID = NO_GUID
    log_offset: int = MIB
    log_length: int = MIB
    metadata_offset: int = 0
    bat_offset: int = 0
    shuffle: bool = False
    extra_items: list = field(default_factory=list)
    extra_regions: list = field(default_factory=list)
    pairs: list | None = None

    def __post_init__(self):
        rng = random.Random(self.seed)
        self.file_write, self.data_write, self.disk_id = (UUID(int=rng.getrandbits(128)) for _ in range(3))
        self.metadata_offset = self.metadata_offset or self.log_offset + self.log_length
        self.bat_offset = self.bat_offset or self.metadata_offset + MIB
        self.places: dict[int, int] = {}
        self.bitmap_places: dict[int, int] = {}

    # -- arithmetic of section 1.3 --------------------------------------------------------------------------

    @property
    def ratio(self):
        return (1 << 23) * self.sector // self.block

    @property
    def count(self):
        return -(-self.size // self.block)

    @property
    def entries(self):
        if self.parent is None:
            return self.count + (self.count - 1) // self.ratio
        return -(-self.count // self.ratio) * (self.ratio + 1)

    @property
    def bat_length(self):
        return max(MIB, -(-self.entries * 8 // MIB) * MIB)

    def entry_at(self, block):
        """Where in the file a block's entry is."""
        return self.bat_offset + 8 * (block + block // self.ratio)

    def bitmap_entry_at(self, chunk):
        return self.bat_offset + 8 * ((chunk + 1) * self.ratio + chunk)

    # -- contents -------------------------------------------------------------------------------------------

    def fill(self, rng, states):
        """Give blocks random states, spots and runs."""
        for number in range(self.count):
            state = rng.choice(states)
            if state == NOT_PRESENT:
                continue
            made = Block(state)
            if state in (FULL, PARTIAL):
                for _ in range(4):
                    size = rng.choice([1, 511, 4096, 70000])
                    made.spots[rng.randrange(self.block - size)] = rng.randbytes(size)
                made.spots[0] = rng.randbytes(600)
                made.spots[self.block - 600] = rng.randbytes(600)
            if state == PARTIAL:
                sectors = self.block // self.sector
                edges = sorted({rng.randrange(sectors + 1) for _ in range(rng.choice([2, 9, 40]))})
                made.present = list(zip(edges[::2], edges[1::2], strict=False))
                if rng.random() < 0.5:
                    made.present = [(0, edges[0]), *made.present] if edges[0] else made.present
            self.blocks[number] = made

    def _data(self, made, start, length):
        """Bytes of a block as they are in the file."""
        out = bytearray(length)
        for at, data in made.spots.items():
            low, high = max(at, start), min(at + len(data), start + length)
            if low < high:
                out[low - start : high - start] = data[low - at : high - at]
        return out

    def read(self, offset, length):
        """What the disk must read as."""
        out = bytearray(self.parent.read(offset, length)) if self.parent else bytearray(length)
        at = offset
        while at < offset + length:
            number, inside = divmod(at, self.block)
            size = min(self.block - inside, offset + length - at)
            made = self.blocks.get(number)
            if made is not None:
                part = slice(at - offset, at - offset + size)
                if made.state == FULL:
                    out[part] = self._data(made, inside, size)
                elif made.state in (UNDEFINED, ZERO, UNMAPPED):
                    out[part] = bytes(size)
                else:
                    for first, last in made.present:
                        low = max(first * self.sector, inside)
                        high = min(last * self.sector, inside + size)
                        if low < high:
                            where = at - offset + low - inside
                            out[where : where + high - low] = self._data(made, low, high - low)
            at += size
        return bytes(out)

    def changed(self):
        """(start, length, zero) of what this layer defines, joined."""
        found = []
        for number, made in sorted(self.blocks.items()):
            start = number * self.block
            if made.state == NOT_PRESENT:
                continue
            runs = [(first * self.sector, last * self.sector) for first, last in made.present]
            if made.state != PARTIAL:
                runs = [(0, self.block)]
            for low, high in runs:
                low, high = start + low, min(start + high, self.size)
                zero = made.state not in (FULL, PARTIAL)
                if found and found[-1][0] + found[-1][1] == low and found[-1][2] == zero:
                    found[-1] = (found[-1][0], found[-1][1] + high - low, zero)
                elif low < high:
                    found.append((low, high - low, zero))
        return found

    # -- the file -------------------------------------------------------------------------------------------

    def items(self):
        flags = int(self.fixed) | (2 if self.parent else 0)
        items = [
            (LOGICAL, 6, struct.pack("<I", self.sector)),
            (FILE_PARAMETERS, 4, struct.pack("<II", self.block, flags)),
            (DISK_ID, 6, self.disk_id.bytes_le),
            (PHYSICAL, 6, struct.pack("<I", self.physical)),
            (DISK_SIZE, 6, struct.pack("<Q", self.size)),
        ]
        if self.parent or self.pairs is not None:
            pairs = self.pairs
            if pairs is None:
                pairs = [
                    ("parent_linkage", f"{{{self.parent.data_write}}}"),
                    ("parent_linkage2", f"{{{NO_GUID}}}"),
                    ("relative_path", self.parent_path),
                ]
            items.append((LOCATOR, 4, locator(pairs)))
        return items + self.extra_items

    def regions(self):
        return [
            (BAT, self.bat_offset, self.bat_length, 1),
            (METADATA, self.metadata_offset, MIB, 1),
            *self.extra_regions,
        ]

    def write_headers(self, file, **changed):
        fields = {
            "file_write": self.file_write, "data_write": self.data_write, "log": self.log,
            "offset": self.log_offset, "length": self.log_length, **changed,
        }  # fmt: skip
        for slot in range(2):
            file.seek((64 + 64 * slot) * KIB)
            file.write(header(7 + slot, **fields))

    def write(self, path, *, bat=True):
        """The file; with `bat=False` its table stays empty (for logs that bring it). Returns the path."""
        end = max(o + n for _, o, n, *_ in [*self.regions(), (0, self.log_offset, self.log_length)])
        order = [n for n, made in self.blocks.items() if made.state in (FULL, PARTIAL)]
        if self.shuffle:
            random.Random(self.seed).shuffle(order)
        self.places, self.bitmap_places = {}, {}
        if self.parent:
            for chunk in sorted({n // self.ratio for n in order if self.blocks[n].state == PARTIAL}):
                self.bitmap_places[chunk] = end
                end += MIB
        for number in order:
            self.places[number] = end
            end += self.block
        with Path(path).open("wb") as file:
            file.write(b"vhdxfile" + "made by hand".encode("utf-16-le"))
            file.truncate(end)
            self.write_headers(file)
            table = region_table(self.regions())
            for at in (192 * KIB, 256 * KIB):
                file.seek(at)
                file.write(table)
            file.seek(self.metadata_offset)
            file.write(metadata_region(self.items()))
            if bat:
                for at, entry in self.table().items():
                    file.seek(at)
                    file.write(struct.pack("<Q", entry))
            self._write_blocks(file)
        return Path(path)

    def table(self):
        """The entries that are not 0, by their places in the file."""
        entries = {}
        for number, made in self.blocks.items():
            entries[self.entry_at(number)] = self.places.get(number, 0) | made.state
        for chunk, place in self.bitmap_places.items():
            entries[self.bitmap_entry_at(chunk)] = place | FULL
        return {at: entry for at, entry in entries.items() if entry}

    def _write_blocks(self, file):
        for number, place in self.places.items():
            made = self.blocks[number]
            for at in made.spots:
                file.seek(place + at)
                file.write(self._data(made, at, len(made.spots[at])))
            if made.state == PARTIAL:
                sectors = self.block // self.sector
                bits = 0
                for first, last in made.present:
                    bits |= (1 << last) - (1 << first)
                file.seek(self.bitmap_places[number // self.ratio] + number % self.ratio * sectors // 8)
                file.write(bits.to_bytes(sectors // 8, "little"))


# -- logs -------------------------------------------------------------------------------------------------------


def data(offset, page, **wrong):
    return ("desc", offset, page, wrong)


def zeros(offset, length, **wrong):
    return ("zero", offset, length, wrong)


def log_entry(log, sequence, tail, writes, *, flushed, last, length=None, count=None, broken=False, **wrong):
    """One entry; `writes` come from `data` and `zeros`. `wrong` overrides fields, `broken` spoils the checksum."""
    count = len(writes) if count is None else count
    descriptors, sectors = b"", b""
    for kind, offset, what, fields in writes:
        number = fields.get("sequence", sequence)
        if kind == "zero":
            descriptors += struct.pack("<4sIQQQ", fields.get("signature", b"zero"), 0, what, offset, number)
        else:
            signature = fields.get("signature", b"desc")
            descriptors += struct.pack("<4s4s8sQQ", signature, what[-4:], what[:8], offset, number)
            high, low = fields.get("high", sequence >> 32), fields.get("low", sequence & 0xFFFFFFFF)
            mark = fields.get("mark", b"data")
            sectors += mark + struct.pack("<I", high) + what[8:-4] + struct.pack("<I", low)
    body = -(-(64 + len(descriptors)) // 4096) * 4096
    length = body + len(sectors) if length is None else length
    raw = struct.pack(
        "<4sIIIQII16sQQ", wrong.get("signature", b"loge"), 0, length, tail, sequence, count, 0, log.bytes_le,
        flushed, last,
    )  # fmt: skip
    raw = seal((raw + descriptors).ljust(body, b"\0") + sectors)
    return bytes([*raw[:100], raw[100] ^ 1, *raw[101:]]) if broken else raw


def put_log(path, disk, entries):
    """Write (position, bytes) into the ring of a file, round its end."""
    with Path(path).open("r+b") as file:
        for position, raw in entries:
            position %= disk.log_length
            first = min(len(raw), disk.log_length - position)
            file.seek(disk.log_offset + position)
            file.write(raw[:first])
            file.seek(disk.log_offset)
            file.write(raw[first:])


def patch(path, at, data):
    with Path(path).open("r+b") as file:
        file.seek(at)
        file.write(data)


def reseal(path, at, size):
    """Give a structure that was patched its checksum again."""
    with Path(path).open("r+b") as file:
        file.seek(at)
        raw = seal(file.read(size))
        file.seek(at)
        file.write(raw)
