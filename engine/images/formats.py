"""Which format an image file has, and opening it as that.

The first bytes of a raw disk are its guest's: a guest may write the signature of a container there, and have us read
it as one with parents of its choice. So where the name says raw and the bytes say something else, or the other way
round, the user has to decide; and a replica remembers the format of its source.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePath

from secondsite.engine import errors
from secondsite.engine.images.base import Image
from secondsite.engine.images.facts import ImageFacts
from secondsite.engine.images.raw import RawImage

FORMATS = ("raw", "vhdx", "vhd", "vmdk", "overlay")
_SUFFIXES = {
    ".raw": "raw", ".img": "raw", ".bin": "raw", ".iso": "raw",
    ".vhdx": "vhdx", ".avhdx": "vhdx", ".vhds": "vhdx", ".vhd": "vhd", ".avhd": "vhd", ".vmdk": "vmdk",
    ".overlay": "overlay",
}  # fmt: skip
_DESCRIPTOR_BYTES = 4096
_DESCRIPTOR_LIMIT = 1 << 20
_FOOTER_BYTES = 512


def probe(image: RawImage) -> str:
    """The format that an open file's bytes say; `raw` for everything unknown, and for devices."""
    if image.device:
        return "raw"
    size = image.size
    head = bytes(image.read(0, min(size, _DESCRIPTOR_BYTES)))
    if head.startswith(b"vhdxfile"):
        return "vhdx"
    if head.startswith(b"QFI\xfb"):
        return "qcow2"
    if head.startswith(b"SSOVERLY"):
        return "overlay"
    if head.startswith((b"KDMV", b"COWD", b"\xbe\xba\xfe\xca\0\0\0\0")):
        return "vmdk"
    if size < _DESCRIPTOR_LIMIT and _is_descriptor(head):
        return "vmdk"
    tail = bytes(image.read(size - _FOOTER_BYTES, _FOOTER_BYTES)) if size >= 2 * _FOOTER_BYTES else b""
    # The footer of a fixed VHD is its only mark. Virtual PC wrote some of 511 bytes.
    if head.startswith(b"conectix") or tail.startswith(b"conectix") or tail[1:].startswith(b"conectix"):
        return "vhd"
    return "raw"


def _is_descriptor(head: bytes) -> bool:
    from secondsite.engine.images.vmdk.descriptor import looks_like  # 4 ms with its package

    return looks_like(head)


def detect(path: str | os.PathLike[str], *, option: str = "--source-format") -> str:
    """The format of an image file, where its name and its bytes agree. Raises Usage where they do not, which names the
    option that decides.
    """
    found, named = _look(path)
    if found == "qcow2":
        raise errors.Usage(
            f"is a QCOW2 image, which is not read; {option} raw takes the bytes of the file as the disk",
            path=os.fspath(path),
        )
    # An overlay names a replica, anywhere: its name has to say that it is one, or any raw disk's guest could.
    if named == found or (named is None and found != "overlay"):
        return found
    if named is None:
        what = "has the bytes of an overlay and not its name (.overlay)"
    elif named == "raw":
        what = f"has the name of a raw image and the bytes of {_called(found)}"
    else:
        what = f"has the name of {_called(named)} and is none"
    raise errors.Usage(f"{what}; say with {option} which it is", path=os.fspath(path))


def _called(format: str) -> str:
    return "an overlay" if format == "overlay" else f"a {format.upper()} image"


def is_qcow2(path: str | os.PathLike[str]) -> bool:
    """Whether a file says that it is one, and its name not that it is something else."""
    found, named = _look(path)
    return found == "qcow2" and named in (None, "raw")


def named_format(path: str | os.PathLike[str]) -> str | None:
    """The format that a name says, or None."""
    return _SUFFIXES.get(PurePath(path).suffix.lower())


def _look(path: str | os.PathLike[str]) -> tuple[str, str | None]:
    """The format that the bytes of a file say, and the one that its name says, where it says one."""
    with RawImage(path) as image:
        return probe(image), None if image.device else named_format(path)


def settle(path: str | os.PathLike[str], chosen: str | None, *, option: str = "--format") -> str:
    """The format of a file that is to be written over: what it is, or where name and bytes do not agree, which of the
    two was chosen. Raises Usage for anything else: one format written over another leaves neither.
    """
    if chosen is None:
        return detect(path, option=option)
    found, named = _look(path)
    if chosen in (found, named):
        return chosen
    hint = "" if chosen != "raw" or named else "; a raw disk with such bytes has to be named .raw"
    what = f"is {_called(found)} and stays one (leave out {option} {chosen}{hint})"
    raise errors.Usage(what, path=os.fspath(path))


def open_image(
    path: str | os.PathLike[str],
    mode: str = "r",
    *,
    format: str | None = None,
    allow_parent_path: Sequence[str | os.PathLike[str]] = (),
) -> Image:
    """Open the disk image at `path`, `r` or `rw`; `format` is found out where it is None.

    Parents and extents are looked for in the image's own folder and in `allow_parent_path`. Raises Unreachable where
    it cannot be read, Usage where it is no image, Damaged, NewerFormat, and Refused for a parent that is missing,
    wrong or elsewhere, and for formats that are read but not written.
    """
    name = os.fspath(path)
    if is_url(name):
        return _open_nbd(name, mode, format)
    if is_blob(name):
        return _open_blob(name, mode, format)
    chosen = format or detect(name)
    allow = [os.fspath(folder) for folder in allow_parent_path]
    if chosen == "raw":
        return RawImage(name, mode)
    if chosen == "vhdx":
        return _open_vhdx(name, mode, allow)
    if chosen == "vhd":
        from secondsite.engine.images.vhd import open_vhd

        return open_vhd(name, mode, allow=allow)
    if chosen == "vmdk":
        from secondsite.engine.images.vmdk import open_vmdk

        if mode != "r":
            raise errors.Refused("VMDK images are read, not written", path=name)
        return open_vmdk(name, allow=allow)
    if chosen == "overlay":
        from secondsite.engine.overlays import open_overlay

        return open_overlay(name, mode)
    if chosen == "qcow2":
        raise errors.Usage("is a QCOW2 image, which only its QEMU reads: name its monitor with --qmp", path=name)
    raise errors.Usage(f"{chosen!r} is no image format; they are {', '.join(FORMATS)}")


def is_url(path: str | os.PathLike[str]) -> bool:
    """As engine/nbd/url.py, which takes 10 ms to import, says of every path with a scheme."""
    if "://" not in os.fspath(path):
        return False
    from secondsite.engine.nbd import url

    return url.is_url(os.fspath(path))


def is_blob(path: str | os.PathLike[str]) -> bool:
    """A disk of Azure: azure://CONTAINER/NAME.vhd."""
    name = os.fspath(path)
    return name.startswith("azure://") and name.endswith(".vhd")


def _open_blob(url: str, mode: str, format: str | None) -> Image:
    if format not in (None, "raw", "vhd"):
        raise errors.Usage(f"is a disk of Azure, which is a fixed VHD and not {format}", path=url)
    if mode != "r":
        raise errors.Refused("a disk of Azure is read as a source; `materialize` writes one", path=url)
    try:
        from secondsite.engine.store.blobsource import BlobSource
    except ImportError as error:
        raise errors.Refused(f"needs {error.name}: pip install 'secondsite[azure]'", path=url) from None
    return BlobSource(url)


def _open_nbd(url: str, mode: str, format: str | None) -> Image:
    if format not in (None, "nbd", "raw"):
        raise errors.Usage(f"is an NBD URL, whose disk is read as it is and not as {format}", path=url)
    from secondsite.engine.images.nbd import NbdImage

    return NbdImage(url, mode)


def _open_vhdx(path: str, mode: str, allow: list[str]) -> Image:
    from secondsite.engine.images.vhdx import VhdxImage

    if mode == "r":
        return VhdxImage(path, allow_parent_path=allow)
    from secondsite.engine.images.vhdx.writer import open_writer

    return open_writer(path, allow_parent_path=allow)


def describe(image: Image) -> ImageFacts:
    """What an open image says of itself, whatever its format."""
    facts = getattr(image, "facts", None)
    if facts is not None:
        found: ImageFacts = facts()
        return found
    size = image.size
    allocated = sum(extent.length for extent in image.extents(0, size) if not extent.zero)
    device = isinstance(image, RawImage) and image.device
    return ImageFacts("raw", "device" if device else "file", size, 0, allocated_bytes=allocated)
