"""The head as a file of some format: raw, or a VHDX or dynamic VHD whose guest-visible disk is the replica.

All of them are written through the `Files` seam, so that what holds for a raw head in a crash holds for these: a
container's own log keeps it whole, and the undo delta on top of that brings its disk back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from secondsite.engine import errors
from secondsite.engine.files import Files, LocalFiles
from secondsite.engine.images import Image, open_image
from secondsite.engine.images.formats import settle

FORMATS = ("raw", "vhdx", "vhd")
SUBFORMATS = {"raw": (), "vhdx": ("dynamic", "fixed"), "vhd": ("dynamic", "fixed")}


def check_format(name: str) -> str:
    """One of FORMATS, or Usage."""
    if name not in FORMATS:
        raise errors.Usage(f"the head is {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, not {name!r}")
    return name


def check_size(format: str, size: int, path: str, subformat: str | None = None) -> None:
    """Raises Usage, which names `path`, where a container cannot hold a disk of that many bytes."""
    if format == "vhdx":
        from secondsite.engine.images.vhdx.create import check_size as check

        check(size, 512, path)
    elif format == "vhd":
        from secondsite.engine.images.vhd.create import whole_units

        whole_units(size, rounding="up" if subformat == "fixed" else "exact", path=path)


def open_existing(files: Files, path: str, format: str | None, allow: Sequence[str]) -> Image:
    """A file or device that a point is to be written into, as what it is, which `format` may only repeat. Parents of a
    differencing VHDX lie in its folder or those of `allow`. Raises Usage, and what opening an image raises.
    """
    if not isinstance(files, LocalFiles):
        return open_container(files, path, "rw", check_format(format or "raw"))
    kind = settle(path, format)
    if kind == "vhdx":
        return open_image(path, "rw", format=kind, allow_parent_path=allow)
    if kind == "vmdk":
        raise errors.Refused("VMDK images are read, not written", path=path)
    return open_container(files, path, "rw", kind)


def open_container(files: Files, path: str, mode: str, format: str) -> Image:
    """An existing head, clone or half-made head; `r` or `rw`."""
    if mode == "r" and format != "raw" and (found := files.open_disk(path, format)) is not None:
        return found
    if format == "vhdx":
        from secondsite.engine.images.vhdx import VhdxImage
        from secondsite.engine.images.vhdx.writer import VhdxWriter

        # A crash may leave a log that is not empty: a reader looks through it, a writer replays it.
        return _closing(files.open(path, "rw"), VhdxWriter) if mode == "rw" else VhdxImage(path)
    if format == "vhd":
        from secondsite.engine.images.vhd import open_vhd

        return open_vhd(path, mode, files=files)
    return files.open(path, mode)


def create_container(files: Files, path: str, size: int, format: str, subformat: str | None = None) -> Image:
    """A new one of zeros, opened for writing; what was there is replaced. Containers are dynamic by default.

    A fixed VHD has whole MiB, as Azure wants them: its disk may be larger than `size`, by zeros.
    """
    check_format(format)
    if subformat not in (None, *SUBFORMATS[format]):
        known = " or ".join(SUBFORMATS[format]) or "not to be chosen"
        raise errors.Usage(f"{subformat!r} is no subformat of {format}; that is {known}")
    if format == "raw":
        return _closing(files.open(path, "create"), lambda made: _sized(made, size))
    files.unlink(path)
    if format == "vhdx":
        from secondsite.engine.images.vhdx.create import create

        create(path, size, subformat=subformat or "dynamic", files=files)
        return open_container(files, path, "rw", format)
    from secondsite.engine.images.vhd import create_dynamic, create_fixed

    if subformat == "fixed":
        return create_fixed(path, size, files=files, overwrite=True)
    return create_dynamic(path, size, files=files, overwrite=True)


def _sized(made: Image, size: int) -> Image:
    made.resize(size)
    return made


def _closing(file: Image, make: Callable[[Image], Image]) -> Image:
    """What is made of a file, which is closed where that fails."""
    try:
        return make(file)
    except BaseException:
        file.close()
        raise
