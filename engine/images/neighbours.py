"""Which files an image may name: parents and extents lie in its own folder, or where the user allowed it.

Names inside images are untrusted (formats sections 1.2 and 3): a disk whose extent is a password file must not show it.
So a name is resolved, links included, before anything is opened, and what lies elsewhere is refused without a look.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from secondsite.engine import errors
from secondsite.engine.files.base import Files

# Deeper chains than this exist only by mistake or malice; each link costs an open file.
MAX_DEPTH = 64
_DRIVE = re.compile(r"^(?:[A-Za-z]:|//)")


class Neighbours:
    """The folders that the files of a chain may lie in, and what of the chain was met already."""

    def __init__(self, path: str, files: Files, allow: Sequence[str] = ()) -> None:
        self.files, self._allow = files, [os.path.realpath(folder) for folder in allow]
        self._own = [os.path.realpath(_folder(path)), *self._allow]
        self._met: set[str] = set()

    def enter(self, path: str) -> None:
        """Note a link of the chain. Raises Refused where it was met before, or where the chain has no end."""
        real = os.path.realpath(path)
        if real in self._met:
            raise errors.Refused("the chain of parents comes back to this file", path=path)
        self._met.add(real)
        if len(self._met) > MAX_DEPTH:
            raise errors.Refused(f"the chain of parents has more than {MAX_DEPTH} links", path=path)

    def inside(self, path: str) -> bool:
        """Does a path, with its links resolved, lie in an allowed folder?"""
        real = os.path.realpath(path)
        return any(real.startswith(folder.rstrip(os.sep) + os.sep) for folder in self._own)

    def find(self, child: str, names: Sequence[str], what: str, *, basename: bool) -> list[str]:
        """The existing files that `names`, as written in `child`, may mean, in order.

        With `basename` a file of that name in the child's folder, or in one that is allowed, counts too: images are
        moved, their parents with them. Raises Refused where a name leads out of the allowed folders and no other was
        found, or where there is no such parent: no retry brings one; Unreachable where there is no such extent.
        """
        found: list[str] = []
        outside = ""
        for name in names:
            for path in _candidates(child, name, self._allow if basename else None):
                if not self.inside(path):
                    outside = outside or _outside(child, path, name)
                elif (real := self._existing(path)) and real not in found:
                    found.append(real)
        if found:
            return found
        shown = " or ".join(repr(name) for name in names) or "without a name"
        if outside:
            raise errors.Refused(
                f"its {what} {outside} outside the folder of this image (--allow-parent-path DIR allows another)",
                path=child,
            )
        if what != "parent":
            raise errors.Unreachable(f"its {what} {shown} is not there", path=child)
        raise errors.Refused(
            f"its {what} {shown} is not there (--allow-parent-path DIR looks for it in another folder)", path=child
        )

    def _existing(self, path: str) -> str | None:
        """The path, or the one name beside it that differs by case alone, as Windows would have found it."""
        try:
            if self.files.exists(path):
                return path
        except (errors.Unreachable, OSError, ValueError):  # no file's name: too long, or of other letters
            return None
        folder, name = os.path.split(path)
        alike = [entry for entry in self.files.listdir(folder or os.curdir) if entry.casefold() == name.casefold()]
        if len(alike) != 1 or not self.inside(os.path.join(folder, alike[0])):
            return None
        return os.path.join(folder, alike[0])


def _folder(path: str) -> str:
    return os.path.dirname(path) or os.curdir


def _outside(child: str, path: str, name: str) -> str:
    """How a name leads out of the folder, by itself or through a link."""
    if os.path.relpath(path, _folder(child)).startswith(os.pardir + os.sep):
        return f"{name!r} lies"
    return f"{name!r} is, or is behind, a link to {os.path.realpath(path)!r},"


def _candidates(child: str, name: str, more: Sequence[str] | None) -> Iterator[str]:
    """Paths that a name may mean here. A path of Windows with a drive or server has no meaning but its last part, and
    that alone is looked for in the folders `more`, where there are such.
    """
    name = name.split("\0")[0].replace("\\", "/")
    foreign = _DRIVE.match(name) is not None
    last = name.rsplit("/", 1)[-1]
    if name and not foreign:
        yield os.path.normpath(os.path.join(_folder(child), name))
    if last not in ("", ".", "..") and (more is not None or foreign):
        for folder in (_folder(child), *(more or ())):
            yield os.path.join(folder, last)
