"""Disk images behind one interface: raw, VHDX, VHD and VMDK files, devices, memory, and one that fails on purpose."""

from __future__ import annotations

from secondsite.engine.images.base import Extent, Image, Segments, ShortImage, Stamp
from secondsite.engine.images.formats import FORMATS, detect, is_blob, is_qcow2, is_url, open_image
from secondsite.engine.images.raw import RawImage

__all__ = [
    "FORMATS", "Extent", "Image", "RawImage", "Segments", "ShortImage", "Stamp", "detect", "is_blob", "is_qcow2",
    "is_url", "open_image",
]  # fmt: skip
