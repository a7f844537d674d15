"""The matrix: rows of the overview, a cell for each scenario with its words and what an estate is held to."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Literal

import msgspec

from secondsite.orchestration.estate.model import ScenarioName
from secondsite.orchestration.typed import ready

SideName = Literal["source", "target"]
FailoverName = Literal["test", "planned", "unplanned"]
SCENARIOS: tuple[ScenarioName, ...] = ("S1", "S2", "S3", "S4", "S5")


class Changed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds instead for an estate of today's profile."""

    frequencies: tuple[int, ...] | None = None
    premium_frequencies: tuple[int, ...] | None = None
    most: int | None = None


class Cell(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"comes_from": "from"}):
    """What a scenario has in a row. A key that is not there asks for nothing.

    `at`: what the data lie on. `encrypt`, `initial`, `formats`: what may be set, methods of R5.1, formats of disks.
    `redundancy`: of the account. `peered`: arrays are. `on`: sides that have a management server; `two`: two of them;
    `member`: what each cloud or site has at least one of. `versions`: of the servers, or of a later update. `networks`,
    `classifications`, `pools`: sides that have some. `servers`, `hosts`: sides whose server or hosts have it installed.
    `kept`, `most`, `frequencies` (seconds), `application`: recovery points; `old_hosts` have `old_frequencies`, and
    premium storage has `premium_frequencies`. `comes_from`, `to`, `per_machine`, `maps`: mappings.
    """

    text: str
    at: str | None = None
    reverse: bool = False
    encrypt: bool | None = None
    initial: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    redundancy: tuple[str, ...] = ()
    peered: bool = False
    on: tuple[SideName, ...] = ()
    two: bool = False
    member: Literal["any", "cluster"] | None = None
    versions: tuple[str, ...] = ()
    networks: tuple[SideName, ...] = ()
    classifications: tuple[SideName, ...] = ()
    pools: tuple[SideName, ...] = ()
    servers: tuple[SideName, ...] = ()
    hosts: tuple[SideName, ...] = ()
    kept: Literal["hours", "additional", "tiers", "array"] | None = None
    most: int | None = None
    frequencies: tuple[int, ...] = ()
    old_hosts: tuple[str, ...] = ()
    old_frequencies: tuple[int, ...] = ()
    premium_frequencies: tuple[int, ...] | None = None
    application: bool = False
    comes_from: str | None = None
    to: str | None = None
    per_machine: bool = False
    maps: tuple[str, ...] = ()
    today: Changed = Changed()

    def of(self, profile: str) -> Cell:
        """What holds in a profile."""
        if profile != "today":
            return self
        changed = {name: value for name, value in msgspec.structs.asdict(self.today).items() if value is not None}
        return msgspec.structs.replace(self, **changed)


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    feature: str
    S1: Cell
    S2: Cell
    S3: Cell
    S4: Cell
    S5: Cell

    def cell(self, scenario: ScenarioName, profile: str = "2014") -> Cell:
        found: Cell = getattr(self, scenario)
        return found.of(profile)


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a protection of this scenario names as its source and its target."""

    title: str
    source: str
    target: str


class Abilities(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Failovers of a scenario: which there are each way (R9's table), what a machine runs on at the target, whether it
    replicates back from there, and whether it does so as soon as a planned one is committed.
    """

    runs: Literal["host", "account", "array"]
    forward: tuple[FailoverName, ...]
    back: tuple[FailoverName, ...]
    reverse: bool
    swap: bool


class Matrix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    scenario: dict[str, Scenario]
    failover: dict[str, Abilities]
    row: tuple[Row, ...]

    def by_id(self, row: str) -> Row:
        return next(one for one in self.row if one.id == row)


ready(Matrix)


@cache
def load() -> Matrix:
    text = resources.files("secondsite.orchestration.scenarios").joinpath("matrix.toml").read_text()
    return msgspec.convert(tomllib.loads(text), Matrix)
