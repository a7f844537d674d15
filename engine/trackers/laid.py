"""The tracker of overlays that nobody serves: what was written lies in them, and maps tell the rest (relatives.py)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from secondsite.engine.blockmap import BlockMap
from secondsite.engine.images.overlay import OverlayImage
from secondsite.engine.relatives import Basis
from secondsite.engine.source import Source
from secondsite.engine.trackers.base import Have
from secondsite.engine.trackers.scan import SourceCut, SourceTracker

NAME = "overlay"


class OverlayTracker(SourceTracker):
    """It knows nothing of points: against the map of any it names what lies in the overlay and what the point below is
    not equal in.
    """

    def __init__(self, origin: Source) -> None:
        super().__init__(NAME, origin)

    def begin(self, have: Have | None, sample: Sequence[tuple[int, int]] = ()) -> SourceCut:
        super().begin(have, sample)
        self._cut = _Cut(self.origin, known=have is not None)
        return self._cut


class _Cut(SourceCut):
    def __init__(self, origin: Source, *, known: bool) -> None:
        super().__init__(NAME, origin.image, lambda: None)
        self._overlay, self._basis = origin.image, Basis.of(origin.image) if known else None

    def changed_from(self, previous: BlockMap, seed: int) -> Iterable[tuple[int, int]] | None:
        found: Iterable[tuple[int, int]] | None = None
        if self._basis is not None and isinstance(self._overlay, OverlayImage):
            found = self._basis.changed_from(self._overlay.written(), previous, seed, self.warnings)
        self.tracker = "scan" if found is None else NAME
        return found
