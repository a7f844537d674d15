"""Overlays that name what they lie over: a file in which a machine runs from a recovery point, at once.

`create_overlay` makes one in a moment, whatever the size of the disk. It is an image like others: `open_image` reads
and writes it, `replicate` and `convert` read it, `track` serves it. Its point is claimed (replica/claims.py), so that
it is there as long as the overlay is.
"""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import secrets
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING

from secondsite.engine import claiming, errors
from secondsite.engine.files import LocalFiles
from secondsite.engine.images.base import Buffer, Extent
from secondsite.engine.images.overlay import Over, OverlayImage, read_header
from secondsite.engine.images.raw import real_path
from secondsite.engine.remote import url
from secondsite.engine.replica import chain as chains
from secondsite.engine.replica.claims import Claim
from secondsite.engine.replica.directory import Replica
from secondsite.engine.replica.pointimage import PointImage
from secondsite.engine.results.outputs import Overlaid
from secondsite.engine.serving import following, open_steady
from secondsite.engine.store.place import finding_logs, is_place
from secondsite.engine.tracked.mapfile import beside, is_served

if TYPE_CHECKING:
    from secondsite.engine.serving import Standing

SUFFIX = ".overlay"
_POINT = ("replica", "generation", "seal")
_log = logging.getLogger("secondsite.overlay")


def create_overlay(
    path: str | os.PathLike[str], replica: str | os.PathLike[str], at: str = "latest", *,
    state: str | os.PathLike[str] | None = None,
) -> Overlaid:  # fmt: skip
    """Make an overlay over a point of a replica in a folder, at an agent or in a store. Its name ends in `.overlay`.

    The point is kept from being dropped until `remove_overlay`. An overlay over the same point that is there already
    stays as it is, with what was written; so this may be called again after a crash. Raises Refused where something
    else is there, Busy, Damaged, Unreachable, Full.
    """
    target, place = _named(path), _place(replica)
    if os.path.lexists(target):
        return _existing(target, place, at, state)
    draft = beside(target, "new")
    _clear(draft, force=False)
    below, size = _choose(place, at, state)
    made = Claim(secrets.token_hex(8), int(below["generation"]), f"{platform.node() or 'a host'}:{target}")
    over: Over = {**below, "place": place, "claim": made.id}
    if state is not None:
        over["state"] = os.path.abspath(state)
    with OverlayImage(_Later(target, size, over), draft, over):
        warnings = claiming.claim(place, made, str(over["seal"]), state)
        _publish(draft, target)
    return Overlaid(target, place, str(below["generation"]), size, made.id, True, warnings)


@finding_logs
def _choose(place: str, at: str, state: str | os.PathLike[str] | None) -> tuple[Over, int]:
    """What tells a point from all others, and its size; of a replica in a folder without opening it, since that clones
    the head, and who serves the overlay does it anyway.
    """
    if not is_place(place) and not url.is_remote(place):
        opened = Replica.open(place)
        with opened.reading():
            point = opened.choose(at)
            chains.find(opened, point.generation)
        id = opened.identity.replica_id.hex()
        return {"replica": id, "generation": point.generation, "seal": point.seal}, point.virtual_bytes
    found = open_steady(place, at, state, _log.warning)
    try:
        return found.over, found.size
    finally:
        found.close()


def _named(path: str | os.PathLike[str]) -> str:
    found = real_path(path)
    if not found.endswith(SUFFIX):
        raise errors.Usage(f"an overlay's name ends in {SUFFIX}, so that no raw disk passes for one", path=found)
    return found


def _place(replica: str | os.PathLike[str]) -> str:
    name = os.fspath(replica)
    return name if "://" in name else real_path(name)


def _publish(draft: str, target: str) -> None:
    """Give it its name in one step, unless that is taken meanwhile."""
    files = LocalFiles()
    try:
        os.link(draft, target)
    except FileExistsError:
        raise errors.Refused("something else is there since just now", path=target) from None
    except OSError as error:
        raise errors.from_os(error, target, "make it") from None
    files.unlink(draft)
    files.flush_dir(os.path.dirname(target))


def _existing(target: str, place: str, at: str, state: str | os.PathLike[str] | None) -> Overlaid:
    size, over = read_header(target)
    wanted, _ = _choose(place, at, state)
    if not wanted.items() <= over.items():
        raise errors.Refused(f"is an overlay over point {over.get('generation')}; remove that first", path=target)
    return Overlaid(target, place, str(over["generation"]), size, str(over.get("claim", "")), False)


def remove_overlay(path: str | os.PathLike[str], *, force: bool = False) -> bool:
    """Throw an overlay away with all that was written into it, and let go of its point; False where there is none.

    Raises Busy while it is in use, Refused for a file that is none, and what the replica does where that does not
    answer; then the same call goes on, and with `force` the replica is not told.
    """
    target = _named(path)
    draft = beside(target, "new")
    found = _clear(draft, force=force)
    if os.path.lexists(target):
        read_header(target)
        if is_served(target):
            raise errors.Busy("a tracking server serves it", path=target)
        fd = _locked(target)
        try:
            os.rename(target, draft)
        finally:
            os.close(fd)
        found = True
    elif not found:
        return False
    _clear(draft, force=force)
    LocalFiles().unlink(beside(target, "map"))
    return True


def _clear(draft: str, *, force: bool) -> bool:
    """What a creation or a removal that was cut short left: its claim goes first, then the file. Was there one?"""
    if not os.path.lexists(draft):
        return False
    fd = _locked(draft)
    try:
        try:
            _, over = read_header(draft)
        except (errors.Refused, errors.Damaged):
            over = {}  # it has no header yet, and so no claim
        if over.get("claim") and not force:
            claiming.release(str(over["place"]), str(over["claim"]), _state(over))
        LocalFiles().unlink(draft)
    finally:
        os.close(fd)
    return True


def _locked(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise errors.from_os(error, path, "open it") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise errors.Busy("another process uses this overlay", path=path) from None
    return fd


def _state(over: Over) -> str | None:
    return str(over["state"]) if "state" in over else None


def overlays_of(replica: str | os.PathLike[str], *, state: str | os.PathLike[str] | None = None) -> list[Claim]:
    """The overlays that a replica knows of, by what each claims: `by` says on which host and where it lies."""
    return claiming.claimed(_place(replica), state)


def release_overlay(
    replica: str | os.PathLike[str], claim: str, *, state: str | os.PathLike[str] | None = None
) -> bool:  # fmt: skip
    """Let go of the point of an overlay that is lost; was there such a claim? An overlay that is not lost is, once its
    point was dropped.
    """
    return claiming.release(_place(replica), claim, state)


def open_overlay(path: str, mode: str = "r") -> OverlayImage:
    """An overlay by itself. Raises Refused for one that does not say where its replica is, or whose point is gone,
    Damaged where another replica took its place, and what opening a replica does.
    """
    size, over = read_header(path)
    if not isinstance(over.get("place"), str) or not set(_POINT) <= over.keys():
        raise errors.Refused("does not say over which replica it lies: serve that with --overlay", path=path)
    if mode == "r" and is_served(path):
        return OverlayImage(_Later(path, size, over), path, over, mode)
    return _Standing(_point(path, over), path, over, mode)


def _point(path: str, over: Over) -> Standing:
    place, generation = str(over["place"]), str(over["generation"])
    point = open_steady(place, generation, _state(over), _log.warning)
    if point.over != {name: over[name] for name in _POINT}:
        point.close()
        raise errors.Damaged(f"point {generation} of {place} is not the one that this overlay was made over", path=path)
    return point


class _Later(PointImage):
    """A point that is opened when it is first read. Of an overlay that a tracking server has, cycles read nothing: they
    ask the server, and need not open a point behind a hundred deltas, or clone a head.
    """

    def __init__(self, path: str, size: int, over: Over) -> None:
        self.path = f"{over['place']} at point {over['generation']}"
        self._open, self._size = partial(copy_context().run, _point, path, over), size  # whoever reads first: our key
        self._found: Standing | None = None
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        return self._size

    def _point(self) -> Standing:
        with self._lock:
            self._found = self._found or self._open()
            return self._found

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        return self._point().extents(start, length)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        self._point().read_into(offset, buffer)

    def close(self) -> None:
        if self._found is not None:
            self._found.close()


class _Standing(OverlayImage):
    """An overlay whose point is followed while it is open."""

    def __init__(self, point: Standing, path: str, over: Over, mode: str) -> None:
        self._following = ExitStack()
        try:
            super().__init__(point, path, over, mode)
            self._following.enter_context(following(point))
        except BaseException:
            self._following.close()
            point.close()
            raise
        self._point = point

    def give_up(self) -> None:
        self._point.give_up()

    def close(self) -> None:
        self._following.close()
        super().close()
