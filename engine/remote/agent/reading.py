"""The agent's answers to who reads one of its replicas."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from secondsite.engine import errors
from secondsite.engine.images.base import Image
from secondsite.engine.remote import questions as q
from secondsite.engine.remote.agent.request import Request
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.link.calls import Call
from secondsite.engine.replica.container import check_format, open_container
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.steady import SteadyPoint

# The folder itself, a file in it, `points`, or a file in that.
_PATH = re.compile(r"(?:points|(?:points/)?[A-Za-z0-9][A-Za-z0-9._-]{0,100})?")
# How often a point that stands is compared with what cycles did to the head.
_LOOK_SECONDS = 1.0


def hold(request: Request, call: Call, args: q.Hold) -> None:
    """A cycle that was cut short is taken back first, as for any reader."""
    with Replica.open(request.folder, request.files).reading(proving=args.proving):
        call.send(q.Held())
        _ended(call)


def _ended(call: Call) -> None:
    """Wait for the end of a call on which nothing more is asked; who is gone has ended it too."""
    while not call.wait(None):
        pass
    if not call.over and not call.left:
        call.receive()
        raise protocol.Garbled("nothing more was to be said on this call", path=call.peer)


def look(request: Request, call: Call, args: q.Look) -> None:
    path = _path(request, args.path)
    call.send(q.Seen(request.files.exists(path), request.files.size(path)))


def names(request: Request, call: Call, args: q.List) -> None:
    path, files = _path(request, args.path), request.files
    found = iter(files.listdir(path))
    part = list(islice(found, q.MAX_NAMES))
    while True:
        following = list(islice(found, q.MAX_NAMES))
        call.send(q.Names(part, [_size(path, name) for name in part], bool(following)))
        if not following:
            return
        part = following


def _size(folder: str, name: str) -> int:
    try:
        found = os.lstat(f"{folder}/{name}")
    except OSError:
        return -1  # it went meanwhile
    return found.st_size if (found.st_mode & 0o170000) == 0o100000 else -1


def peek(request: Request, call: Call, args: q.Peek) -> None:
    if len(args.paths) > q.MAX_GLANCES:
        raise protocol.Garbled(f"asks for {len(args.paths)} files at once", path=call.peer)
    found, body = [], bytearray()
    for name in args.paths:
        path = _path(request, name)
        if request.files.size(path) < 0:
            found.append(q.Glance(-1, 0, 0, 0))
            continue
        with request.files.open(path, "r") as file:
            size = file.size
            head = min(size, q.GLANCE_BYTES)
            tail = min(size - head, q.GLANCE_BYTES)
            body += file.read_bytes(0, head)
            body += file.read_bytes(size - tail, tail)
            found.append(q.Glance(size, _version(file), head, tail))
    call.send(q.Glances(found), body)


def open_file(request: Request, call: Call, args: q.Open) -> None:
    path = _path(request, args.path)
    with open_container(request.files, request.files.checked(path), "r", check_format(args.kind)) as image:
        call.send(q.Opened(image.size, _version(image)))
        _answer(call, image)


def _version(image: Image) -> int:
    """Another number where another file was put under the name. What is written into it may change it, or not."""
    stamps = image.stamps()
    return stamps[0].inode if stamps else 0


def at_point(request: Request, call: Call, args: q.AtPoint) -> None:
    replica = Replica.open(request.folder, request.files)
    with SteadyPoint(replica, args.at, far=True) as point:
        one = point.point
        call.send(q.Standing(point.size, replica.identity.replica_id.hex(), one.generation, one.seal, one.name))
        try:
            gone = _answer(call, point)
        except errors.Refused as error:
            if not error.retryable:  # who may not read any more does not come again
                point.done()
            raise
        if gone:
            point.done()


def _answer(call: Call, image: Image) -> bool:
    """Questions in order, until the other side closes the call, or is gone between two of them: then False."""
    while True:
        while not call.wait(_LOOK_SECONDS):
            if isinstance(image, SteadyPoint):
                image.follow()
        if call.over or call.left:
            return call.over
        message = call.receive()
        asked: q.Read | q.Holes = protocol.decode(message.control, _ASKED, call.peer)
        if isinstance(asked, q.Read):
            _check(asked.offset, asked.length, image.size, q.MAX_READ, call)
            _read(call, image, asked)
        else:
            _check(asked.start, asked.length, image.size, 1 << 62, call)
            call.send(_extents(image.extents(asked.start, asked.length)))


def _read(call: Call, image: Image, asked: q.Read) -> None:
    """What cannot be read is an answer like others: a bad sector ends no call on which the rest can be had."""
    try:
        data = image.read_bytes(asked.offset, asked.length)
    except errors.Error as error:
        if call.connection.version < 3:
            raise
        if isinstance(image, SteadyPoint):
            image.follow()  # raises where no read can be believed any more: another call may find the point again
        call.send(protocol.failure(error, call.connection.veiled))
    else:
        call.send(None, data)


_ASKED: Any = q.Read | q.Holes


def _check(offset: int, length: int, size: int, most: int, call: Call) -> None:
    if offset < 0 or not 0 < length <= most:
        raise protocol.Garbled(f"asks for {length} bytes at {offset}", path=call.peer)
    if offset + length > size:
        raise errors.Damaged(f"it has {size} bytes, {offset + length} were expected")


def _extents(found: Iterator[Any]) -> q.Extents:
    part = list(islice(found, q.MAX_EXTENTS))
    return q.Extents([extent.length for extent in part], [extent.zero for extent in part])


def _path(request: Request, path: str) -> str:
    if _PATH.fullmatch(path) is None:
        raise errors.Refused(f"{path[:100]!r} is no file of a replica")
    return f"{request.folder}/{path}" if path else request.folder
