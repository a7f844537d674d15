"""Another host's replica as Files: what lies below its URL is read through the agent, everything else is this host's.

While the replica is held as a reader nothing in it changes, and what was read once is kept: names and sizes, and of
files their beginnings and ends, which is all that a list of points needs. Otherwise such things count for a moment.
"""

from __future__ import annotations

import posixpath
import threading
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable

from secondsite.engine import errors
from secondsite.engine.files import Files, LocalFiles, Lock
from secondsite.engine.images.base import Extent, Image, Stamp
from secondsite.engine.remote import questions as q
from secondsite.engine.remote.far.channel import Channel, FarImage
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.link.connection import Connection

# How long something is believed that nobody keeps from changing.
_MOMENT = 2.0
# Short reads take a page, of which so many are kept: 16 MiB.
_PAGE, _PAGES = 256 * 1024, 64
_BESIDE = q.MAX_GLANCES // 2 - 1
_MAX_NAMES = 4_000_000
_MAX_GLANCES = 20_000
_MAX_IDLE = 12


class FarFiles(Files):
    """`url` is the replica's, as its folder is called here; `name` is how the agent calls it."""

    def __init__(self, connection: Connection, url: str, name: str) -> None:
        self.connection, self.url, self.name = connection, url, name
        self.local = LocalFiles()
        self._held = 0
        self._lock = threading.RLock()
        self._forget()

    def _forget(self) -> None:
        self._since = time.monotonic()
        self._names: dict[str, dict[str, int]] = {}
        self._glances: dict[str, tuple[q.Glance, bytes, bytes]] = {}
        self._pages: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        idle, self._idle = getattr(self, "_idle", {}), OrderedDict[str, "_Opened"]()
        for opened in idle.values():
            opened.channel.close()

    def _freshen(self) -> None:
        if not self._held and time.monotonic() - self._since > _MOMENT:
            self._forget()

    def _inside(self, path: str) -> str | None:
        """A path below the replica's folder as the agent calls it, or None for this host's own."""
        if path == self.url:
            return ""
        return path[len(self.url) + 1 :] if path.startswith(self.url + "/") else None

    def _refuse(self, path: str) -> errors.Error:
        return errors.Refused("another host's replica is read, not written, in this way", path=path)

    # -- names -------------------------------------------------------------------------------------------------

    def _listed(self, folder: str) -> dict[str, int]:
        with self._lock:
            self._freshen()
            found = self._names.get(folder)
            if found is None:
                found = self._names[folder] = self._list(folder)
            return found

    def _list(self, folder: str) -> dict[str, int]:
        found: dict[str, int] = {}
        with self.connection.call("list", q.List(self.name, folder)) as call:
            more = True
            while more:
                part = protocol.decode(call.receive().control, q.Names, call.peer)
                if len(part.names) != len(part.sizes) or len(found) > _MAX_NAMES:
                    raise protocol.Garbled("a list of names that is none", path=call.peer)
                found.update(zip(part.names, part.sizes, strict=True))
                more = part.more
        return found

    def listdir(self, path: str) -> list[str]:
        inside = self._inside(path)
        return self.local.listdir(path) if inside is None else list(self._listed(inside))

    def size(self, path: str) -> int:
        inside = self._inside(path)
        if inside is None:
            return self.local.size(path)
        folder, name = posixpath.split(inside)
        return self._listed(folder).get(name, -1)

    def exists(self, path: str) -> bool:
        inside = self._inside(path)
        if inside is None:
            return self.local.exists(path)
        return self.connection.ask("look", q.Look(self.name, inside), q.Seen).exists

    # -- contents ----------------------------------------------------------------------------------------------

    def open(self, path: str, mode: str) -> Image:
        inside = self._inside(path)
        if inside is None:
            return self.local.open(path, mode)
        if mode != "r":
            raise self._refuse(path)
        return FarFile(self, path, inside, "raw")

    def open_disk(self, path: str, format: str) -> Image | None:
        inside = self._inside(path)
        return None if inside is None else FarFile(self, path, inside, format)

    def glance(self, inside: str) -> tuple[q.Glance, bytes, bytes]:
        """A file's size, beginning and end; its neighbours of the same kind come with it."""
        with self._lock:
            self._freshen()
            if inside not in self._glances:
                if len(self._glances) > _MAX_GLANCES:
                    self._glances.clear()
                self._peek(self._neighbours(inside))
            return self._glances[inside]

    def _neighbours(self, inside: str) -> list[str]:
        folder, name = posixpath.split(inside)
        suffix = posixpath.splitext(name)[1]
        if folder != "points" or suffix not in (".json", ".undo"):
            return [inside]
        # On both sides: some look at points from the oldest on, some from the newest.
        names = [n for n in self._names.get(folder, ()) if n.endswith(suffix) and n != name]
        at = bisect_left(names, name)
        near = (f"{folder}/{n}" for n in names[max(at - _BESIDE, 0) : at + _BESIDE])
        return [inside, *(path for path in near if path not in self._glances)]

    def _peek(self, paths: list[str]) -> None:
        with self.connection.call("peek", q.Peek(self.name, paths)) as call:
            message = call.receive()
            found = protocol.decode(message.control, q.Glances, call.peer).found
        body, at = bytes(message.body), 0
        if len(found) != len(paths) or sum(one.head + one.tail for one in found) != len(body):
            raise protocol.Garbled("other files than were asked for", path=self.connection.peer)
        for path, one in zip(paths, found, strict=True):
            if one.head != max(min(one.size, q.GLANCE_BYTES), 0) or not 0 <= one.tail <= max(one.size - one.head, 0):
                raise protocol.Garbled("a glance at a file that is none", path=self.connection.peer)
            middle, end = at + one.head, at + one.head + one.tail
            self._glances[path] = one, body[at:middle], body[middle:end]
            at = end

    def take(self, path: str, inside: str, kind: str) -> _Opened:
        """An open file: one that was closed here a moment ago, or a new one."""
        with self._lock:
            opened = self._idle.pop(inside, None)
        return opened or _Opened(self.connection, self.name, path, inside, kind)

    def give_back(self, inside: str, opened: _Opened) -> None:
        """Closed here. It stays open there for a while, if nothing changes there meanwhile."""
        with self._lock:
            if not self._held or inside in self._idle or opened.channel.call.ended:
                opened.channel.close()
                return
            self._idle[inside] = opened
            if len(self._idle) > _MAX_IDLE:
                self._idle.popitem(last=False)[1].channel.close()

    def page(self, inside: str, number: int, fetch: Callable[[], bytes]) -> bytes | None:
        """A page of a file that stays as it is; None where it may change."""
        with self._lock:
            if not self._held:
                return None
            found = self._pages.get((inside, number))
            if found is not None:
                self._pages.move_to_end((inside, number))
                return found
        found = fetch()
        with self._lock:
            self._pages[inside, number] = found
            if len(self._pages) > _PAGES:
                self._pages.popitem(last=False)
        return found

    # -- a reader's lock ---------------------------------------------------------------------------------------

    def lock(self, path: str, *, exclusive: bool) -> Lock | None:
        inside = self._inside(path)
        if inside is None:
            return self.local.lock(path, exclusive=exclusive)
        if exclusive:  # the agent did what it could for `hold`, and what is left is for its own host
            raise errors.Damaged("a cycle was cut short, and the agent could not take it back", path=path)
        call = self.connection.call("hold", q.Hold(self.name, proving=True))
        try:
            protocol.decode(call.receive().control, q.Held, call.peer)
        except errors.Busy:
            call.close()
            return None
        except BaseException:
            call.close()
            raise
        with self._lock:
            self._forget()
            self._held += 1
        return _FarLock(self, call.close)

    def let_go(self) -> None:
        """A reader's lock was released."""
        with self._lock:
            self._held -= 1
            if not self._held:
                self._forget()

    # -- this host's files -------------------------------------------------------------------------------------

    def _own(self, *paths: str) -> None:
        for path in paths:
            if self._inside(path) is not None:
                raise self._refuse(path)

    def folders(self, path: str) -> list[str]:
        self._own(path)
        return self.local.folders(path)

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        self._own(path)
        self.local.mkdir(path, mode)

    def rmdir(self, path: str) -> bool:
        self._own(path)
        return self.local.rmdir(path)

    def replace(self, source: str, target: str) -> None:
        self._own(source, target)
        self.local.replace(source, target)

    def link(self, source: str, target: str) -> None:
        self._own(source, target)
        self.local.link(source, target)

    def unlink(self, path: str) -> None:
        self._own(path)
        self.local.unlink(path)

    def flush_dir(self, path: str) -> None:
        self._own(path)
        self.local.flush_dir(path)

    def clone(self, source: str, target: str) -> bool:
        return False if self._inside(source) is not None else self.local.clone(source, target)

    def temporary(self, near: str) -> Image:
        return self.local.temporary(near)


class _FarLock(Lock):
    def __init__(self, files: FarFiles, close: Callable[[], None]) -> None:
        self._files, self._close = files, close
        self._held = True

    def release(self) -> None:
        if self._held:
            self._held = False
            self._close()
            self._files.let_go()


class _Opened:
    """A file that the agent has open."""

    def __init__(self, connection: Connection, name: str, path: str, inside: str, kind: str) -> None:
        call = connection.call("open", q.Open(name, inside, kind))
        try:
            found = protocol.decode(call.receive().control, q.Opened, call.peer)
        except BaseException:
            call.close()
            raise
        if found.size < 0:
            raise protocol.Garbled("a negative size", path=path)
        self.channel, self.size, self.version = Channel(call), found.size, found.version


class FarFile(FarImage):
    """One file, or the disk in it. It is opened there when more of it is wanted than a glance shows."""

    def __init__(self, files: FarFiles, path: str, inside: str, kind: str) -> None:
        self.path = path
        self._files, self._inside, self._kind = files, inside, kind
        self._opened: _Opened | None = None
        self._lock = threading.Lock()
        self._head = self._tail = b""
        if kind == "raw":
            seen, self._head, self._tail = files.glance(inside)
            if seen.size < 0:
                raise errors.Unreachable("cannot open it: there is no such file", path=path)
            self._size, self._version = seen.size, seen.version
        else:
            opened = self._there()
            self._size, self._version = opened.size, opened.version

    @property
    def size(self) -> int:
        return self._size

    def stamps(self) -> tuple[Stamp, ...] | None:
        return None

    def _there(self) -> _Opened:
        with self._lock:
            if self._opened is None:
                opened = self._files.take(self.path, self._inside, self._kind)
                if self._kind == "raw" and (opened.version, opened.size) != (self._version, self._size):
                    opened.channel.close()
                    raise errors.Busy("it changed while it was read; try again", path=self.path)
                self._opened = opened
            return self._opened

    def _fetch(self, offset: int, length: int) -> bytes:
        if offset + length <= len(self._head):
            return self._head[offset : offset + length]
        after = self._size - len(self._tail)
        if offset >= after:
            return self._tail[offset - after : offset - after + length]
        if length <= 2 * _PAGE:
            first, last = offset // _PAGE, (offset + length - 1) // _PAGE
            parts = [self._page(number) for number in range(first, last + 1)]
            if all(part is not None for part in parts):
                start = offset - first * _PAGE
                return b"".join(part for part in parts if part is not None)[start : start + length]
        return self._there().channel.read(offset, length)

    def _page(self, number: int) -> bytes | None:
        start = number * _PAGE
        length = min(_PAGE, self._size - start)
        return self._files.page(self._inside, number, lambda: self._there().channel.read(start, length))

    def _find(self, start: int, length: int) -> list[Extent]:
        return self._there().channel.extents(start, length)

    def close(self) -> None:
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None:
            self._files.give_back(self._inside, opened)
