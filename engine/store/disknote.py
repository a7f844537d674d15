"""What a host notes of a disk of Azure that it left whole and took no snapshot of: the blob's etag.

The blob has another one as soon as anybody writes, so a note that is old, lost or of another host's says nothing wrong:
then the disk is read.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from secondsite.engine import errors
from secondsite.engine.files import LocalFiles
from secondsite.engine.replica import record
from secondsite.engine.store.pageblob import PageBlob


class DiskNote:
    """Of one blob, a file in `folder`."""

    def __init__(self, folder: Path, blob: PageBlob) -> None:
        client = blob.blob
        self._blob = f"{client.primary_hostname}/{client.container_name}/{client.blob_name}"
        self._folder = str(folder)
        self._path = str(folder / f"{hashlib.sha256(self._blob.encode()).hexdigest()[:32]}.json")

    def read(self) -> str:
        """The etag; none where nothing is noted that makes sense."""
        try:
            fields, complaint = record.read(LocalFiles(), self._path)
        except errors.Error:
            return ""
        known = complaint is None and fields.get("blob") == self._blob
        return str(fields.get("etag", "")) if known else ""

    def write(self, etag: str) -> None:
        """Where that cannot be the next start reads the disk."""
        try:
            files = LocalFiles()
            files.mkdir(self._folder)
            record.write(files, self._path, {"blob": self._blob, "etag": etag})
        except errors.Error:
            pass
