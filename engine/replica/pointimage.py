"""What the images of a recovery point have in common: nobody writes them."""

from __future__ import annotations

from secondsite.engine.images.readonly import ReadOnly


class PointImage(ReadOnly):
    """A point's bytes, which are what they were."""

    refusal = "a recovery point is read-only"

    def flush(self) -> None:
        return None
