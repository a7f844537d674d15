"""Our snapshots of a page blob: each says which point it holds, and which state of the blob it was taken of.

A snapshot that somebody takes by hand has the blob's metadata too. What makes one ours is a number of its own, which
the blob never has; only such are deleted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from secondsite.engine.store import azurefail
from secondsite.engine.store.azure import AzureStore
from secondsite.engine.store.base import Absent
from secondsite.engine.store.diskstate import PREFIX
from secondsite.engine.store.pageblob import PageBlob

NUMBER, BASE = PREFIX + "snapshot", PREFIX + "base"
# Of one that somebody reads (blobsource.py).
READING = PREFIX + "reading"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`name` is the moment by which the service calls it, `base` the etag of the blob that it was taken of."""

    name: str
    base: str
    metadata: Mapping[str, str]

    def word(self, name: str) -> str:
        """What it says of itself (diskstate.py)."""
        return self.metadata.get(PREFIX + name, "")

    @property
    def point(self) -> tuple[int, str]:
        """Generation and time of the point that it holds; 0 for what makes no sense."""
        name = self.word("point")
        return int(name) if name.isascii() and name.isdigit() and len(name) < 19 else 0, self.word("time")


class Snapshots:
    """Of one blob; the calls are made again as all of its."""

    def __init__(self, blob: PageBlob) -> None:
        self.blob = blob
        inner = blob.store.store
        assert isinstance(inner, AzureStore)
        self._container, self._name = inner.client, blob.blob.blob_name

    def taken(self) -> list[Snapshot]:
        """Ours, the oldest first."""
        found: list[Snapshot] = self.blob.store.calling(lambda again: self._listed())
        return found

    def all_taken(self) -> tuple[list[Snapshot], list[str]]:
        """Ours, a standby's and those of readers; and the names of all others."""
        found: list[Snapshot] = self.blob.store.calling(lambda again: self._all())
        ours = [each for each in found if NUMBER in each.metadata or READING in each.metadata]
        return ours, [each.name for each in found if each not in ours]

    def _listed(self) -> list[Snapshot]:
        return [each for each in self._all() if NUMBER in each.metadata]

    def _all(self) -> list[Snapshot]:
        found = []
        with azurefail.told(self.blob.path):
            named = self._container.list_blobs(name_starts_with=self._name, include=["snapshots", "metadata"])
            for each in named:
                said = {name.lower(): value for name, value in (each.metadata or {}).items()}
                if each.name == self._name and each.snapshot:
                    found.append(Snapshot(str(each.snapshot), said.get(BASE, ""), said))
        return sorted(found, key=lambda each: each.name)

    def take(self, metadata: Mapping[str, str]) -> None:
        """One of the blob as the last guarded write left it. Raises Changed where somebody wrote since."""
        ours = os.urandom(8).hex()
        told = {**metadata, NUMBER: ours, BASE: self.blob.etag.strip('"')}
        self.blob.snapshot(told, lambda: any(each.metadata[NUMBER] == ours for each in self._listed()))

    def delete(self, snapshot: Snapshot) -> None:
        """Remove one; that it is gone is fine."""
        client = self._container.get_blob_client(self._name, snapshot=snapshot.name)

        def delete(again: bool) -> None:
            with azurefail.told(self.blob.path):
                client.delete_blob()

        try:
            self.blob.store.calling(delete)
        except Absent:
            pass
