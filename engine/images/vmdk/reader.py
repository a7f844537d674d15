"""Open a VMDK: a descriptor with its extents, or a sparse file that holds its own, and the chain below it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from secondsite.engine import errors
from secondsite.engine.files.base import Files
from secondsite.engine.files.local import LocalFiles
from secondsite.engine.images.base import Image
from secondsite.engine.images.facts import ImageFacts, ParentFacts
from secondsite.engine.images.layered import HOLE, ZEROS, Handles, LayeredImage
from secondsite.engine.images.neighbours import Neighbours
from secondsite.engine.images.vmdk import descriptor as text
from secondsite.engine.images.vmdk.descriptor import Descriptor, ExtentLine
from secondsite.engine.images.vmdk.extents import DiskLayer, Extent, FlatExtent, SparseExtent, ZeroExtent
from secondsite.engine.images.vmdk.header import COWD, KDMV, SECTOR, SESPARSE, SparseHeader, read_header


class Opener:
    """Opens the files of one chain, each once."""

    def __init__(self, path: str, files: Files, allow: Sequence[str], handles: Handles) -> None:
        self.files, self.handles = files, handles
        self.neighbours = Neighbours(path, files, allow)
        self._opened: dict[str, Image] = {}

    def open(self, path: str) -> Image:
        real = os.path.realpath(path)
        if real not in self._opened:
            self._opened[real] = self.handles.own(self.files.open(path, "r"))
        return self._opened[real]

    def extent(self, path: str, name: str) -> Image:
        """A file that a descriptor names. Unlike a parent it is not looked for elsewhere by its last part."""
        return self.open(self.neighbours.find(path, [name], "extent", basename=False)[0])


class Disk:
    """One link of a chain: its descriptor and its extents."""

    def __init__(self, path: str, opener: Opener) -> None:
        self.path, self.opener = path, opener
        self.notes: list[str] = []
        self.grain = 0
        self.packed = False
        file = opener.open(path)
        magic = bytes(file.read(0, min(8, file.size)))
        self.header: SparseHeader | None = None
        if magic[:4] == KDMV:
            self.header = read_header(file, KDMV)
            self.descriptor = self._embedded(file, self.header)
        else:
            self.descriptor = self._text(file, magic)
        self.hole = ZEROS if self.descriptor.parent_id == text.NO_PARENT else HOLE
        self.layer = DiskLayer(self._extents(file), self.hole)

    def _embedded(self, file: Image, header: SparseHeader) -> Descriptor:
        at, length = header.descriptor_at, header.descriptor_bytes
        if not at or not length:
            raise errors.Refused(
                "this is one extent of a disk; open the descriptor that names all of them", path=self.path
            )
        if length > text.MAX_BYTES or at + length > file.size:
            raise errors.Damaged(
                f"a descriptor of {length} bytes at byte {at} of a file of {file.size}", path=self.path, offset=28
            )
        found = text.parse(bytes(file.read(at, length)), self.path)
        if len(found.extents) > 1:
            raise errors.Refused(f"a sparse file that is one of {len(found.extents)} extents", path=self.path)
        return found

    def _text(self, file: Image, magic: bytes) -> Descriptor:
        if magic[:4] == COWD or magic == SESPARSE:
            what = "COWD" if magic[:4] == COWD else "SESPARSE"
            raise errors.Refused(
                f"this is a {what} extent of an ESX snapshot; open the descriptor that names it", path=self.path
            )
        raw = bytes(file.read(0, min(file.size, text.MAX_BYTES)))
        if not text.looks_like(raw):
            raise errors.Damaged("no VMDK: 'KDMV' or the text of a descriptor was expected", path=self.path, offset=0)
        if file.size > text.MAX_BYTES:
            raise errors.Refused(
                f"a descriptor of {file.size} bytes; at most {text.MAX_BYTES} are read", path=self.path
            )
        found = text.parse(raw, self.path)
        if not found.extents:
            raise errors.Damaged("a descriptor without extents", path=self.path)
        return found

    def _extents(self, file: Image) -> list[Extent]:
        # A sparse file that holds its own descriptor is its own extent, however it was called when it was made.
        if self.header is not None:
            return [self._sparse(file, self.header, self.header.size)]
        return [self._extent(line) for line in self.descriptor.extents]

    def _extent(self, line: ExtentLine) -> Extent:
        size = line.sectors * SECTOR
        if line.kind == text.ZERO:
            return ZeroExtent(size)
        file = self.opener.extent(self.path, line.name)
        if line.kind == text.FLAT:
            return FlatExtent(file, self.opener.handles.add(file), line.offset * SECTOR, size)
        magic = bytes(file.read(0, min(8, file.size)))
        if magic == SESPARSE:
            raise errors.Refused("an extent in the SESPARSE format of ESXi 6.5 and later is not read", path=file.path)
        wanted = COWD if line.kind == text.COWD else KDMV
        if magic[:4] != wanted:
            raise errors.Damaged(f"no sparse extent: {wanted.decode()!r} was expected", path=file.path, offset=0)
        return self._sparse(file, read_header(file, wanted), size)

    def _sparse(self, file: Image, header: SparseHeader, size: int) -> SparseExtent:
        self.grain = self.grain or header.grain
        self.packed |= header.compressed
        if header.unclean:
            self.notes.append(f"{os.path.basename(file.path)} was not closed cleanly")
        return SparseExtent(file, self.opener.handles, size, header, self.hole)

    @property
    def create_type(self) -> str:
        return self.descriptor.create_type or ("streamOptimized" if self.packed else "custom")


class VmdkImage(LayeredImage):
    """A VMDK and its parents, read-only."""

    def __init__(self, path: str, disks: list[Disk], handles: Handles) -> None:
        super().__init__(path, disks[0].layer.size, [disk.layer for disk in disks], handles)
        self.disks = disks

    def facts(self) -> ImageFacts:
        """What the files say of themselves, for `info` and `check`."""
        top = self.disks[0]
        values = top.descriptor.values
        identifiers = {"content_id": f"{top.descriptor.content_id:08x}"}
        for name, key in (("long_content_id", "ddb.longcontentid"), ("uuid", "ddb.uuid")):
            if key in values:
                identifiers[name] = values[key]
        notes = [note for disk in self.disks for note in disk.notes]
        if "changetrackpath" in values:
            notes.append("changes are tracked by the host, in a file whose layout is not public")
        return ImageFacts(
            format="vmdk",
            subformat=top.create_type,
            virtual_bytes=self.size,
            block_size=top.grain,
            parents=tuple(ParentFacts(d.path, f"{d.descriptor.content_id:08x}") for d in self.disks[1:]),
            allocated_bytes=top.layer.allocated(),
            identifiers=identifiers,
            notes=tuple(notes),
        )


def open_vmdk(path: str | os.PathLike[str], *, files: Files | None = None, allow: Sequence[str] = ()) -> VmdkImage:
    """Open a VMDK for reading. Extents and parents may lie in its folder and those of `allow`.

    Raises Damaged, NewerFormat; Refused for what lies elsewhere, is encrypted, is of a type that is not read, and for
    a parent that is missing or changed since (its content identifier says so); Unreachable for a missing extent.
    """
    path, handles = os.fspath(path), Handles()
    try:
        opener = Opener(path, files or LocalFiles(), allow, handles)
        opener.neighbours.enter(path)
        disks = [Disk(path, opener)]
        while disks[-1].descriptor.parent_id != text.NO_PARENT:
            disks.append(_parent(disks[-1], opener))
        return VmdkImage(path, disks, handles)
    except BaseException:
        handles.close()
        raise


def _parent(child: Disk, opener: Opener) -> Disk:
    """The parent that the child names, if it still has the content that the child was made over."""
    names = [child.descriptor.parent_name] if child.descriptor.parent_name else []
    path = opener.neighbours.find(child.path, names, "parent", basename=True)[0]
    opener.neighbours.enter(path)
    parent = Disk(path, opener)
    have, want = parent.descriptor.content_id, child.descriptor.parent_id
    if have != want:
        raise errors.Refused(
            f"its parent should have the content identifier {want:08x}, but {path} has {have:08x}", path=child.path
        )
    return parent
