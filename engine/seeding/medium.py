"""A seed on a medium: the first content of a replica, in a folder. FORMAT.md, section 6, is the specification.

`seed.json` says what the replica is to be, and once the seed is whole which parts it has and to what seal they lead.
A part is a whole delta from nothing. Where two parts name a block the later one counts: an export that was cut short
goes on by writing what the parts do not hold, or do not hold any more.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from secondsite.engine import errors, kernel
from secondsite.engine.blockmap import BlockMap
from secondsite.engine.delta import format as fmt
from secondsite.engine.delta.reader import DeltaReader
from secondsite.engine.files import Files
from secondsite.engine.progress import Monitor
from secondsite.engine.replica import record
from secondsite.engine.replica.identity import Identity
from secondsite.engine.replica.point import Point
from secondsite.engine.replica.recovery import store_frame

KIND = "secondsite seed"
GENERATION = 1
# Parts lead from no generation to the first; what the whole of them comes to is in the record.
NO_SEAL = bytes(32)
MAX_PARTS = 10_000
_PART = re.compile(r"part-([0-9]{6})\.delta")


@dataclass(frozen=True)
class Seed:
    """What `seed.json` holds. `point` is None while the export is not whole."""

    identity: Identity
    size: int
    parts: list[int] = field(default_factory=list)
    point: Point | None = None

    def header(self) -> fmt.Header:
        """Of each part."""
        made = self.identity
        return fmt.Header(made.replica_id, made.block_size, 0, GENERATION, 0, self.size, made.epoch)

    @property
    def source(self) -> str:
        """As people call it."""
        return self.identity.source.partition(":")[2]


class Medium:
    """The folder of one seed."""

    def __init__(self, folder: str, files: Files) -> None:
        self.folder, self.files = folder, files
        self.record = posixpath.join(folder, "seed.json")

    def part(self, number: int) -> str:
        return posixpath.join(self.folder, f"part-{number:06}.delta")

    # -- the record ------------------------------------------------------------------------------------------

    def read(self) -> Seed | None:
        """The seed that is there; None where there is none. Raises Damaged, NewerFormat."""
        if self.files.size(self.record) < 0:
            return None
        fields, _ = record.read(self.files, self.record)
        if fields.get("kind") != KIND:
            raise errors.Damaged("it does not describe a seed", path=self.record, offset=0)
        identity = Identity.parse(record.field(fields, "identity", dict, self.record), self.record)
        size, parts = record.field(fields, "size", int, self.record), record.field(fields, "parts", list, self.record)
        if len(parts) > MAX_PARTS or not all(type(part) is int and 0 < part <= MAX_PARTS for part in parts):
            raise errors.Damaged("its parts are not numbers", path=self.record, offset=0)
        return Seed(identity, size, sorted(set(parts)), self._point(fields, identity, size))

    def _point(self, fields: dict[str, Any], identity: Identity, size: int) -> Point | None:
        found = record.field(fields, "point", dict, self.record)
        if not found:
            return None
        point = Point.parse(found, self.record, identity.replica_id.hex(), GENERATION)
        if point.virtual_bytes != size:
            raise errors.Damaged("its point has another size", path=self.record, offset=0)
        return point

    def whole(self) -> tuple[Seed, Point]:
        """A seed that may be imported. Raises Refused where there is none, or one whose export was cut short."""
        seed = self.read()
        if seed is None:
            raise errors.Refused("holds no seed (there is no seed.json)", path=self.folder)
        if seed.point is None:
            raise errors.Refused("its export was not finished; export-seed goes on with it", path=self.folder)
        return seed, seed.point

    def write(self, seed: Seed) -> None:
        """Replace the record, durably."""
        point = seed.point.fields() if seed.point else {}
        fields = {"kind": KIND, "identity": seed.identity.fields(), "size": seed.size, "parts": seed.parts}
        record.write(self.files, self.record, {**fields, "point": point})
        self.files.flush_dir(self.folder)

    def clear(self) -> None:
        """Remove the seed that is here, its record first."""
        self.files.unlink(self.record)
        self.files.flush_dir(self.folder)
        for name in self.files.listdir(self.folder):
            if _PART.fullmatch(name.removesuffix(".tmp")):
                self.files.unlink(posixpath.join(self.folder, name))

    # -- parts -----------------------------------------------------------------------------------------------

    def found(self) -> list[int]:
        """The numbers of the parts that lie there, ascending."""
        matches = map(_PART.fullmatch, self.files.listdir(self.folder))
        return [int(match[1]) for match in matches if match]

    @contextmanager
    def opened(self, seed: Seed, number: int) -> Iterator[DeltaReader]:
        """A part. Raises Damaged where it is missing, or of another seed."""
        path = self.part(number)
        if self.files.size(path) < 0:
            raise errors.Damaged("a part of the seed is missing", path=path)
        with self.files.open(path, "r") as file:
            reader = DeltaReader(file, path)
            if reader.header != seed.header():
                raise errors.Damaged("it is a part of another seed", path=path, offset=16)
            yield reader

    def prove(self, seed: Seed, number: int, monitor: Monitor, block_map: BlockMap | None = None) -> None:
        """Read a part from the medium, all of it; its hashes are laid over a map. Raises Damaged."""
        decoder = kernel.codec.Decoder()
        with self.opened(seed, number) as reader:
            reader.file.release_cache()  # what is read from now on comes from the medium, where the system goes along
            for frame in reader.frames():
                monitor.check()
                if frame.blocks:
                    found = bytearray(16 * len(frame.blocks))
                    raw = frame.payload(decoder)
                    kernel.scan.hash_blocks(raw, frame.lengths, len(frame.blocks), seed.identity.seed, found)
                    if found != frame.hashes:
                        raise errors.Damaged(
                            "a block does not have the hash beside it", path=reader.path, offset=frame.offset
                        )
                if block_map is not None:
                    store_frame(block_map, frame)
                monitor.advance(fmt.FRAME_BYTES + frame.head.stored)
