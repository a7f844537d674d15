"""Disk images behind one interface: raw files and devices, memory, and one that fails on purpose."""

from __future__ import annotations

import os

from secondsite.engine.images.base import Extent, Image, Segments, ShortImage
from secondsite.engine.images.raw import RawImage, Stamp

__all__ = ["Extent", "Image", "RawImage", "Segments", "ShortImage", "Stamp", "open_image"]


def open_image(path: str | os.PathLike[str], mode: str = "r") -> Image:
    """Open the image at `path`. Raises Unreachable where it cannot be read, Usage where it is not an image."""
    return RawImage(path, mode)
