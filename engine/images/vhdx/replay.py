"""Replay of a log into its file, for who opens it for writing (formats 1.4 and 1.5).

Everything is checked before the first write. The writes themselves may be repeated: a crash among them leaves the log
and its header as they were, and the next replay does it again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from uuid import UUID, uuid4

from secondsite.engine import errors, kernel
from secondsite.engine.images.vhdx.container import Container
from secondsite.engine.images.vhdx.header import Header, read_header
from secondsite.engine.images.vhdx.layer import Layer
from secondsite.engine.images.vhdx.packing import HEADER_OFFSETS, MIB, pack_header
from secondsite.engine.images.vhdx.structures import NO_GUID


def replay(path: str | os.PathLike[str], *, new_guid: Callable[[], UUID] = uuid4) -> int:
    """Apply a dirty log to its file; the number of entries, 0 where the log is clean. DataWriteGuid stays.

    Raises what opening for reading raises, and then has written nothing; Unreachable where a write fails.
    """
    layer = Layer.open(path)
    try:
        if layer.replay is None:
            return 0
        try:
            fd = os.open(layer.container.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise errors.from_os(error, layer.container.path, "open it for writing") from None
        try:
            _same_file(layer.container, layer.header, fd)
            _apply(layer.container, fd)
            os.fdatasync(fd)
            _end_log(layer.header, new_guid(), fd)
        except OSError as error:
            raise errors.from_os(error, layer.container.path, "replay its log") from None
        finally:
            os.close(fd)
        return len(layer.replay.entries)
    finally:
        layer.close()


def _same_file(container: Container, header: Header, fd: int) -> None:
    """The file that was checked is the one that is written, and nobody wrote it in between."""
    info = os.fstat(fd)
    if (info.st_dev, info.st_ino, info.st_size) != (*container.identity, container.stored) or (
        read_header(container) != header
    ):
        raise errors.SourceChanged("it was replaced or written while its log was read", path=container.path)


def _apply(container: Container, fd: int) -> None:
    if container.size > container.stored:
        os.ftruncate(fd, container.size)
    for start, end, source in zip(*container.overlay, strict=True):
        if source < 0:
            # What lies behind the old end came as a hole.
            end = min(end, container.stored)
            if start < end:
                kernel.files.zero_range(fd, start, end - start, False)
            continue
        for at in range(start, end, MIB):
            data = os.pread(container.pages, min(MIB, end - at), source + at - start)
            while data:
                put = os.pwrite(fd, data, at)
                data, at = data[put:], at + put


def _end_log(header: Header, file_write: UUID, fd: int) -> None:
    """Two headers without a log, the one that is not current first, each durable before the next."""
    for step in (1, 2):
        raw = pack_header(
            header.sequence + step, file_write, header.data_write, NO_GUID, header.log_offset, header.log_length
        )
        os.pwrite(fd, raw, HEADER_OFFSETS[(header.slot + step) % 2])
        os.fdatasync(fd)
