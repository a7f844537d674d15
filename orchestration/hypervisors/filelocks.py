"""Who has a disk image open for writing, told from outside: by QEMU's locks, and by the files of all processes.

QEMU locks single bytes of an image for what it does with it (its docs/system/images.rst, block/file-posix.c): byte 101
says that somebody writes, 103 that he may resize. The locks end with the process, however that ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from secondsite.engine import errors

_READS, _WRITES, _RESIZES = 100, 101, 103
# Byte 200 + N is locked by who does not share what byte 100 + N stands for.
_NO_OTHER_WRITES = 201
_FLOCK = "hhqqi4x"


@dataclass(frozen=True)
class Users:
    """`locked`: a QEMU writes. `writers` are processes with the file open for writing; None where not all processes
    could be looked at, for which it takes root.
    """

    locked: bool
    writers: frozenset[int] | None


def users(path: str) -> Users | None:
    """None where there is no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        locked = any(_locked(fd, byte) for byte in (_WRITES, _RESIZES))
        return Users(locked, frozenset(_writers(os.fstat(fd))) if os.geteuid() == 0 else None)
    finally:
        os.close(fd)


def hold(path: str) -> int:
    """A descriptor with the locks of a QEMU that writes the image: as long as a process has it, no QEMU opens the image
    for its machine. Raises Busy where one has it, or reads it and wants nobody to write; Unreachable.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise errors.from_os(error, path, "open it") from None
    try:
        for byte in (_READS, _WRITES, _NO_OTHER_WRITES):
            _asked(fd, fcntl.F_OFD_SETLK, fcntl.F_RDLCK, byte)
        if _locked(fd, _WRITES) or _locked(fd, _NO_OTHER_WRITES):
            raise errors.Busy("another machine has this disk", path=path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _locked(fd: int, byte: int) -> bool:
    """By another open file than this one?"""
    return _asked(fd, fcntl.F_OFD_GETLK, fcntl.F_WRLCK, byte) != fcntl.F_UNLCK


def _asked(fd: int, command: int, kind: int, byte: int) -> int:
    """The kind of lock that is in the answer. On a file system without locks there is none."""
    try:
        answer = fcntl.fcntl(fd, command, struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP):
            return fcntl.F_UNLCK
        raise
    return int(struct.unpack(_FLOCK, answer)[0])


def _writers(wanted: os.stat_result) -> Iterator[int]:
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdecimal() and _writes(f"/proc/{name}", wanted):
            yield int(name)


def _writes(process: str, wanted: os.stat_result) -> bool:
    """A process that ends meanwhile writes nothing."""
    try:
        numbers = os.listdir(f"{process}/fd")  # noqa: PTH208
    except OSError:
        return False
    for number in numbers:
        try:
            found = os.stat(f"{process}/fd/{number}")
            if not os.path.samestat(found, wanted):
                continue
            with open(f"{process}/fdinfo/{number}") as file:
                flags = next(int(line.split()[1], 8) for line in file if line.startswith("flags:"))
        except (OSError, StopIteration, ValueError):
            continue
        if flags & os.O_ACCMODE != os.O_RDONLY:
            return True
    return False
