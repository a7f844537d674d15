"""What verification found."""

from __future__ import annotations

from dataclasses import dataclass, field

from secondsite.engine.scan import Range


@dataclass(frozen=True, slots=True)
class Verified:
    """`bad`: ranges of the head (or of the point, or of the source) that differ. `damaged`: points that would not
    restore whole, with what is wrong. `against`: what stood for the source, `kept clone` (of the moment of the point),
    `clone` (of now) or `image`; None where there was no source. Of an encrypted replica that was read without its key
    `objects` of `stored_bytes` were looked at, and `damaged` names objects."""

    ok: bool
    point: str
    blocks: int
    bad: list[Range]
    damaged: dict[str, str]
    seconds: float
    warnings: list[str] = field(default_factory=list)
    against: str | None = None
    objects: int | None = None
    stored_bytes: int | None = None
