"""What an image file says of itself: the one shape that `info` and `check` print for every container format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ParentFacts:
    """One file of a chain below the image: where it was found, and by which identifier the child knows it."""

    path: str
    identifier: str


@dataclass(frozen=True)
class ImageFacts:
    """Facts of one open image. Sizes are in bytes; `log` is None for formats that have none, else `clean`, `dirty`.

    `parents` begins with the image's own parent and ends with the base of the chain. `allocated_bytes` is the data
    space that this file, without its parents, has given to the disk. `notes` are sentences for a person: a repaired
    footer, a missing flag, whatever is unusual and harmless.
    """

    format: str
    subformat: str
    virtual_bytes: int
    block_size: int
    logical_sector: int = 512
    physical_sector: int | None = None
    parents: tuple[ParentFacts, ...] = ()
    log: str | None = None
    allocated_bytes: int = 0
    identifiers: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
