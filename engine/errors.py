"""Every error that the engine raises on purpose: what it concerns, its exit status, and whether to try again.

`str(error)` is the one line that a user sees. `orchestration.cli` is the only place that turns these into exit
statuses; the numbers are part of the command line's contract and are listed in the README.
"""

from __future__ import annotations

import errno
import os

DIFFERENT = 1
USAGE = 2
REFUSED = 3
DAMAGED = 4
UNREACHABLE = 5
CANCELLED = 130


class Error(Exception):
    """Base of all of them. `path` is the file that the line is about, where there is one."""

    exit_code = 70
    retryable = False

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message

    @property
    def class_name(self) -> str:
        """The name of its class, or of the one of this module that it is a kind of."""
        return next(one.__name__ for one in type(self).__mro__ if one.__module__ == __name__)


class Usage(Error):
    """The request makes no sense as it stands: a bad size, a codec that does not exist, a folder as an image."""

    exit_code = USAGE


class IsLog(Usage):
    """The replica is the log of a store, which this call does not take, or takes in another way. `url` is the replica
    of an agent that said so.
    """

    url = ""


class Refused(Error):
    """A rule forbids it: another image's replica, a lower epoch, an output that exists."""

    exit_code = REFUSED


class Busy(Refused):
    """Somebody else holds the replica."""

    retryable = True


class SourceChanged(Refused):
    """The source was written, or cut, while it was read; the cycle was taken back."""

    retryable = True


class NewerFormat(Refused):
    """Written by a later version of this program."""


class Damaged(Error):
    """Bytes that are not what they should be: which file, where in it, and what was expected.

    `bare` is the message without the place, for who shows `offset` himself.
    """

    exit_code = DAMAGED

    def __init__(self, message: str, *, path: str | None = None, offset: int | None = None) -> None:
        super().__init__(message if offset is None else f"at byte {offset}: {message}", path=path)
        self.offset, self.bare = offset, message


class Unreachable(Error):
    """A file, device or peer that cannot be opened, read or written."""

    exit_code = UNREACHABLE
    retryable = True


class NoReplica(Unreachable):
    """There is nothing of that name, in a folder or at an agent that answered."""


class Full(Unreachable):
    """No room left, or a quota or size limit reached."""


class CutLost(Unreachable):
    """What was kept for a cut is gone (no room for old contents): this cycle has no source any more, the next has."""


class Cancelled(Error):
    """The caller asked to stop; what was begun was taken back."""

    exit_code = CANCELLED


def from_os(error: OSError, path: str | os.PathLike[str], doing: str) -> Error:
    """An OSError as one line: `PATH: cannot DOING: No space left on device`."""
    # A name that does not resolve has a negative number, and its own text.
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
    made = Full if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else Unreachable
    return made(f"cannot {doing}: {reason}", path=os.fspath(path))
