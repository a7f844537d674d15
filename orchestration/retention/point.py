"""What retention knows of a recovery point."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """`at` is in microseconds on the timeline of its replica (timeline.py), which no step of a clock bends."""

    number: int
    at: int
    application: bool = False
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Vote:
    """A rule keeps a point: by which number, in words, and until when if cycles go on as planned; None is for good."""

    rule: str
    why: str
    until: int | None
