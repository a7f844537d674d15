"""The tracker of an NBD export with a dirty bitmap, of a server that is not ours and that we cannot ask to cut.

Such a bitmap says what was written since it began, and not when that was. So it is believed for one reason only: with
the cycle before, the user named it as the one that marks everything from that copy on (`next_bitmap`), and the
replica noted that name with the point. Any other bitmap, also the right one of another point, is unknown, and
everything is read (DESIGN D7). Nobody here can clear it: one that is used again names more and more, never too
little.

libvirt and others export a checkpoint's bitmap under a name of its own; `since` then tells the checkpoint's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from secondsite.engine import errors
from secondsite.engine.files import Files
from secondsite.engine.images.nbd import NbdImage
from secondsite.engine.nbd.protocol import CONTEXT_DIRTY_BITMAP
from secondsite.engine.replica import record
from secondsite.engine.trackers.base import Cut, Have, Tracker

NAME = "bitmap"


class BitmapTracker(Tracker):
    """Follows the export that `image` reads. `bitmap` is what the user asked for as the bitmap, which the server may
    not have any more; `note` is the path of the replica's note of the next one. The caller closes the image.

    Whoever serves the export keeps the disk from being written while it is read: it is a snapshot, or at rest.
    """

    name = NAME

    def __init__(
        self, image: NbdImage, bitmap: str, files: Files, note: str, *, since: str | None = None,
        next_bitmap: str | None = None,
    ) -> None:  # fmt: skip
        self.image, self.bitmap, self.files, self.note = image, bitmap, files, note
        self.since = since or bitmap.removeprefix(CONTEXT_DIRTY_BITMAP)
        self.next_bitmap = next_bitmap
        self.cut: BitmapCut | None = None

    def begin(self, have: Have | None, sample: Sequence[tuple[int, int]] = ()) -> BitmapCut:
        if self.cut is not None:
            raise errors.Refused("a cut of this export is open already", path=self.image.path)
        self.cut = BitmapCut(self, self._doubt(have) if have is not None else "nothing was copied before")
        if self.cut.doubt is not None and have is not None:
            self.cut.warnings.append(f"{self.image.path}: all of it is read: {self.cut.doubt}")
        return self.cut

    def close(self) -> None:
        if self.cut is not None:
            self.cut.give_back()

    def _doubt(self, have: Have) -> str | None:
        """Why the bitmap does not tell what changed since `have`; None where it does."""
        if not self.bitmap:
            return "its URL names no bitmap"
        if self.bitmap not in self.image.export.contexts:
            return f"the server has no bitmap {self.bitmap.removeprefix(CONTEXT_DIRTY_BITMAP)!r} of this export"
        try:
            fields, _ = record.read(self.files, self.note)
        except errors.Error:
            return "no bitmap was named with the point before (--next-bitmap)"
        if fields.get("bitmap") != self.since:
            return f"with the point before, {fields.get('bitmap')!r} was named as the next bitmap, not {self.since!r}"
        expected = self._fields(have, self.since)
        if any(fields.get(name) != value for name, value in expected.items()):
            return "the bitmap that was named is of another point, another export or another size"
        return None

    def remember(self, have: Have) -> None:
        """Note what marks from this point on. Without a name, the note of this very point stays, any other is void."""
        if self.next_bitmap is not None:
            self.files.write_bytes(self.note, record.pack(self._fields(have, self.next_bitmap)), durable=False)

    def _fields(self, have: Have, bitmap: str) -> dict[str, Any]:
        export = str(dataclasses.replace(self.image.url, bitmap=None))
        return {
            "replica_id": have.replica_id, "generation": have.generation, "seal": have.seal, "size": self.image.size,
            "export": export, "bitmap": bitmap,
        }  # fmt: skip


class BitmapCut(Cut):
    """The export as it is. `doubt`: why its bitmap is not believed."""

    tracker = NAME

    def __init__(self, tracker: BitmapTracker, doubt: str | None) -> None:
        super().__init__()
        self.image, self.doubt = tracker.image, doubt
        self._tracker = tracker

    def changed(self) -> Iterable[tuple[int, int]] | None:
        return None if self.doubt is not None else self._tracker.image.changed(self._tracker.bitmap)

    def acknowledge(self, have: Have) -> None:
        if self._tracker.cut is self:
            self._tracker.cut = None
            self._tracker.remember(have)

    def give_back(self) -> None:
        if self._tracker.cut is self:
            self._tracker.cut = None
