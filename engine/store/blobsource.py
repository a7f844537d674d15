"""A disk of Azure as a source: the page blob of a machine that ran there after a failover, on its way back (R12.11).

What is read is a snapshot, so that the machine may go on: one instant of its disk. It is ours alone, removed when the
image is closed; one that a killed reader left is removed by a reader a day later. Where no snapshot may be taken the
blob itself is read, and each read asks that nobody has written it since it was opened.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

from azure.core import MatchConditions

from secondsite.engine import errors
from secondsite.engine.images.facts import ImageFacts
from secondsite.engine.images.readonly import ReadOnly
from secondsite.engine.images.vhd.structures import FIXED, FOOTER_BYTES, Footer
from secondsite.engine.store import azurefail
from secondsite.engine.store.azure import AzureStore
from secondsite.engine.store.base import Absent, Changed, Denied
from secondsite.engine.store.blobdisk import BlobDisk
from secondsite.engine.store.opening import open_page_blob
from secondsite.engine.store.pageblob import PageBlob
from secondsite.engine.store.snapshots import READING

_LEFT_BEHIND = datetime.timedelta(days=1)


class BlobSource(ReadOnly, BlobDisk):
    """The disk in azure://CONTAINER/NAME.vhd, as it was when this was opened; read-only. Raises Refused for what is no
    fixed VHD in a page blob, and what a store raises.
    """

    refusal = "a disk of Azure is read as a source; `materialize` writes one"

    def __init__(self, url: str) -> None:
        self._stack = ExitStack()
        try:
            live = self._stack.enter_context(open_page_blob(url))
            found = live.find()
            if found is None:
                raise errors.Unreachable("there is no such blob", path=url)
            if not found.pages:
                raise errors.Refused("is no page blob, as a disk of Azure is", path=url)
            super().__init__(self._frozen(live))
            self.path, self.blob.path = url, url
            self._size = self._footer(url)
        except BaseException:
            self._stack.close()
            raise

    def _frozen(self, live: PageBlob) -> PageBlob:
        sweep(live)
        try:
            name = take(live)
        except Denied:
            return _Unwritten(live)
        self._stack.callback(_remove, live, name)
        made = PageBlob(live.store, _client(live, name), live.name)
        made.find()
        return made

    def _footer(self, url: str) -> int:
        """The size of the disk."""
        size = self.blob.size
        if size < FOOTER_BYTES:
            raise errors.Refused("is too small for a disk", path=url)
        data = self.blob.read(max(size - FOOTER_BYTES, 0), FOOTER_BYTES)
        try:
            footer = Footer.parse(data, url, size - FOOTER_BYTES)
        except errors.Damaged:
            raise errors.Refused("has no footer of a VHD: it is no disk, or is being written", path=url) from None
        if footer.kind != FIXED or footer.current_size > size - FOOTER_BYTES:
            raise errors.Refused("is no fixed VHD, which alone Azure takes for a disk", path=url)
        return footer.current_size

    @property
    def size(self) -> int:
        return self._size

    def facts(self) -> ImageFacts:
        """What `info` tells of it."""
        held = sum(extent.length for extent in self.extents(0, self._size) if not extent.zero)
        return ImageFacts("vhd", "fixed, in a page blob", self._size, 0, allocated_bytes=held)

    def close(self) -> None:
        self._stack.close()


class _Unwritten(PageBlob):
    """A blob that is read as it lies there; SourceChanged where somebody has written it since."""

    def __init__(self, live: PageBlob) -> None:
        super().__init__(live.store, live.blob, live.name)
        self.find()

    def _read(self, offset: int, length: int) -> bytes:
        same: dict[str, Any] = {"etag": self.etag, "match_condition": MatchConditions.IfNotModified}
        try:
            with azurefail.told(self.path):
                data: bytes = self.blob.download_blob(offset, length, max_concurrency=1, **same).readall()
                return data
        except Changed:
            raise errors.SourceChanged("it was written while it was read", path=self.path) from None


def take(live: PageBlob) -> str:
    """A snapshot to read; by its name."""
    mine = {READING: os.urandom(8).hex()}

    def attempt(again: bool) -> str:
        if again:
            for name, said, _ in _taken(live):
                if said == mine[READING]:
                    return name
        with azurefail.told(live.path):
            return str(live.blob.create_snapshot(metadata=mine)["snapshot"])

    made: str = live.store.calling(attempt)
    return made


def sweep(live: PageBlob) -> None:
    """Remove what readers left that were killed: nobody reads for so long."""
    with suppress(errors.Error):
        found: list[tuple[str, str, datetime.datetime]] = live.store.calling(lambda again: list(_taken(live)))
        for name, _, moment in found:
            if datetime.datetime.now(datetime.UTC) - moment > _LEFT_BEHIND:
                _remove(live, name)


def _taken(live: PageBlob) -> Iterator[tuple[str, str, datetime.datetime]]:
    """Readers' snapshots of the blob: name, number, and when it was taken."""
    container, name = _container(live), live.blob.blob_name
    with azurefail.told(live.path):
        for each in container.list_blobs(name_starts_with=name, include=["snapshots", "metadata"]):
            said = {word.lower(): value for word, value in (each.metadata or {}).items()}
            if each.name == name and each.snapshot and READING in said:
                moment = datetime.datetime.fromisoformat(str(each.snapshot)[:19] + "+00:00")
                yield str(each.snapshot), said[READING], moment


def _container(live: PageBlob) -> Any:
    inner = live.store.store
    assert isinstance(inner, AzureStore)
    return inner.client


def _client(live: PageBlob, snapshot: str) -> Any:
    return _container(live).get_blob_client(live.blob.blob_name, snapshot=snapshot)


def _remove(live: PageBlob, name: str) -> None:
    """That it cannot be removed fails nobody's cycle: a reader tomorrow does it."""

    def remove(again: bool) -> None:
        with azurefail.told(live.path):
            _client(live, name).delete_blob()

    with suppress(errors.Error, Absent):
        live.store.calling(remove)

