"""The file system behind one interface: the real one, one in memory that loses power, one that fails."""

from __future__ import annotations

from secondsite.engine.files.base import Files, Lock
from secondsite.engine.files.local import LocalFiles

__all__ = ["Files", "LocalFiles", "Lock"]
