"""First copies that did not go over the network."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SeedExported:
    """`kind`: exported, or whole where the medium held it already. `stored_bytes` lie on the medium in `parts` files,
    `written_bytes` of them were written now. `replica` waits for it, where one was named.
    """

    kind: str
    medium: str
    replica_id: str
    virtual_bytes: int
    stored_bytes: int
    read_bytes: int
    written_bytes: int
    parts: int
    tracker: str
    time: str
    replica: str | None
    seconds: float
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SeedImported:
    """`kind`: imported, or finished where an import before had been cut short behind the seed. `held` deltas that had
    come meanwhile followed it, up to `point`, the newest now.
    """

    kind: str
    replica: str
    replica_id: str
    point: str
    generation: int
    time: str
    virtual_bytes: int
    seed_bytes: int
    held: int
    seconds: float
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Adopted:
    """`method`: move, clone or copy."""

    replica: str
    replica_id: str
    point: str
    virtual_bytes: int
    read_bytes: int
    method: str
    seconds: float
    warnings: list[str] = field(default_factory=list)
