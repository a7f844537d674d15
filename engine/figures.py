"""A figure that is told to monitoring, as what counts it makes it and as what exports it takes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple


class Family(NamedTuple):
    """One metric: `samples` are labels and values. A counter's name ends in `_total`."""

    name: str
    kind: Literal["gauge", "counter"]
    about: str
    samples: Iterable[tuple[Mapping[str, str], float]]
