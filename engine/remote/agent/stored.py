"""The agent's end of a log: the objects of one replica's folder, for who may read, send or administer it.

Who may send puts objects, and replaces the head and the fence of the cycle that he writes; what is there already he
can neither replace nor delete. To go on from the last cycle he reads manifests, maps and the tables of segments, but
not what the segments hold of the disk. Of the head that he replaces, one of each of the last days is kept. Whoever
comes may write down that he reads.
"""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from secondsite.engine import errors
from secondsite.engine.delta import format as fmt
from secondsite.engine.files.confined import ConfinedFiles
from secondsite.engine.remote import objects as o
from secondsite.engine.remote.agent.request import Request
from secondsite.engine.remote.link import protocol
from secondsite.engine.remote.link.calls import Call
from secondsite.engine.remote.trust.access import Action
from secondsite.engine.replica.point import parse_time
from secondsite.engine.store import place
from secondsite.engine.store.base import Absent, Changed, Exists, check_name
from secondsite.engine.store.folder import FolderStore
from secondsite.engine.store.locked import MAGIC
from secondsite.engine.store.log import layout, segment
from secondsite.engine.store.log.reading import Replica

_KEPT_DAYS = 32

_stores: dict[str, list[Any]] = {}
_lock = threading.Lock()


@contextmanager
def _shared(request: Request) -> Iterator[FolderStore]:
    """One for all channels to a replica, so that what they flush at once is flushed together."""
    with _lock:
        held = _stores.setdefault(request.folder, [FolderStore(request.folder, request.files), 0])
        held[1] += 1
    try:
        yield held[0]
    finally:
        with _lock:
            held[1] -= 1
            if not held[1]:
                del _stores[request.folder]
                held[0].close()


def serve(request: Request, call: Call, args: o.Store) -> None:
    """Answer questions until the other side is done."""
    with _shared(request) as store:
        channel = _Channel(store, request, call)
        call.send(o.Ready(time.time(), channel.may("administer")))
        place.becomes_log(request.folder, "log")  # or it is refused
        channel.run()


def is_sealed(request: Request) -> bool:
    """Whether a log is encrypted."""
    with _shared(request) as store:
        try:
            return store.get(layout.IDENTITY, 0, len(MAGIC)).data == MAGIC
        except Absent:
            return False


def moment(folder: str) -> datetime.datetime | None:
    """The time of a log's newest point; of an encrypted one that of the head, which the last cycle that changed
    something wrote.
    """
    with FolderStore(folder, ConfinedFiles(folder)) as store:
        try:
            newest = Replica.open(store).head.newest
            return parse_time(newest.time) if newest is not None else None
        except errors.Damaged:
            head = store.stat(layout.HEAD)
            return datetime.datetime.fromtimestamp(head.modified, datetime.UTC) if head is not None else None


class _Channel:
    def __init__(self, store: FolderStore, request: Request, call: Call) -> None:
        self.store, self.request, self.call = store, request, call
        self.began = time.monotonic()

    def run(self) -> None:
        """Until the other side closes it, or is gone between two questions."""
        while True:
            while not self.call.wait(None):
                pass
            if self.call.over or self.call.left:
                return
            message = self.call.receive()
            asked = protocol.decode(message.control, _ASKED, self.call.peer)
            self._answer(asked, message.body)

    def _answer(self, asked: Any, body: Any) -> None:
        if isinstance(asked, o.Put | o.Replace):
            self._write(asked, body)
        elif len(body):
            raise protocol.Garbled("a question with bytes behind it", path=self.call.peer)
        elif isinstance(asked, o.Get):
            self._get(asked)
        elif isinstance(asked, o.Stat):
            entry = self.store.stat(asked.name)
            self.call.send(o.Found([(entry.name, entry.size, entry.etag, entry.modified)] if entry else []))
        elif isinstance(asked, o.Below):
            self._list(asked.folder)
        else:
            if not asked.name.startswith(o.PASSING):
                self._need("administer")
            self.store.delete(asked.name)
            self.call.send(o.Made(""))

    def may(self, action: Action) -> bool:
        """What is the peer allowed to do now?"""
        try:
            self.request.require(action)
        except errors.Refused:
            return False
        return True

    def _need(self, *actions: Action) -> None:
        """Raises Refused where the peer may do none of them."""
        if not any(self.may(action) for action in actions):
            self.request.require(actions[0])

    # -- writing -----------------------------------------------------------------------------------------------

    def _write(self, asked: o.Put | o.Replace, body: Any) -> None:
        check_name(asked.name)
        self._need_to_write(asked)
        if not 0 <= asked.size <= o.MAX_OBJECT:
            raise protocol.Garbled(f"an object of {asked.size} bytes", path=self.call.peer)
        parts = self._parts(asked.name, asked.size, body)
        try:
            made = self._put(asked, parts)
        except (Exists, Changed) as error:
            for _ in parts:
                pass  # what follows is of this question
            self.call.send(o.No("exists" if isinstance(error, Exists) else "changed"))
            return
        self.call.send(o.Made(made))

    def _need_to_write(self, asked: o.Put | o.Replace) -> None:
        if asked.name.startswith(o.PASSING):
            there = islice(self.store.list(asked.name.partition("/")[0] + "/"), o.MAX_PASSING)
            if asked.size > o.MAX_PASSING_BYTES or len(list(there)) == o.MAX_PASSING:
                raise errors.Busy("too much is written down of who reads this log", path=asked.name)
            return
        self._need("send", "administer")
        if isinstance(asked, o.Replace) and asked.name not in o.MOVING:
            self._need("administer")

    def _put(self, asked: o.Put | o.Replace, parts: Iterator[Any]) -> str:
        if isinstance(asked, o.Put):
            return self.store.put_parts(asked.name, asked.size, parts, asked.metadata)
        if asked.name == layout.HEAD:
            self.store.keep(asked.name, f"head-{time.strftime('%Y-%m-%d', time.gmtime())}.json", _KEPT_DAYS)
        made = self.store.replace_parts(asked.name, asked.size, parts, asked.etag, asked.metadata)
        if asked.name == layout.HEAD:
            self.request.counts.done(time.monotonic() - self.began, looked=time.monotonic())
        return made

    def _parts(self, name: str, size: int, body: Any) -> Iterator[Any]:
        while True:
            size -= len(body)
            if size < 0:
                raise protocol.Garbled("more bytes than an object has", path=self.call.peer)
            if not name.startswith(o.PASSING):
                self._need("send", "administer")
            if len(body):
                self.request.counts.add(len(body))
                yield body
            if not size:
                return
            body = self.call.receive().body
            if not len(body):
                raise protocol.Garbled("a part of an object without bytes", path=self.call.peer)

    # -- reading -----------------------------------------------------------------------------------------------

    def _get(self, asked: o.Get) -> None:
        if asked.start < 0 or not 0 <= asked.length <= o.MAX_GET:
            raise protocol.Garbled(f"asks for {asked.length} bytes at {asked.start}", path=self.call.peer)
        try:
            found = self.store.get(asked.name, asked.start, asked.length)
            data = found.data if self.may("read") else self._veiled(asked, found.data, found.size)
        except Absent:
            self.call.send(o.No("absent"))
            return
        self.call.send(o.Content(found.size, found.etag, dict(found.metadata)), data)

    def _veiled(self, asked: o.Get, data: bytes, size: int) -> bytes:
        """Of a segment header and tables, and zeros for what it holds of the disk."""
        if not asked.name.startswith(f"{layout.SEGMENTS}/"):
            return data
        ending = self.store.get(asked.name, max(size - segment.TRAILER_BYTES, 0)).data
        end = segment.payload_end(ending, size)
        if end is None:
            plain = self.store.get(asked.name, 0, len(fmt.MAGIC)).data == fmt.MAGIC
            if not plain:
                return data  # sealed: who has no key gains nothing
            end = size
        low, high = max(fmt.HEADER_BYTES - asked.start, 0), min(max(end - asked.start, 0), len(data))
        if low == 0 and high == len(data) > 0:
            self._need("read")
        return data[:low] + bytes(high - low) + data[high:] if low < high else data

    def _list(self, folder: str) -> None:
        every = self.may("administer")
        entries = (
            (one.name, one.size, one.etag, one.modified)
            for one in self.store.list(folder)
            if every or not one.name.startswith(o.PASSING)
        )
        part = list(islice(entries, o.MAX_ENTRIES))
        while True:
            following = list(islice(entries, o.MAX_ENTRIES))
            self.call.send(o.Found(part, bool(following)))
            if not following:
                return
            part = following


_ASKED: Any = o.Put | o.Replace | o.Get | o.Stat | o.Below | o.Delete
