"""Replay of a log into its file, for who opens it for writing (formats 1.4 and 1.5).

The log is checked before the first write. The writes themselves may be repeated: a crash among them leaves the log and
its header as they were, and the next replay does it again.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from uuid import UUID, uuid4

from secondsite.engine import errors
from secondsite.engine.images.base import Image
from secondsite.engine.images.raw import RawImage
from secondsite.engine.images.vhdx.container import Container
from secondsite.engine.images.vhdx.header import Header, read_header
from secondsite.engine.images.vhdx.journal import NO_LOG, Headers
from secondsite.engine.images.vhdx.layer import Layer
from secondsite.engine.images.vhdx.log import overlay_log
from secondsite.engine.images.vhdx.packing import MIB
from secondsite.engine.images.vhdx.structures import damaged


class OpenFile(Container):
    """The reader's view of a file that somebody else has open, and may write: read as it is, without its log."""

    def __init__(self, file: Image) -> None:
        self.path, self.file = file.path, file
        self.fd = self.pages = -1
        self.overlay = (array("q"), array("q"), array("q"))
        self.stored = self.size = file.size

    def read(self, offset: int, length: int, what: str) -> bytes:
        if offset + length > self.stored:
            raise damaged(self.path, offset, f"{what}: {length} bytes were expected, the file ends at {self.stored}")
        return bytes(self.file.read(offset, length))


def headers_of(file: Image, header: Header) -> Headers:
    """The pair of headers to write, from the newest that was read."""
    return Headers(
        file, header.sequence, header.slot, header.file_write, header.data_write, header.log_offset, header.log_length
    )


def replay(path: str | os.PathLike[str], *, new_guid: Callable[[], UUID] = uuid4) -> int:
    """Apply a dirty log to its file; the number of entries, 0 where the log is clean. DataWriteGuid stays.

    Raises what opening for reading raises, and then has written nothing; Unreachable where a write fails.
    """
    layer = Layer.open(path)
    try:
        if layer.replay is None:
            return 0
        with RawImage(layer.container.path, "rw") as file:
            _same_file(layer, file)
            replay_into(file, layer.header, new_guid)
        return len(layer.replay.entries)
    finally:
        layer.close()


def _same_file(layer: Layer, file: RawImage) -> None:
    """The file that was checked is the one that is written, and nobody wrote it in between."""
    stamp, container = file.stamp(), layer.container
    if (
        stamp is None
        or (stamp.device, stamp.inode, stamp.size) != (*container.identity, container.stored)
        or read_header(OpenFile(file)) != layer.header
    ):
        raise errors.SourceChanged("it was replaced or written while its log was read", path=container.path)


def replay_into(file: Image, header: Header, new_guid: Callable[[], UUID] = uuid4) -> Headers:
    """Put the pages of a dirty log in place, durable, and then end the log; the headers as they are then."""
    container = OpenFile(file)
    stored = container.size
    try:
        overlay_log(container, header)
        if container.size > stored:
            file.resize(container.size)
        for start, end, source in zip(*container.overlay, strict=True):
            if source < 0:
                # What lies behind the old end came as a hole.
                if start < stored:
                    file.zero(start, min(end, stored) - start, punch=False)
                continue
            for at in range(start, end, MIB):
                file.write(at, os.pread(container.pages, min(MIB, end - at), source + at - start))
        file.flush()
    finally:
        container.close()
    headers = headers_of(file, header)
    headers.file_write = new_guid()
    headers.update(NO_LOG)
    return headers
