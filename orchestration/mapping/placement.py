"""What mapping answers: each choice with the number of the rule that made it, and why."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Chosen:
    """`value` is None where the answer is "nothing": connected to no network, no address that we give out."""

    value: str | None
    rule: str
    why: str


@dataclass(frozen=True, slots=True)
class Connection:
    """A network card after the failover. `problem` says why the failover would fail."""

    network: Chosen
    subnet: Chosen | None = None
    address: Chosen | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a machine goes. `host` is None where none will do; disks by their path at the source."""

    machine: str
    host: Chosen | None
    connections: tuple[Connection, ...]
    disks: Mapping[str, Chosen]
    problems: tuple[str, ...] = ()

    @property
    def all_problems(self) -> list[str]:
        return [*self.problems, *(one.problem for one in self.connections if one.problem)]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is so at the moment: addresses in use at the target, bytes free by (host, path), hosts that are there.

    What is not known (an empty mapping, `hosts` None) is left out of the choice.
    """

    taken: Set[str] = frozenset()
    free: Mapping[tuple[str, str], int] = field(default_factory=dict)
    hosts: Set[str] | None = None
