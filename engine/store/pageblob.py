"""A page blob of Azure: sectors of 512 bytes, written and cleared in place under a lease of ours.

A write whose answer was lost may arrive late. Those of one disk at one point are written once each, and a late one
changes nothing; whoever holds the lease after us has another one, under which it does not count. What is written more
than once, the metadata and what makes the end of the disk, names the etag that it follows, and a late one fails.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from azure.core import MatchConditions
from azure.storage.blob import BlobClient

from secondsite.engine import errors
from secondsite.engine.store import azurefail
from secondsite.engine.store.azure import AzureStore, Once
from secondsite.engine.store.base import MAX_FENCE, Absent, Changed, Exists, Fence, Rejected, new_holder
from secondsite.engine.store.renewing import renewed
from secondsite.engine.store.retry import PUT_ID, Retrying
from secondsite.engine.units import MIB, TIB

# The documented limits; the emulator enforces neither.
MAX_BYTES = 8 * TIB
MAX_PUT = 4 * MIB
SECTOR = 512
# What one list of ranges is asked for: a blob that was written in many places takes the service long.
_WINDOW = 64 << 30


@dataclass(frozen=True)
class Found:
    """What is there. `pages`: it is a page blob; `turn` is its sequence number; a lease without end has it `pinned`."""

    pages: bool
    etag: str
    size: int
    metadata: Mapping[str, str]
    turn: int = 0
    pinned: bool = False


class PageBlob:
    """One page blob, perhaps to be; all of `store` is tried again as its wrapper does."""

    def __init__(self, store: Retrying, blob: BlobClient, name: str) -> None:
        self.store, self.blob, self.name, self.path = store, blob, name, store.path(name)
        self.size, self._etag, self._lease = 0, "", ""
        self._turn: int | None = None

    @classmethod
    def of(cls, store: Retrying, name: str) -> PageBlob:
        """By its name in a store of Azure."""
        inner = store.store
        assert isinstance(inner, AzureStore)
        return cls(store, inner.blob(name), name)

    def _call(self, call: Callable[[bool], Any], *, exists: bool = False) -> Any:
        def told(again: bool) -> Any:
            with azurefail.told(self.path, exists=exists):
                return call(again)

        return self.store.calling(told)

    def find(self) -> Found | None:
        """What has the name. Its etag is the one that guarded writes go on from."""
        try:
            found = self._call(lambda again: self.blob.get_blob_properties())
        except Absent:
            return None
        self._etag, self.size = str(found.etag), int(found.size)
        pages = str(getattr(found.blob_type, "value", found.blob_type)) == "PageBlob"
        turn = int(found.page_blob_sequence_number or 0)
        pinned = str(found.lease.duration) == "infinite"
        return Found(pages, self._etag, self.size, dict(found.metadata or {}), turn, pinned)

    def create(self, size: int, metadata: Mapping[str, str]) -> str:
        """A blob of zeros, and its etag. Raises Exists."""
        if size > MAX_BYTES or size % SECTOR:
            raise Rejected(f"a page blob has whole sectors and at most {MAX_BYTES} bytes", path=self.path)
        ours = os.urandom(8).hex()

        def create(again: bool) -> str:
            try:
                with azurefail.told(self.path, exists=True):
                    told = {**metadata, PUT_ID: ours}
                    made = self.blob.create_page_blob(size, metadata=told, match_condition=MatchConditions.IfMissing)
                    return str(made["etag"])
            except Exists:
                if not again or not self._has(ours):
                    raise
                return self._now()

        made: str = self._call(create)
        return made

    def _has(self, ours: str) -> bool:
        return (self.blob.get_blob_properties().metadata or {}).get(PUT_ID) == ours

    def _now(self) -> str:
        return str(self.blob.get_blob_properties().etag)

    @property
    def etag(self) -> str:
        """That of the last guarded write or `find`."""
        return self._etag

    @contextmanager
    def held(self, seconds: int = MAX_FENCE, *, take: bool = False) -> Iterator[Fence]:
        """Under a lease: nobody else writes it meanwhile, nor runs from it. Raises Held, unless we `take` it."""
        self._lease = new_holder()
        with renewed(self.store.fence(self.name, seconds, take=take, holder=self._lease)) as fence:
            yield fence

    # -- guarded: one at a time, each after the one before -------------------------------------------------------

    def mark(self, metadata: Mapping[str, str]) -> None:
        """Replace the metadata."""
        ours = os.urandom(8).hex()
        told = {**metadata, PUT_ID: ours}
        self._guarded(lambda how: self.blob.set_blob_metadata(told, **how), lambda: self._has(ours))

    def turn(self, number: int) -> None:
        """From here on pages are written in this turn: what was asked for in one before, and arrives late, fails."""
        self._turn = None
        self._guarded(
            lambda how: self.blob.set_sequence_number("update", str(number), **how),
            lambda: self.blob.get_blob_properties().page_blob_sequence_number == number,
        )
        self._turn = number

    def snapshot(self, metadata: Mapping[str, str], done: Callable[[], bool]) -> None:
        """A snapshot of what the last guarded write left, with these metadata. It moves no etag."""
        how = self._unchanged()

        def attempt(again: bool) -> None:
            if not again or not done():
                with azurefail.told(self.path):
                    self.blob.create_snapshot(metadata=dict(metadata), **how)

        self._call(attempt)

    def clear_last(self, offset: int) -> None:
        """Make all from a sector to the end zeros."""
        self._guarded(
            lambda how: self.blob.clear_page(offset, self.size - offset, **how),
            lambda: not self._listed(offset, self.size - offset),
        )

    def put_last(self, offset: int, data: bytes) -> None:
        """Write the sectors that end the blob."""
        self._guarded(lambda how: self._upload(offset, data, **how), lambda: self._read(offset, len(data)) == data)

    def delete(self) -> None:
        """All of it, as the last `find` saw it; that it is gone is fine. Raises Changed where somebody wrote since."""
        how = self._unchanged()

        def attempt(again: bool) -> None:
            try:
                with azurefail.told(self.path):
                    self.blob.delete_blob(**how)
            except Changed:
                if not again or self.blob.exists():
                    raise

        with suppress(Absent):
            self._call(attempt)

    def resize(self, size: int) -> None:
        """Cut it, or let it grow by zeros."""
        if size > MAX_BYTES or size % SECTOR:
            raise Rejected(f"a page blob has whole sectors and at most {MAX_BYTES} bytes", path=self.path)
        self._guarded(
            lambda how: self.blob.resize_blob(size, **how), lambda: self.blob.get_blob_properties().size == size
        )
        self.size = size

    def _unchanged(self) -> dict[str, Any]:
        return {"lease": self._lease, "etag": self._etag, "match_condition": MatchConditions.IfNotModified}

    def _guarded(self, call: Callable[[dict[str, Any]], Any], done: Callable[[], bool]) -> None:
        """`done` tells whether an attempt whose answer was lost did it."""
        how = self._unchanged()

        def attempt(again: bool) -> None:
            try:
                with azurefail.told(self.path):
                    self._etag = str(call(dict(how))["etag"])
            except Changed:
                if not again or not done():
                    raise
                self._etag = self._now()

        self._call(attempt)

    # -- pages: from several threads ----------------------------------------------------------------------------

    def put(self, offset: int, data: bytes) -> None:
        """Write sectors, at most MAX_PUT."""
        self._call(lambda again: self._upload(offset, data, **self._mine()))

    def _upload(self, offset: int, data: bytes, **how: Any) -> Any:
        if len(data) > MAX_PUT or offset % SECTOR or len(data) % SECTOR:
            raise Rejected(f"pages are whole sectors of {SECTOR} bytes, at most {MAX_PUT} at once", path=self.path)
        digest = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        return self.blob.upload_page(data, offset, len(data), headers={"Content-MD5": digest}, **how)

    def clear(self, offset: int, length: int) -> None:
        """Make sectors zeros that take no room."""
        self._call(lambda again: self.blob.clear_page(offset, length, **self._mine()))

    def _mine(self) -> dict[str, Any]:
        """What a page that is written must meet."""
        how: dict[str, Any] = {"lease": self._lease}
        if self._turn is not None:
            how["if_sequence_number_eq"] = self._turn
        return how

    def follow(self) -> None:
        """Guarded writes go on from here: what was put or cleared meanwhile has moved the etag."""
        if self.find() is None:
            raise Absent("it is gone", path=self.path)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of it; fewer where it ends."""
        done: bytes = self._call(lambda again: self._read(offset, length))
        return done

    def _read(self, offset: int, length: int) -> bytes:
        found = self.blob.download_blob(
            offset, length, max_concurrency=1, raw_request_hook=Once(self.path), raw_response_hook=_as_a_whole
        )
        data: bytes = found.readall()
        return data

    def ranges(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """(start, end) of what was written within a range, in order; the rest is zeros."""
        for start in range(offset, offset + length, _WINDOW):
            yield from self._call(partial(self._listed, start, min(_WINDOW, offset + length - start)))

    def _listed(self, offset: int, length: int, again: bool = False) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        first, end = offset // SECTOR * SECTOR, offset + length
        for each in self.blob.list_page_ranges(offset=first, length=-(-(end - first) // SECTOR) * SECTOR):
            if not each.cleared:
                found.append((max(int(each.start or 0), offset), min(int(each.end or 0) + 1, end)))
        if any(start >= end for start, end in found) or found != sorted(found):
            raise errors.Damaged("the store lists its pages in no order", path=self.path)
        return found


def _as_a_whole(response: Any) -> None:
    """The SDK asks for all ranges of a page blob with each read of it; of another one it does not."""
    response.http_response.headers["x-ms-blob-type"] = "BlockBlob"
