"""Open a VHD: its footer, its header, its parents (formats section 2)."""

from __future__ import annotations

import os
from collections.abc import Sequence

from secondsite.engine import errors
from secondsite.engine.files.base import Files
from secondsite.engine.files.local import LocalFiles
from secondsite.engine.images.base import Image
from secondsite.engine.images.facts import ImageFacts, ParentFacts
from secondsite.engine.images.layered import HOLE, Handles, Layer, LayeredImage
from secondsite.engine.images.neighbours import Neighbours
from secondsite.engine.images.vhd.geometry import disk_bytes
from secondsite.engine.images.vhd.layers import BlockLayer, FixedLayer
from secondsite.engine.images.vhd.parents import parent_names
from secondsite.engine.images.vhd.structures import (
    DIFFERENCING,
    FIXED,
    FOOTER_BYTES,
    HEADER_BYTES,
    KINDS,
    SECTOR,
    DynamicHeader,
    Footer,
)


class Link:
    """One file of a chain: its footer, where that was found, its header where it has one, and its size as a disk."""

    def __init__(self, file: Image) -> None:
        self.file = file
        self.notes: list[str] = []
        self.footer, self.footer_at = self._footer()
        self.size = disk_bytes(self.footer)
        self.header = None if self.footer.kind == FIXED else self._header()

    @property
    def recovered(self) -> bool:
        """Is the footer that was read the copy at the start, for want of one at the end?"""
        return self.footer_at == 0

    def _footer(self) -> tuple[Footer, int]:
        """The footer at the end; where that is bad, its copy at the start, which fixed disks do not have.

        The end comes first: on a fixed disk the first sector is the guest's, who could write a footer there. Virtual
        PC before 2004 wrote 511 bytes.
        """
        file, size = self.file, self.file.size
        wrong: errors.Error | None = None
        for at in (size - FOOTER_BYTES, size - FOOTER_BYTES + 1):
            try:
                if at >= 0:
                    return self._parse_footer(at, size - at), at
            except errors.Error as error:
                if wrong is None or file.read(at, 8) == b"conectix":
                    wrong = error
        try:
            copy = self._parse_footer(0, FOOTER_BYTES) if size >= SECTOR else None
        except errors.Error:
            copy = None
        if copy is None or copy.kind == FIXED:
            raise wrong or errors.Damaged(
                f"a file of {size} bytes is no VHD, whose footer alone has {FOOTER_BYTES}", path=file.path, offset=0
            )
        self.notes.append("the footer at the end is missing or bad; its copy at the start was used")
        return copy, 0

    def _parse_footer(self, at: int, length: int) -> Footer:
        raw = bytes(self.file.read(at, length))
        return Footer.parse(raw.ljust(FOOTER_BYTES, b"\0"), self.file.path, at)

    def _header(self) -> DynamicHeader:
        at, size = self.footer.data_offset, self.file.size
        if at < SECTOR or at + HEADER_BYTES > size:
            raise errors.Damaged(
                f"the dynamic header is said to lie at byte {at} of a file of {size}",
                path=self.file.path, offset=self.footer_at + 16,
            )  # fmt: skip
        return DynamicHeader.parse(bytes(self.file.read(at, HEADER_BYTES)), self.file.path, at)

    def layer(self, handle: int) -> Layer:
        """This file as a layer. Raises Damaged where its table is wrong, or a fixed disk too short."""
        if self.header is not None:
            sparse = self.footer.kind == DIFFERENCING
            return BlockLayer(self.file, handle, self.size, self.header, sparse=sparse)
        if self.size > self.footer_at:
            raise errors.Damaged(
                f"a fixed disk of {self.size} bytes, of which {self.footer_at} are here before the footer",
                path=self.file.path, offset=self.footer_at,
            )  # fmt: skip
        return FixedLayer(self.file, handle, self.size)


class VhdImage(LayeredImage):
    """A VHD and its parents, read-only."""

    def __init__(self, path: str, links: list[Link], layers: list[Layer], handles: Handles) -> None:
        super().__init__(path, links[0].size, layers, handles)
        self.links = links

    @property
    def footer(self) -> Footer:
        return self.links[0].footer

    def facts(self) -> ImageFacts:
        """What the file says of itself, for `info` and `check`."""
        top = self.links[0]
        notes = list(top.notes)
        if top.footer.saved_state:
            notes.append("a machine's saved state belongs to this disk")
        if top.size != top.footer.current_size:
            notes.append(f"the guest sees the geometry's {top.size} of {top.footer.current_size} bytes")
        return ImageFacts(
            format="vhd",
            subformat=KINDS[top.footer.kind],
            virtual_bytes=self.size,
            block_size=top.header.block_size if top.header else 0,
            parents=tuple(ParentFacts(link.file.path, str(link.footer.unique_id)) for link in self.links[1:]),
            allocated_bytes=self.layers[0].allocated(),
            identifiers={
                "unique_id": str(top.footer.unique_id),
                "creator": top.footer.creator.decode("latin-1").rstrip("\0 "),
            },
            notes=tuple(notes),
        )


def open_vhd(
    path: str | os.PathLike[str], mode: str = "r", *, files: Files | None = None, allow: Sequence[str] = ()
) -> VhdImage:
    """Open a VHD; `rw` writes fixed and dynamic ones in place. Parents may lie in its folder and those of `allow`.

    Raises Damaged, NewerFormat, Unreachable; Refused for a parent that is missing, elsewhere or of another identity,
    and for a chain without an end.
    """
    path, files = os.fspath(path), files or LocalFiles()
    handles = Handles()
    try:
        links = _chain(path, mode, files, allow, handles)
        if mode != "r" and links[0].footer.kind == DIFFERENCING:
            raise errors.Refused("differencing VHDs are read, not written", path=path)
        layers = [link.layer(handles.add(link.file)) for link in links]
        # A child asks the link below it; below the last one there is nothing, by construction of the chain.
        assert layers[-1].hole != HOLE
        return _image(path, mode, links, layers, handles)
    except BaseException:
        handles.close()
        raise


def _image(path: str, mode: str, links: list[Link], layers: list[Layer], handles: Handles) -> VhdImage:
    if mode == "r":
        return VhdImage(path, links, layers, handles)
    from secondsite.engine.images.vhd.dynamic import DynamicVhd
    from secondsite.engine.images.vhd.fixed import FixedVhd

    made = FixedVhd if links[0].header is None else DynamicVhd
    return made(path, links, layers, handles)


def _chain(path: str, mode: str, files: Files, allow: Sequence[str], handles: Handles) -> list[Link]:
    """The file and its parents, the newest first."""
    neighbours = Neighbours(path, files, allow)
    neighbours.enter(path)
    links = [Link(handles.own(files.open(path, mode)))]
    while links[-1].footer.kind == DIFFERENCING:
        links.append(_parent(links[-1], neighbours, handles))
    return links


def _parent(child: Link, neighbours: Neighbours, handles: Handles) -> Link:
    """The parent whose UniqueId is the one that the child names; its time stamp says nothing, copying changes it."""
    assert child.header is not None
    wanted = child.header.parent_id
    names = parent_names(child.file, child.header)
    wrong: errors.Error | None = None
    for path in neighbours.find(child.file.path, names, "parent", basename=True):
        file = neighbours.files.open(path, "r")
        try:
            link = Link(file)
        except errors.Damaged as error:
            file.close()
            wrong = wrong or error
            continue
        if link.footer.unique_id == wanted:
            handles.own(file)
            neighbours.enter(path)
            return link
        file.close()
        wrong = wrong or errors.Refused(
            f"its parent should be the disk {wanted}, but {path} is {link.footer.unique_id}", path=child.file.path
        )
    assert wrong is not None
    raise wrong
