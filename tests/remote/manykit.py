"""What the tests of several connections share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hosting import Site

from secondsite.engine.remote.sending.outbound import Link
from secondsite.engine.remote.trust import agents
from secondsite.engine.units import MIB

SIZE = 6 * MIB


def head(there: Site, name: str = "disk") -> bytes:
    return (there.root / name / "head.raw").read_bytes()


def many(count: int | None = 4, **other: object) -> Link:
    return dataclasses.replace(Link(retries=0, connections=count), **other)  # type: ignore[arg-type]


def known(state: Path, port: int, other: int) -> None:
    """The agent at a port, also where another one leads to it."""
    (certificate,) = agents.find(state / "agents.json", "127.0.0.1", port).values()
    agents.keep(state / "agents.json", "127.0.0.1", other, certificate)
