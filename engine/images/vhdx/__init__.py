"""VHDX, the disk format of Hyper-V: reading any of them, through logs and chains of parents."""

from __future__ import annotations

from secondsite.engine.images.vhdx.chain import ParentError
from secondsite.engine.images.vhdx.check import Finding
from secondsite.engine.images.vhdx.image import VhdxImage
from secondsite.engine.images.vhdx.replay import replay

__all__ = ["Finding", "ParentError", "VhdxImage", "replay"]
